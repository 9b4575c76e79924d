//! Downloads with fail-over: hosts and proxy groups in order, one repetition past caches for bad data, pauses for broken transfers.

mod failure;
mod receiver;
mod route;
mod transport;

use std::io;
use std::time::Duration;

pub use failure::{Attempt, Failure};
pub(crate) use receiver::{Decoded, Expected, Interrupt, Memory, Receiver};
use route::{Plan, Route, Step};
use transport::{Http, Request, Transport};

use crate::config::{Jitter, RepositoryConfig, Retries};
use crate::error::Error;
use crate::metrics::Metrics;

/// More failures of one download than this end it, whatever the number of hosts and proxies.
const MAX_ATTEMPTS: usize = 64;

/// Gets files from a set of equal servers.
pub(crate) struct Downloader {
    route: Route,
    transport: Box<dyn Transport>,
    retries: Retries,
    jitter: Jitter,
    metrics: Metrics,
}

/// One file that is wanted, and what has been tried for it. Lives on when the receiver has to be made anew.
pub(crate) struct Download {
    path: String,
    range: Option<(u64, u64)>,
    limit: u64,
    plan: Plan,
    attempts: Vec<Attempt>,
    no_cache: bool,
    repeated: u32,
}

/// Why a download ended without success.
#[derive(Debug)]
pub(crate) enum Ended {
    /// All ways have failed.
    Exhausted,
    /// The receiver has handed bytes on that turned out bad: go on with a new one.
    Restart,
    /// The local disk failed.
    Local(io::Error),
}

impl Download {
    /// Asks caches on the way to fetch anew from the first attempt on.
    pub(crate) fn past_caches(mut self) -> Self {
        self.no_cache = true;
        self
    }

    /// What to tell when all ways have failed.
    pub(crate) fn into_error(self, what: &str) -> Error {
        let bad_data = |attempt: &Attempt| attempt.failure.is_bad_data();
        match self.attempts.last() {
            Some(last) if self.attempts.iter().all(bad_data) => Error::corrupt(what, last),
            _ => Error::Unavailable {
                what: what.to_string(),
                attempts: self.attempts,
            },
        }
    }
}

impl Downloader {
    /// For the repository's own servers.
    pub(crate) fn new(
        config: &RepositoryConfig,
        servers: &[String],
        proxies: &[Vec<String>],
        metrics: &Metrics,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self, Error> {
        let route = Route::new(servers, proxies, config.reset_after, &config.jitter);
        let is_https = |url: &str| url.starts_with("https:");
        let tls = servers.iter().any(|url| is_https(url))
            || route.proxies().iter().flatten().any(|url| is_https(url));
        let http = Http::new(route.proxies(), tls, config.timeouts, runtime);
        let transport = http.map_err(|reason| Error::Config {
            fqrn: config.fqrn.clone(),
            reason: format!("HTTP client: {reason}"),
        })?;
        Ok(Self {
            route,
            transport: Box::new(transport),
            retries: config.retries,
            jitter: config.jitter.clone(),
            metrics: metrics.clone(),
        })
    }

    /// Number of servers.
    pub(crate) fn host_count(&self) -> usize {
        self.route.hosts().len()
    }

    /// Prefers the next server from now on.
    pub(crate) fn switch_host(&self) {
        self.route.next_host();
    }

    /// Begins to get a file, by its path below the servers' URLs.
    pub(crate) fn begin(&self, path: String, range: Option<(u64, u64)>, limit: u64) -> Download {
        Download {
            path,
            range,
            limit,
            plan: self.route.plan(),
            attempts: Vec::new(),
            no_cache: false,
            repeated: 0,
        }
    }

    /// A small file, whole.
    pub(crate) fn get(&self, mut download: Download, what: &str) -> Result<Vec<u8>, Error> {
        let mut memory = Memory::default();
        match self.run(&mut download, &mut memory) {
            Ok(()) => Ok(memory.0),
            // Memory neither fails nor hands on.
            Err(Ended::Exhausted | Ended::Restart | Ended::Local(_)) => {
                Err(download.into_error(what))
            }
        }
    }

    /// Tries until the receiver has accepted a body.
    pub(crate) fn run(
        &self,
        download: &mut Download,
        receiver: &mut dyn Receiver,
    ) -> Result<(), Ended> {
        while let Some(step) = download.plan.current() {
            if !receiver.restart() {
                return Err(Ended::Restart);
            }
            let url = format!("{}/{}", self.route.host(step), download.path);
            match self.attempt(download, step, &url, receiver) {
                Ok(()) => {
                    self.route.worked(step);
                    return Ok(());
                }
                Err(Interrupt::Local(error)) => return Err(Ended::Local(error)),
                Err(Interrupt::Failed(failure)) => self.failed(download, step, url, failure),
            }
            if download.attempts.len() >= MAX_ATTEMPTS {
                break;
            }
        }
        Err(Ended::Exhausted)
    }

    fn attempt(
        &self,
        download: &Download,
        step: Step,
        url: &str,
        receiver: &mut dyn Receiver,
    ) -> Result<(), Interrupt> {
        let request = Request {
            url,
            proxy: step.proxy,
            no_cache: download.no_cache,
            range: download.range,
            limit: download.limit,
        };
        self.metrics.requests.inc();
        self.transport.get(&request, &mut |bytes| {
            self.metrics.received_bytes.inc_by(bytes.len() as u64);
            receiver.push(bytes)
        })?;
        receiver.complete()
    }

    fn failed(&self, download: &mut Download, step: Step, url: String, failure: Failure) {
        tracing::debug!(%url, %failure, "request failed");
        self.metrics.failed_requests.inc();
        let proxy = self.route.proxy(step).map(str::to_owned);
        let blame = failure.blame(proxy.is_some());
        let again = if failure.is_bad_data() {
            // A cache on the way may hold the bad bytes: once past it, then the host is to blame.
            !std::mem::replace(&mut download.no_cache, true)
        } else {
            failure.is_transfer() && download.repeated < self.retries.count
        };
        let pause = again && !failure.is_bad_data();
        download.attempts.push(Attempt {
            url,
            proxy,
            failure,
        });
        if pause {
            std::thread::sleep(self.pause(download.repeated));
            download.repeated += 1;
        }
        if !again {
            download.plan.advance(blame);
            download.repeated = 0;
            download.no_cache = false;
        }
    }

    /// First random, then doubling.
    fn pause(&self, repeated: u32) -> Duration {
        let first = self.retries.backoff_initial.mul_f64(self.jitter.next());
        first
            .saturating_mul(1 << repeated.min(16))
            .min(self.retries.backoff_max)
    }
}

/// A path as part of a URL: unreserved characters and slashes stay, other bytes become `%XX`.
pub(crate) fn encode_path(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}
