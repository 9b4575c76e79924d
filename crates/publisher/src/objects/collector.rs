//! Reads files on the caller's thread, has their pieces stored on others, and puts the results together.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};
use cvmfs::{Compression, ContentHash, Suffix};

use super::budget::Permit;
use super::content::{StoredChunk, StoredContent};
use super::{Encoded, How, Inner, ObjectStore};
use crate::chunking::{Chunking, CutDetector};
use crate::error::Error;

/// Read at once while looking for a cut.
const BLOCK_BYTES: u64 = 128 << 10;
/// Small files are handed over together until they are this many bytes or files.
const BATCH_BYTES: u64 = 256 << 10;
const BATCH_FILES: usize = 64;

/// Files on their way into the repository, by the caller's numbers.
pub(crate) struct Collector {
    objects: ObjectStore,
    sender: Sender<Finished>,
    receiver: Receiver<Finished>,
    open: HashMap<u64, Assembly>,
    batch: Vec<Piece>,
    batch_bytes: u64,
    /// Set when nobody wants the rest any more.
    abandoned: Arc<AtomicBool>,
}

/// Who gives up waits for what is being written at this moment: the publisher's lock, and the runtime that its requests need, are given back
/// after that.
impl Drop for Collector {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
        let (nobody, _) = crossbeam_channel::unbounded();
        // Each piece holds a sender until it is done, so the channel is closed by the last of them.
        drop(std::mem::replace(&mut self.sender, nobody));
        for _ in &self.receiver {}
    }
}

/// Bytes of one object to be.
struct Piece {
    file: u64,
    index: usize,
    bytes: Vec<u8>,
    suffix: Suffix,
    compression: Compression,
    permit: Permit,
}

struct Finished {
    file: u64,
    index: usize,
    hash: Result<ContentHash, Error>,
}

/// A file whose pieces are not all stored.
struct Assembly {
    compression: Compression,
    sizes: Vec<u64>,
    hashes: Vec<Option<ContentHash>>,
    missing: usize,
}

impl Assembly {
    fn content(self) -> StoredContent {
        let hashes: Vec<_> = self.hashes.into_iter().flatten().collect();
        let compression = self.compression;
        match (&self.sizes[..], &hashes[..]) {
            ([0], _) | ([], _) => StoredContent::Empty,
            ([_], [hash]) => StoredContent::Whole {
                hash: *hash,
                compression,
            },
            _ => {
                let mut offset = 0;
                let chunk = |(size, hash): (&u64, &ContentHash)| {
                    offset += size;
                    StoredChunk {
                        offset: offset - size,
                        size: *size,
                        hash: *hash,
                        compression,
                    }
                };
                StoredContent::Chunked(self.sizes.iter().zip(&hashes).map(chunk).collect())
            }
        }
    }
}

impl Collector {
    pub(crate) fn new(objects: ObjectStore) -> Self {
        let (sender, receiver) = crossbeam_channel::unbounded();
        Self {
            objects,
            sender,
            receiver,
            open: HashMap::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            abandoned: Arc::default(),
        }
    }

    /// Reads a file of exactly `length` bytes. Waits while too many bytes are in memory.
    pub(crate) fn submit(
        &mut self,
        file: u64,
        reader: &mut dyn Read,
        length: u64,
        how: How<'_>,
    ) -> Result<(), Error> {
        let chunking = self.objects.options().chunking;
        let compression = match length {
            0 => Compression::Zlib,
            _ => how.compression,
        };
        let mut source = Source::new(reader, length, how, chunking);
        let mut sizes = Vec::new();
        loop {
            let permit = self.permit(source.most());
            let bytes = source.piece()?;
            let suffix = match bytes.len() as u64 == length {
                true => Suffix::Bulk,
                false => Suffix::Partial,
            };
            let index = sizes.len();
            sizes.push(bytes.len() as u64);
            self.dispatch(Piece {
                file,
                index,
                bytes,
                suffix,
                compression,
                permit,
            });
            if source.most() == 0 {
                break;
            }
        }
        let assembly = Assembly {
            compression,
            hashes: vec![None; sizes.len()],
            missing: sizes.len(),
            sizes,
        };
        self.open.insert(file, assembly);
        Ok(())
    }

    /// A file that is stored by now, without waiting.
    pub(crate) fn poll(&mut self) -> Result<Option<(u64, StoredContent)>, Error> {
        while let Ok(finished) = self.receiver.try_recv() {
            if let Some(file) = self.take(finished)? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// The next file that is stored; `None` if all have been given out.
    pub(crate) fn wait(&mut self) -> Result<Option<(u64, StoredContent)>, Error> {
        self.flush();
        while !self.open.is_empty() {
            // We hold a sender ourselves, so the channel never closes; each piece handed over sends exactly once.
            let Ok(finished) = self.receiver.recv() else {
                break;
            };
            if let Some(file) = self.take(finished)? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    fn take(&mut self, finished: Finished) -> Result<Option<(u64, StoredContent)>, Error> {
        let hash = finished.hash?;
        let Some(assembly) = self.open.get_mut(&finished.file) else {
            return Ok(None);
        };
        if let Some(slot) = assembly.hashes.get_mut(finished.index) {
            *slot = Some(hash);
        }
        assembly.missing -= 1;
        if assembly.missing > 0 {
            return Ok(None);
        }
        let done = self.open.remove(&finished.file);
        Ok(done.map(|assembly| (finished.file, assembly.content())))
    }

    fn permit(&mut self, bytes: u64) -> Permit {
        let budget = Arc::clone(&self.objects.inner.budget);
        match budget.try_acquire(bytes) {
            Some(permit) => permit,
            None => {
                // Nobody waits while holding: others may wait for ours.
                self.flush();
                budget.acquire(bytes)
            }
        }
    }

    fn dispatch(&mut self, mut piece: Piece) {
        let bytes = piece.bytes.len() as u64;
        piece.permit.shrink(bytes);
        self.batch.push(piece);
        self.batch_bytes += bytes;
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_FILES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        if batch.is_empty() {
            return;
        }
        let inner = Arc::clone(&self.objects.inner);
        let sender = self.sender.clone();
        let abandoned = Arc::clone(&self.abandoned);
        self.objects.inner.deflaters.spawn_fifo(move || {
            for piece in batch {
                run(&inner, piece, &sender, &abandoned);
            }
        });
    }
}

/// Stores one piece, writing it elsewhere if there are threads for that.
fn run(inner: &Arc<Inner>, piece: Piece, sender: &Sender<Finished>, abandoned: &Arc<AtomicBool>) {
    if abandoned.load(Ordering::Relaxed) {
        return;
    }
    let (file, index) = (piece.file, piece.index);
    let sender = sender.clone();
    // The receiver may be gone after a failure; then nobody wants to know.
    let send = move |hash| drop(sender.send(Finished { file, index, hash }));
    let Some(uploaders) = &inner.uploaders else {
        let hash = inner.store_piece(&piece.bytes, piece.suffix, piece.compression);
        drop(piece);
        return send(hash);
    };
    match inner.encode(&piece.bytes, piece.suffix, piece.compression) {
        Err(error) => send(Err(error)),
        Ok(Encoded::Known(hash)) => send(Ok(hash)),
        Ok(Encoded::New {
            key,
            stored,
            object,
        }) => {
            let inner = Arc::clone(inner);
            let Piece { bytes, permit, .. } = piece;
            let stored = stored.unwrap_or(bytes);
            let abandoned = Arc::clone(abandoned);
            uploaders.spawn_fifo(move || {
                if abandoned.load(Ordering::Relaxed) {
                    return;
                }
                let written = inner.write(object, &stored).map(|()| {
                    inner.known.insert(key, object.hash);
                    object.hash
                });
                drop((stored, permit));
                send(written);
            });
        }
    }
}

/// A file being cut.
struct Source<'a> {
    reader: &'a mut dyn Read,
    length: u64,
    offset: u64,
    max: u64,
    cuts: Cuts<'a>,
    /// Read beyond the last cut.
    ahead: Vec<u8>,
}

enum Cuts<'a> {
    /// At these offsets.
    At(&'a [u64]),
    /// Where the content says.
    Content(CutDetector),
}

impl<'a> Source<'a> {
    fn new(reader: &'a mut dyn Read, length: u64, how: How<'a>, chunking: Chunking) -> Self {
        let (cuts, max) = match how.boundaries {
            Some(boundaries) => (Cuts::At(boundaries), chunking.max.max(1)),
            None if length > chunking.min => (
                Cuts::Content(CutDetector::new(chunking)),
                chunking.max.max(1),
            ),
            None => (Cuts::At(&[]), length),
        };
        Self {
            reader,
            length,
            offset: 0,
            max,
            cuts,
            ahead: Vec::new(),
        }
    }

    /// Bytes that the next piece may have.
    fn most(&self) -> u64 {
        (self.length - self.offset).min(self.max)
    }

    /// The next piece; empty only for an empty file.
    fn piece(&mut self) -> Result<Vec<u8>, Error> {
        let bytes = match &mut self.cuts {
            Cuts::At(boundaries) => {
                let next = boundaries.iter().position(|at| *at > self.offset);
                *boundaries = next.map_or(&[], |next| &boundaries[next..]);
                let end = boundaries.first().map_or(u64::MAX, |at| *at);
                let most = self.most().min(end - self.offset);
                let mut bytes = Vec::with_capacity(capacity(most));
                self.read(&mut bytes, most)?;
                bytes
            }
            Cuts::Content(_) => self.piece_by_content()?,
        };
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }

    fn piece_by_content(&mut self) -> Result<Vec<u8>, Error> {
        let most = self.most();
        let mut bytes = Vec::with_capacity(capacity(most));
        let mut block = std::mem::take(&mut self.ahead);
        loop {
            let looked = bytes.len();
            if block.is_empty() {
                let wanted = (most - looked as u64).min(BLOCK_BYTES);
                self.read(&mut bytes, wanted)?;
            } else {
                bytes.append(&mut block);
            }
            let Cuts::Content(detector) = &mut self.cuts else {
                return Ok(bytes);
            };
            if let Some(cut) = detector.next_cut(&bytes[looked..]) {
                self.ahead = bytes.split_off(capacity(cut - self.offset));
                return Ok(bytes);
            }
            if bytes.len() as u64 >= most {
                return Ok(bytes);
            }
        }
    }

    fn read(&mut self, into: &mut Vec<u8>, wanted: u64) -> Result<(), Error> {
        let read = (&mut *self.reader).take(wanted).read_to_end(into);
        let failed = |source| Error::Input {
            what: "content of a file".to_owned(),
            source,
        };
        if (read.map_err(failed)? as u64) < wanted {
            return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }
}

/// Lengths here are those of pieces, which fit into memory.
fn capacity(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
