//! What is present, in memory: rows, open files, pins and the clock of use.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::row::Row;
use crate::{Key, Object};

/// Parts with a lock of their own; a power of two.
const SHARDS: usize = 16;
/// Stands for "not in the eviction queue"; the clock starts above it.
pub(crate) const NOT_QUEUED: u64 = 0;

/// Sharded map of the objects present.
pub(crate) struct Table {
    shards: [Mutex<Shard>; SHARDS],
    /// Ticks once for each use, so no two uses have the same time.
    clock: AtomicU64,
    live: AtomicU64,
    /// Open files that a shard keeps.
    open_limit: usize,
}

#[derive(Default)]
struct Shard {
    slots: HashMap<Key, Slot>,
    pins: HashMap<Key, u32>,
    /// Keys whose slot holds an open file.
    open: Vec<Key>,
    /// Keys used since their row was last written.
    touched: Vec<Key>,
}

struct Slot {
    row: Row,
    used: u64,
    /// Time under which the eviction queue knows this object; other entries of it are void.
    queued: u64,
    touched: bool,
    file: Option<Arc<File>>,
}

/// What the table knows of a key.
pub(crate) enum Lookup {
    Absent,
    /// Present, but not opened (or not verified) lately.
    Closed(Row),
    Open(Object),
}

/// What the eviction queue is to do with its oldest entry.
pub(crate) enum Candidate {
    /// Void, or pinned and therefore no longer queued.
    Gone,
    /// Used since: queue again under this time.
    UsedAt(u64),
    Evictable,
}

/// A slot taken out.
pub(crate) struct Removed {
    pub(crate) row: Row,
    /// To be dropped outside all locks: closing the last descriptor of a removed file frees its blocks.
    pub(crate) _file: Option<Arc<File>>,
}

/// A row with the time of its last use.
pub(crate) struct Use {
    pub(crate) at: u64,
    pub(crate) key: Key,
    pub(crate) row: Row,
}

impl Table {
    /// An empty table that keeps about `open_files` files open.
    pub(crate) fn new(open_files: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            clock: AtomicU64::new(NOT_QUEUED + 1),
            live: AtomicU64::new(0),
            open_limit: (open_files / SHARDS).max(1),
        }
    }

    /// Number of objects.
    pub(crate) fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Looks up and counts as a use. The hot path: one short lock, no system call.
    pub(crate) fn touch(&self, key: &Key) -> Lookup {
        let mut shard = self.shard(key);
        let Shard { slots, touched, .. } = &mut *shard;
        let Some(slot) = slots.get_mut(key) else {
            return Lookup::Absent;
        };
        slot.used = self.tick();
        if !slot.touched {
            slot.touched = true;
            touched.push(key.clone());
        }
        slot.lookup()
    }

    /// Looks up, nothing else.
    pub(crate) fn peek(&self, key: &Key) -> Lookup {
        self.shard(key)
            .slots
            .get(key)
            .map_or(Lookup::Absent, Slot::lookup)
    }

    /// Adds an object and returns the time under which it is to be queued, unless it is pinned.
    pub(crate) fn insert(&self, key: &Key, row: Row, file: Option<Arc<File>>) -> Option<u64> {
        let mut shard = self.shard(key);
        let used = self.tick();
        let queued = if shard.pins.contains_key(key) {
            NOT_QUEUED
        } else {
            used
        };
        let slot = Slot {
            row,
            used,
            queued,
            touched: false,
            file: None,
        };
        if shard.slots.insert(key.clone(), slot).is_none() {
            self.live.fetch_add(1, Ordering::Relaxed);
        }
        let displaced = file.and_then(|file| shard.keep_open(key, file, self.open_limit));
        drop(shard);
        drop(displaced);
        (queued != NOT_QUEUED).then_some(queued)
    }

    /// Keeps the file of an object open and notes the row under which it was found good.
    pub(crate) fn opened(&self, key: &Key, row: Row, file: Arc<File>) {
        let mut shard = self.shard(key);
        let Some(slot) = shard.slots.get_mut(key) else {
            return;
        };
        slot.row = row;
        let displaced = shard.keep_open(key, file, self.open_limit);
        drop(shard);
        drop(displaced);
    }

    /// Takes an object out.
    pub(crate) fn remove(&self, key: &Key) -> Option<Removed> {
        self.take_out(&mut self.shard(key), key)
    }

    /// Takes an object out unless it was pinned in the meantime; then it is no longer queued.
    pub(crate) fn remove_unpinned(&self, key: &Key) -> Option<Removed> {
        let mut shard = self.shard(key);
        if shard.pins.contains_key(key) {
            shard.slots.get_mut(key)?.queued = NOT_QUEUED;
            return None;
        }
        self.take_out(&mut shard, key)
    }

    fn take_out(&self, shard: &mut Shard, key: &Key) -> Option<Removed> {
        let slot = shard.slots.remove(key)?;
        self.live.fetch_sub(1, Ordering::Relaxed);
        if slot.file.is_some() {
            shard.open.retain(|open| open != key);
        }
        Some(Removed {
            row: slot.row,
            _file: slot.file,
        })
    }

    /// Judges the queue's entry for `key` under the time `queued`.
    pub(crate) fn candidate(&self, key: &Key, queued: u64) -> Candidate {
        let mut shard = self.shard(key);
        let pinned = shard.pins.contains_key(key);
        let Some(slot) = shard.slots.get_mut(key) else {
            return Candidate::Gone;
        };
        if slot.queued != queued {
            return Candidate::Gone;
        }
        if pinned {
            slot.queued = NOT_QUEUED;
            return Candidate::Gone;
        }
        if slot.used != queued {
            slot.queued = slot.used;
            return Candidate::UsedAt(slot.used);
        }
        Candidate::Evictable
    }

    /// Counts one pin more, whether the object is present or not.
    pub(crate) fn pin(&self, key: &Key) {
        *self.shard(key).pins.entry(key.clone()).or_default() += 1;
    }

    /// Counts one pin less; returns the time under which the object is to be queued again, if it is.
    pub(crate) fn unpin(&self, key: &Key) -> Option<u64> {
        let mut shard = self.shard(key);
        let pins = shard.pins.get_mut(key)?;
        *pins -= 1;
        if *pins > 0 {
            return None;
        }
        shard.pins.remove(key);
        let slot = shard.slots.get_mut(key)?;
        if slot.queued != NOT_QUEUED {
            return None;
        }
        slot.queued = slot.used;
        Some(slot.queued)
    }

    /// Closes all files that nobody else uses.
    pub(crate) fn close_all(&self) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let keys = std::mem::take(&mut shard.open);
            let files: Vec<_> = keys
                .iter()
                .filter_map(|key| shard.slots.get_mut(key)?.file.take())
                .collect();
            drop(shard);
            drop(files);
        }
    }

    /// Rows used since this was last called, oldest first.
    pub(crate) fn take_touched(&self) -> Vec<Use> {
        let mut uses = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            for key in std::mem::take(&mut shard.touched) {
                uses.extend(shard.take_use(key));
            }
        }
        uses.sort_unstable_by_key(|one| one.at);
        uses
    }

    /// All rows, oldest use first; none counts as touched afterwards.
    pub(crate) fn take_all(&self) -> Vec<Use> {
        let mut uses = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.touched.clear();
            uses.extend(shard.slots.iter_mut().map(|(key, slot)| {
                slot.touched = false;
                Use {
                    at: slot.used,
                    key: key.clone(),
                    row: slot.row,
                }
            }));
        }
        uses.sort_unstable_by_key(|one| one.at);
        uses
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        // Keys are mostly hex digits of a hash: any mixture of a few bytes spreads them.
        let mixed = key.as_str().bytes().take(16).fold(0_usize, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(usize::from(byte))
        });
        lock(&self.shards[(mixed ^ (mixed >> 7)) % SHARDS])
    }
}

impl Shard {
    /// Holds `file` open in the slot of `key`; returns a file that had to make place.
    fn keep_open(&mut self, key: &Key, file: Arc<File>, limit: usize) -> Option<Arc<File>> {
        let slot = self.slots.get_mut(key)?;
        let before = slot.file.replace(file);
        if before.is_some() {
            return before;
        }
        self.open.push(key.clone());
        if self.open.len() <= limit {
            return None;
        }
        let oldest = |key: &Key| self.slots.get(key).map_or(0, |slot| slot.used);
        let (place, _) = self
            .open
            .iter()
            .enumerate()
            .min_by_key(|(_, key)| oldest(key))?;
        let key = self.open.swap_remove(place);
        self.slots.get_mut(&key)?.file.take()
    }

    fn take_use(&mut self, key: Key) -> Option<Use> {
        let slot = self.slots.get_mut(&key).filter(|slot| slot.touched)?;
        slot.touched = false;
        Some(Use {
            at: slot.used,
            row: slot.row,
            key,
        })
    }
}

impl Slot {
    fn lookup(&self) -> Lookup {
        match &self.file {
            Some(file) => Lookup::Open(Object::new(file.clone(), self.row.len)),
            None => Lookup::Closed(self.row),
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
