//! A bucket of an S3-compatible server: rusty-s3 signs, reqwest sends.

mod lock;
mod reader;
mod request;

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use rusty_s3::actions::{
    CompleteMultipartUpload, CreateMultipartUpload, DeleteObjects, DeleteObjectsResponse,
    ListObjectsV2, ObjectIdentifier,
};
use rusty_s3::{Bucket, Credentials, UrlStyle};
use tokio::runtime::Handle;

use super::{Listed, Locking, Storage, StorageError, check_path};
use lock::Lease;
use reader::ResponseReader;
use request::{Call, Client};

/// Larger files are sent in parts of this size.
const PART_BYTES: u64 = 16 << 20;
/// Answers to listings and deletions have a few hundred bytes for each of a thousand objects.
const MAX_ANSWER_BYTES: u64 = 16 << 20;
/// The protocol's limit of objects deleted at once.
const DELETE_BATCH: usize = 1000;
/// A lock that was not renewed for so long is that of a dead publisher.
const LEASE: Duration = Duration::from_secs(60);

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

impl std::fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Credentials").finish_non_exhaustive()
    }
}

/// A repository in a bucket.
pub struct S3Storage {
    client: Arc<Client>,
    lease: Duration,
}

impl S3Storage {
    /// Opens `s3+http(s)://host[:port]/bucket[/prefix][?region=…&style=virtual]`. Without `region` it is `us-east-1`; `style=virtual` asks
    /// `bucket.host` instead of `host/bucket`.
    ///
    /// # Errors
    /// [`StorageError::BadLocation`] if the text is no such URL.
    pub fn open(
        location: &str,
        runtime: &Handle,
        credentials: Option<S3Credentials>,
    ) -> Result<Self, StorageError> {
        let place = Place::parse(location).map_err(|reason| StorageError::BadLocation {
            location: without_secrets(location),
            reason,
        })?;
        let credentials = credentials.map(|credentials| match credentials.token {
            Some(token) => Credentials::new_with_token(credentials.key, credentials.secret, token),
            None => Credentials::new(credentials.key, credentials.secret),
        });
        let client = Client::new(
            without_secrets(location),
            place,
            credentials,
            runtime.clone(),
        )?;
        Ok(Self {
            client: Arc::new(client),
            lease: LEASE,
        })
    }

    /// A lock counts as abandoned when it was not renewed for this long, by the server's clock; 60 seconds unless told.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    fn key(&self, path: &str) -> Result<String, StorageError> {
        check_path(path)?;
        Ok(self.client.place.key(path))
    }

    /// Sends a large file in parts. What was sent is thrown away if one fails.
    fn put_parts(&self, path: &str, file: &mut File, length: u64) -> Result<(), StorageError> {
        let client = &*self.client;
        let key = self.key(path)?;
        let (bucket, credentials) = (&client.place.bucket, client.credentials.as_ref());
        let create = client.text(&Call::new(path, "POST"), &|_| {
            CreateMultipartUpload::new(bucket, credentials, &key)
        })?;
        let upload = CreateMultipartUpload::parse_response(&create)
            .map_err(|error| client.bad_answer(path, &error))?;
        let upload = upload.upload_id();
        let complete = || -> Result<(), StorageError> {
            let tags = self.send_parts(path, &key, upload, file, length)?;
            let action = |_: &Call| {
                let tags = tags.iter().map(String::as_str);
                CompleteMultipartUpload::new(bucket, credentials, &key, upload, tags)
            };
            let mut call = Call::new(path, "POST");
            call.body = action(&call).body().into_bytes();
            let answer = client.text(&call, &action)?;
            // The status comes before the work is done: a failure stands in the text.
            if answer.contains("<Error>") {
                return Err(client.bad_answer(path, &"the upload was not completed"));
            }
            Ok(())
        };
        let mut complete = complete;
        complete().inspect_err(|_| {
            let abort = |_: &Call| {
                rusty_s3::actions::AbortMultipartUpload::new(bucket, credentials, &key, upload)
            };
            // The first failure is the one to tell.
            let _ = client.text(&Call::new(path, "DELETE"), &abort);
        })
    }

    fn send_parts(
        &self,
        path: &str,
        key: &str,
        upload: &str,
        file: &mut File,
        length: u64,
    ) -> Result<Vec<String>, StorageError> {
        let client = &*self.client;
        let mut tags = Vec::new();
        let mut left = length;
        while left > 0 {
            let mut call = Call::new(path, "PUT");
            call.body = client.read_part(path, file, left.min(PART_BYTES))?;
            left -= call.body.len() as u64;
            let number = u16::try_from(tags.len() + 1)
                .map_err(|_| client.bad_answer(path, &"too many parts"))?;
            let response = client.send(&call, &|_| {
                rusty_s3::actions::UploadPart::new(
                    &client.place.bucket,
                    client.credentials.as_ref(),
                    key,
                    number,
                    upload,
                )
            })?;
            let tag = response.header("etag");
            tags.push(tag.ok_or_else(|| client.bad_answer(path, &"a part got no ETag"))?);
        }
        Ok(tags)
    }

    fn delete_batch(&self, paths: &[String]) -> Result<(), StorageError> {
        let client = &*self.client;
        let keys: Result<Vec<_>, _> = paths
            .iter()
            .map(|path| self.key(path).map(ObjectIdentifier::new))
            .collect();
        let keys = keys?;
        let what = format!("{} objects to delete", paths.len());
        let action = |_: &Call| {
            let mut action = DeleteObjects::new(
                &client.place.bucket,
                client.credentials.as_ref(),
                keys.iter(),
            );
            action.set_quiet(true);
            action
        };
        let mut call = Call::new(&what, "POST");
        let (body, md5) = action(&call).body_with_md5();
        call.body = body.into_bytes();
        call.headers.push(("content-md5", md5));
        let answer = client.text(&call, &action)?;
        let answer = DeleteObjectsResponse::parse(&answer)
            .map_err(|error| client.bad_answer(&what, &error))?;
        match answer
            .errors
            .into_iter()
            .find(|error| error.code != "NoSuchKey")
        {
            None => Ok(()),
            Some(error) => Err(StorageError::Denied {
                location: client.location.clone(),
                path: error.key,
                reason: format!("{}: {}", error.code, error.message),
            }),
        }
    }

    fn list_page(
        &self,
        prefix: &str,
        token: Option<&str>,
    ) -> Result<rusty_s3::actions::list_objects_v2::ListObjectsV2Response, StorageError> {
        let client = &*self.client;
        let prefix = client.place.key(prefix);
        let what = format!("the listing of {prefix}");
        let answer = client.text(&Call::new(&what, "GET"), &|_| {
            let mut action = ListObjectsV2::new(&client.place.bucket, client.credentials.as_ref());
            action.with_prefix(prefix.clone());
            if let Some(token) = token {
                action.with_continuation_token(token.to_owned());
            }
            action
        })?;
        ListObjectsV2::parse_response(&answer).map_err(|error| client.bad_answer(&what, &error))
    }
}

impl Storage for S3Storage {
    fn location(&self) -> String {
        self.client.location.clone()
    }

    fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, StorageError> {
        let key = self.key(path)?;
        let found = self.client.get(path, &key, Some(limit))?;
        Ok(found.map(|answer| answer.body))
    }

    fn reader(&self, path: &str) -> Result<Option<Box<dyn Read + Send>>, StorageError> {
        let key = self.key(path)?;
        let Some(response) = self.client.open(path, &key)? else {
            return Ok(None);
        };
        let reader = ResponseReader::new(response, self.client.runtime.clone());
        Ok(Some(Box::new(reader)))
    }

    fn size(&self, path: &str) -> Result<Option<u64>, StorageError> {
        let key = self.key(path)?;
        self.client.head(path, &key)
    }

    fn put(&self, path: &str, content: &[u8]) -> Result<(), StorageError> {
        let key = self.key(path)?;
        let mut call = Call::new(path, "PUT");
        call.body = content.to_vec();
        self.client.put(&call, &key).map(drop)
    }

    fn put_file(&self, path: &str, file: &mut File, length: u64) -> Result<(), StorageError> {
        if length > PART_BYTES {
            return self.put_parts(path, file, length);
        }
        let key = self.key(path)?;
        let mut call = Call::new(path, "PUT");
        call.body = self.client.read_part(path, file, length)?;
        self.client.put(&call, &key).map(drop)
    }

    fn flush(&self) -> Result<(), StorageError> {
        // The server has answered for each object.
        Ok(())
    }

    fn delete(&self, paths: &[String]) -> Result<(), StorageError> {
        paths
            .chunks(DELETE_BATCH)
            .try_for_each(|batch| self.delete_batch(batch))
    }

    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(&Listed<'_>) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let root = self.client.place.key("");
        let mut token: Option<String> = None;
        loop {
            let page = self.list_page(prefix, token.as_deref())?;
            for object in &page.contents {
                let Some(path) = object.key.strip_prefix(&root) else {
                    continue;
                };
                let modified = object
                    .last_modified
                    .as_deref()
                    .and_then(|text| text.parse::<jiff::Timestamp>().ok());
                each(&Listed {
                    path,
                    size: object.size.unwrap_or(0),
                    // An object of unknown age is young: nothing removes it.
                    modified: modified.map_or(i64::MAX, jiff::Timestamp::as_second),
                })?;
            }
            token = page.next_continuation_token;
            if token.is_none() {
                return Ok(());
            }
        }
    }

    fn try_lock(&self, holder: &str) -> Result<Locking, StorageError> {
        Lease::acquire(&self.client, holder, self.lease)
    }
}

/// What a location names.
struct Place {
    bucket: Bucket,
    /// Ends with a slash unless it is empty.
    prefix: String,
    tls: bool,
}

impl Place {
    fn parse(location: &str) -> Result<Self, String> {
        let text = location.strip_prefix("s3+").unwrap_or(location);
        let mut url: reqwest::Url = text.parse().map_err(|error| format!("{error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("credentials do not belong into the URL".to_owned());
        }
        let query = |name: &str| {
            url.query_pairs()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.into_owned())
        };
        let region = query("region").unwrap_or_else(|| "us-east-1".to_owned());
        let style = match query("style").as_deref() {
            None | Some("path") => UrlStyle::Path,
            Some("virtual") => UrlStyle::VirtualHost,
            Some(other) => return Err(format!("style={other} is neither path nor virtual")),
        };
        let path = url.path().trim_matches('/').to_owned();
        let (name, prefix) = path.split_once('/').unwrap_or((&path, ""));
        if name.is_empty() {
            return Err("it names no bucket".to_owned());
        }
        if prefix.split('/').any(|part| matches!(part, "." | "..")) {
            return Err("its prefix leads elsewhere".to_owned());
        }
        let prefix = match prefix {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let tls = url.scheme() == "https";
        url.set_path("");
        url.set_query(None);
        let bucket =
            Bucket::new(url, style, name.to_owned(), region).map_err(|error| error.to_string())?;
        Ok(Self {
            bucket,
            prefix,
            tls,
        })
    }

    fn key(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }
}

/// The location without what should never have been in it.
fn without_secrets(location: &str) -> String {
    match (location.split_once("://"), location.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => location.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let place = Place::parse("s3+http://127.0.0.1:9000/bucket/a/b/?region=eu").unwrap();
        assert_eq!(
            place.bucket.base_url().as_str(),
            "http://127.0.0.1:9000/bucket/"
        );
        assert_eq!(place.bucket.region(), "eu");
        assert_eq!(
            (place.key("data/x").as_str(), place.tls),
            ("a/b/data/x", false)
        );
        let place = Place::parse("s3+https://s3.example.org/bucket?style=virtual").unwrap();
        assert_eq!(
            place.bucket.base_url().as_str(),
            "https://bucket.s3.example.org/"
        );
        assert_eq!((place.key("x").as_str(), place.tls), ("x", true));
        for bad in [
            "s3+http://host",
            "s3+http://host/",
            "s3+ftp://host/bucket",
            "s3+http://key:secret@host/bucket",
            "s3+http://host/bucket?style=odd",
            "s3+nothing",
        ] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            without_secrets("s3+http://key:secret@host/b"),
            "s3+http://host/b"
        );
    }
}
