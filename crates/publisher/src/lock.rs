//! One publisher at a time, and the journal by which the next one knows that the last was killed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::storage::{HeldLock, Locking, Storage};

/// There while objects are being stored that no manifest names yet. Its time is that of the first of them.
pub(crate) const JOURNAL: &str = "data/txn/journal";
/// Hash of a reflog that was written before the manifest that names it.
pub(crate) const PENDING_REFLOG: &str = "data/txn/reflog";

/// Between two tries.
const RETRY: Duration = Duration::from_millis(100);

/// The right to publish. Objects may be stored while it is held, and only then; dropping it lets the next publisher in.
pub struct PublishLock {
    storage: Arc<dyn Storage>,
    held: Box<dyn HeldLock>,
}

impl std::fmt::Debug for PublishLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishLock")
            .field("location", &self.storage.location())
            .finish_non_exhaustive()
    }
}

impl PublishLock {
    /// Waits for the backend's lock, at most `wait`.
    pub(crate) fn acquire(
        storage: &Arc<dyn Storage>,
        holder: &str,
        wait: Duration,
    ) -> Result<Self, Error> {
        let deadline = Instant::now() + wait;
        loop {
            match storage.try_lock(holder)? {
                Locking::Held(held) => {
                    return Ok(Self {
                        storage: Arc::clone(storage),
                        held,
                    });
                }
                Locking::Busy(holder) if Instant::now() >= deadline => {
                    return Err(Error::Locked {
                        location: storage.location(),
                        holder,
                    });
                }
                Locking::Busy(_) => {
                    std::thread::sleep(
                        RETRY.min(deadline.saturating_duration_since(Instant::now())),
                    );
                }
            }
        }
    }

    /// Fails if somebody else has taken the lock over meanwhile.
    ///
    /// # Errors
    /// [`Error::LockLost`], or others if that cannot be found out.
    pub fn check(&self) -> Result<(), Error> {
        Ok(self.held.check()?)
    }

    /// Gives the lock back although nothing was published, and says that no object was stored either: the next publisher need not look
    /// for leftovers.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn release_unused(self) -> Result<(), Error> {
        self.forget_journal()
    }

    pub(crate) fn forget_journal(&self) -> Result<(), Error> {
        Ok(self.storage.delete(&[JOURNAL.to_owned()])?)
    }
}
