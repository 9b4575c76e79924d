//! Counters of one repository.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters of one repository; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// HTTP requests sent.
    pub requests: Counter,
    /// HTTP requests that failed, or brought bad data.
    pub failed_requests: Counter,
    /// Bytes of bodies received.
    pub received_bytes: Counter,
    /// Objects fetched, verified and stored.
    pub fetched_objects: Counter,
    /// Objects that could not be had from any server.
    pub failed_objects: Counter,
    /// Refreshes that failed.
    pub failed_refreshes: Counter,
    /// Revision shown.
    pub revision: Gauge,
    /// Catalogs open.
    pub open_catalogs: Gauge,
}

impl Metrics {
    /// Names the metrics in a registry.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            (
                "cvmfs_requests",
                "HTTP requests to servers and proxies",
                &self.requests,
            ),
            (
                "cvmfs_failed_requests",
                "HTTP requests that failed or brought bad data",
                &self.failed_requests,
            ),
            (
                "cvmfs_received_bytes",
                "Bytes received from servers and proxies",
                &self.received_bytes,
            ),
            (
                "cvmfs_fetched_objects",
                "Objects fetched and verified",
                &self.fetched_objects,
            ),
            (
                "cvmfs_failed_objects",
                "Objects that no server could give",
                &self.failed_objects,
            ),
            (
                "cvmfs_failed_refreshes",
                "Checks for a new revision that failed",
                &self.failed_refreshes,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register("cvmfs_revision", "Revision shown", self.revision.clone());
        registry.register(
            "cvmfs_open_catalogs",
            "Catalogs open",
            self.open_catalogs.clone(),
        );
    }
}
