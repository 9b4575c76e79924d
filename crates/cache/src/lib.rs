//! Keeps verified content by key on local disk, within a quota; each key is fetched at most once at a time.
//!
//! ```text
//! <directory>/v1/            mode 0700, locked by the one process that uses it
//! ├── objects/3f/9a…-rmd160  verified content; name = key, never rewritten, mode 0600
//! ├── incoming/              unfinished; emptied at start
//! └── index                  append-only log: length, digest, boot and stamp of each object, in the order of use
//! ```
//! The caller proves by a digest of its own that a fetched content is the right one
//! ([`Entry::finish`]); the cache guards what it stored against the disk by another (XXH3-128),
//! which is compared at the first use after a boot and whenever the file's stamp differs.
//! Nothing is synced: what a crash damages is found out and fetched anew.
//!
//! The crate is synchronous and knows no source: how to fetch is an argument.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod entry;
mod error;
mod index;
mod key;
mod ledger;
mod metrics;
mod object;
mod row;
mod shelf;
mod single_flight;
mod store;
mod table;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use entry::{Entry, Verified};
pub use error::{Error, FetchError};
pub use key::{Key, KeyError, LONGEST_KEY, SHORTEST_KEY};
pub use metrics::Metrics;
pub use object::Object;

use index::Index;
use ledger::{Ledger, footprint};
use row::{Record, Row, boot_tag, key_tag};
use shelf::Shelf;
use single_flight::{Outcome, Role, SingleFlight};
use store::Store;
use table::{Lookup, Table};

/// Version of the disk layout: a directory of its own, so another version's is ignored, not misread.
pub const LAYOUT: &str = "v1";

/// Objects kept open at most, so that a hit costs no system call.
const OPEN_OBJECTS: u64 = 1024;
/// The part of the process's file descriptors that these may take.
const OPEN_SHARE: u64 = 4;
/// One in so many objects is given up at a time for the index on a full disk.
const INDEX_SHARE: usize = 16;
/// A row that says more bytes than that is none of ours; what is less can be summed up without care.
const LONGEST_CONTENT: u64 = 1 << 44;
/// More beside the cache than this is no real number, and sums do not overflow.
const LARGEST_BESIDE: u64 = 1 << 60;
/// How long a call waits for another one's fetch of the same object, retries included.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where and how much.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory, made if it is missing; used by one process at a time.
    pub directory: PathBuf,
    /// Bytes on disk (whole blocks of 4 KiB) for contents, and for what [`Cache::count_beside`] says.
    pub quota: u64,
    /// What `/proc/sys/kernel/random/boot_id` says. Empty: unknown, so contents are verified once after each start.
    pub boot_id: String,
}

/// A cache on disk; shared as `Arc<Cache>`.
pub struct Cache {
    shelf: Arc<Shelf>,
}

impl Cache {
    /// Opens or makes the cache.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::DiskFull`], [`Error::Io`]. A damaged index is none: the cache begins empty.
    pub fn open(config: Config) -> Result<Self, Error> {
        let Config {
            directory,
            quota,
            boot_id,
        } = config;
        let store = Store::open(&directory)?;
        let mut loaded = Index::load(&store)?;
        let table = Table::new(open_files());
        let ledger = Ledger::new(quota);
        // The log names keys by tags only; the directory has the names themselves.
        let mut present = Vec::with_capacity(loaded.rows.len());
        store.sweep(|key| match loaded.rows.remove(&key_tag(&key)) {
            Some((place, row)) if row.len <= LONGEST_CONTENT => {
                present.push((place, key, row));
                true
            }
            _ => false,
        })?;
        present.sort_unstable_by_key(|(place, ..)| *place);
        let live = present.len() as u64;
        let index = if loaded.damaged || index::is_overgrown(loaded.records, live) {
            create_index(&store, &mut present)?
        } else {
            Index::resume(&store, loaded.records)?
        };
        let mut accounts = ledger.lock();
        for (_, key, row) in &present {
            let queued = table.insert(key, *row, None);
            accounts.used += footprint(row.len);
            accounts
                .queue
                .extend(queued.map(|at| std::cmp::Reverse((at, key.clone()))));
        }
        drop(accounts);
        let shelf = Shelf {
            store,
            index,
            table,
            ledger,
            flights: SingleFlight::new(),
            metrics: Metrics::default(),
            boot: boot_tag(&boot_id),
            uses_written: Mutex::new(Instant::now()),
        };
        shelf.metrics.quota_bytes.set(quota);
        shelf.show(&shelf.ledger.lock());
        shelf.evict_excess();
        Ok(Self {
            shelf: Arc::new(shelf),
        })
    }

    /// The object, if it is present and intact. Waits only for another call that just opens or fetches it.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Io`].
    pub fn get(&self, key: &Key) -> Result<Option<Object>, Error> {
        let mut deadline = None;
        loop {
            match self.shelf.table.touch(key) {
                Lookup::Open(object) => return Ok(Some(self.hit(object))),
                Lookup::Absent => break,
                Lookup::Closed(_) => {}
            }
            // The clock is not read on the hot path.
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
            match self.shelf.flights.join(key) {
                Role::Leader(flight) => {
                    let Some(object) = self.shelf.open(key)? else {
                        break;
                    };
                    flight.land(object.clone());
                    return Ok(Some(self.hit(object)));
                }
                Role::Passenger(wait) => match wait.until(deadline) {
                    Outcome::Landed(object) => return Ok(Some(self.hit(object))),
                    Outcome::Abandoned => {}
                    Outcome::TimedOut => return Err(Error::Timeout { key: key.clone() }),
                },
            }
        }
        self.shelf.metrics.misses.inc();
        Ok(None)
    }

    /// The object; if it is absent, `fetch` writes and verifies it, while others who want it wait.
    ///
    /// If a fetch fails or panics, the next caller's own fetch is tried.
    ///
    /// # Errors
    /// What `fetch` returned, or [`FetchError::Cache`].
    pub fn get_or_fetch<E>(
        &self,
        key: &Key,
        fetch: impl FnOnce(Entry) -> Result<Verified, FetchError<E>>,
    ) -> Result<Object, FetchError<E>> {
        if let Lookup::Open(object) = self.shelf.table.touch(key) {
            return Ok(self.hit(object));
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.shelf.flights.join(key) {
                Role::Leader(flight) => {
                    // Between the look-up and the flight another one may have landed.
                    if let Some(object) = self.shelf.open(key)? {
                        self.shelf.table.touch(key);
                        flight.land(object.clone());
                        return Ok(self.hit(object));
                    }
                    self.shelf.metrics.misses.inc();
                    let object = self.fetch(key, fetch)?;
                    flight.land(object.clone());
                    return Ok(object);
                }
                Role::Passenger(wait) => {
                    self.shelf.metrics.joined.inc();
                    match wait.until(deadline) {
                        Outcome::Landed(object) => return Ok(self.hit(object)),
                        Outcome::Abandoned => {}
                        Outcome::TimedOut => Err(Error::Timeout { key: key.clone() })?,
                    }
                }
            }
        }
    }

    fn fetch<E>(
        &self,
        key: &Key,
        fetch: impl FnOnce(Entry) -> Result<Verified, FetchError<E>>,
    ) -> Result<Object, FetchError<E>> {
        let verified = fetch(Entry::new(self.shelf.clone(), key.clone()))?;
        if verified.key() != key || !verified.belongs_to(&self.shelf) {
            Err(Error::WrongEntry {
                expected: key.clone(),
                got: verified.key().clone(),
            })?;
        }
        Ok(self.shelf.commit(verified)?)
    }

    /// Keeps `key`'s object from eviction until it is unpinned as many times; it need not be present.
    ///
    /// Pins are the process's: they end with it.
    pub fn pin(&self, key: &Key) {
        self.shelf.table.pin(key);
    }

    /// Undoes one [`Cache::pin`].
    pub fn unpin(&self, key: &Key) {
        let mut accounts = self.shelf.ledger.lock();
        if let Some(at) = self.shelf.table.unpin(key) {
            accounts.queue.push(std::cmp::Reverse((at, key.clone())));
            drop(accounts);
            self.shelf.ledger.notify();
        }
    }

    /// Removes an object that its user found to be bad, pinned or not; whether there was one.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it is being opened for too long.
    pub fn remove(&self, key: &Key) -> Result<bool, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.shelf.flights.join(key) {
                Role::Leader(_flight) => return Ok(self.shelf.remove(key)),
                Role::Passenger(wait) => {
                    if matches!(wait.until(deadline), Outcome::TimedOut) {
                        return Err(Error::Timeout { key: key.clone() });
                    }
                }
            }
        }
    }

    /// Whether the object is present as far as is known without touching the disk. Not a use.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        !matches!(self.shelf.table.peek(key), Lookup::Absent)
    }

    /// Writes down last uses, which otherwise happens about every minute of activity and on drop.
    pub fn write_uses(&self) {
        self.shelf.write_uses();
    }

    /// Counts `bytes` on disk that the caller keeps in files of its own within this cache's quota, in place of what
    /// was counted so before. Objects make room at once; where there is no more room, one object at a time is kept.
    pub fn count_beside(&self, bytes: u64) {
        self.shelf.count_beside(bytes.min(LARGEST_BESIDE));
    }

    /// Bytes on disk (whole blocks) in use, by objects being written and by files beside the cache as well.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let accounts = self.shelf.ledger.lock();
        accounts.used + accounts.writing + accounts.beside
    }

    /// The quota in bytes.
    #[must_use]
    pub fn quota(&self) -> u64 {
        self.shelf.ledger.quota()
    }

    /// The cache's numbers.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shelf.metrics
    }

    fn hit(&self, object: Object) -> Object {
        self.shelf.metrics.hits.inc();
        object
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Cache")
            .field("directory", &self.shelf.store.directory())
            .finish_non_exhaustive()
    }
}

/// Writes a new log; on a full disk the objects unused for longest make room for it, or no start would ever succeed.
fn create_index(store: &Store, present: &mut Vec<(u64, Key, Row)>) -> Result<Index, Error> {
    loop {
        let record = |(_, key, row): &(u64, Key, Row)| Record::Present {
            key: key_tag(key),
            row: *row,
        };
        match Index::create(store, &present.iter().map(record).collect::<Vec<_>>()) {
            Err(Error::DiskFull { .. }) if !present.is_empty() => {
                let some = present.len().div_ceil(INDEX_SHARE);
                for (_, key, _) in present.drain(..some) {
                    store.remove_object(&key);
                }
            }
            other => return other,
        }
    }
}

/// How many objects may be kept open under the process's limit.
fn open_files() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let share = limit.map_or(OPEN_OBJECTS, |limit| limit / OPEN_SHARE);
    usize::try_from(share.min(OPEN_OBJECTS)).unwrap_or(1)
}
