//! How much of a layer was read: the share of an image that a job really needs.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts distinct contents, objects or chunks, as a whole when their first byte is read.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// Hashes of content references. A collision, one in 10⁹ pairs of 10⁵ contents, miscounts one content.
    seen: Mutex<HashSet<u64>>,
    hasher: RandomState,
    bytes: AtomicU64,
}

impl Reads {
    /// Content is being read; gives its length if it is so for the first time.
    pub(crate) fn note(&self, extent: &tree::Extent<'_>) -> Option<u64> {
        let hash = self.hasher.hash_one(extent.content);
        let new = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(hash);
        new.then(|| {
            self.bytes.fetch_add(extent.length, Ordering::Relaxed);
            extent.length
        })
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// [`Reads`] by a layer's tree, through whatever chain they come.
#[derive(Debug, Default)]
pub(crate) struct ReadsOfTrees(Mutex<HashMap<String, Arc<Reads>>>);

impl ReadsOfTrees {
    pub(crate) fn of(&self, tree: &str) -> Arc<Reads> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(tree.to_owned()).or_default())
    }

    /// `None` if the tree was in no chain since the start.
    pub(crate) fn bytes(&self, tree: &str) -> Option<u64> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(tree).map(|reads| reads.bytes())
    }

    /// Forgets the others.
    pub(crate) fn retain(&self, keep: impl Fn(&str) -> bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|tree, _| keep(tree));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(content: &[u8], length: u64) -> tree::Extent<'_> {
        tree::Extent {
            offset: 0,
            length,
            content,
        }
    }

    #[test]
    fn each_content_counts_once_whatever_chain_it_is_read_through() {
        let all = ReadsOfTrees::default();
        assert_eq!(all.bytes("a"), None);
        let (one, same) = (all.of("a"), all.of("a"));
        assert_eq!(one.note(&extent(b"x", 10)), Some(10));
        assert_eq!(same.note(&extent(b"x", 10)), None);
        assert_eq!(same.note(&extent(b"y", 5)), Some(5));
        all.of("b").note(&extent(b"x", 10));
        assert_eq!((all.bytes("a"), all.bytes("b")), (Some(15), Some(10)));
        all.retain(|tree| tree == "b");
        assert_eq!((all.bytes("a"), all.bytes("b")), (None, Some(10)));
    }
}
