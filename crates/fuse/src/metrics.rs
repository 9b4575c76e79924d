//! What the loop counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::abi::opcode;
use crate::errno::Errno;

/// Kind of request, by the kernel's name for it in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OpcodeLabel {
    /// `lookup`, `read` …, `unknown` for those newer than we.
    pub opcode: &'static str,
}

/// Error that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ErrnoLabel {
    /// Symbol of `errno.h`.
    pub errno: &'static str,
}

/// Counters of all mounts that were given this value or a clone of it.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Requests by kind.
    pub requests: Family<OpcodeLabel, Counter>,
    /// Error answers by number.
    pub errors: Family<ErrnoLabel, Counter>,
    /// Bytes of file content given to the kernel.
    pub read_bytes: Counter,
    /// Panics caught in a file system.
    pub panics: Counter,
    /// Threads that serve requests now.
    pub workers: Gauge,
    /// The members of `requests` by operation code, so that counting takes no lock; the last is for unknown codes.
    by_opcode: Box<[Counter]>,
}

impl Default for Metrics {
    fn default() -> Self {
        let requests = Family::<OpcodeLabel, Counter>::default();
        let names = opcode::NAMES.iter().chain(&[""]);
        let by_opcode = names
            .map(|&name| {
                let opcode = if name.is_empty() { "unknown" } else { name };
                requests.get_or_create_owned(&OpcodeLabel { opcode })
            })
            .collect();
        Self {
            requests,
            errors: Family::default(),
            read_bytes: Counter::default(),
            panics: Counter::default(),
            workers: Gauge::default(),
            by_opcode,
        }
    }
}

impl Metrics {
    /// Puts all of them into `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "fuse_requests",
            "Requests of the kernel, by operation",
            self.requests.clone(),
        );
        registry.register(
            "fuse_errors",
            "Requests answered with an error, by error",
            self.errors.clone(),
        );
        registry.register(
            "fuse_read_bytes",
            "Bytes of file content given to the kernel",
            self.read_bytes.clone(),
        );
        registry.register(
            "fuse_panics",
            "Requests answered with EIO because a file system panicked",
            self.panics.clone(),
        );
        registry.register(
            "fuse_workers",
            "Threads that serve requests of the kernel",
            self.workers.clone(),
        );
    }

    pub(crate) fn count_request(&self, code: u32) {
        let last = self.by_opcode.len() - 1;
        let index = usize::try_from(code).unwrap_or(last).min(last);
        self.by_opcode[index].inc();
    }

    pub(crate) fn count_error(&self, errno: Errno) {
        self.errors
            .get_or_create(&ErrnoLabel {
                errno: errno.name(),
            })
            .inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_name() {
        let metrics = Metrics::default();
        for code in [
            opcode::LOOKUP,
            opcode::LOOKUP,
            opcode::READDIRPLUS,
            7,
            53,
            u32::MAX,
        ] {
            metrics.count_request(code);
        }
        metrics.count_error(Errno::ENOENT);
        let count = |opcode| {
            metrics
                .requests
                .get_or_create_owned(&OpcodeLabel { opcode })
                .get()
        };
        assert_eq!(
            (count("lookup"), count("readdirplus"), count("unknown")),
            (2, 1, 3)
        );
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(
            text.contains("fuse_requests_total{opcode=\"lookup\"} 2"),
            "{text}"
        );
        assert!(
            text.contains("fuse_errors_total{errno=\"ENOENT\"} 1"),
            "{text}"
        );
    }
}
