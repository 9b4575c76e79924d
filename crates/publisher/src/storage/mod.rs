//! Where a repository lies: a directory, or a bucket of an S3-compatible server.

mod error;
mod local;
mod s3;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

pub use error::StorageError;
pub use local::LocalStorage;
pub use s3::{S3Credentials, S3Storage};

/// A repository's backend. Paths are relative to the repository's root: `.cvmfspublished`, `data/ab/cdef…C`.
///
/// Calls block; none may be made from a worker of an asynchronous runtime.
pub trait Storage: Send + Sync {
    /// The backend for messages, without secrets.
    fn location(&self) -> String;

    /// A whole file; `None` if there is none.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`] for more than `limit` bytes, others if it cannot be read.
    fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, StorageError>;

    /// A file as a stream; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be opened; errors while reading are I/O errors of the stream.
    fn reader(&self, path: &str) -> Result<Option<Box<dyn Read + Send>>, StorageError>;

    /// A file's length in bytes; `None` if there is none.
    ///
    /// # Errors
    /// If that cannot be found out.
    fn size(&self, path: &str) -> Result<Option<u64>, StorageError>;

    /// Writes a file: afterwards it is there as a whole or not at all. Objects below `data/` are durable after
    /// [`Storage::flush`]; files of the root at once.
    ///
    /// # Errors
    /// If it cannot be written.
    fn put(&self, path: &str, content: &[u8]) -> Result<(), StorageError>;

    /// As [`Storage::put`], `length` bytes from the file's current position.
    ///
    /// # Errors
    /// If it cannot be read or written.
    fn put_file(&self, path: &str, file: &mut File, length: u64) -> Result<(), StorageError>;

    /// All that was put before is durable.
    ///
    /// # Errors
    /// If that cannot be ensured.
    fn flush(&self) -> Result<(), StorageError>;

    /// Removes files; those that do not exist are no error.
    ///
    /// # Errors
    /// If one cannot be removed; others may have been.
    fn delete(&self, paths: &[String]) -> Result<(), StorageError>;

    /// Visits all files whose path begins with `prefix`, in no particular order.
    ///
    /// # Errors
    /// If the backend cannot be listed, or `each` fails.
    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(&Listed<'_>) -> Result<(), StorageError>,
    ) -> Result<(), StorageError>;

    /// Tries to become the only publisher. `holder` is what others are told.
    ///
    /// # Errors
    /// If that cannot be tried.
    fn try_lock(&self, holder: &str) -> Result<Locking, StorageError>;
}

/// A file as [`Storage::list`] shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed<'a> {
    /// Relative to the repository's root.
    pub path: &'a str,
    /// Bytes.
    pub size: u64,
    /// Last modification by the backend's own clock, seconds since the epoch.
    pub modified: i64,
}

/// What [`Storage::try_lock`] came to.
pub enum Locking {
    /// We are the only publisher until this is dropped.
    Held(Box<dyn HeldLock>),
    /// Somebody else is; this is what it says about itself.
    Busy(String),
}

/// The backend's lock. Dropping releases it.
pub trait HeldLock: Send + Sync {
    /// Fails if somebody else has taken the lock over.
    ///
    /// # Errors
    /// [`StorageError::LockLost`], or others if that cannot be found out.
    fn check(&self) -> Result<(), StorageError>;
}

/// Opens a backend: a directory, or `s3+http(s)://host[:port]/bucket[/prefix][?region=…]`.
///
/// # Errors
/// [`StorageError::BadLocation`] if the text is neither.
pub fn open_storage(
    location: &str,
    runtime: &tokio::runtime::Handle,
    credentials: Option<S3Credentials>,
) -> Result<Arc<dyn Storage>, StorageError> {
    if location.starts_with("s3+") {
        return Ok(Arc::new(S3Storage::open(location, runtime, credentials)?));
    }
    if location.contains("://") {
        return Err(StorageError::BadLocation {
            location: location.to_owned(),
            reason: "only directories and s3+http(s)://host/bucket/prefix can be written"
                .to_owned(),
        });
    }
    Ok(Arc::new(LocalStorage::new(Path::new(location))))
}

/// Refuses paths that lead out of the repository.
fn check_path(path: &str) -> Result<(), StorageError> {
    let bad = path.is_empty()
        || path.split('/').any(|part| matches!(part, "" | "." | ".."))
        || path.contains('\0');
    if bad {
        return Err(StorageError::BadPath {
            path: path.to_owned(),
        });
    }
    Ok(())
}
