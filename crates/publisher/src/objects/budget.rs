//! Bytes in memory, bounded over all that read and deflate at the same time.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// How many bytes may be in flight.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: Mutex<u64>,
    released: Condvar,
}

/// Leave to hold so many bytes, until dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.max(2),
            used: Mutex::new(0),
            released: Condvar::new(),
        })
    }

    /// No single holder gets more than half: who waits for its own large buffer is never starved by idle small ones.
    fn share(&self, bytes: u64) -> u64 {
        bytes.min(self.limit / 2)
    }

    /// Without waiting.
    pub(crate) fn try_acquire(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let bytes = self.share(bytes);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if *used + bytes > self.limit {
            return None;
        }
        *used += bytes;
        Some(self.permit(bytes))
    }

    /// Waits until others have released enough. They always do: nobody holds a permit while waiting for another.
    pub(crate) fn acquire(self: &Arc<Self>, bytes: u64) -> Permit {
        let bytes = self.share(bytes);
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used = self
            .released
            .wait_while(used, |used| *used + bytes > self.limit)
            .unwrap_or_else(PoisonError::into_inner);
        *used += bytes;
        self.permit(bytes)
    }

    fn permit(self: &Arc<Self>, bytes: u64) -> Permit {
        Permit {
            budget: Arc::clone(self),
            bytes,
        }
    }

    fn release(&self, bytes: u64) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
        self.released.notify_all();
    }
}

impl Permit {
    /// Gives back what turned out not to be needed.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        if bytes < self.bytes {
            self.budget.release(self.bytes - bytes);
            self.bytes = bytes;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_comes_back() {
        let budget = Budget::new(10);
        let mut half = budget.try_acquire(100).unwrap();
        let other = budget.try_acquire(5).unwrap();
        assert!(budget.try_acquire(1).is_none());
        half.shrink(3);
        let more = budget.try_acquire(2).unwrap();
        assert!(budget.try_acquire(1).is_none());
        drop((half, other, more));
        assert_eq!(*budget.used.lock().unwrap(), 0);
    }

    #[test]
    fn waiting_ends_with_a_release() {
        let budget = Budget::new(10);
        let first = budget.acquire(5);
        let second = budget.acquire(5);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| drop(budget.acquire(5)));
            drop(first);
            waiting.join().unwrap();
        });
        drop(second);
        assert_eq!(*budget.used.lock().unwrap(), 0);
    }
}
