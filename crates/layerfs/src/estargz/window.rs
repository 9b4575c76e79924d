//! Decompressed chunks of blobs that a repository's client keeps: a reader takes a chunk in several
//! reads, and the kernel several at once, but it is decompressed once. Nothing here is on disk: the
//! cache has the compressed bytes already, and the kernel keeps the pages that were read.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::builds::lock;
use crate::error::SourceError;

/// Bytes of all chunks that are kept. A chunk has 4 MiB with the usual tools.
const BOUND: u64 = 24 << 20;

/// The content of one chunk, once somebody has it.
type Slot = Arc<Mutex<Option<Arc<Vec<u8>>>>>;

/// The chunks that were decompressed last.
#[derive(Default)]
pub(super) struct Window {
    /// Name, size and content; the last used at the end.
    slots: Mutex<VecDeque<(String, u64, Slot)>>,
}

impl Window {
    /// The chunk `name` of `size` bytes; made by `make` unless it is there. Others wait for it.
    pub(super) fn get(
        &self,
        name: &str,
        size: u64,
        make: impl FnOnce() -> Result<Vec<u8>, SourceError>,
    ) -> Result<Arc<Vec<u8>>, SourceError> {
        let slot = self.slot(name, size);
        let mut content = lock(&slot);
        if let Some(content) = &*content {
            return Ok(Arc::clone(content));
        }
        let made = Arc::new(make()?);
        *content = Some(Arc::clone(&made));
        Ok(made)
    }

    fn slot(&self, name: &str, size: u64) -> Slot {
        let mut slots = lock(&self.slots);
        let there = slots.iter().position(|(known, ..)| known == name);
        let (_, _, slot) = there
            .and_then(|at| slots.remove(at))
            .unwrap_or_else(|| (name.to_owned(), size, Slot::default()));
        slots.push_back((name.to_owned(), size, Arc::clone(&slot)));
        let mut kept: u64 = slots.iter().map(|(_, size, _)| size).sum();
        while kept > BOUND
            && let Some((_, size, _)) = slots.pop_front()
        {
            kept -= size;
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_made_once_while_it_is_kept() {
        let window = Window::default();
        let made = Mutex::new(0);
        let get = |name: &str, size: u64| {
            window.get(name, size, || {
                *lock(&made) += 1;
                Ok(vec![7; 3])
            })
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(*get("a", 100).unwrap(), [7; 3]));
            }
        });
        assert_eq!(*lock(&made), 1);
        // One that takes all the room lets the others go, and is not kept itself.
        get("large", BOUND + 1).unwrap();
        get("a", 100).unwrap();
        assert_eq!(*lock(&made), 3);
        get("a", 100).unwrap();
        assert_eq!(*lock(&made), 3);
    }

    #[test]
    fn a_failure_is_not_kept() {
        let window = Window::default();
        let failed = window.get("a", 1, || {
            Err(SourceError::Unavailable {
                source_name: String::new(),
                reason: String::new(),
            })
        });
        assert!(failed.is_err());
        assert!(window.get("a", 1, || Ok(vec![1])).is_ok());
    }
}
