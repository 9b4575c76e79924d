//! What trees take on disk, told to the cache: both share one quota, and the cache's objects make
//! room for trees, which are never evicted.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cache::Cache;

use crate::builds::lock;

/// Disk space is given out in blocks of this many bytes.
const BLOCK: u64 = 4096;

/// Bytes on disk of every tree file.
pub(crate) struct Space {
    cache: Option<Arc<Cache>>,
    files: Mutex<HashMap<PathBuf, u64>>,
}

impl Space {
    pub(crate) fn new(cache: Option<Arc<Cache>>) -> Self {
        Self {
            cache,
            files: Mutex::default(),
        }
    }

    /// A file of so many bytes is about to be written: room is made first, on a full disk too.
    pub(crate) fn expect(&self, path: &Path, bytes: usize) {
        let mut files = lock(&self.files);
        files.insert(path.to_owned(), on_disk(bytes as u64));
        self.tell(&files);
    }

    /// Counts files as they are now, or no longer are.
    pub(crate) fn look(&self, paths: impl IntoIterator<Item = PathBuf>) {
        let mut files = lock(&self.files);
        for path in paths {
            match fs::symlink_metadata(&path) {
                Ok(metadata) => files.insert(path, on_disk(metadata.len())),
                Err(_) => files.remove(&path),
            };
        }
        self.tell(&files);
    }

    /// Under the lock, so that what is told last is true.
    fn tell(&self, files: &HashMap<PathBuf, u64>) {
        if let Some(cache) = &self.cache {
            cache.count_beside(files.values().sum());
        }
    }
}

fn on_disk(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK)
}
