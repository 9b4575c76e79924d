//! A bucket of an S3-compatible server.

use std::fs::File;
use std::io::Read;

use super::{Listed, Locking, Storage, StorageError};

/// What signs requests. Never printed.
#[derive(Clone)]
pub struct S3Credentials {
    /// Access key.
    pub key: String,
    /// Its secret.
    pub secret: String,
    /// Session token of temporary credentials.
    pub token: Option<String>,
}

/// A repository in a bucket.
pub struct S3Storage {
    location: String,
}

impl S3Storage {
    /// Opens `s3+http(s)://host[:port]/bucket[/prefix][?region=…]`.
    ///
    /// # Errors
    /// [`StorageError::BadLocation`] if the text is no such URL.
    pub fn open(
        location: &str,
        _runtime: &tokio::runtime::Handle,
        _credentials: Option<S3Credentials>,
    ) -> Result<Self, StorageError> {
        Ok(Self {
            location: location.to_owned(),
        })
    }

    fn unavailable(&self) -> StorageError {
        StorageError::Unavailable {
            location: self.location.clone(),
            path: String::new(),
            reason: "not supported yet".to_owned(),
        }
    }
}

impl Storage for S3Storage {
    fn location(&self) -> String {
        self.location.clone()
    }
    fn read(&self, _: &str, _: u64) -> Result<Option<Vec<u8>>, StorageError> {
        Err(self.unavailable())
    }
    fn reader(&self, _: &str) -> Result<Option<Box<dyn Read + Send>>, StorageError> {
        Err(self.unavailable())
    }
    fn size(&self, _: &str) -> Result<Option<u64>, StorageError> {
        Err(self.unavailable())
    }
    fn put(&self, _: &str, _: &[u8]) -> Result<(), StorageError> {
        Err(self.unavailable())
    }
    fn put_file(&self, _: &str, _: &mut File, _: u64) -> Result<(), StorageError> {
        Err(self.unavailable())
    }
    fn flush(&self) -> Result<(), StorageError> {
        Err(self.unavailable())
    }
    fn delete(&self, _: &[String]) -> Result<(), StorageError> {
        Err(self.unavailable())
    }
    fn list(
        &self,
        _: &str,
        _: &mut dyn FnMut(&Listed<'_>) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        Err(self.unavailable())
    }
    fn try_lock(&self, _: &str) -> Result<Locking, StorageError> {
        Err(self.unavailable())
    }
}
