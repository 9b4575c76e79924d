//! What a repository needs to be opened. Plain data: this library reads no environment.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::hash::ContentHash;

/// Which revision to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenAt {
    /// The newest one; moves with [`crate::Repository::refresh`].
    Trunk,
    /// A named snapshot; fixed.
    Tag(String),
    /// The greatest revision published at or before this time; fixed.
    Date(jiff::Timestamp),
    /// The revision with this root catalog; fixed, needs no signature.
    RootHash(ContentHash),
}

/// Deadlines of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// Longest silence while waiting for an answer or its next bytes.
    pub stall: Duration,
    /// Whole request.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(10),
            total: Duration::from_secs(900),
        }
    }
}

/// Repetition of requests to the same URL, after failures in transfer only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How often the same URL is tried again.
    pub count: u32,
    /// Upper bound of the first pause; its length is random. Later pauses double.
    pub backoff_initial: Duration,
    /// Upper bound of any pause.
    pub backoff_max: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            count: 1,
            backoff_initial: Duration::from_secs(2),
            backoff_max: Duration::from_secs(10),
        }
    }
}

/// After which time away from them the first proxy group and the first host are tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetAfter {
    /// Back to the first proxy group.
    pub proxy: Duration,
    /// Back to the first host.
    pub host: Duration,
}

impl Default for ResetAfter {
    fn default() -> Self {
        Self {
            proxy: Duration::from_secs(300),
            host: Duration::from_secs(1800),
        }
    }
}

/// Source of numbers in `[0, 1)` that spread pauses and the choice among equal proxies.
#[derive(Clone)]
pub struct Jitter(Arc<dyn Fn() -> f64 + Send + Sync>);

impl Jitter {
    /// Takes numbers from a function.
    pub fn new(source: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(source))
    }

    /// The next number; whatever the source says, in `[0, 1)`.
    pub(crate) fn next(&self) -> f64 {
        let number = (self.0)();
        if (0.0..1.0).contains(&number) {
            number
        } else {
            0.0
        }
    }
}

impl Default for Jitter {
    /// Numbers from the operating system's seed of the standard library's hash tables.
    fn default() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self::new(|| {
            let bits = RandomState::new().hash_one(0) >> 11;
            bits as f64 / (1_u64 << 53) as f64
        })
    }
}

impl fmt::Debug for Jitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jitter")
    }
}

/// Everything that opening a repository takes.
#[derive(Clone, Debug)]
pub struct RepositoryConfig {
    /// Fully qualified repository name, `atlas.cern.ch`.
    pub fqrn: String,
    /// URLs of the repository on each server, in order of preference: `http://s1.example.org/cvmfs/atlas.cern.ch`.
    pub servers: Vec<String>,
    /// Groups of proxies, in order of preference; members of a group share load. `DIRECT` = none. No groups = direct.
    pub proxies: Vec<Vec<String>>,
    /// URLs below which external files lie, by their path in the repository.
    pub external_servers: Vec<String>,
    /// Proxy groups for external files; none = direct.
    pub external_proxies: Vec<Vec<String>>,
    /// Master public keys (PEM): files, or directories whose `*.pub` are taken.
    pub public_keys: Vec<PathBuf>,
    /// Blacklists; absent files are empty. Read at each check.
    pub blacklists: Vec<PathBuf>,
    /// Revision to show.
    pub open_at: OpenAt,
    /// Deadlines of requests.
    pub timeouts: Timeouts,
    /// Repetition of requests.
    pub retries: Retries,
    /// Return to preferred proxies and hosts.
    pub reset_after: ResetAfter,
    /// Upper bound of the time between refreshes.
    pub max_time_to_live: Option<Duration>,
    /// Where the breadcrumb is kept, which guards against rolled back servers and allows starting offline.
    pub state_directory: PathBuf,
    /// Catalogs kept open; each takes a file descriptor and some connections.
    pub open_catalogs: usize,
    /// Spreads load and pauses.
    pub jitter: Jitter,
}

impl RepositoryConfig {
    /// Trunk from `servers` without proxies, usual deadlines; keys and the rest are set by the caller.
    pub fn new(
        fqrn: impl Into<String>,
        servers: Vec<String>,
        state_directory: impl Into<PathBuf>,
    ) -> Self {
        Self {
            fqrn: fqrn.into(),
            servers,
            proxies: Vec::new(),
            external_servers: Vec::new(),
            external_proxies: Vec::new(),
            public_keys: Vec::new(),
            blacklists: Vec::new(),
            open_at: OpenAt::Trunk,
            timeouts: Timeouts::default(),
            retries: Retries::default(),
            reset_after: ResetAfter::default(),
            max_time_to_live: None,
            state_directory: state_directory.into(),
            open_catalogs: 128,
            jitter: Jitter::default(),
        }
    }
}
