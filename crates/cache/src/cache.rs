//! The cache: look up, fetch once, commit, evict.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::FileType;
use rustix::process::{Resource, getrlimit};
use twox_hash::xxhash3_128::Hasher;

use crate::entry::{Entry, Verified};
use crate::index::{Index, is_overgrown};
use crate::row::{Record, Row, Stamp, boot_tag, key_tag};
use crate::single_flight::{Outcome, Role, SingleFlight};
use crate::space::{Space, on_disk};
use crate::store::{Store, stat};
use crate::table::{Lookup, Table};
use crate::{Error, FetchError, Key, Metrics, Object};

/// Files kept open, where the limit on open files permits.
const OPEN_FILES: u64 = 1024;
/// Part of the limit on open files that the cache takes.
const OPEN_SHARE: u64 = 4;
/// Commits between two writes of what was used.
const NOTE_USES_EVERY: u64 = 256;
/// Longest wait for another thread's fetch: longer than any fetch's own deadline.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// What [`Cache::open`] needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where objects are kept; made if missing, for this process alone.
    pub directory: PathBuf,
    /// Bytes on disk that objects may take.
    pub quota: u64,
    /// Identity of this boot of the machine (`/proc/sys/kernel/random/boot_id`); empty = unknown,
    /// then every object is compared with its digest at its first use.
    pub boot_id: String,
}

/// Verified content by key. Cloning shares it.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) space: Space,
    pub(crate) metrics: Metrics,
    index: Index,
    table: Table,
    flights: SingleFlight<Key, Object>,
    boot: u64,
    commits: AtomicU64,
}

impl Cache {
    /// Opens the directory; what an earlier process kept is there again.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process has it open; else what the disk says.
    pub fn open(config: Config) -> Result<Self, Error> {
        let store = Store::open(&config.directory)?;
        let table = Table::new(open_files());
        let space = Space::new(config.quota);
        let index = restore(&store, &table, &space)?;
        let inner = Inner {
            store,
            space,
            metrics: Metrics::default(),
            index,
            table,
            flights: SingleFlight::new(),
            boot: boot_tag(&config.boot_id),
            commits: AtomicU64::new(0),
        };
        inner.metrics.quota_bytes.set(config.quota);
        inner.evict(inner.space.excess());
        inner.update_gauges();
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The content, if it is there and intact.
    ///
    /// # Errors
    /// A failure of the disk other than that the content is missing or damaged.
    pub fn get(&self, key: &Key) -> Result<Option<Object>, Error> {
        self.inner.get(key)
    }

    /// The content, from here or by `fetch`, which is called at most once at a time for each key.
    ///
    /// `fetch` writes into the entry and returns what [`Entry::finish`] gives. If it fails or
    /// panics, whoever waited for it tries by itself.
    ///
    /// # Errors
    /// What `fetch` returns, or the cache's own failure.
    pub fn get_or_fetch<E>(
        &self,
        key: &Key,
        fetch: impl FnOnce(Entry) -> Result<Verified, FetchError<E>>,
    ) -> Result<Object, FetchError<E>> {
        let inner = &self.inner;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(object) = inner.get(key)? {
                inner.metrics.hits.inc();
                return Ok(object);
            }
            match inner.flights.join(key) {
                Role::Leader(flight) => {
                    // Another flight may have landed between the look and the start.
                    if let Some(object) = inner.get(key)? {
                        inner.metrics.hits.inc();
                        flight.land(object.clone());
                        return Ok(object);
                    }
                    inner.metrics.misses.inc();
                    let object = inner.commit(key, fetch(Entry::new(inner, key)?)?)?;
                    flight.land(object.clone());
                    return Ok(object);
                }
                Role::Passenger(wait) => match wait.until(deadline) {
                    Outcome::Landed(object) => {
                        inner.metrics.joined.inc();
                        return Ok(object);
                    }
                    Outcome::Abandoned => {}
                    Outcome::TimedOut => return Err(Error::Timeout { key: key.clone() }.into()),
                },
            }
        }
    }

    /// Keeps the object, present or to come, from eviction until [`Cache::unpin`]; counted.
    pub fn pin(&self, key: &Key) {
        self.inner.table.pin(key);
    }

    /// Takes one pin back.
    pub fn unpin(&self, key: &Key) {
        if let Some(at) = self.inner.table.unpin(key) {
            self.inner.space.queue(at, key);
        }
    }

    /// Bytes on disk of committed objects.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.inner.space.used()
    }

    /// The quota in bytes.
    #[must_use]
    pub fn quota(&self) -> u64 {
        self.inner.space.quota()
    }

    /// Number of objects.
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.inner.table.live()
    }

    /// The cache's numbers.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }
}

impl Inner {
    fn get(&self, key: &Key) -> Result<Option<Object>, Error> {
        match self.table.touch(key) {
            Lookup::Absent => Ok(None),
            Lookup::Open(object) => Ok(Some(object)),
            Lookup::Closed(row) => self.open(key, row),
        }
    }

    /// Opens an object's file; reads it through if something else than we may have touched it.
    fn open(&self, key: &Key, row: Row) -> Result<Option<Object>, Error> {
        let failed = |operation| move |source| self.store.object_failed(operation, key, source);
        let file = match self.open_file(key) {
            Ok(file) => file,
            Err(error) if is_damage(&error) => return Ok(self.drop_damaged(key)),
            Err(error) => return Err(failed("open")(error)),
        };
        let found = stat(&file).map_err(failed("examine"))?;
        let regular = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        if !regular || found.st_size as u64 != row.len {
            return Ok(self.drop_damaged(key));
        }
        let stamp = Stamp::of(&found);
        let mut row = row;
        if stamp != row.stamp || row.boot != self.boot || self.boot == crate::row::UNKNOWN_BOOT {
            self.metrics.verifications.inc();
            if digest(&file).map_err(failed("read"))? != row.digest {
                return Ok(self.drop_damaged(key));
            }
            row = Row {
                stamp,
                boot: self.boot,
                ..row
            };
            self.note(&[Record::Present {
                key: key_tag(key),
                row,
            }]);
        }
        let file = Arc::new(file);
        self.table.opened(key, row, Arc::clone(&file));
        Ok(Some(Object::new(file, row.len)))
    }

    /// Too many open files is no reason to fail while we hold some ourselves.
    fn open_file(&self, key: &Key) -> io::Result<File> {
        match self.store.open_object(key) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
                self.table.close_all();
                self.store.open_object(key)
            }
            other => other,
        }
    }

    fn drop_damaged(&self, key: &Key) -> Option<Object> {
        tracing::warn!(%key, "a cached object is missing or damaged; it is fetched anew");
        self.metrics.damaged.inc();
        if let Some(removed) = self.table.remove(key) {
            self.forget(key, removed.row);
        }
        None
    }

    fn forget(&self, key: &Key, row: Row) {
        self.store.remove_object(key);
        self.space.remove_used(on_disk(row.len));
        self.note(&[Record::Removed { key: key_tag(key) }]);
        self.update_gauges();
    }

    fn commit(&self, key: &Key, verified: Verified) -> Result<Object, Error> {
        let mut entry = verified.entry;
        if entry.key() != key {
            return Err(Error::WrongEntry {
                expected: key.clone(),
                got: entry.key().clone(),
            });
        }
        self.store.publish(entry.incoming(), key)?;
        entry.committed();
        let failed = |operation| move |source| self.store.object_failed(operation, key, source);
        let file = self.open_file(key).map_err(failed("open"))?;
        // After the rename: it is a change of the file, too.
        let stamp = Stamp::of(&stat(&file).map_err(failed("examine"))?);
        let row = Row {
            len: entry.len(),
            digest: entry.digest(),
            boot: self.boot,
            stamp,
        };
        let file = Arc::new(file);
        // A damaged object of the same key may have been taken out by nobody yet.
        if let Some(before) = self.table.remove(key) {
            self.space.remove_used(on_disk(before.row.len));
        }
        self.space.add_used(on_disk(row.len));
        if let Some(at) = self.table.insert(key, row, Some(Arc::clone(&file))) {
            self.space.queue(at, key);
        }
        let len = entry.len();
        drop(entry);
        self.note(&[Record::Present {
            key: key_tag(key),
            row,
        }]);
        self.metrics.commits.inc();
        self.metrics.committed_bytes.inc_by(len);
        self.after_commit();
        Ok(Object::new(file, len))
    }

    fn after_commit(&self) {
        self.evict(self.space.excess());
        self.update_gauges();
        if self.commits.fetch_add(1, Ordering::Relaxed) % NOTE_USES_EVERY == NOTE_USES_EVERY - 1 {
            self.note_uses();
        }
        if self.index.is_overgrown(self.table.live()) {
            let snapshot = || present(self.table.take_all());
            if let Err(error) = self.index.compact(&self.store, snapshot) {
                self.metrics.index_errors.inc();
                tracing::warn!(%error, "the cache's index stays as long as it is");
            }
        }
    }

    /// Room for `more` bytes of an object that takes `whole` bytes in all.
    pub(crate) fn make_room(&self, key: &Key, whole: u64, more: u64) -> Result<(), Error> {
        let quota = self.space.quota();
        if whole > quota {
            return Err(Error::TooLarge {
                key: key.clone(),
                bytes: whole,
                quota,
            });
        }
        let excess = self.space.reserve(more);
        if self.evict(excess) < excess && self.space.excess() > 0 {
            self.space.release(more);
            let directory = self.store.directory().to_owned();
            return Err(Error::NoRoom {
                key: key.clone(),
                directory,
                quota,
            });
        }
        Ok(())
    }

    /// Evicts what was not used for longest until `wanted` bytes are free; returns how many are.
    pub(crate) fn evict(&self, wanted: u64) -> u64 {
        let mut freed = 0;
        while freed < wanted {
            let Some(key) = self.space.oldest(&self.table) else {
                break;
            };
            let Some(removed) = self.table.remove_unpinned(&key) else {
                continue;
            };
            let bytes = on_disk(removed.row.len);
            freed += bytes;
            self.metrics.evictions.inc();
            self.metrics.evicted_bytes.inc_by(bytes);
            self.forget(&key, removed.row);
        }
        freed
    }

    fn note_uses(&self) {
        self.note(&present(self.table.take_touched()));
    }

    /// The log is a help for the next start; this process goes on without it.
    fn note(&self, records: &[Record]) {
        if let Err(error) = self.index.append(records) {
            self.metrics.index_errors.inc();
            tracing::warn!(%error, "cannot append to the cache's index");
        }
    }

    fn update_gauges(&self) {
        self.metrics.used_bytes.set(self.space.used());
        self.metrics.objects.set(self.table.live());
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.note_uses();
    }
}

/// Fills the table with what is on disk *and* in the log; removes the rest.
fn restore(store: &Store, table: &Table, space: &Space) -> Result<Index, Error> {
    let loaded = Index::load(store)?;
    let mut kept: HashMap<Key, (u64, Row)> = HashMap::with_capacity(loaded.rows.len());
    store.sweep(|key| match loaded.rows.get(&key_tag(&key)) {
        Some(row) => {
            kept.insert(key, *row);
            true
        }
        // Without a row there is nothing to compare it with.
        None => false,
    })?;
    let mut kept: Vec<_> = kept.into_iter().collect();
    kept.sort_unstable_by_key(|(_, (place, _))| *place);
    let mut records = Vec::with_capacity(kept.len());
    for (key, (_, row)) in kept {
        space.add_used(on_disk(row.len));
        if let Some(at) = table.insert(&key, row, None) {
            space.queue(at, &key);
        }
        records.push(Record::Present {
            key: key_tag(&key),
            row,
        });
    }
    if loaded.damaged || is_overgrown(loaded.records, records.len() as u64) {
        Index::create(store, &records)
    } else {
        Index::resume(store, loaded.records)
    }
}

fn present(uses: Vec<crate::table::Use>) -> Vec<Record> {
    uses.into_iter()
        .map(|one| Record::Present {
            key: key_tag(&one.key),
            row: one.row,
        })
        .collect()
}

fn open_files() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / OPEN_SHARE;
    usize::try_from(limit.min(OPEN_FILES)).unwrap_or(1)
}

/// The file is not there, or something else is in its place.
fn is_damage(error: &io::Error) -> bool {
    let foreign = [
        rustix::io::Errno::LOOP,
        rustix::io::Errno::NXIO,
        rustix::io::Errno::ISDIR,
    ];
    error.kind() == io::ErrorKind::NotFound
        || foreign
            .iter()
            .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn digest(file: &File) -> io::Result<u128> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(hasher.finish_128()),
            Ok(count) => {
                hasher.write(&buffer[..count]);
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
