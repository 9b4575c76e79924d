//! A content on its way in, and the proof that it arrived as promised.

use std::io::{self, Write};
use std::sync::Arc;

use twox_hash::xxhash3_128::Hasher;

use crate::cache::Inner;
use crate::error::is_disk_full;
use crate::space::on_disk;
use crate::store::Incoming;
use crate::{Error, Key};

/// Contents up to this size are written in one piece.
const BUFFER: usize = 64 << 10;
/// Room is taken in steps of this size where the length is not known.
const STEP: u64 = 1 << 20;

/// A content being written. Dropped before [`Entry::finish`], nothing of it stays.
pub struct Entry {
    inner: Arc<Inner>,
    key: Key,
    incoming: Incoming,
    buffer: Vec<u8>,
    hasher: Hasher,
    len: u64,
    reserved: u64,
    committed: bool,
}

/// A content whose digest was compared with the one that its key promises. [`Entry::finish`] is
/// the only way to get one.
pub struct Verified {
    pub(crate) entry: Entry,
}

impl Entry {
    pub(crate) fn new(inner: &Arc<Inner>, key: &Key) -> Result<Self, Error> {
        Ok(Self {
            inner: Arc::clone(inner),
            key: key.clone(),
            incoming: inner.store.create_incoming()?,
            buffer: Vec::new(),
            hasher: Hasher::new(),
            len: 0,
            reserved: 0,
            committed: false,
        })
    }

    /// The key that this entry is for.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Makes room for a content of `len` bytes at once.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::NoRoom`].
    pub fn reserve(&mut self, len: u64) -> Result<(), Error> {
        let wanted = on_disk(len);
        if wanted > self.reserved {
            self.inner
                .make_room(&self.key, wanted, wanted - self.reserved)?;
            self.reserved = wanted;
        }
        Ok(())
    }

    /// Ends the content. `computed` is the digest of what came, `expected` the one that the key
    /// promises; both of the same bytes, which need not be the stored ones.
    ///
    /// # Errors
    /// [`Error::Mismatch`], or the disk's failure to take the last bytes.
    pub fn finish(mut self, computed: &[u8], expected: &[u8]) -> Result<Verified, Error> {
        if expected.is_empty() || computed != expected {
            self.inner.metrics.mismatches.inc();
            return Err(Error::Mismatch {
                key: self.key.clone(),
                computed: computed.to_vec(),
                expected: expected.to_vec(),
            });
        }
        self.drain()?;
        Ok(Verified { entry: self })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn digest(&self) -> u128 {
        self.hasher.finish_128()
    }

    pub(crate) fn incoming(&self) -> &Incoming {
        &self.incoming
    }

    /// The file has its final name: dropping the entry must leave it.
    pub(crate) fn committed(&mut self) {
        self.committed = true;
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let len = self.len.saturating_add(bytes.len() as u64);
        if on_disk(len) > self.reserved {
            // A stated length that proves wrong is the source's matter; room is needed all the same.
            self.reserve(if self.reserved == 0 && len < STEP {
                len
            } else {
                len + STEP
            })
            .or_else(|_| self.reserve(len))?;
        }
        self.hasher.write(bytes);
        self.len = len;
        if self.buffer.len() + bytes.len() > BUFFER {
            self.drain()?;
        }
        if bytes.len() > BUFFER {
            self.write_out(bytes)
        } else {
            self.buffer.extend_from_slice(bytes);
            Ok(())
        }
    }

    fn drain(&mut self) -> Result<(), Error> {
        let buffer = std::mem::take(&mut self.buffer);
        let written = self.write_out(&buffer);
        self.buffer = buffer;
        self.buffer.clear();
        written
    }

    /// Writes; when the disk is full, objects nobody uses make room once.
    fn write_out(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        let mut retried = false;
        while !bytes.is_empty() {
            match self.incoming.file.write(bytes) {
                Ok(0) => return Err(self.failed(io::ErrorKind::WriteZero.into())),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_disk_full(&error) && !retried => {
                    self.inner.metrics.disk_full.inc();
                    retried = true;
                    self.inner.evict(bytes.len() as u64 + STEP);
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    fn failed(&self, source: io::Error) -> Error {
        self.inner.store.write_failed(&self.incoming, source)
    }
}

impl Write for Entry {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.drain()?)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.inner.space.release(self.reserved);
        if !self.committed {
            self.inner.store.abandon(&self.incoming);
        }
    }
}
