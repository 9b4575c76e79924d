//! Counters of this crate.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// A call of containerd.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Call {
    /// e.g. `Prepare`
    pub method: &'static str,
    /// gRPC code, e.g. `Ok`, `AlreadyExists`
    pub code: String,
}

/// How a claim ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ClaimOutcome {
    /// `claimed`, `shared`, or the reason of a refusal.
    pub outcome: &'static str,
}

/// Counters of one snapshotter; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Calls by method and code.
    pub calls: Family<Call, Counter>,
    /// Prepares with a snapshot.ref, by outcome.
    pub claims: Family<ClaimOutcome, Counter>,
    /// Seconds that sources took for a claim.
    pub claim_seconds: Histogram,
    /// Seconds of Commit; containerd holds its write lock meanwhile.
    pub commit_seconds: Histogram,
    /// Chains attached or found attached.
    pub attaches: Counter,
    /// Chains that could not be attached.
    pub attach_failures: Counter,
    /// Chains detached after their last user.
    pub detaches: Counter,
    /// Directories deleted by Cleanup.
    pub deleted_directories: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            claims: Family::default(),
            claim_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            commit_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 14)),
            attaches: Counter::default(),
            attach_failures: Counter::default(),
            detaches: Counter::default(),
            deleted_directories: Counter::default(),
        }
    }
}

impl Metrics {
    /// Adds all to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "snapshotter_calls",
            "Calls of containerd by method and gRPC code",
            self.calls.clone(),
        );
        registry.register(
            "snapshotter_claims",
            "Layers asked for, by outcome",
            self.claims.clone(),
        );
        registry.register(
            "snapshotter_claim_seconds",
            "Time that sources took for a claim",
            self.claim_seconds.clone(),
        );
        registry.register(
            "snapshotter_commit_seconds",
            "Time of Commit",
            self.commit_seconds.clone(),
        );
        registry.register(
            "snapshotter_attaches",
            "Chains attached or found attached",
            self.attaches.clone(),
        );
        registry.register(
            "snapshotter_attach_failures",
            "Chains that could not be attached",
            self.attach_failures.clone(),
        );
        registry.register(
            "snapshotter_detaches",
            "Chains detached after their last user",
            self.detaches.clone(),
        );
        registry.register(
            "snapshotter_deleted_directories",
            "Directories deleted by Cleanup",
            self.deleted_directories.clone(),
        );
    }
}
