//! Counters of one client.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Counters of one client; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// HTTP requests sent to registries, token servers and where they redirect to.
    pub requests: Counter,
    /// Requests that failed.
    pub failed_requests: Counter,
    /// Bytes of bodies received.
    pub received_bytes: Counter,
    /// Bytes pushed.
    pub sent_bytes: Counter,
    /// Tokens fetched.
    pub tokens: Counter,
    /// Ranges read from a redirect's target without asking the registry again.
    pub redirects_reused: Counter,
    /// Redirect targets that had expired.
    pub redirects_expired: Counter,
    /// Answers with the whole blob where a range was asked for.
    pub ranges_ignored: Counter,
    /// Pauses before repetitions.
    pub pauses: Counter,
}

impl Metrics {
    /// Names the metrics in a registry.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            (
                "registry_requests",
                "HTTP requests to registries",
                &self.requests,
            ),
            (
                "registry_failed_requests",
                "HTTP requests that failed",
                &self.failed_requests,
            ),
            (
                "registry_received_bytes",
                "Bytes received from registries",
                &self.received_bytes,
            ),
            (
                "registry_sent_bytes",
                "Bytes pushed to registries",
                &self.sent_bytes,
            ),
            ("registry_tokens", "Tokens fetched", &self.tokens),
            (
                "registry_redirects_reused",
                "Ranges read from a known redirect target",
                &self.redirects_reused,
            ),
            (
                "registry_redirects_expired",
                "Redirect targets that had expired",
                &self.redirects_expired,
            ),
            (
                "registry_ranges_ignored",
                "Whole blobs sent instead of a range",
                &self.ranges_ignored,
            ),
            ("registry_pauses", "Pauses before repetitions", &self.pauses),
        ] {
            registry.register(name, help, counter.clone());
        }
    }
}
