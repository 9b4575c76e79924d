//! What a snapshotter is told when it is made.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::Metrics;

/// The wall clock.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Settings of one snapshotter.
#[derive(Clone)]
pub struct Config {
    /// State directory: absolute, on a file system that can hold overlay's upper directories, without `,` and `:`.
    pub root: PathBuf,
    /// containerd's own socket, to find a layer's digest where no label names it; `None` = labels only.
    pub containerd_socket: Option<PathBuf>,
    /// Sources ([`crate::Claimed::source`]; exactly, or all that begin with one that ends with a colon) believed without a diffID that leads to the chainID.
    pub trusted_sources: Vec<String>,
    /// Longest time to ask containerd's content store for one layer.
    pub content_deadline: Duration,
    /// Longest time to wait for another call's claim of the same layer.
    pub claim_wait: Duration,
    /// Longest time that running calls may take to end after a shutdown.
    pub shutdown_grace: Duration,
    /// Attach in the background, at the start, the chains that running containers use.
    pub restore_at_start: bool,
    /// Counters; keep a clone to register them.
    pub metrics: Metrics,
    /// Time of records.
    pub now: Clock,
}

impl Config {
    /// Whether a source is believed without a diffID that leads to the chainID.
    pub(crate) fn trusts(&self, source: &str) -> bool {
        self.trusted_sources.iter().any(|trusted| {
            source == trusted || trusted.ends_with(':') && source.starts_with(trusted.as_str())
        })
    }

    /// The usual settings for the state directory `root`.
    pub fn new(root: PathBuf, now: Clock) -> Self {
        Self {
            root,
            containerd_socket: None,
            trusted_sources: Vec::new(),
            content_deadline: Duration::from_secs(2),
            claim_wait: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(10),
            restore_at_start: true,
            metrics: Metrics::default(),
            now,
        }
    }
}
