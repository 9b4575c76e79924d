//! One exchange over HTTP: deadlines, redirects, TLS per host.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{self, HeaderMap};
use reqwest::{Certificate, Client, Identity, Method, NoProxy, Proxy, Response, Url};
use tokio::time::timeout;

use crate::config::{Config, Proxies, Timeouts};
use crate::error::{Attempt, Failure};
use crate::hosts::Tls;
use crate::metrics::Metrics;

const MAX_REDIRECTS: usize = 8;
/// As much of an error's text as is read.
const MAX_ERROR_BYTES: usize = 16 << 10;
/// Larger certificate files are refused.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// Sends requests. Clients are made when they are first needed: a minimal machine may have no certificate authorities.
pub(crate) struct Transport {
    clients: Mutex<HashMap<(Tls, bool), Client>>,
    timeouts: Timeouts,
    proxies: Option<Proxies>,
    pub(crate) metrics: Metrics,
}

/// What is sent.
pub(crate) struct Exchange<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    /// Sent wherever redirects lead.
    pub(crate) headers: HeaderMap,
    /// Sent to the URL's own origin only.
    pub(crate) secrets: HeaderMap,
    pub(crate) tls: &'a Tls,
    pub(crate) body: Option<Vec<u8>>,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) response: Response,
    /// Who answered in the end.
    pub(crate) url: Url,
    /// Another origin than was asked.
    pub(crate) foreign: bool,
}

impl Transport {
    pub(crate) fn new(config: &Config, metrics: Metrics) -> Self {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Somebody else may have installed one meanwhile; either serves.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        Self {
            clients: Mutex::default(),
            timeouts: config.timeouts,
            proxies: config.proxies.clone(),
            metrics,
        }
    }

    fn client(&self, tls: &Tls, secure: bool) -> Result<Client, Failure> {
        let key = (if secure { tls.clone() } else { Tls::default() }, secure);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = self.build(&key.0, secure)?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn build(&self, tls: &Tls, secure: bool) -> Result<Client, Failure> {
        let wrong = |error: reqwest::Error| Failure::Config(reason(&error));
        let mut builder = Client::builder()
            .user_agent(concat!("outcrop/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .tcp_nodelay(true)
            .connect_timeout(self.timeouts.connect)
            .pool_idle_timeout(Duration::from_secs(60))
            .tls_danger_accept_invalid_certs(tls.skip_verify)
            .no_proxy();
        // Alone it means every host; the library takes addresses out of that.
        let proxied = |proxies: &&Proxies| proxies.except.trim() != "*";
        if let Some(proxies) = self.proxies.as_ref().filter(proxied) {
            let except = NoProxy::from_string(&proxies.except);
            if let Some(url) = &proxies.https {
                let proxy = Proxy::https(url.as_str()).map_err(wrong)?;
                builder = builder.proxy(proxy.no_proxy(except.clone()));
            }
            if let Some(url) = &proxies.http {
                let proxy = Proxy::http(url.as_str()).map_err(wrong)?;
                builder = builder.proxy(proxy.no_proxy(except));
            }
        }
        if !secure {
            return builder.tls_certs_only([]).build().map_err(wrong);
        }
        for path in &tls.authorities {
            let certificates = Certificate::from_pem_bundle(&pem(path)?).map_err(wrong)?;
            builder = builder.tls_certs_merge(certificates);
        }
        // TLS sends one certificate; the first is ours.
        if let Some((certificate, key)) = tls.identities.first() {
            let mut text = pem(certificate)?;
            if let Some(key) = key {
                text.push(b'\n');
                text.extend(pem(key)?);
            }
            let identity = Identity::from_pem(&text).map_err(|_| {
                Failure::Config(format!(
                    "{}: no certificate with key",
                    certificate.display()
                ))
            })?;
            builder = builder.identity(identity);
        }
        builder.build().map_err(wrong)
    }

    /// Sends, and for GET and HEAD goes where redirects lead. Any status is an answer.
    pub(crate) async fn exchange(&self, exchange: &Exchange<'_>) -> Result<Answer, Attempt> {
        let foreign_tls = Tls {
            identities: Vec::new(),
            ..exchange.tls.clone()
        };
        let follow = matches!(exchange.method, Method::GET | Method::HEAD);
        let mut url = exchange.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let foreign = !same_origin(&url, &exchange.url);
            let tls = if foreign { &foreign_tls } else { exchange.tls };
            let response = self
                .once(exchange, &url, tls, foreign)
                .await
                .map_err(|failure| self.failed(&url, failure))?;
            let redirect = follow && response.status().is_redirection();
            let Some(place) = response
                .headers()
                .get(header::LOCATION)
                .filter(|_| redirect)
            else {
                return Ok(Answer {
                    response,
                    url,
                    foreign,
                });
            };
            let next = place.to_str().ok().and_then(|place| url.join(place).ok());
            match next.filter(|next| matches!(next.scheme(), "http" | "https")) {
                Some(next) => url = next,
                None => {
                    let failure =
                        Failure::Protocol("redirects to something that is no URL".to_owned());
                    return Err(self.failed(&url, failure));
                }
            }
        }
        Err(self.failed(&url, Failure::Protocol("redirects too often".to_owned())))
    }

    async fn once(
        &self,
        exchange: &Exchange<'_>,
        url: &Url,
        tls: &Tls,
        foreign: bool,
    ) -> Result<Response, Failure> {
        let client = self.client(tls, url.scheme() == "https")?;
        let mut request = client
            .request(exchange.method.clone(), url.clone())
            .headers(exchange.headers.clone());
        if !foreign {
            request = request.headers(exchange.secrets.clone());
        }
        let mut deadline = self.timeouts.connect + self.timeouts.answer;
        if let Some(body) = &exchange.body {
            self.metrics.sent_bytes.inc_by(body.len() as u64);
            // A body of this size takes its time: 64 KiB a second is slow enough.
            deadline += Duration::from_secs(body.len() as u64 >> 16);
            request = request.body(body.clone());
        }
        self.metrics.requests.inc();
        timeout(deadline, request.send())
            .await
            .map_err(|_| Failure::Timeout("no answer"))?
            .map_err(|error| sort(&error))
    }

    /// Counts and names a failure.
    pub(crate) fn failed(&self, url: &Url, failure: Failure) -> Attempt {
        self.metrics.failed_requests.inc();
        let url = shown(url);
        tracing::debug!(%url, %failure, "request failed");
        Attempt { url, failure }
    }

    /// The next piece of a body; None at its end.
    pub(crate) async fn piece(&self, response: &mut Response) -> Result<Option<Vec<u8>>, Failure> {
        let piece = timeout(self.timeouts.stall, response.chunk())
            .await
            .map_err(|_| Failure::Timeout("the transfer stalled"))?
            .map_err(|error| sort(&error))?;
        Ok(piece.map(|piece| {
            self.metrics.received_bytes.inc_by(piece.len() as u64);
            piece.to_vec()
        }))
    }

    /// A whole body of at most `limit` bytes.
    pub(crate) async fn body(
        &self,
        response: &mut Response,
        limit: usize,
    ) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece(response).await? {
            if body.len() + piece.len() > limit {
                return Err(Failure::Protocol(format!(
                    "answers more than {limit} bytes"
                )));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// What an unwanted status means. Reads the registry's error code.
    pub(crate) async fn refusal(&self, mut response: Response) -> Failure {
        let code = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let text = self
            .body(&mut response, MAX_ERROR_BYTES)
            .await
            .unwrap_or_default();
        Failure::Status {
            code,
            code_name: error_code(&text).unwrap_or_default(),
            retry_after,
        }
    }
}

fn pem(path: &Path) -> Result<Vec<u8>, Failure> {
    let wrong = |reason: String| Failure::Config(format!("{}: {reason}", path.display()));
    let length = path
        .metadata()
        .map_err(|error| wrong(error.to_string()))?
        .len();
    if length > MAX_PEM_BYTES {
        return Err(wrong("is too long".to_owned()));
    }
    fs::read(path).map_err(|error| wrong(error.to_string()))
}

/// The registry's own word for what is wrong; nothing else of its text.
fn error_code(text: &[u8]) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(text).ok()?;
    let code = json.get("errors")?.get(0)?.get("code")?.as_str()?;
    let plain = code.len() <= 40
        && code
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    plain.then(|| code.to_owned())
}

/// Seconds, or a date that is compared with the server's own.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: header::HeaderName| headers.get(name)?.to_str().ok();
    let value = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let time = |text: &str| {
        jiff::fmt::rfc2822::parse(text)
            .ok()
            .map(|zoned| zoned.timestamp())
    };
    let wait = time(value)?.duration_since(time(text(header::DATE)?)?);
    Some(Duration::try_from(wait).unwrap_or_default())
}

pub(crate) fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// Scheme, host and path: user information, queries and fragments may be secrets.
pub(crate) fn shown(url: &Url) -> String {
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!(
        "{}://{}{port}{}",
        url.scheme(),
        url.host_str().unwrap_or_default(),
        url.path()
    )
}

fn sort(error: &reqwest::Error) -> Failure {
    if error.is_timeout() {
        Failure::Timeout("no connection or answer")
    } else {
        match reason(error) {
            // Neither another attempt nor another hour helps.
            text if text.starts_with("invalid peer certificate") => Failure::Config(text),
            text if error.is_connect() => Failure::Connect(text),
            text => Failure::Transfer(text),
        }
    }
}

/// The innermost cause: the outer ones repeat the URL.
fn reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    match cause.downcast_ref::<reqwest::Error>() {
        // Without a cause its text is the URL's.
        Some(_) => "the request failed".to_owned(),
        None => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn times_to_come_again() {
        for (value, date, expected) in [
            ("7", None, Some(7)),
            (
                "Tue, 24 Nov 2026 10:00:30 GMT",
                Some("Tue, 24 Nov 2026 10:00:00 GMT"),
                Some(30),
            ),
            (
                "Tue, 24 Nov 2026 09:00:00 GMT",
                Some("Tue, 24 Nov 2026 10:00:00 GMT"),
                Some(0),
            ),
            ("Tue, 24 Nov 2026 10:00:30 GMT", None, None),
            ("soon", None, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(value));
            if let Some(date) = date {
                headers.insert(header::DATE, HeaderValue::from_static(date));
            }
            assert_eq!(
                retry_after(&headers),
                expected.map(Duration::from_secs),
                "{value}"
            );
        }
    }

    #[test]
    fn shown_urls_hold_no_secret() {
        let url = Url::parse("https://user:hunter2@a.b:5000/v2/x?token=hunter2#hunter2").unwrap();
        assert_eq!(shown(&url), "https://a.b:5000/v2/x");
    }

    #[test]
    fn error_codes_are_words_only() {
        for (text, expected) in [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"hunter2"}]}"#,
                Some("MANIFEST_UNKNOWN"),
            ),
            (r#"{"errors":[{"code":"hunter2"}]}"#, None),
            (r#"{"errors":[]}"#, None),
            ("<html>", None),
        ] {
            assert_eq!(error_code(text.as_bytes()).as_deref(), expected);
        }
    }

    #[test]
    fn origins() {
        let url = |text: &str| Url::parse(text).unwrap();
        for (one, other, expected) in [
            ("https://a/x", "https://a:443/y", true),
            ("http://a/", "https://a/", false),
            ("http://a:1/", "http://a:2/", false),
            ("http://a/", "http://b.a/", false),
        ] {
            assert_eq!(same_origin(&url(one), &url(other)), expected);
        }
    }
}
