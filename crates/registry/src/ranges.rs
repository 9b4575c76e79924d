//! Parts of blobs. Where a registry redirects to is remembered, so that a range costs one request.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use image::{Digest, Reference};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::time::{Instant, timeout_at};

use crate::client::{Client, Inner, Job};
use crate::content::blob_name;
use crate::error::{Error, Failure};
use crate::hosts::{Host, Tls};
use crate::multipart;
use crate::transport::{Answer, Exchange, Transport};

/// More remembered places than this are forgotten.
const MAX_PLACES: usize = 4096;
/// Signed URLs live for some minutes; ours is asked for anew at the latest then.
const PLACE_LIFETIME: Duration = Duration::from_secs(900);
/// Room in an answer for the headers of each part.
const PART_OVERHEAD: u64 = 1024;

/// Where blobs have been found.
#[derive(Default)]
pub(crate) struct Places {
    known: Mutex<HashMap<Key, Place>>,
    /// Hosts that refuse or ignore several ranges in one request.
    single_only: Mutex<HashSet<String>>,
}

type Key = (String, String, Digest);

#[derive(Clone)]
struct Place {
    url: Url,
    tls: Tls,
    until: Instant,
}

impl Places {
    fn get(&self, key: &Key) -> Option<Place> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(key)
            .filter(|place| place.until > Instant::now())
            .cloned()
    }

    fn set(&self, key: Key, place: Option<Place>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_PLACES {
            known.clear();
        }
        match place {
            Some(place) => known.insert(key, place),
            None => known.remove(&key),
        };
    }

    fn takes_many(&self, registry: &str) -> bool {
        let single = self
            .single_only
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        !single.contains(registry)
    }

    fn single_only(&self, registry: &str) {
        let mut single = self
            .single_only
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        single.insert(registry.to_owned());
    }
}

/// The end of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// Length of the whole blob.
    pub size: u64,
    /// Its last bytes.
    pub bytes: Vec<u8>,
}

/// What came for a range that counts from the end.
enum End {
    Tail(Tail),
    /// The server does not count from the end: ask for the length first.
    Refused,
}

/// What came for several ranges.
enum Many {
    Parts(Vec<Vec<u8>>),
    /// Ask for one at a time.
    Refused,
}

impl Client {
    /// `length` bytes of a blob from `offset` on; not verified. Must lie within the blob.
    ///
    /// # Errors
    /// [`Error::RangeIgnored`] if the registry sends only whole blobs and too much lies before; [`Error`] otherwise.
    pub fn blob_range(
        &self,
        reference: &Reference,
        digest: &Digest,
        offset: u64,
        length: u64,
    ) -> Result<Vec<u8>, Error> {
        if length == 0 {
            return Ok(Vec::new());
        }
        let inner = &self.inner;
        let headers = range_header(&[(offset, length)]);
        let take = async |answer: Answer| inner.one(answer, offset, length).await;
        let found = inner.somewhere(reference, digest, headers, take);
        inner.runtime.block_on(found)
    }

    /// The last `length` bytes of a blob (all of a shorter one) and its size, in one request where the registry allows it.
    /// Not verified.
    ///
    /// # Errors
    /// As [`Client::blob_range`].
    pub fn blob_tail(
        &self,
        reference: &Reference,
        digest: &Digest,
        length: u64,
    ) -> Result<Tail, Error> {
        let inner = &self.inner;
        let mut headers = range_header(&[]);
        if let Ok(value) = HeaderValue::try_from(format!("bytes=-{}", length.max(1))) {
            headers.insert(header::RANGE, value);
        }
        let take = async |answer: Answer| inner.end(answer, length).await;
        let found = inner.somewhere(reference, digest, headers, take);
        if let End::Tail(tail) = inner.runtime.block_on(found)? {
            return Ok(tail);
        }
        let size = self
            .head_blob(reference, digest)?
            .ok_or_else(|| Error::NotFound {
                what: blob_name(reference, digest),
                attempts: Vec::new(),
            })?;
        let wanted = length.min(size);
        let bytes = self.blob_range(reference, digest, size - wanted, wanted)?;
        Ok(Tail { size, bytes })
    }

    /// Several ranges (offset, length) of a blob, in one request where the registry allows it. Not verified.
    ///
    /// # Errors
    /// As [`Client::blob_range`].
    pub fn multi_range(
        &self,
        reference: &Reference,
        digest: &Digest,
        ranges: &[(u64, u64)],
    ) -> Result<Vec<Vec<u8>>, Error> {
        let inner = &self.inner;
        let wanted: Vec<_> = ranges
            .iter()
            .copied()
            .filter(|(_, length)| *length > 0)
            .collect();
        if wanted.len() > 1 && inner.places.takes_many(reference.registry()) {
            let take = async |answer: Answer| inner.many(answer, ranges).await;
            let headers = range_header(&wanted);
            let found = inner.somewhere(reference, digest, headers, take);
            match inner.runtime.block_on(found)? {
                Many::Parts(parts) => return Ok(parts),
                Many::Refused => inner.places.single_only(reference.registry()),
            }
        }
        let single =
            |(offset, length): &(u64, u64)| self.blob_range(reference, digest, *offset, *length);
        ranges.iter().map(single).collect()
    }
}

fn range_header(ranges: &[(u64, u64)]) -> HeaderMap {
    let texts: Vec<_> = ranges
        .iter()
        .map(|(offset, length)| format!("{offset}-{}", offset.saturating_add(length - 1)))
        .collect();
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::try_from(format!("bytes={}", texts.join(","))) {
        headers.insert(header::RANGE, value);
    }
    // Compressed on the way, offsets would mean something else.
    headers.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    headers
}

/// First byte and length of a partial answer.
pub(crate) fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    multipart::range(headers.get(header::CONTENT_RANGE)?.to_str().ok()?)
}

/// Length of the whole of which a partial answer is a part.
fn total(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    value.rsplit_once('/')?.1.trim().parse().ok()
}

/// Reads past `count` bytes; gives what came after them in the last piece.
pub(crate) async fn skip(
    transport: &Transport,
    response: &mut Response,
    mut count: u64,
) -> Result<Vec<u8>, Failure> {
    while count > 0 {
        let Some(piece) = transport.piece(response).await? else {
            return Err(Failure::Transfer("ended early".to_owned()));
        };
        let length = piece.len() as u64;
        if length > count {
            return Ok(piece[usize::try_from(count).unwrap_or(piece.len())..].to_vec());
        }
        count -= length;
    }
    Ok(Vec::new())
}

impl Inner {
    /// From the remembered place, else by way of the registry.
    async fn somewhere<T>(
        &self,
        reference: &Reference,
        digest: &Digest,
        headers: HeaderMap,
        take: impl AsyncFn(Answer) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let key = (
            reference.registry().to_owned(),
            reference.repository().to_owned(),
            *digest,
        );
        if let Some(place) = self.places.get(&key) {
            let known = self.known_place(&place, headers.clone(), &take);
            if let Ok(Ok(value)) = timeout_at(self.deadline(), known).await {
                self.transport.metrics.redirects_reused.inc();
                return Ok(value);
            }
            // Expired, or its server is gone: the registry knows where it is now.
            self.transport.metrics.redirects_expired.inc();
            self.places.set(key.clone(), None);
        }
        let name = blob_name(reference, digest);
        let mut job = Job::get(reference, name, format!("blobs/{digest}"));
        job.headers = headers;
        let through = async |answer: Answer, host: &Host| {
            let place = answer.foreign.then(|| Place {
                url: answer.url.clone(),
                tls: Tls {
                    identities: Vec::new(),
                    ..host.tls.clone()
                },
                until: Instant::now() + PLACE_LIFETIME,
            });
            let value = take(answer).await?;
            if place.is_some() {
                self.places.set(key.clone(), place);
            }
            Ok(value)
        };
        self.perform(&job, through).await
    }

    async fn known_place<T>(
        &self,
        place: &Place,
        headers: HeaderMap,
        take: &impl AsyncFn(Answer) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let exchange = Exchange {
            method: Method::GET,
            url: place.url.clone(),
            headers,
            secrets: HeaderMap::new(),
            tls: &place.tls,
            body: None,
        };
        let answer = self
            .transport
            .exchange(&exchange)
            .await
            .map_err(|attempt| attempt.failure)?;
        take(answer)
            .await
            .inspect_err(|failure| drop(self.transport.failed(&place.url, failure.clone())))
    }

    /// The bytes of one range out of a partial or whole answer.
    async fn one(&self, mut answer: Answer, offset: u64, length: u64) -> Result<Vec<u8>, Failure> {
        let response = &mut answer.response;
        let bytes = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let (first, count) = content_range(response.headers()).ok_or_else(|| {
                    Failure::Protocol("does not say which range it sends".to_owned())
                })?;
                if first != offset || count > length {
                    return Err(Failure::Protocol(
                        "sends another range than asked for".to_owned(),
                    ));
                }
                Vec::new()
            }
            StatusCode::OK => {
                if offset > 0
                    || response
                        .content_length()
                        .is_some_and(|whole| whole > length)
                {
                    self.transport.metrics.ranges_ignored.inc();
                }
                if offset > self.config.skip_bound() {
                    return Err(Failure::RangeIgnored);
                }
                skip(&self.transport, response, offset).await?
            }
            _ => return Err(self.transport.refusal(answer.response).await),
        };
        let wanted = usize::try_from(length)
            .map_err(|_| Failure::Protocol("the range is too long".to_owned()))?;
        self.fill(response, bytes, wanted).await
    }

    /// The bytes of a range that counts from the end.
    async fn end(&self, mut answer: Answer, length: u64) -> Result<End, Failure> {
        let response = &mut answer.response;
        let (size, bytes) = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let place = content_range(response.headers()).zip(total(response.headers()));
                let Some(((first, count), size)) = place else {
                    return Ok(End::Refused);
                };
                if first.checked_add(count) != Some(size) || count > length {
                    return Ok(End::Refused);
                }
                (size, Vec::new())
            }
            StatusCode::OK => {
                let Some(size) = response.content_length() else {
                    return Ok(End::Refused);
                };
                let before = size.saturating_sub(length);
                if before > self.config.skip_bound() {
                    return Ok(End::Refused);
                }
                (size, skip(&self.transport, response, before).await?)
            }
            StatusCode::RANGE_NOT_SATISFIABLE
            | StatusCode::BAD_REQUEST
            | StatusCode::NOT_IMPLEMENTED => return Ok(End::Refused),
            _ => return Err(self.transport.refusal(answer.response).await),
        };
        let wanted = usize::try_from(length.min(size))
            .map_err(|_| Failure::Protocol("the range is too long".to_owned()))?;
        let bytes = self.fill(&mut answer.response, bytes, wanted).await?;
        Ok(End::Tail(Tail { size, bytes }))
    }

    /// Reads until there are `wanted` bytes.
    async fn fill(
        &self,
        response: &mut Response,
        mut bytes: Vec<u8>,
        wanted: usize,
    ) -> Result<Vec<u8>, Failure> {
        while bytes.len() < wanted {
            let Some(piece) = self.transport.piece(response).await? else {
                return Err(Failure::Transfer("ended early".to_owned()));
            };
            bytes.extend_from_slice(&piece);
        }
        // Of a whole blob more may have come; the rest of it is not awaited.
        bytes.truncate(wanted);
        Ok(bytes)
    }

    async fn many(&self, mut answer: Answer, ranges: &[(u64, u64)]) -> Result<Many, Failure> {
        let status = answer.response.status();
        if status == StatusCode::OK {
            self.transport.metrics.ranges_ignored.inc();
        }
        if matches!(
            status,
            StatusCode::OK
                | StatusCode::BAD_REQUEST
                | StatusCode::RANGE_NOT_SATISFIABLE
                | StatusCode::NOT_IMPLEMENTED
        ) {
            return Ok(Many::Refused);
        }
        if status != StatusCode::PARTIAL_CONTENT {
            return Err(self.transport.refusal(answer.response).await);
        }
        let total: u64 = ranges
            .iter()
            .map(|(_, length)| length + PART_OVERHEAD)
            .sum();
        let limit = usize::try_from(total.saturating_mul(2)).unwrap_or(usize::MAX);
        let headers = answer.response.headers().clone();
        let body = self.transport.body(&mut answer.response, limit).await?;
        let kind = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let parts = match kind.and_then(multipart::boundary) {
            Some(boundary) => multipart::parse(boundary, &body),
            // One range that covers all, or only the first of them.
            None => content_range(&headers)
                .filter(|(_, length)| *length == body.len() as u64)
                .map(|(first, _)| vec![(first, &body[..])]),
        };
        let parts = parts.ok_or_else(|| Failure::Protocol("sends malformed ranges".to_owned()))?;
        let cut = |range: &(u64, u64)| cut(&parts, *range);
        let found: Option<Vec<_>> = ranges.iter().map(cut).collect();
        Ok(found.map_or(Many::Refused, Many::Parts))
    }
}

/// A range out of parts that may be coalesced.
fn cut(parts: &[(u64, &[u8])], (offset, length): (u64, u64)) -> Option<Vec<u8>> {
    if length == 0 {
        return Some(Vec::new());
    }
    parts.iter().find_map(|(first, bytes)| {
        let start = usize::try_from(offset.checked_sub(*first)?).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        bytes.get(start..end).map(<[u8]>::to_vec)
    })
}
