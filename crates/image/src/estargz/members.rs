//! The compressed part of a layer: cut into members, each compressed by itself, several at a time.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sha2::{Digest as _, Sha256};

use super::chunk::Codec;
use super::{WriteError, Written};
use crate::zstd_chunked::frame;
use crate::{Digest, deflate};

/// Headers alone begin a new member after this many bytes, so that a member stays small.
const MAX_HEADERS: usize = 1 << 20;
/// Most members that are compressed in one go.
const MAX_BATCH: usize = 1024;

pub(crate) struct Members<W> {
    output: W,
    codec: Codec,
    level: i32,
    threads: usize,
    /// Most uncompressed bytes to collect before they are compressed.
    batch_bytes: usize,
    /// The member that is being filled.
    open: Vec<u8>,
    batch: Vec<Vec<u8>>,
    /// Bytes in `batch`.
    waiting: usize,
    /// Where each member that is written begins.
    starts: Vec<u64>,
    written: u64,
    blob: Sha256,
    tar: Sha256,
    tar_bytes: u64,
}

impl<W: Write> Members<W> {
    pub(crate) fn new(output: W, codec: Codec, level: i32, threads: usize, chunk: usize) -> Self {
        let threads = threads.max(1);
        Self {
            output,
            codec,
            level,
            threads,
            batch_bytes: chunk.saturating_mul(2 * threads),
            open: Vec::new(),
            batch: Vec::new(),
            waiting: 0,
            starts: Vec::new(),
            written: 0,
            blob: Sha256::new(),
            tar: Sha256::new(),
            tar_bytes: 0,
        }
    }

    /// The number of the open member, and how much is in it.
    pub(crate) fn place(&self) -> (u64, u64) {
        let number = self.starts.len() + self.batch.len();
        (number as u64, self.open.len() as u64)
    }

    /// Where a member begins in the blob; `None` as long as it is not known.
    pub(crate) fn start_of(&self, number: u64) -> Option<u64> {
        let known = self.starts.get(number as usize).copied();
        known.or((number == self.starts.len() as u64).then_some(self.written))
    }

    /// How much of the blob is written.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    pub(crate) fn headers(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        if self.open.len() >= MAX_HEADERS {
            self.cut()?;
        }
        self.put(bytes);
        Ok(())
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.open.extend_from_slice(bytes);
        self.account(bytes.len());
    }

    /// Takes exactly `length` bytes of a file, and gives them.
    pub(crate) fn fill(&mut self, input: &mut dyn Read, length: u64) -> Result<&[u8], WriteError> {
        let before = self.open.len();
        let read = input
            .take(length)
            .read_to_end(&mut self.open)
            .map_err(WriteError::Input)?;
        if read as u64 != length {
            return Err(WriteError::Input(io::ErrorKind::UnexpectedEof.into()));
        }
        self.account(read);
        Ok(&self.open[before..])
    }

    fn account(&mut self, length: usize) {
        let start = self.open.len() - length;
        self.tar.update(&self.open[start..]);
        self.tar_bytes += length as u64;
    }

    /// Ends the open member, if it holds anything.
    pub(crate) fn cut(&mut self) -> Result<(), WriteError> {
        if self.open.is_empty() {
            return Ok(());
        }
        self.waiting += self.open.len();
        self.batch.push(std::mem::take(&mut self.open));
        if self.waiting >= self.batch_bytes || self.batch.len() >= MAX_BATCH {
            self.flush()?;
        }
        Ok(())
    }

    /// Compresses and writes all members that are cut.
    pub(crate) fn flush(&mut self) -> Result<(), WriteError> {
        let batch = std::mem::take(&mut self.batch);
        self.waiting = 0;
        for member in compress(&batch, self.codec, self.level, self.threads)? {
            self.starts.push(self.written);
            self.raw(&member)?;
        }
        Ok(())
    }

    /// Writes what is not compressed; no member may be waiting.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.output.write_all(bytes).map_err(WriteError::Output)?;
        self.blob.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// What came out; all but what only the format knows.
    pub(crate) fn finish(mut self) -> Result<Written, WriteError> {
        self.output.flush().map_err(WriteError::Output)?;
        Ok(Written {
            digest: Digest::from_bytes(self.blob.finalize().into()),
            size: self.written,
            diff_id: Digest::from_bytes(self.tar.finalize().into()),
            uncompressed_size: self.tar_bytes,
            toc_digest: Digest::of(&[]),
            annotations: std::collections::BTreeMap::new(),
            missing: Vec::new(),
        })
    }
}

/// Compresses each by itself, on several threads; their order stays.
fn compress(
    batch: &[Vec<u8>],
    codec: Codec,
    level: i32,
    threads: usize,
) -> Result<Vec<Vec<u8>>, WriteError> {
    let one = |member: &Vec<u8>| match codec {
        Codec::Zstd => frame::compress_frame(member, level),
        _ => deflate::compress_member(member, level.unsigned_abs()),
    };
    let workers = threads.min(batch.len());
    if workers <= 1 {
        return batch
            .iter()
            .map(|member| one(member).map_err(WriteError::Output))
            .collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((index, member)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            batch.get(index).map(|member| (index, member))
        } {
            done.push((index, one(member)));
        }
        done
    };
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for other in others {
            // A panic there is one here.
            done.extend(
                other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            );
        }
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter()
        .map(|(_, member)| member.map_err(WriteError::Output))
        .collect()
}
