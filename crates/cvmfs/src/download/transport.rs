//! HTTP GET: one client per proxy, so that no pooled connection can bypass it.

use std::time::Duration;

use reqwest::{Client, Proxy, StatusCode, header};
use tokio::runtime::Handle;

use super::failure::Failure;
use super::receiver::Interrupt;
use crate::config::Timeouts;

/// Idle connections kept per server.
const IDLE_CONNECTIONS: usize = 64;

/// One GET.
pub(crate) struct Request<'a> {
    pub(crate) url: &'a str,
    /// Index among the proxies.
    pub(crate) proxy: usize,
    /// Asks caches on the way to fetch anew.
    pub(crate) no_cache: bool,
    /// First byte and number of bytes.
    pub(crate) range: Option<(u64, u64)>,
    /// Longest body.
    pub(crate) limit: u64,
}

/// What carries requests. Bodies are handed on piece by piece.
pub(crate) trait Transport: Send + Sync {
    fn get(
        &self,
        request: &Request<'_>,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), Interrupt>,
    ) -> Result<(), Interrupt>;
}

/// HTTP/1.1 by reqwest.
pub(crate) struct Http {
    clients: Vec<Client>,
    timeouts: Timeouts,
    runtime: Handle,
}

impl Http {
    /// One client for each proxy (`None` = direct). `tls` says whether any URL is https: only then certificate authorities are loaded,
    /// which a minimal machine may not have.
    pub(crate) fn new(
        proxies: &[Option<String>],
        tls: bool,
        timeouts: Timeouts,
        runtime: Handle,
    ) -> Result<Self, String> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Somebody else may have installed one meanwhile; either serves.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let clients = proxies
            .iter()
            .map(|proxy| client(proxy.as_deref(), tls, &timeouts))
            .collect::<Result<_, _>>()
            .map_err(|error| reason(&error))?;
        Ok(Self {
            clients,
            timeouts,
            runtime,
        })
    }

    async fn transfer(
        &self,
        request: &Request<'_>,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), Interrupt>,
    ) -> Result<(), Interrupt> {
        let mut get = self.clients[request.proxy].get(request.url);
        if request.no_cache {
            get = get
                .header(header::PRAGMA, "no-cache")
                .header(header::CACHE_CONTROL, "no-cache");
        }
        if let Some((offset, size)) = request.range {
            let last = offset.saturating_add(size).saturating_sub(1);
            get = get.header(header::RANGE, format!("bytes={offset}-{last}"));
        }
        let answer = tokio::time::timeout(self.timeouts.connect + self.timeouts.stall, get.send());
        let mut response = answer
            .await
            .map_err(|_| Failure::Timeout("no answer"))?
            .map_err(|error| sort(&error))?;
        check_status(&response, request)?;
        if response
            .content_length()
            .is_some_and(|length| length > request.limit)
        {
            return Err(Failure::TooLarge(request.limit).into());
        }
        let mut received = 0_u64;
        loop {
            let piece = tokio::time::timeout(self.timeouts.stall, response.chunk())
                .await
                .map_err(|_| Failure::Timeout("the transfer stalled"))?
                .map_err(|error| sort(&error))?;
            let Some(piece) = piece else { return Ok(()) };
            received += piece.len() as u64;
            if received > request.limit {
                return Err(Failure::TooLarge(request.limit).into());
            }
            sink(&piece)?;
        }
    }
}

impl Transport for Http {
    fn get(
        &self,
        request: &Request<'_>,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), Interrupt>,
    ) -> Result<(), Interrupt> {
        self.runtime.block_on(async {
            tokio::time::timeout(self.timeouts.total, self.transfer(request, sink))
                .await
                .unwrap_or_else(|_| Err(Failure::Timeout("the transfer took too long").into()))
        })
    }
}

fn client(proxy: Option<&str>, tls: bool, timeouts: &Timeouts) -> reqwest::Result<Client> {
    let mut builder = Client::builder()
        .user_agent(concat!("outcrop/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .tcp_nodelay(true)
        .connect_timeout(timeouts.connect)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .pool_idle_timeout(Duration::from_secs(60))
        // Without this the environment's proxies would be obeyed.
        .no_proxy();
    if !tls {
        builder = builder.tls_certs_only([]);
    }
    if let Some(proxy) = proxy {
        builder = builder.proxy(Proxy::all(proxy)?);
    }
    builder.build()
}

fn check_status(response: &reqwest::Response, request: &Request<'_>) -> Result<(), Failure> {
    let status = response.status();
    let whole = request.range.is_none_or(|(offset, _)| offset == 0);
    // Who asks for a range from the start may be given everything; its size is checked anyway.
    if (status == StatusCode::OK && whole)
        || (status == StatusCode::PARTIAL_CONTENT && request.range.is_some())
    {
        return Ok(());
    }
    let headers = response.headers();
    let has_error =
        |value: &header::HeaderValue| value.to_str().is_ok_and(|text| text.contains("error="));
    Err(Failure::Status {
        code: status.as_u16(),
        by_proxy: headers.contains_key("x-squid-error")
            || headers.get("proxy-status").is_some_and(has_error),
    })
}

fn sort(error: &reqwest::Error) -> Failure {
    if error.is_connect() {
        Failure::Connect(reason(error))
    } else if error.is_timeout() {
        Failure::Timeout("no answer")
    } else {
        Failure::Transfer(reason(error))
    }
}

/// The innermost cause: the outer ones repeat the URL.
fn reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
