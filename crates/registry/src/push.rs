//! Uploads (distribution-spec "push"): mount, at once, or in chunks that go on after a failure.

use std::io::Read;

use image::{Digest, Reference};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};

use crate::Document;
use crate::client::{Client, Job};
use crate::content::blob_name;
use crate::error::{Error, Failure};
use crate::hosts::{Capability, Host};
use crate::transport::Answer;

/// No registry may ask for longer chunks.
const MAX_CHUNK: usize = 64 << 20;
/// Repetitions of one chunk.
const MAX_RESUMES: u32 = 5;

/// How a blob came to be in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry took it from another repository.
    Mounted,
    /// We sent it.
    Uploaded,
}

/// Where an upload stands.
struct Upload {
    url: Url,
    offset: u64,
    chunk: usize,
}

enum Begun {
    Mounted,
    Upload(Upload),
}

fn job<'a>(reference: &'a Reference, what: &str, method: Method, path: &str) -> Job<'a> {
    Job {
        method,
        capability: Capability::Push,
        ..Job::get(reference, what.to_owned(), path.to_owned())
    }
}

impl Client {
    /// Brings a blob into a repository; `content` is read only if the registry lacks it. `mount_from`: a repository of
    /// the same registry that may hold it.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Source`] if `content` fails or is not `size` bytes long.
    pub fn push_blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        content: &mut dyn Read,
        mount_from: Option<&str>,
    ) -> Result<Pushed, Error> {
        let what = blob_name(reference, digest);
        let head = job(reference, &what, Method::HEAD, &format!("blobs/{digest}"));
        if self.size_of(&head)?.is_some() {
            return Ok(Pushed::Existed);
        }
        let mut upload = match self.begin(reference, &what, digest, mount_from)? {
            Begun::Mounted => return Ok(Pushed::Mounted),
            Begun::Upload(upload) => upload,
        };
        let mut left = size;
        // The last chunk goes with the closing request: a short blob needs no other.
        while left > upload.chunk as u64 {
            let chunk = read_chunk(content, upload.chunk as u64, &what)?;
            left -= chunk.len() as u64;
            self.send_chunk(reference, &what, &mut upload, &chunk)?;
        }
        let last = read_chunk(content, left, &what)?;
        self.finish(reference, &what, digest, &upload, last)?;
        Ok(Pushed::Uploaded)
    }

    fn begin(
        &self,
        reference: &Reference,
        what: &str,
        digest: &Digest,
        mount_from: Option<&str>,
    ) -> Result<Begun, Error> {
        let mut begin = job(reference, what, Method::POST, "blobs/uploads/");
        begin.body = Some(Vec::new());
        if let Some(from) = mount_from {
            begin.query = vec![("mount", digest.to_string()), ("from", from.to_owned())];
            begin.more_scopes = vec![format!("repository:{from}:pull")];
        }
        let inner = &self.inner;
        let take = async |answer: Answer, _: &Host| match answer.response.status() {
            StatusCode::CREATED if mount_from.is_some() => Ok(Begun::Mounted),
            StatusCode::ACCEPTED => {
                let headers = answer.response.headers();
                let least = headers.get("oci-chunk-min-length");
                let least = least.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
                Ok(Begun::Upload(Upload {
                    url: place(headers, &answer.url)?,
                    offset: 0,
                    chunk: inner
                        .config
                        .chunk_size()
                        .max(least.unwrap_or(0).min(MAX_CHUNK)),
                }))
            }
            _ => Err(inner.transport.refusal(answer.response).await),
        };
        inner.runtime.block_on(inner.perform(&begin, take))
    }

    /// Sends a chunk; after a failure asks how much of it has arrived.
    fn send_chunk(
        &self,
        reference: &Reference,
        what: &str,
        upload: &mut Upload,
        chunk: &[u8],
    ) -> Result<(), Error> {
        let (start, end) = (upload.offset, upload.offset + chunk.len() as u64);
        let mut tries = 0;
        while upload.offset < end {
            let rest = &chunk[usize::try_from(upload.offset - start).unwrap_or(0)..];
            let Err(error) = self.patch(reference, what, upload, rest) else {
                continue;
            };
            tries += 1;
            if tries > MAX_RESUMES
                || !matches!(error, Error::Unavailable { .. } | Error::Refused { .. })
            {
                return Err(error);
            }
            let arrived = self.status(reference, what, upload)?;
            if !(start..=end).contains(&arrived) {
                return Err(error);
            }
            upload.offset = arrived;
        }
        Ok(())
    }

    fn patch(
        &self,
        reference: &Reference,
        what: &str,
        upload: &mut Upload,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let mut patch = job(reference, what, Method::PATCH, "");
        patch.url = Some(upload.url.clone());
        patch.headers = octets();
        let range = format!(
            "{}-{}",
            upload.offset,
            upload.offset + bytes.len() as u64 - 1
        );
        if let Ok(range) = HeaderValue::try_from(range) {
            patch.headers.insert(header::CONTENT_RANGE, range);
        }
        patch.body = Some(bytes.to_vec());
        let inner = &self.inner;
        let take = async |answer: Answer, _: &Host| match answer.response.status() {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {
                place(answer.response.headers(), &answer.url)
            }
            _ => Err(inner.transport.refusal(answer.response).await),
        };
        upload.url = inner.runtime.block_on(inner.perform(&patch, take))?;
        upload.offset += bytes.len() as u64;
        Ok(())
    }

    /// Bytes that have arrived.
    fn status(&self, reference: &Reference, what: &str, upload: &mut Upload) -> Result<u64, Error> {
        let mut get = job(reference, what, Method::GET, "");
        get.url = Some(upload.url.clone());
        let inner = &self.inner;
        let take = async |answer: Answer, _: &Host| {
            if !answer.response.status().is_success() {
                return Err(inner.transport.refusal(answer.response).await);
            }
            let headers = answer.response.headers();
            // `0-LAST`; nothing yet is `0-0` with some, no header with others.
            let last = headers.get(header::RANGE).and_then(|value| {
                let text = value.to_str().ok()?;
                text.rsplit_once('-')?.1.parse::<u64>().ok()
            });
            let arrived = last.filter(|last| *last > 0).map_or(0, |last| last + 1);
            Ok((place(headers, &answer.url).ok(), arrived))
        };
        let (url, arrived) = inner.runtime.block_on(inner.perform(&get, take))?;
        upload.url = url.unwrap_or_else(|| upload.url.clone());
        Ok(arrived)
    }

    fn finish(
        &self,
        reference: &Reference,
        what: &str,
        digest: &Digest,
        upload: &Upload,
        last: Vec<u8>,
    ) -> Result<(), Error> {
        let mut put = job(reference, what, Method::PUT, "");
        let mut url = upload.url.clone();
        url.query_pairs_mut()
            .append_pair("digest", &digest.to_string());
        put.url = Some(url);
        put.headers = octets();
        if upload.offset > 0 && !last.is_empty() {
            let range = format!(
                "{}-{}",
                upload.offset,
                upload.offset + last.len() as u64 - 1
            );
            if let Ok(range) = HeaderValue::try_from(range) {
                put.headers.insert(header::CONTENT_RANGE, range);
            }
        }
        put.body = Some(last);
        let inner = &self.inner;
        let take = async |answer: Answer, _: &Host| match answer.response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(()),
            _ => Err(inner.transport.refusal(answer.response).await),
        };
        let result = inner.runtime.block_on(inner.perform(&put, take));
        // If the answer was lost, the upload is gone and the blob is there.
        match result {
            Err(Error::NotFound { .. } | Error::Unavailable { .. }) => {
                let head = job(reference, what, Method::HEAD, &format!("blobs/{digest}"));
                match self.size_of(&head) {
                    Ok(Some(_)) => Ok(()),
                    _ => result,
                }
            }
            result => result,
        }
    }

    /// Puts a manifest or index under the reference's tag, or its digest if it has none. Its blobs must be there.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Protocol`] if the registry computed another digest.
    pub fn push_manifest(
        &self,
        reference: &Reference,
        document: &Document,
    ) -> Result<Digest, Error> {
        let name = reference
            .tag()
            .map_or_else(|| document.digest.to_string(), str::to_owned);
        let what = reference.to_string();
        let mut put = job(reference, &what, Method::PUT, &format!("manifests/{name}"));
        if let Ok(kind) = HeaderValue::try_from(document.media_type.to_string()) {
            put.headers.insert(header::CONTENT_TYPE, kind);
        }
        put.body = Some(document.bytes.clone());
        let inner = &self.inner;
        let take = async |answer: Answer, _: &Host| {
            if !answer.response.status().is_success() {
                return Err(inner.transport.refusal(answer.response).await);
            }
            let stated = answer.response.headers().get("docker-content-digest");
            let stated = stated.and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
            match stated {
                Some(stated) if stated != document.digest => {
                    Err(Failure::Protocol(format!("stored it as {stated}")))
                }
                _ => Ok(document.digest),
            }
        };
        inner.runtime.block_on(inner.perform(&put, take))
    }
}

fn octets() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    headers
}

/// Where the upload goes on. Another host's URL is followed without our secrets.
fn place(headers: &HeaderMap, url: &Url) -> Result<Url, Failure> {
    let text = headers
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok());
    text.and_then(|text| url.join(text).ok())
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| Failure::Protocol("does not say where the upload goes on".to_owned()))
}

fn read_chunk(content: &mut dyn Read, length: u64, what: &str) -> Result<Vec<u8>, Error> {
    let wrong = |source| Error::Source {
        what: what.to_owned(),
        source,
    };
    let mut chunk = Vec::new();
    content
        .take(length)
        .read_to_end(&mut chunk)
        .map_err(wrong)?;
    if chunk.len() as u64 != length {
        return Err(wrong(std::io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(chunk)
}
