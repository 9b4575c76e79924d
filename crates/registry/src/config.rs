use std::path::PathBuf;
use std::time::Duration;

use crate::Credentials;

/// What a client is made from.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Directories in the form of containerd's `certs.d`; the first that knows a registry wins.
    pub hosts_directories: Vec<PathBuf>,
    /// Where user names and passwords come from.
    pub credentials: Credentials,
    /// Registries (`host[:port]`) that are spoken to without TLS, besides those on this machine.
    pub plain_http: Vec<String>,
    /// Proxies; none by default, whatever the environment says.
    pub proxies: Option<Proxies>,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Repetitions.
    pub retries: Retries,
    /// A server that ignores ranges may send so many unwanted bytes before a range; more is an error.
    pub skip_bound: Option<u64>,
    /// Blobs longer than this are pushed in chunks of this size; 16 MiB by default.
    pub chunk_size: Option<usize>,
}

impl Config {
    pub(crate) fn skip_bound(&self) -> u64 {
        self.skip_bound.unwrap_or(8 << 20)
    }

    pub(crate) fn chunk_size(&self) -> usize {
        self.chunk_size.unwrap_or(16 << 20).max(1)
    }
}

/// HTTP proxies, as `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` name them.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// For https URLs.
    pub https: Option<String>,
    /// For http URLs.
    pub http: Option<String>,
    /// Hosts that are asked directly, separated by commas.
    pub except: String,
}

/// Deadlines.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Until a connection stands, TLS included.
    pub connect: Duration,
    /// From the request to the header of the answer.
    pub answer: Duration,
    /// Without a byte of the body.
    pub stall: Duration,
    /// One whole operation (document, range, step of an upload) with all its hosts and repetitions.
    pub operation: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            operation: Duration::from_secs(120),
        }
    }
}

/// Repetitions after failures that may pass: no connection, broken transfers, 429 and 5xx.
#[derive(Clone, Copy, Debug)]
pub struct Retries {
    /// Rounds over all hosts after the first.
    pub count: u32,
    /// Pause before the first repetition; doubles.
    pub backoff_initial: Duration,
    /// Longest pause, also when the server asks for a longer one: then the operation fails at once.
    pub backoff_max: Duration,
    /// A host that could not be reached is asked last for so long.
    pub avoid: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            count: 3,
            backoff_initial: Duration::from_millis(500),
            backoff_max: Duration::from_secs(20),
            avoid: Duration::from_secs(30),
        }
    }
}
