//! How much is used, and what goes first when room is needed.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Key;
use crate::table::{Candidate, Table};

/// Files take whole blocks.
const BLOCK: u64 = 4096;

/// Bytes on disk of a content.
pub(crate) fn on_disk(len: u64) -> u64 {
    len.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX)
}

/// The quota and who takes part of it.
pub(crate) struct Space {
    quota: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes of committed objects.
    used: u64,
    /// Bytes of objects being written.
    reserved: u64,
    /// Candidates for eviction by their time of last use, as far as the queue knows it.
    queue: BTreeMap<u64, Key>,
}

impl Space {
    pub(crate) fn new(quota: u64) -> Self {
        Self {
            quota,
            state: Mutex::default(),
        }
    }

    pub(crate) fn quota(&self) -> u64 {
        self.quota
    }

    pub(crate) fn used(&self) -> u64 {
        self.lock().used
    }

    /// Takes `bytes` for an object being written; returns how many bytes have to be evicted for it.
    pub(crate) fn reserve(&self, bytes: u64) -> u64 {
        let mut state = self.lock();
        state.reserved = state.reserved.saturating_add(bytes);
        state.excess(self.quota)
    }

    /// Gives a reservation back.
    pub(crate) fn release(&self, bytes: u64) {
        let mut state = self.lock();
        state.reserved = state.reserved.saturating_sub(bytes);
    }

    /// Bytes above the quota now.
    pub(crate) fn excess(&self) -> u64 {
        self.lock().excess(self.quota)
    }

    pub(crate) fn add_used(&self, bytes: u64) {
        let mut state = self.lock();
        state.used = state.used.saturating_add(bytes);
    }

    pub(crate) fn remove_used(&self, bytes: u64) {
        let mut state = self.lock();
        state.used = state.used.saturating_sub(bytes);
    }

    pub(crate) fn queue(&self, at: u64, key: &Key) {
        self.lock().queue.insert(at, key.clone());
    }

    /// The object that was not used for longest, taken out of the queue. `None` if all are pinned.
    pub(crate) fn oldest(&self, table: &Table) -> Option<Key> {
        let mut state = self.lock();
        while let Some((at, key)) = state.queue.pop_first() {
            match table.candidate(&key, at) {
                Candidate::Gone => {}
                Candidate::UsedAt(used) => {
                    state.queue.insert(used, key);
                }
                Candidate::Evictable => return Some(key),
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn excess(&self, quota: u64) -> u64 {
        self.used
            .saturating_add(self.reserved)
            .saturating_sub(quota)
    }
}
