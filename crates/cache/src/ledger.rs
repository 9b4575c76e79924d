//! Bytes on disk against the quota, and the queue of what to evict next.
//!
//! The queue holds each object that is not pinned once, under a time of use that may be out of
//! date. Since times only grow, the smallest entry that proves current is the least recently
//! used object: exact LRU, while a hit touches neither this lock nor the queue.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Key;

/// Disk space is given out in blocks of this many bytes (ext4, XFS).
const BLOCK: u64 = 4096;
/// Eviction goes this part of the quota beyond what is needed, so that not every write evicts.
const SLACK_DIVISOR: u64 = 128;
/// How long a writer waits for others to finish when nothing can be evicted.
pub(crate) const ROOM_PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait before looking again: the end of an opening, which frees a victim, wakes nobody.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Higher quotas mean the same as this one, and sums do not overflow.
const LARGEST_QUOTA: u64 = u64::MAX >> 2;

/// Guards [`Accounts`]; taken before any lock of the table, never after.
pub(crate) struct Ledger {
    accounts: Mutex<Accounts>,
    changed: Condvar,
    quota: u64,
}

/// All in bytes on disk.
#[derive(Default)]
pub(crate) struct Accounts {
    /// Taken by committed objects.
    pub(crate) used: u64,
    /// Promised to objects being written.
    pub(crate) writing: u64,
    /// Taken by files that others keep beside the cache, within its quota.
    pub(crate) beside: u64,
    /// The part of `used` whose removal is under way.
    pub(crate) leaving: u64,
    /// Whether one writer may exceed the quota. There is never a second, and it never waits.
    pub(crate) overdraft: bool,
    pub(crate) queue: BinaryHeap<Reverse<(u64, Key)>>,
}

/// What one writer was promised.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    pub(crate) bytes: u64,
    pub(crate) overdraft: bool,
}

impl Ledger {
    pub(crate) fn new(quota: u64) -> Self {
        Self {
            accounts: Mutex::default(),
            changed: Condvar::new(),
            quota: quota.min(LARGEST_QUOTA),
        }
    }

    pub(crate) fn quota(&self) -> u64 {
        self.quota
    }

    /// What the files beside the cache leave of the quota.
    pub(crate) fn room(&self, accounts: &Accounts) -> u64 {
        self.quota.saturating_sub(accounts.beside)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the writers that wait for room.
    pub(crate) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits a little, or until something changes; `None` when `deadline` has passed.
    pub(crate) fn wait<'a>(
        &self,
        accounts: MutexGuard<'a, Accounts>,
        deadline: Instant,
    ) -> Option<MutexGuard<'a, Accounts>> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let woken = self.changed.wait_timeout(accounts, left.min(LOOK_AGAIN));
        Some(woken.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Bytes by which the room would be exceeded after the removals under way.
    pub(crate) fn excess(&self, accounts: &Accounts, more: u64) -> u64 {
        (accounts.used - accounts.leaving + accounts.writing + more)
            .saturating_sub(self.room(accounts))
    }

    /// Gives a claim back.
    pub(crate) fn release(&self, claim: &mut Claim) {
        let mut accounts = self.lock();
        accounts.settle(claim);
        drop(accounts);
        self.notify();
    }
}

impl Accounts {
    /// Ends a claim: what was promised is either given back or now counted as used.
    pub(crate) fn settle(&mut self, claim: &mut Claim) {
        self.writing -= claim.bytes;
        self.overdraft &= !claim.overdraft;
        *claim = Claim::default();
    }
}

/// What a content of `len` bytes occupies on disk.
pub(crate) fn footprint(len: u64) -> u64 {
    len.max(1)
        .checked_next_multiple_of(BLOCK)
        .unwrap_or(u64::MAX)
}

/// What eviction frees beyond the need.
pub(crate) fn slack(quota: u64) -> u64 {
    quota / SLACK_DIVISOR
}
