//! One request, signed, sent, with deadlines and retries.

use std::fmt::Display;
use std::fs::File;
use std::io::Read as _;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use rusty_s3::Credentials;
use rusty_s3::actions::{GetObject, HeadObject, PutObject, S3Action};
use tokio::runtime::Handle;

use super::super::StorageError;
use super::{MAX_ANSWER_BYTES, Place};

const CONNECT: Duration = Duration::from_secs(10);
/// For a request's answer to begin, and between two pieces of it.
const STALL: Duration = Duration::from_secs(30);
/// Slower transfers fail.
const MIN_BYTES_PER_SECOND: u64 = 128 << 10;
/// For how long a signature holds.
const SIGNATURE: Duration = Duration::from_secs(900);
const TRIES: u32 = 5;
/// Before the second try; doubled each time.
const BACK_OFF: Duration = Duration::from_millis(200);
/// What is kept of an error's text.
const MAX_REASON: usize = 300;

/// What is sent, besides what the action signs.
#[derive(Clone)]
pub(super) struct Call {
    /// For messages.
    pub(super) path: String,
    pub(super) method: &'static str,
    pub(super) body: Vec<u8>,
    /// Not signed.
    pub(super) headers: Vec<(&'static str, String)>,
}

impl Call {
    pub(super) fn new(path: &str, method: &'static str) -> Self {
        Self {
            path: path.to_owned(),
            method,
            body: Vec::new(),
            headers: Vec::new(),
        }
    }
}

/// A whole answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: reqwest::header::HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<String> {
        Some(self.headers.get(name)?.to_str().ok()?.to_owned())
    }
}

/// Why a try failed.
enum Failure {
    /// Worth another try.
    Passing(String),
    Final(StorageError),
}

pub(super) struct Client {
    pub(super) location: String,
    pub(super) place: Place,
    pub(super) credentials: Option<Credentials>,
    pub(super) runtime: Handle,
    http: reqwest::Client,
}

impl Client {
    pub(super) fn new(
        location: String,
        place: Place,
        credentials: Option<Credentials>,
        runtime: Handle,
    ) -> Result<Self, StorageError> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Somebody else may have installed one meanwhile; either serves.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("outcrop/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT)
            .read_timeout(STALL)
            .tcp_nodelay(true)
            .no_proxy();
        if !place.tls {
            // Loading certificate authorities may fail on a minimal machine.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| StorageError::BadLocation {
            location: location.clone(),
            reason: error.to_string(),
        })?;
        Ok(Self {
            location,
            place,
            credentials,
            runtime,
            http,
        })
    }

    /// Sends until there is an answer that says yes, or a final no.
    pub(super) fn send<'a, A: S3Action<'a>>(
        &self,
        call: &Call,
        action: &dyn Fn(&Call) -> A,
    ) -> Result<Answer, StorageError> {
        let answer = self.ask(call, action, Some(MAX_ANSWER_BYTES))?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(self.refused(&call.path, &answer))
    }

    /// As [`Client::send`], for the answer's text.
    pub(super) fn text<'a, A: S3Action<'a>>(
        &self,
        call: &Call,
        action: &dyn Fn(&Call) -> A,
    ) -> Result<String, StorageError> {
        let answer = self.send(call, action)?;
        String::from_utf8(answer.body).map_err(|error| self.bad_answer(&call.path, &error))
    }

    /// Sends until there is an answer, whatever its status.
    pub(super) fn ask<'a, A: S3Action<'a>>(
        &self,
        call: &Call,
        action: &dyn Fn(&Call) -> A,
        limit: Option<u64>,
    ) -> Result<Answer, StorageError> {
        self.retried(&call.path, async || {
            let mut response = self.begin(call, action).await?;
            // The limit is for content; what is said about errors is longer.
            let limit = match response.status().is_success() {
                true => limit,
                false => Some(MAX_ANSWER_BYTES),
            };
            let mut body = Vec::new();
            while let Some(piece) = response.chunk().await.map_err(passing)? {
                body.extend_from_slice(&piece);
                if limit.is_some_and(|limit| body.len() as u64 > limit) {
                    return Err(Failure::Final(StorageError::TooLarge {
                        location: self.location.clone(),
                        path: call.path.clone(),
                        limit: limit.unwrap_or(0),
                    }));
                }
            }
            Ok(Answer {
                status: response.status(),
                headers: response.headers().clone(),
                body,
            })
        })
    }

    fn retried<T>(
        &self,
        path: &str,
        attempt: impl AsyncFn() -> Result<T, Failure>,
    ) -> Result<T, StorageError> {
        self.runtime.block_on(async {
            let mut tries = 1;
            loop {
                match attempt().await {
                    Ok(value) => return Ok(value),
                    Err(Failure::Final(error)) => return Err(error),
                    Err(Failure::Passing(reason)) if tries >= TRIES => {
                        return Err(StorageError::Unavailable {
                            location: self.location.clone(),
                            path: path.to_owned(),
                            reason: format!("{reason} (tried {tries} times)"),
                        });
                    }
                    Err(Failure::Passing(reason)) => {
                        tracing::debug!(location = self.location, path, reason, "trying again");
                        tokio::time::sleep(BACK_OFF * 2_u32.pow(tries - 1)).await;
                        tries += 1;
                    }
                }
            }
        })
    }

    /// Sends once and waits for the beginning of an answer.
    async fn begin<'a, A: S3Action<'a>>(
        &self,
        call: &Call,
        action: &dyn Fn(&Call) -> A,
    ) -> Result<reqwest::Response, Failure> {
        // Signed anew for each try: signatures expire.
        let url = action(call).sign(SIGNATURE);
        let method = Method::from_bytes(call.method.as_bytes()).unwrap_or(Method::GET);
        let mut request = self.http.request(method, url).body(call.body.clone());
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        let seconds = call.body.len() as u64 / MIN_BYTES_PER_SECOND;
        let deadline = STALL + Duration::from_secs(seconds);
        let response = tokio::time::timeout(deadline, request.send())
            .await
            .map_err(|_| Failure::Passing("no answer in time".to_owned()))?
            .map_err(passing)?;
        let status = response.status();
        let again = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
            || matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
            );
        if again && status != StatusCode::INSUFFICIENT_STORAGE {
            return Err(Failure::Passing(format!("the server answers {status}")));
        }
        Ok(response)
    }

    /// A whole object; `None` if there is none.
    pub(super) fn get(
        &self,
        path: &str,
        key: &str,
        limit: Option<u64>,
    ) -> Result<Option<Answer>, StorageError> {
        let answer = self.ask(&Call::new(path, "GET"), &|_| self.get_action(key), limit)?;
        match answer.status {
            status if status.is_success() => Ok(Some(answer)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.refused(path, &answer)),
        }
    }

    /// An object's stream; `None` if there is none.
    pub(super) fn open(
        &self,
        path: &str,
        key: &str,
    ) -> Result<Option<reqwest::Response>, StorageError> {
        let call = Call::new(path, "GET");
        let response = self.retried(path, async || {
            self.begin(&call, &|_| self.get_action(key)).await
        })?;
        match response.status() {
            status if status.is_success() => Ok(Some(response)),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(self.denied(path, status.to_string())),
        }
    }

    fn get_action<'a>(&'a self, key: &'a str) -> GetObject<'a> {
        GetObject::new(&self.place.bucket, self.credentials.as_ref(), key)
    }

    /// An object's length; `None` if there is none.
    pub(super) fn head(&self, path: &str, key: &str) -> Result<Option<u64>, StorageError> {
        let action = |_: &Call| HeadObject::new(&self.place.bucket, self.credentials.as_ref(), key);
        let answer = self.ask(&Call::new(path, "HEAD"), &action, Some(0))?;
        match answer.status {
            status if status.is_success() => {
                let length = answer.header("content-length");
                let length = length.and_then(|text| text.parse().ok());
                length
                    .map(Some)
                    .ok_or_else(|| self.bad_answer(path, &"no length is given"))
            }
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.refused(path, &answer)),
        }
    }

    /// Stores an object.
    pub(super) fn put(&self, call: &Call, key: &str) -> Result<Answer, StorageError> {
        self.send(call, &|_| self.put_action(key))
    }

    pub(super) fn put_action<'a>(&'a self, key: &'a str) -> PutObject<'a> {
        PutObject::new(&self.place.bucket, self.credentials.as_ref(), key)
    }

    pub(super) fn read_part(
        &self,
        path: &str,
        file: &mut File,
        length: u64,
    ) -> Result<Vec<u8>, StorageError> {
        let mut part = Vec::new();
        let read = file.take(length).read_to_end(&mut part);
        let read = read.and_then(|read| {
            if read as u64 == length {
                Ok(())
            } else {
                Err(std::io::ErrorKind::UnexpectedEof.into())
            }
        });
        read.map_err(|source| StorageError::Io {
            location: self.location.clone(),
            path: path.to_owned(),
            source,
        })?;
        Ok(part)
    }

    pub(super) fn bad_answer(&self, path: &str, reason: &dyn Display) -> StorageError {
        StorageError::Unavailable {
            location: self.location.clone(),
            path: path.to_owned(),
            reason: format!("the server's answer makes no sense: {reason}"),
        }
    }

    fn denied(&self, path: &str, reason: String) -> StorageError {
        StorageError::Denied {
            location: self.location.clone(),
            path: path.to_owned(),
            reason,
        }
    }

    /// A final no.
    pub(super) fn refused(&self, path: &str, answer: &Answer) -> StorageError {
        let text = String::from_utf8_lossy(&answer.body);
        let inside = |tag: &str| {
            let (_, rest) = text.split_once(&format!("<{tag}>"))?;
            let (inside, _) = rest.split_once('<')?;
            Some(inside.chars().take(MAX_REASON).collect::<String>())
        };
        let code = inside("Code").unwrap_or_default();
        if answer.status == StatusCode::INSUFFICIENT_STORAGE || code == "QuotaExceeded" {
            return StorageError::Full {
                location: self.location.clone(),
                path: path.to_owned(),
            };
        }
        let message = inside("Message").unwrap_or_default();
        self.denied(path, format!("{} {code} {message}", answer.status))
    }
}

fn passing(error: reqwest::Error) -> Failure {
    // The URL holds the signature.
    let error = error.without_url();
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        reason = format!("{reason}: {inner}");
        source = inner.source();
    }
    Failure::Passing(reason)
}
