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
    /// Bytes of distinct contents, objects or chunks, that containers read, by layer.
    pub read_bytes: Counter,
    /// Layers that are read piece by piece.
    pub lazy: LazyMetrics,
}

/// Figures of layers that are read piece by piece.
#[derive(Debug, Clone, Default)]
pub struct LazyMetrics {
    /// Reads of blobs in registries: each one range, or several in one request.
    pub requests: Counter,
    /// Compressed bytes that came by them.
    pub fetched_bytes: Counter,
    /// Chunks verified and put into the cache.
    pub fetched_chunks: Counter,
    /// Chunks that were not what their TOC says, by source.
    pub corrupt_chunks: Counter,
    /// TOCs that were not what their image says, or malformed.
    pub bad_tocs: Counter,
    /// Reads that a later source answered after an earlier one had failed.
    pub failovers: Counter,
    /// Chunks of marked files, fetched before anybody asked.
    pub prefetched_chunks: Counter,
    /// Steps of prefetching that wait.
    pub prefetch_steps: Gauge,
    /// Chunks of all other files, fetched in the background.
    pub background_chunks: Counter,
    /// Layers that the background has not fetched whole yet.
    pub layers_behind: Gauge,
    /// Layers fetched and unpacked by ourselves.
    pub unpacked_layers: Counter,
    /// Compressed bytes of these.
    pub unpacked_bytes: Counter,
}

impl LazyMetrics {
    fn register(&self, registry: &mut Registry) {
        self.register_reads(registry);
        self.register_ahead(registry);
    }

    /// What readers caused.
    fn register_reads(&self, registry: &mut Registry) {
        let mut add = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone());
        };
        add(
            "lazy_requests",
            "Reads of parts of blobs in registries",
            &self.requests,
        );
        add(
            "lazy_fetched_bytes",
            "Compressed bytes of parts of blobs",
            &self.fetched_bytes,
        );
        add(
            "lazy_fetched_chunks",
            "Chunks of files verified and cached",
            &self.fetched_chunks,
        );
        add(
            "lazy_corrupt_chunks",
            "Chunks that were not what their TOC says",
            &self.corrupt_chunks,
        );
        add(
            "lazy_bad_tocs",
            "Tables of contents that were refused",
            &self.bad_tocs,
        );
        add(
            "lazy_failovers",
            "Reads answered by a later source",
            &self.failovers,
        );
    }

    /// What was done before anybody asked.
    fn register_ahead(&self, registry: &mut Registry) {
        let mut add = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone());
        };
        add(
            "lazy_prefetched_chunks",
            "Chunks of files marked for prefetching",
            &self.prefetched_chunks,
        );
        add(
            "lazy_background_chunks",
            "Chunks fetched in the background",
            &self.background_chunks,
        );
        add(
            "unpacked_layers",
            "Layers fetched and unpacked by the daemon",
            &self.unpacked_layers,
        );
        add(
            "unpacked_bytes",
            "Compressed bytes of unpacked layers",
            &self.unpacked_bytes,
        );
        registry.register(
            "lazy_prefetch_steps",
            "Steps of prefetching that wait",
            self.prefetch_steps.clone(),
        );
        registry.register(
            "lazy_layers_behind",
            "Layers that the background has not fetched whole yet",
            self.layers_behind.clone(),
        );
    }
}

impl Metrics {
    /// Registers every figure with its help text.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            (
                "layers_read_bytes",
                "Bytes of the contents of layers that were read, each content once",
                &self.read_bytes,
            ),
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
        self.lazy.register(registry);
    }
}
