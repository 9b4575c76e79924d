//! Content that this run has stored, so that it is not deflated again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use cvmfs::{Algorithm, Compression, ContentHash, DIGEST_BYTES, Suffix};

/// About 20 MiB of memory; what comes later is deflated each time.
const MAX_ENTRIES: usize = 1 << 18;

/// Content and the way it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    digest: [u8; DIGEST_BYTES],
    length: u64,
    suffix: Suffix,
    compression: Compression,
}

impl Key {
    /// SHA-1, as safe as the objects' names themselves and ten times faster than deflating.
    pub(crate) fn of(plain: &[u8], suffix: Suffix, compression: Compression) -> Self {
        Self {
            digest: Algorithm::Sha1.digest(plain).digest,
            length: plain.len() as u64,
            suffix,
            compression,
        }
    }
}

/// A bounded map from content to its object.
#[derive(Debug, Default)]
pub(crate) struct Known {
    map: Mutex<HashMap<Key, ContentHash>>,
}

impl Known {
    pub(crate) fn get(&self, key: &Key) -> Option<ContentHash> {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(key).copied()
    }

    /// Another writer may delete what an unfinished publish has stored: nothing is known any more.
    pub(crate) fn forget(&self) {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.clear();
    }

    /// Only after the object has been written.
    pub(crate) fn insert(&self, key: Key, hash: ContentHash) {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() < MAX_ENTRIES {
            map.insert(key, hash);
        }
    }
}
