//! The append-only log of what is in `objects/`.
//!
//! A header of 32 bytes (magic, version, size of a record, checksum), then [`Record`]s, the last
//! of a key counting, in the order of last use. Records have one size, so a bad one is skipped
//! and the next is found. Nothing is synced but a compacted log before it takes the old one's place: what is
//! lost costs a fetch, what is wrong is caught by checksum, stamp and digest.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use twox_hash::XxHash3_128;

use crate::Error;
use crate::row::{RECORD, Record, Row};
use crate::store::{Store, is_regular, stat};

const NAME: &str = "index";
const NEW_NAME: &str = "index.new";
const MAGIC: &[u8; 8] = b"outcache";
/// Raise with every change of header or record.
const VERSION: u32 = 1;
const HEADER: usize = 32;
/// Records that may be dead before anybody thinks of compaction.
const DEAD_FLOOR: u64 = 4096;
/// Bytes kept for a later try when the log cannot be written; beyond it the oldest are given up.
const PENDING_LIMIT: usize = 1 << 20;
/// Bytes read or written at a time.
const BUFFER: usize = 1 << 18;

/// The log, open for appending.
pub(crate) struct Index {
    log: Mutex<Log>,
}

struct Log {
    file: File,
    /// Where the next record goes. Only whole records are counted, so a write that failed half way is overwritten.
    end: u64,
    records: u64,
    /// Encoded records that are not in the file yet.
    pending: Vec<u8>,
    /// While the log is being compacted: what came meanwhile.
    since: Option<Vec<u8>>,
    /// After a compaction that failed: the records that there must be before the next try.
    retry_at: u64,
}

/// What a log says.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Loaded {
    /// Rows by key tag, each with its place in the order of last use.
    pub(crate) rows: HashMap<u128, (u64, Row)>,
    /// Records in the file, dead ones included.
    pub(crate) records: u64,
    /// Whether there is anything that is not ours or not whole.
    pub(crate) damaged: bool,
}

impl Index {
    /// Reads the log as far as it is good.
    pub(crate) fn load(store: &Store) -> Result<Loaded, Error> {
        let failed = |source| store.failed("read", NAME, source);
        match store.open_file(NAME) {
            // An index that the disk does not give back is as lost as one that makes no sense.
            Ok(file) if stat(&file).is_ok_and(|stat| is_regular(&stat)) => Ok(parse(
                BufReader::with_capacity(BUFFER, file),
            )
            .unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot read the cache's index: beginning empty");
                Loaded {
                    damaged: true,
                    ..Loaded::default()
                }
            })),
            Err(error) if !is_foreign(&error) => Err(failed(error)),
            // Nothing there, or nothing of ours: not to stay in the way of the new one.
            _ => {
                store.remove(NAME);
                Ok(Loaded {
                    damaged: true,
                    ..Loaded::default()
                })
            }
        }
    }

    /// Goes on with the log that [`Index::load`] found whole.
    pub(crate) fn resume(store: &Store, records: u64) -> Result<Self, Error> {
        let file = store
            .open_file(NAME)
            .map_err(|source| store.failed("open", NAME, source))?;
        Ok(Self {
            log: Mutex::new(Log::new(file, records)),
        })
    }

    /// Begins anew with these records.
    pub(crate) fn create(store: &Store, records: &[Record]) -> Result<Self, Error> {
        let file = write_new(store, records)?;
        Ok(Self {
            log: Mutex::new(Log::new(file, records.len() as u64)),
        })
    }

    /// Appends; on failure the records wait for the next call.
    pub(crate) fn append(&self, records: &[Record]) -> io::Result<()> {
        self.append_present(|| records)
    }

    /// As [`Index::append`]; nothing else is appended between the call of `records` and what it returns.
    ///
    /// So a state that `records` reads cannot end up behind a record of its later change.
    pub(crate) fn append_present<R: AsRef<[Record]>>(
        &self,
        records: impl FnOnce() -> R,
    ) -> io::Result<()> {
        let mut log = self.lock();
        for record in records().as_ref() {
            let bytes = record.encode();
            log.pending.extend_from_slice(&bytes);
            if let Some(since) = &mut log.since {
                since.extend_from_slice(&bytes);
            }
        }
        log.write_pending()
    }

    /// Whether compaction is due with `live` objects.
    pub(crate) fn is_overgrown(&self, live: u64) -> bool {
        let log = self.lock();
        log.since.is_none() && log.records >= log.retry_at && is_overgrown(log.records, live)
    }

    /// Replaces the log by `snapshot()`, called when everything appended from then on is kept as well.
    ///
    /// The lock is not held while the new log is written: commits go on.
    pub(crate) fn compact(
        &self,
        store: &Store,
        snapshot: impl FnOnce() -> Vec<Record>,
    ) -> Result<(), Error> {
        {
            let mut log = self.lock();
            if log.since.is_some() {
                return Ok(());
            }
            log.since = Some(Vec::new());
        }
        let records = snapshot();
        let written = write_beside(store, &records);
        let mut log = self.lock();
        let since = log.since.take().unwrap_or_default();
        // What holds the log up now (a full disk) does so at the next commit, too.
        log.retry_at = log.records + DEAD_FLOOR;
        let mut new = Log::new(written?, records.len() as u64);
        new.pending = since;
        replace(store)?;
        *log = new;
        log.write_pending()
            .map_err(|source| store.failed("write", NAME, source))
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn new(file: File, records: u64) -> Self {
        let end = HEADER as u64 + records * RECORD as u64;
        Self {
            file,
            end,
            records,
            pending: Vec::new(),
            since: None,
            retry_at: 0,
        }
    }

    fn write_pending(&mut self) -> io::Result<()> {
        let written = self.file.write_all_at(&self.pending, self.end);
        if written.is_ok() {
            self.end += self.pending.len() as u64;
            self.records += (self.pending.len() / RECORD) as u64;
            self.pending.clear();
        } else if self.pending.len() > PENDING_LIMIT {
            self.pending.clear();
        }
        written
    }
}

/// Half of the log dead, and enough of it to be worth the work.
pub(crate) fn is_overgrown(records: u64, live: u64) -> bool {
    records.saturating_sub(live) > live.max(DEAD_FLOOR)
}

fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&(RECORD as u32).to_le_bytes());
    let checksum = XxHash3_128::oneshot(&header[..16]);
    header[16..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// Writes a whole log in place of the present one.
fn write_new(store: &Store, records: &[Record]) -> Result<File, Error> {
    let file = write_beside(store, records)?;
    replace(store)?;
    Ok(file)
}

/// Writes a whole log beside the present one.
fn write_beside(store: &Store, records: &[Record]) -> Result<File, Error> {
    let file = store.create(NEW_NAME)?;
    let write = || {
        let mut writer = BufWriter::with_capacity(BUFFER, &file);
        writer.write_all(&header())?;
        for record in records {
            writer.write_all(&record.encode())?;
        }
        writer.flush()?;
        drop(writer);
        file.sync_data()
    };
    write().map_err(|source| {
        store.remove(NEW_NAME);
        store.failed("write", NEW_NAME, source)
    })?;
    Ok(file)
}

/// Opening failed because nothing is there, or something that no log can be.
fn is_foreign(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::ISDIR | Errno::LOOP | Errno::NXIO)
    )
}

fn replace(store: &Store) -> Result<(), Error> {
    store
        .rename(NEW_NAME, NAME)
        .map_err(|source| store.failed("replace", NAME, source))
}

/// Reads records to the end; anything bad is skipped and reported as damage.
fn parse(mut input: impl Read) -> io::Result<Loaded> {
    let mut loaded = Loaded::default();
    let mut first = [0; HEADER];
    if read_full(&mut input, &mut first)? != HEADER || first != header() {
        loaded.damaged = true;
        return Ok(loaded);
    }
    let mut bytes = [0; RECORD];
    loop {
        match read_full(&mut input, &mut bytes)? {
            0 => return Ok(loaded),
            RECORD => {}
            _ => {
                loaded.damaged = true;
                return Ok(loaded);
            }
        }
        let place = loaded.records;
        loaded.records += 1;
        match Record::decode(&bytes) {
            Some(Record::Present { key, row }) => {
                loaded.rows.insert(key, (place, row));
            }
            Some(Record::Removed { key }) => {
                loaded.rows.remove(&key);
            }
            None => loaded.damaged = true,
        }
    }
}

/// Fills the buffer as far as the input goes.
fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
