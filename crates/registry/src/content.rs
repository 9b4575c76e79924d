//! Documents, sizes of blobs, lists of tags.

use std::sync::{Mutex, PoisonError};

use image::{Digest, MAX_DOCUMENT_BYTES, MediaType, Reference};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use crate::client::{Client, Job};
use crate::error::{Error, Failure};
use crate::hosts::Capability;
use crate::transport::{Answer, same_origin};
use crate::{Document, Verified};

const MAX_TAGS_BYTES: usize = 16 << 20;
/// More pages of tags are refused: a registry may send us in circles.
const MAX_PAGES: usize = 10_000;
/// More tags are refused.
const MAX_TAGS: usize = 1_000_000;
const CONTENT_DIGEST: &str = "docker-content-digest";

#[derive(Deserialize)]
struct Tags {
    /// `null` in an empty repository.
    tags: Option<Vec<String>>,
}

fn accept_header(accept: &[MediaType]) -> HeaderMap {
    let all = [
        MediaType::OciIndex,
        MediaType::DockerManifestList,
        MediaType::OciManifest,
        MediaType::DockerManifest,
    ];
    let wanted = if accept.is_empty() { &all[..] } else { accept };
    let names: Vec<_> = wanted.iter().map(ToString::to_string).collect();
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::try_from(names.join(", ")) {
        headers.insert(header::ACCEPT, value);
    }
    headers
}

fn manifest_job<'a>(reference: &'a Reference, method: Method, accept: &[MediaType]) -> Job<'a> {
    let name = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or("latest").to_owned(),
    };
    // A tag is resolved where the operator trusts the answer; a digest may come from anywhere.
    let capability = match reference.digest() {
        Some(_) => Capability::Pull,
        None => Capability::Resolve,
    };
    Job {
        method,
        capability,
        headers: accept_header(accept),
        ..Job::get(
            reference,
            reference.to_string(),
            format!("manifests/{name}"),
        )
    }
}

/// What the registry says the digest is; other algorithms than ours say nothing.
fn stated_digest(answer: &Answer) -> Option<Digest> {
    let text = answer
        .response
        .headers()
        .get(CONTENT_DIGEST)?
        .to_str()
        .ok()?;
    text.parse().ok()
}

impl Client {
    /// The manifest or index of an image. Verified if the reference has a digest. `accept`: types wanted, all if empty.
    ///
    /// # Errors
    /// [`Error`], in particular [`Error::Document`] if the bytes are none or others than named.
    pub fn document(&self, reference: &Reference, accept: &[MediaType]) -> Result<Document, Error> {
        let job = manifest_job(reference, Method::GET, accept);
        // Kept for the error; a mirror's bad document is no reason not to ask the next host.
        let bad = Mutex::new(None);
        let inner = &self.inner;
        let take = async |mut answer: Answer, _: &_| {
            if !answer.response.status().is_success() {
                return Err(inner.transport.refusal(answer.response).await);
            }
            let expected = reference
                .digest()
                .copied()
                .or_else(|| stated_digest(&answer));
            let header = answer.response.headers().get(header::CONTENT_TYPE);
            let kind = header
                .and_then(|value| value.to_str().ok())
                .map(|text| text.split(';').next().unwrap_or_default().trim())
                .map(MediaType::parse);
            let body = inner
                .transport
                .body(&mut answer.response, MAX_DOCUMENT_BYTES)
                .await?;
            Document::new(body, kind, expected.as_ref()).map_err(|error| {
                let failure = Failure::Protocol(error.to_string());
                *bad.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                failure
            })
        };
        let result = inner.runtime.block_on(inner.perform(&job, take));
        match (
            result,
            bad.into_inner().unwrap_or_else(PoisonError::into_inner),
        ) {
            (Err(Error::Refused { what, .. }), Some(source)) => {
                Err(Error::Document { what, source })
            }
            (result, _) => result,
        }
    }

    /// The digest that a reference means now.
    ///
    /// # Errors
    /// [`Error`].
    pub fn resolve(&self, reference: &Reference) -> Result<Digest, Error> {
        if let Some(digest) = reference.digest() {
            return Ok(*digest);
        }
        let job = manifest_job(reference, Method::HEAD, &[]);
        let inner = &self.inner;
        let take = async |answer: Answer, _: &_| match answer.response.status() {
            status if status.is_success() => Ok(stated_digest(&answer)),
            // Not every registry has HEAD.
            StatusCode::METHOD_NOT_ALLOWED => Ok(None),
            _ => Err(inner.transport.refusal(answer.response).await),
        };
        match inner.runtime.block_on(inner.perform(&job, take))? {
            Some(digest) => Ok(digest),
            None => Ok(self.document(reference, &[])?.digest),
        }
    }

    /// A blob's size in bytes; None if the repository lacks it.
    ///
    /// # Errors
    /// [`Error`].
    pub fn head_blob(&self, reference: &Reference, digest: &Digest) -> Result<Option<u64>, Error> {
        let job = Job {
            method: Method::HEAD,
            ..Job::get(
                reference,
                blob_name(reference, digest),
                format!("blobs/{digest}"),
            )
        };
        self.size_of(&job)
    }

    pub(crate) fn size_of(&self, job: &Job<'_>) -> Result<Option<u64>, Error> {
        let inner = &self.inner;
        let take = async |answer: Answer, _: &_| {
            if !answer.response.status().is_success() {
                return Err(inner.transport.refusal(answer.response).await);
            }
            let length = answer.response.headers().get(header::CONTENT_LENGTH);
            let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
            length.ok_or_else(|| Failure::Protocol("does not say how long the blob is".to_owned()))
        };
        match inner.runtime.block_on(inner.perform(job, take)) {
            Ok(length) => Ok(Some(length)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All tags of a repository, in the registry's order. The reference's own tag does not matter.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Protocol`] if the list has no end.
    pub fn tags(&self, repository: &Reference) -> Result<Vec<String>, Error> {
        let what = format!(
            "tags of {}/{}",
            repository.registry(),
            repository.repository()
        );
        let endless = || Error::Protocol {
            what: what.clone(),
            reason: "the list of tags has no end".to_owned(),
        };
        let mut all = Vec::new();
        let mut next: Option<Url> = None;
        for _ in 0..MAX_PAGES {
            let mut job = Job {
                capability: Capability::Resolve,
                ..Job::get(repository, what.clone(), "tags/list".to_owned())
            };
            job.query.push(("n", "1000".to_owned()));
            job.url = next.take();
            let (tags, following) = self.page(&job)?;
            let empty = tags.is_empty();
            all.extend(tags);
            if all.len() > MAX_TAGS {
                return Err(endless());
            }
            match following.filter(|url| !empty && job.url.as_ref() != Some(url)) {
                Some(url) => next = Some(url),
                None => return Ok(all),
            }
        }
        Err(endless())
    }

    fn page(&self, job: &Job<'_>) -> Result<(Vec<String>, Option<Url>), Error> {
        let inner = &self.inner;
        let take = async |mut answer: Answer, _: &_| {
            if !answer.response.status().is_success() {
                return Err(inner.transport.refusal(answer.response).await);
            }
            let next = next_page(answer.response.headers(), &answer.url);
            let body = inner
                .transport
                .body(&mut answer.response, MAX_TAGS_BYTES)
                .await?;
            let tags: Tags = serde_json::from_slice(&body)
                .map_err(|_| Failure::Protocol("the list of tags is malformed".to_owned()))?;
            Ok((tags.tags.unwrap_or_default(), next))
        };
        inner.runtime.block_on(inner.perform(job, take))
    }
}

pub(crate) fn blob_name(reference: &Reference, digest: &Digest) -> String {
    format!(
        "blob {digest} of {}/{}",
        reference.registry(),
        reference.repository()
    )
}

/// `<url>; rel="next"` (RFC 8288). Another origin's is not followed: it would be sent our token.
fn next_page(headers: &HeaderMap, base: &Url) -> Option<Url> {
    let links = headers.get_all(header::LINK).iter();
    let mut links = links
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(", "));
    links.find_map(|link| {
        let (url, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let next = parameters.split(';').any(|parameter| {
            parameter
                .trim()
                .replace('"', "")
                .eq_ignore_ascii_case("rel=next")
        });
        let url = base.join(url).ok().filter(|_| next)?;
        same_origin(&url, base).then_some(url)
    })
}

impl Client {
    /// A blob from its first byte to its last; fails at the end if size or digest are others than stated.
    /// Broken transfers go on where they ended.
    ///
    /// # Errors
    /// [`Error`] if no host gives it.
    pub fn blob(
        &self,
        reference: &Reference,
        descriptor: &image::Descriptor,
    ) -> Result<Verified<crate::Blob>, Error> {
        let blob = crate::Blob::open(self, reference, descriptor)?;
        Ok(Verified::new(blob, descriptor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_pages() {
        let base = Url::parse("https://a.b/v2/x/tags/list?n=2").unwrap();
        for (link, expected) in [
            (
                "</v2/x/tags/list?n=2&last=b>; rel=\"next\"",
                Some("https://a.b/v2/x/tags/list?n=2&last=b"),
            ),
            ("<https://a.b/z>;rel=next", Some("https://a.b/z")),
            (
                "<?last=c>; rel=\"next\"",
                Some("https://a.b/v2/x/tags/list?last=c"),
            ),
            (
                "</p>; rel=\"prev\", </q>; rel=\"next\"",
                Some("https://a.b/q"),
            ),
            ("<https://evil/z>; rel=\"next\"", None),
            ("<http://a.b/z>; rel=\"next\"", None),
            ("</z>; rel=\"prev\"", None),
            ("/z; rel=next", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::LINK, HeaderValue::from_str(link).unwrap());
            assert_eq!(
                next_page(&headers, &base).as_ref().map(Url::as_str),
                expected,
                "{link}"
            );
        }
    }
}
