//! Figures of claims, trees and chains.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Figures of one [`Layers`](crate::Layers).
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Layers found in a source.
    pub claimed: Counter,
    /// Layers that no source could serve.
    pub refused: Counter,
    /// Layer trees built from a source.
    pub trees_built: Counter,
    /// Layer trees whose building failed.
    pub trees_failed: Counter,
    /// Chains mounted since the start.
    pub attached: Counter,
    /// Chains mounted now.
    pub chains: Gauge,
    /// Reads answered with EIO because the content could not be had or did not verify.
    pub failed_reads: Counter,
}

impl Metrics {
    /// Registers every figure with its help text.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            ("layers_claimed", "Layers found in a source", &self.claimed),
            (
                "layers_refused",
                "Layers that no source could serve",
                &self.refused,
            ),
            (
                "trees_built",
                "Layer trees built from a source",
                &self.trees_built,
            ),
            (
                "trees_failed",
                "Layer trees whose building failed",
                &self.trees_failed,
            ),
            (
                "chains_attached",
                "Chains mounted since the start",
                &self.attached,
            ),
            (
                "reads_failed",
                "Reads of layer content answered with EIO",
                &self.failed_reads,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register("chains", "Chains mounted now", self.chains.clone());
    }
}
