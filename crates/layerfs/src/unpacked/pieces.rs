//! A blob from its first byte to its last, fetched in several ranges at once.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use image::Digest;
use sha2::{Digest as _, Sha256};

use super::unavailable;
use crate::builds::lock;
use crate::error::SourceError;
use crate::estargz::BlobSource;
use crate::source::Blob;

/// Bytes of one range.
const PIECE: u64 = 2 << 20;
/// Ranges at once.
const THREADS: u64 = 4;
/// Pieces in memory, those on their way included.
const WINDOW: u64 = 6;
/// A source keeps its own deadlines; this is for a thread that is lost.
const PATIENCE: Duration = Duration::from_secs(300);

/// Reads the blob in order. Dropped, its threads end after the piece that they have in hand.
pub(super) struct Pieces {
    shared: Arc<Shared>,
    piece: Vec<u8>,
    taken: usize,
    next: u64,
    count: u64,
    hash: Sha256,
}

struct Shared {
    sources: Vec<Arc<dyn BlobSource>>,
    blob: Blob,
    size: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The next piece that nobody has begun.
    begun: u64,
    /// Pieces below have been taken.
    taken: u64,
    ready: HashMap<u64, Vec<u8>>,
    failed: Option<SourceError>,
    ended: bool,
}

impl Pieces {
    pub(super) fn start(
        sources: Vec<Arc<dyn BlobSource>>,
        blob: Blob,
        size: u64,
    ) -> Result<Self, SourceError> {
        let count = size.div_ceil(PIECE);
        let shared = Arc::new(Shared {
            sources,
            blob,
            size,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let pieces = Self {
            shared: Arc::clone(&shared),
            piece: Vec::new(),
            taken: 0,
            next: 0,
            count,
            hash: Sha256::new(),
        };
        for _ in 0..THREADS.min(count) {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name("unpack".to_owned())
                .spawn(move || shared.work(count))
                .map_err(|error| unavailable(error.to_string()))?;
        }
        Ok(pieces)
    }

    /// Why reading failed, if a source is the reason.
    pub(super) fn failure(&mut self) -> Option<SourceError> {
        lock(&self.shared.state).failed.take()
    }

    /// Digest of all that was read.
    pub(super) fn digest(&self) -> Digest {
        Digest::from_bytes(self.hash.clone().finalize().into())
    }

    fn advance(&mut self) -> io::Result<()> {
        let mut state = lock(&self.shared.state);
        loop {
            if let Some(piece) = state.ready.remove(&self.next) {
                self.next += 1;
                state.taken = self.next;
                self.shared.changed.notify_all();
                drop(state);
                self.hash.update(&piece);
                (self.piece, self.taken) = (piece, 0);
                return Ok(());
            }
            if state.failed.is_some() {
                return Err(io::Error::other("a range of the blob cannot be had"));
            }
            let (waited, timeout) = self
                .shared
                .changed
                .wait_timeout(state, PATIENCE)
                .unwrap_or_else(PoisonError::into_inner);
            state = waited;
            if timeout.timed_out() && !state.ready.contains_key(&self.next) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.piece.len() {
            if self.next == self.count {
                return Ok(0);
            }
            self.advance()?;
        }
        let length = buffer.len().min(self.piece.len() - self.taken);
        buffer[..length].copy_from_slice(&self.piece[self.taken..self.taken + length]);
        self.taken += length;
        Ok(length)
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        lock(&self.shared.state).ended = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn work(&self, count: u64) {
        while let Some(number) = self.begin(count) {
            let start = number * PIECE;
            let fetched = self.fetch(start, (start + PIECE).min(self.size));
            let mut state = lock(&self.state);
            match fetched {
                Ok(piece) => {
                    state.ready.insert(number, piece);
                }
                Err(error) => {
                    state.failed.get_or_insert(error);
                    state.ended = true;
                }
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The next piece, once there is room for it.
    fn begin(&self, count: u64) -> Option<u64> {
        let mut state = lock(&self.state);
        loop {
            if state.ended || state.begun == count {
                return None;
            }
            if state.begun < state.taken + WINDOW {
                state.begun += 1;
                return Some(state.begun - 1);
            }
            state = self
                .changed
                .wait_timeout(state, PATIENCE)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn fetch(&self, start: u64, end: u64) -> Result<Vec<u8>, SourceError> {
        let mut failed = None;
        for source in &self.sources {
            let range = start..end;
            let read = match source.may_hold(&self.blob) {
                Ok(false) => continue,
                Ok(true) => source.read(&self.blob, std::slice::from_ref(&range)),
                Err(error) => Err(error),
            };
            match read {
                Ok(mut pieces) => return Ok(pieces.pop().unwrap_or_default()),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        Err(failed
            .unwrap_or_else(|| unavailable(format!("no source has blob {}", self.blob.digest))))
    }
}
