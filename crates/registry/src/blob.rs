use std::io::{self, Read};
use std::time::Duration;

use image::{Descriptor, Digest, Reference};
use reqwest::header::{self, HeaderValue};
use reqwest::{Response, StatusCode};

use crate::client::{Client, Job};
use crate::content::blob_name;
use crate::error::{Error, Failure};
use crate::ranges::{content_range, skip};
use crate::transport::Answer;

/// Transfers that break without a byte of progress in between.
const MAX_BREAKS: u32 = 5;

/// A blob's bytes as they come; not verified (see [`Client::blob`]).
pub struct Blob {
    client: Client,
    reference: Reference,
    digest: Digest,
    size: u64,
    offset: u64,
    response: Option<Response>,
    piece: Vec<u8>,
    /// Of `piece`.
    taken: usize,
    breaks: u32,
}

impl Blob {
    pub(crate) fn open(
        client: &Client,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<Self, Error> {
        let mut blob = Self {
            client: client.clone(),
            reference: reference.clone(),
            digest: descriptor.digest,
            size: descriptor.size,
            offset: 0,
            response: None,
            piece: Vec::new(),
            taken: 0,
            breaks: 0,
        };
        if blob.size > 0 {
            blob.response = Some(blob.connect()?);
        }
        Ok(blob)
    }

    /// A response whose body begins at our offset.
    fn connect(&self) -> Result<Response, Error> {
        let name = blob_name(&self.reference, &self.digest);
        let mut job = Job::get(&self.reference, name, format!("blobs/{}", self.digest));
        if self.offset > 0 {
            let range = format!("bytes={}-{}", self.offset, self.size - 1);
            if let Ok(range) = HeaderValue::try_from(range) {
                job.headers.insert(header::RANGE, range);
            }
        }
        let inner = &self.client.inner;
        let take = async |mut answer: Answer, _: &_| match answer.response.status() {
            StatusCode::PARTIAL_CONTENT => match content_range(answer.response.headers()) {
                Some((first, _)) if first == self.offset => Ok(answer.response),
                _ => Err(Failure::Protocol(
                    "sends another range than asked for".to_owned(),
                )),
            },
            StatusCode::OK => {
                // What came before has been handed on already.
                skip(&inner.transport, &mut answer.response, self.offset)
                    .await
                    .map(|rest| (answer.response, rest))
                    .and_then(|(response, rest)| match rest.is_empty() {
                        true => Ok(response),
                        false => Err(Failure::Transfer("skipped too much".to_owned())),
                    })
            }
            _ => Err(inner.transport.refusal(answer.response).await),
        };
        inner.runtime.block_on(inner.perform(&job, take))
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        loop {
            // Whether more than the stated bytes would come is asked once at most.
            if self.offset >= self.size && self.response.is_none() {
                return Ok(None);
            }
            let inner = &self.client.inner;
            let Some(response) = &mut self.response else {
                self.response = Some(self.connect()?);
                continue;
            };
            let failure = match inner.runtime.block_on(inner.transport.piece(response)) {
                Ok(Some(piece)) if piece.is_empty() => continue,
                Ok(Some(piece)) => {
                    self.breaks = 0;
                    return Ok(Some(piece));
                }
                Ok(None) if self.offset >= self.size => return Ok(None),
                Ok(None) => Failure::Transfer("ended early".to_owned()),
                Err(failure) => failure,
            };
            let attempt = inner.transport.failed(response.url(), failure);
            self.response = None;
            self.breaks += 1;
            if self.breaks > MAX_BREAKS {
                let what = blob_name(&self.reference, &self.digest);
                return Err(Error::from_attempts(what, vec![attempt]));
            }
            let pause = inner.config.retries.backoff_initial * self.breaks;
            std::thread::sleep(pause.min(Duration::from_secs(10)));
        }
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.size == 0 {
            return Ok(0);
        }
        if self.taken == self.piece.len() {
            match self.next().map_err(io::Error::other)? {
                None => return Ok(0),
                Some(piece) => (self.piece, self.taken) = (piece, 0),
            }
            self.offset += self.piece.len() as u64;
        }
        let count = buffer.len().min(self.piece.len() - self.taken);
        buffer[..count].copy_from_slice(&self.piece[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
    }
}
