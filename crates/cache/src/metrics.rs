//! The cache's numbers.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Counters of one cache. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Objects found.
    pub hits: Counter,
    /// Objects not found, or found damaged.
    pub misses: Counter,
    /// Calls that waited for another one's fetch of the same object.
    pub joined: Counter,
    /// Objects committed.
    pub commits: Counter,
    /// Bytes of content committed.
    pub committed_bytes: Counter,
    /// Objects evicted.
    pub evictions: Counter,
    /// Bytes on disk evicted.
    pub evicted_bytes: Counter,
    /// Objects read through and compared with their digest: after another boot or when the file's stamp differs.
    pub verifications: Counter,
    /// Objects found missing, truncated or altered, and removed.
    pub damaged: Counter,
    /// Fetched contents refused because their digest differs from the expected one.
    pub mismatches: Counter,
    /// Writes that met a full disk.
    pub disk_full: Counter,
    /// Writes to the index that failed; what they record is lost at the next start.
    pub index_errors: Counter,
    /// Bytes on disk in use by committed objects and by files beside the cache.
    pub used_bytes: Gauge<u64, AtomicU64>,
    /// The part of these that [`Cache::count_beside`](crate::Cache::count_beside) says.
    pub beside_bytes: Gauge<u64, AtomicU64>,
    /// The quota in bytes.
    pub quota_bytes: Gauge<u64, AtomicU64>,
    /// Committed objects.
    pub objects: Gauge<u64, AtomicU64>,
}

impl Metrics {
    /// Registers all under the prefix `cache`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("cache");
        let counters = [
            ("hits", "Objects found in the cache", &self.hits),
            (
                "misses",
                "Objects not in the cache, or damaged there",
                &self.misses,
            ),
            (
                "joined",
                "Calls that waited for another fetch of the same object",
                &self.joined,
            ),
            ("commits", "Objects committed", &self.commits),
            ("evictions", "Objects evicted", &self.evictions),
            (
                "verifications",
                "Stored objects compared with their digest",
                &self.verifications,
            ),
            (
                "damaged",
                "Stored objects found missing, truncated or altered",
                &self.damaged,
            ),
            (
                "mismatches",
                "Fetched contents refused for a wrong digest",
                &self.mismatches,
            ),
            ("disk_full", "Writes that met a full disk", &self.disk_full),
            (
                "index_errors",
                "Writes to the index that failed",
                &self.index_errors,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let bytes = [
            ("committed", "Content committed", &self.committed_bytes),
            ("evicted", "Space on disk evicted", &self.evicted_bytes),
        ];
        for (name, help, counter) in bytes {
            registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
        }
        let used = "Space on disk in use by committed objects and layers' trees";
        registry.register_with_unit("used", used, Unit::Bytes, self.used_bytes.clone());
        let beside = "The part of the used space that layers' trees take";
        registry.register_with_unit("beside", beside, Unit::Bytes, self.beside_bytes.clone());
        registry.register_with_unit("quota", "The quota", Unit::Bytes, self.quota_bytes.clone());
        registry.register("objects", "Committed objects", self.objects.clone());
    }
}
