//! Content on its way into the cache.

use std::io::{self, Write};
use std::sync::Arc;

use twox_hash::XxHash3_128;
use twox_hash::xxhash3_128::Hasher;

use crate::ledger::{Claim, footprint};
use crate::shelf::Shelf;
use crate::store::Incoming;
use crate::{Error, Key};

/// Bytes kept in memory before a file is made: most objects are smaller and are written once.
const BUFFER: usize = 64 << 10;
/// How often a write to a full disk is tried again after evicting.
const FULL_DISK_RETRIES: usize = 4;
/// Least space that is evicted for a write to a full disk.
const FULL_DISK_STEP: u64 = 1 << 20;

/// A new object being written. Nothing of it is visible before [`Entry::finish`]; dropping it removes all traces.
pub struct Entry {
    shelf: Arc<Shelf>,
    key: Key,
    buffer: Vec<u8>,
    len: u64,
    /// Digest of what has left the buffer.
    hasher: Option<Hasher>,
    incoming: Option<Incoming>,
    claim: Claim,
    /// A write was lost: whatever is computed elsewhere, this content is not whole.
    failed: bool,
}

/// Proof that content was compared with its digest. Made by [`Entry::finish`] alone.
#[must_use = "only what is returned from the fetch is committed"]
pub struct Verified {
    entry: Entry,
    digest: u128,
}

/// A complete file that waits for its name.
pub(crate) struct Finished<'a> {
    pub(crate) incoming: &'a Incoming,
    pub(crate) len: u64,
    pub(crate) digest: u128,
}

impl Entry {
    pub(crate) fn new(shelf: Arc<Shelf>, key: Key) -> Self {
        Self {
            shelf,
            key,
            buffer: Vec::new(),
            len: 0,
            hasher: None,
            incoming: None,
            claim: Claim::default(),
            failed: false,
        }
    }

    /// The object's key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.len
    }

    /// Makes room for a content of `len` bytes in all, so that a hopeless download need not begin.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::NoRoom`].
    pub fn reserve(&mut self, len: u64) -> Result<(), Error> {
        self.shelf
            .claim(&self.key, &mut self.claim, footprint(len))?;
        if let Ok(len) = usize::try_from(len)
            && len <= BUFFER
        {
            self.buffer
                .reserve_exact(len.saturating_sub(self.buffer.len()));
        }
        Ok(())
    }

    /// Appends to the content. After an error the entry is only good for dropping.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::TooLarge`], [`Error::NoRoom`], [`Error::Io`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.check()?;
        let appended = self.append_or_spill(bytes);
        self.failed = appended.is_err();
        appended
    }

    /// Ends the content: `computed` is the digest of what was fetched, `expected` what it has to be.
    ///
    /// The caller computes it, since it may cover another form (CVMFS hashes compressed bytes).
    ///
    /// # Errors
    /// [`Error::Mismatch`] if they differ or are empty; as [`Entry::append`] otherwise.
    pub fn finish(mut self, computed: &[u8], expected: &[u8]) -> Result<Verified, Error> {
        self.check()?;
        if expected.is_empty() || computed != expected {
            self.shelf.metrics.mismatches.inc();
            return Err(Error::Mismatch {
                key: self.key.clone(),
                computed: computed.to_vec(),
                expected: expected.to_vec(),
            });
        }
        let digest = match &self.hasher {
            None => XxHash3_128::oneshot(&self.buffer),
            Some(hasher) => {
                let mut hasher = hasher.clone();
                hasher.write(&self.buffer);
                hasher.finish_128()
            }
        };
        self.spill()?;
        Ok(Verified {
            entry: self,
            digest,
        })
    }

    fn check(&self) -> Result<(), Error> {
        if self.failed {
            let lost = io::Error::other("an earlier write failed");
            return Err(self.shelf.store.object_failed("complete", &self.key, lost));
        }
        Ok(())
    }

    fn append_or_spill(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.len += bytes.len() as u64;
        if self.buffer.len() + bytes.len() <= BUFFER {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        let buffered = std::mem::take(&mut self.buffer);
        let hasher = self.hasher.get_or_insert_with(Hasher::new);
        hasher.write(&buffered);
        if bytes.len() >= BUFFER {
            hasher.write(bytes);
            self.store(&buffered)?;
            self.store(bytes)?;
        } else {
            self.store(&buffered)?;
        }
        self.buffer = buffered;
        self.buffer.clear();
        if bytes.len() < BUFFER {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Writes the rest out.
    fn spill(&mut self) -> Result<(), Error> {
        let buffered = std::mem::take(&mut self.buffer);
        self.store(&buffered)
    }

    /// Claims the space, makes the file if there is none yet, writes.
    fn store(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        self.shelf
            .claim(&self.key, &mut self.claim, footprint(self.len))?;
        let mut retries = FULL_DISK_RETRIES;
        loop {
            match self.try_store(&mut bytes) {
                Err(error @ Error::DiskFull { .. }) => {
                    self.shelf.metrics.disk_full.inc();
                    let step = FULL_DISK_STEP.max(bytes.len() as u64);
                    if retries == 0 || !self.shelf.evict(step) {
                        return Err(error);
                    }
                    retries -= 1;
                }
                other => return other,
            }
        }
    }

    /// Writes `bytes` as far as they go and leaves those that are still to be written.
    fn try_store(&mut self, bytes: &mut &[u8]) -> Result<(), Error> {
        let incoming = match &mut self.incoming {
            Some(incoming) => incoming,
            none => none.insert(self.shelf.store.create_incoming()?),
        };
        while !bytes.is_empty() {
            match incoming.file.write(bytes) {
                Ok(count) => *bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.shelf.store.write_failed(incoming, error)),
            }
        }
        Ok(())
    }
}

/// Errors are [`Error`]s inside; [`io::Error::downcast`] finds them.
impl Write for Entry {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes)?;
        Ok(bytes.len())
    }

    /// Does nothing: [`Entry::finish`] writes what is left.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(incoming) = &self.incoming {
            self.shelf.store.abandon(incoming);
        }
        if self.claim.bytes > 0 || self.claim.overdraft {
            self.shelf.ledger.release(&mut self.claim);
        }
    }
}

impl Verified {
    pub(crate) fn key(&self) -> &Key {
        &self.entry.key
    }

    /// Whether it was made for this cache.
    pub(crate) fn belongs_to(&self, shelf: &Arc<Shelf>) -> bool {
        Arc::ptr_eq(&self.entry.shelf, shelf)
    }

    /// The file and what is known of it. `None` cannot be: finishing makes the file.
    pub(crate) fn finished(&self) -> Option<Finished<'_>> {
        let incoming = self.entry.incoming.as_ref()?;
        Some(Finished {
            incoming,
            len: self.entry.len,
            digest: self.digest,
        })
    }

    /// The file has its name: nothing is left to clean up but the claim.
    pub(crate) fn published(&mut self) -> &mut Claim {
        self.entry.incoming = None;
        &mut self.entry.claim
    }
}
