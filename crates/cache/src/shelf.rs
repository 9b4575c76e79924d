//! The parts of a cache under one roof: room, eviction, commit, first use.
//!
//! Order of locks: ledger, then flights, then a shard of the table; the index's lock is taken with
//! none of them, but that of a shard may be taken under it. Everything that changes what is stored under a key happens in that key's flight.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use twox_hash::xxhash3_128::Hasher;

use crate::entry::Verified;
use crate::index::Index;
use crate::ledger::{Accounts, Claim, Ledger, ROOM_PATIENCE, footprint, slack};
use crate::row::{Record, Row, Stamp, UNKNOWN_BOOT, key_tag};
use crate::single_flight::{Flight, SingleFlight};
use crate::store::{Store, is_regular, stat};
use crate::table::{Candidate, Lookup, Removed, Table, Use};
use crate::{Error, Key, Metrics, Object};

/// Last uses are written down this often, if anything happens at all.
const USE_INTERVAL: Duration = Duration::from_secs(60);
/// What is evicted where a full disk has no room for a directory: several blocks.
const DIRECTORY: u64 = 64 << 10;
/// Bytes read at a time for verification.
const READ: usize = 256 << 10;

/// Everything behind [`crate::Cache`].
pub(crate) struct Shelf {
    pub(crate) store: Store,
    pub(crate) index: Index,
    pub(crate) table: Table,
    pub(crate) ledger: Ledger,
    pub(crate) flights: SingleFlight<Key, Object>,
    pub(crate) metrics: Metrics,
    pub(crate) boot: u64,
    pub(crate) uses_written: Mutex<Instant>,
}

/// An object that is out of the table and about to leave the disk. Nobody can fetch it anew before.
struct Victim<'a> {
    key: Key,
    removed: Removed,
    _flight: Option<Flight<'a, Key, Object>>,
}

impl Shelf {
    /// Raises a claim to `total` bytes on disk, evicting what is necessary.
    pub(crate) fn claim(&self, key: &Key, claim: &mut Claim, total: u64) -> Result<(), Error> {
        let Some(more) = total.checked_sub(claim.bytes).filter(|more| *more > 0) else {
            return Ok(());
        };
        let quota = self.ledger.quota();
        if total > quota {
            return Err(Error::TooLarge {
                key: key.clone(),
                bytes: total,
                quota,
            });
        }
        let deadline = Instant::now() + ROOM_PATIENCE;
        let mut accounts = self.ledger.lock();
        loop {
            let room = self.ledger.room(&accounts);
            if claim.overdraft || accounts.used + accounts.writing + more <= room {
                break;
            }
            let excess = self.ledger.excess(&accounts, more);
            let (victims, in_use) = match excess {
                0 => (Vec::new(), false),
                excess => self.select(&mut accounts, excess + slack(quota)),
            };
            if !victims.is_empty() {
                drop(accounts);
                self.discard(victims);
                accounts = self.ledger.lock();
                continue;
            }
            let others = accounts.leaving > 0 || accounts.writing > claim.bytes || in_use;
            // One object may go over, as long as nothing is over already: neither what was
            // committed, nor what others were promised, nor what has not left the disk yet.
            let within = accounts.used + accounts.writing <= room;
            if excess > 0 && within && !accounts.overdraft {
                accounts.overdraft = true;
                claim.overdraft = true;
                break;
            }
            let waited = others
                .then(|| self.ledger.wait(accounts, deadline))
                .flatten();
            accounts = waited.ok_or_else(|| Error::NoRoom {
                key: key.clone(),
                directory: self.store.directory().to_path_buf(),
                quota,
            })?;
        }
        accounts.writing += more;
        claim.bytes += more;
        Ok(())
    }

    /// Evicts at least `bytes`, as far as there is anything; whether there was.
    pub(crate) fn evict(&self, bytes: u64) -> bool {
        let mut accounts = self.ledger.lock();
        let (victims, _) = self.select(&mut accounts, bytes);
        drop(accounts);
        let any = !victims.is_empty();
        self.discard(victims);
        any
    }

    /// Counts what others keep beside the cache; evicts what it leaves no room for.
    pub(crate) fn count_beside(&self, bytes: u64) {
        let mut accounts = self.ledger.lock();
        accounts.beside = bytes;
        self.show(&accounts);
        drop(accounts);
        self.evict_excess();
        self.ledger.notify();
    }

    /// Evicts what a quota lowered since the last run, or a tree that came, leaves no room for.
    pub(crate) fn evict_excess(&self) {
        let mut accounts = self.ledger.lock();
        let victims = match self.ledger.excess(&accounts, 0) {
            0 => Vec::new(),
            excess => self.select(&mut accounts, excess).0,
        };
        drop(accounts);
        self.discard(victims);
    }

    /// Takes the least recently used objects of at least `wanted` bytes out of the table.
    ///
    /// Also says whether objects were passed over because somebody is just opening them.
    fn select(&self, accounts: &mut Accounts, wanted: u64) -> (Vec<Victim<'_>>, bool) {
        let mut victims = Vec::new();
        let mut in_use = Vec::new();
        let mut chosen = 0;
        while chosen < wanted {
            let Some(oldest) = accounts.queue.pop() else {
                break;
            };
            let (queued, key) = oldest.0;
            match self.table.candidate(&key, queued) {
                Candidate::Gone => continue,
                Candidate::UsedAt(used) => {
                    accounts.queue.push(std::cmp::Reverse((used, key)));
                    continue;
                }
                Candidate::Evictable => {}
            }
            let Some(flight) = self.flights.try_lead(&key) else {
                in_use.push(std::cmp::Reverse((queued, key)));
                continue;
            };
            if let Some(removed) = self.table.remove_unpinned(&key) {
                let bytes = footprint(removed.row.len);
                chosen += bytes;
                self.metrics.evictions.inc();
                self.metrics.evicted_bytes.inc_by(bytes);
                victims.push(Victim {
                    key,
                    removed,
                    _flight: Some(flight),
                });
            }
        }
        accounts.leaving += chosen;
        let passed_over = !in_use.is_empty();
        accounts.queue.extend(in_use);
        (victims, passed_over)
    }

    /// Removes victims from the disk, the index and the accounts, in this order.
    fn discard(&self, victims: Vec<Victim<'_>>) {
        if victims.is_empty() {
            return;
        }
        let mut bytes = 0;
        let mut records = Vec::with_capacity(victims.len());
        for victim in &victims {
            self.store.remove_object(&victim.key);
            bytes += footprint(victim.removed.row.len);
            records.push(Record::Removed {
                key: key_tag(&victim.key),
            });
        }
        self.record(&records);
        let mut accounts = self.ledger.lock();
        accounts.used -= bytes;
        accounts.leaving -= bytes;
        self.show(&accounts);
        drop(accounts);
        self.ledger.notify();
        // Only now may these keys be fetched anew.
        drop(victims);
    }

    /// Removes an object whose flight the caller holds.
    pub(crate) fn remove(&self, key: &Key) -> bool {
        let Some(removed) = self.table.remove(key) else {
            return false;
        };
        self.ledger.lock().leaving += footprint(removed.row.len);
        self.discard(vec![Victim {
            key: key.clone(),
            removed,
            _flight: None,
        }]);
        true
    }

    /// Makes verified content visible. The caller holds the key's flight.
    pub(crate) fn commit(&self, mut verified: Verified) -> Result<Object, Error> {
        let key = verified.key().clone();
        let Some(finished) = verified.finished() else {
            let missing = io::Error::from(ErrorKind::NotFound);
            return Err(self.store.object_failed("commit", &key, missing));
        };
        let (len, digest) = (finished.len, finished.digest);
        let mut published = self.store.publish(finished.incoming, &key);
        if matches!(published, Err(Error::DiskFull { .. })) && self.evict(DIRECTORY) {
            published = self.store.publish(finished.incoming, &key);
        }
        published?;
        let claim = verified.published();
        let (file, stamp) = self
            .reopen(&key)
            .inspect_err(|_| self.store.remove_object(&key))?;
        let row = Row {
            len,
            digest,
            boot: self.boot,
            stamp,
        };
        let file = Arc::new(file);
        let queued = self.table.insert(&key, row, Some(file.clone()));
        let mut accounts = self.ledger.lock();
        accounts.settle(claim);
        accounts.used += footprint(len);
        accounts
            .queue
            .extend(queued.map(|at| std::cmp::Reverse((at, key.clone()))));
        self.show(&accounts);
        drop(accounts);
        self.ledger.notify();
        self.record(&[Record::Present {
            key: key_tag(&key),
            row,
        }]);
        self.metrics.commits.inc();
        self.metrics.committed_bytes.inc_by(len);
        self.write_uses_in_time();
        Ok(Object::new(file, len))
    }

    /// The file under its name, read-only, with the stamp that renaming gave it.
    fn reopen(&self, key: &Key) -> Result<(File, Stamp), Error> {
        let failed = |source| self.store.object_failed("open", key, source);
        let file = self.open_file(key).map_err(failed)?;
        let stamp = Stamp::of(&stat(&file).map_err(failed)?);
        Ok((file, stamp))
    }

    /// Opens an object that the table knows; verifies it where nothing vouches for it yet.
    ///
    /// The caller holds the key's flight. Damaged objects are removed: `None`.
    pub(crate) fn open(&self, key: &Key) -> Result<Option<Object>, Error> {
        let row = match self.table.peek(key) {
            Lookup::Absent => return Ok(None),
            Lookup::Open(object) => return Ok(Some(object)),
            Lookup::Closed(row) => row,
        };
        match self.open_verified(key, row) {
            Ok(Some(file)) => {
                self.write_uses_in_time();
                Ok(Some(Object::new(file, row.len)))
            }
            Ok(None) => {
                self.remove_damaged(key, "its content has changed");
                Ok(None)
            }
            Err(error) if is_damage(&error) => {
                self.remove_damaged(key, &error.to_string());
                Ok(None)
            }
            Err(error) => Err(self.store.object_failed("open", key, error)),
        }
    }

    fn remove_damaged(&self, key: &Key, reason: &str) {
        tracing::warn!(%key, reason, "removing a damaged object from the cache");
        self.metrics.damaged.inc();
        self.remove(key);
    }

    /// `None` if the content is not what the row says.
    fn open_verified(&self, key: &Key, row: Row) -> io::Result<Option<Arc<File>>> {
        let file = self.open_file(key)?;
        let stat = stat(&file)?;
        let len = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if !is_regular(&stat) || len != row.len {
            return Ok(None);
        }
        let stamp = Stamp::of(&stat);
        let vouched = row.boot == self.boot && self.boot != UNKNOWN_BOOT && row.stamp == stamp;
        if !vouched {
            self.metrics.verifications.inc();
            if digest(&file)? != (row.len, row.digest) {
                return Ok(None);
            }
        }
        let file = Arc::new(file);
        let good = Row {
            boot: self.boot,
            stamp,
            ..row
        };
        self.table.opened(key, good, file.clone());
        if !vouched {
            self.record(&[Record::Present {
                key: key_tag(key),
                row: good,
            }]);
        }
        Ok(Some(file))
    }

    /// Opens, closing what is only kept open for speed if there are too many files.
    fn open_file(&self, key: &Key) -> io::Result<File> {
        match self.store.open_object(key) {
            Err(error) if is_out_of_files(&error) => {
                self.table.close_all();
                self.store.open_object(key)
            }
            other => other,
        }
    }

    /// Writes to the index. A failure costs only what happens after a restart.
    fn record(&self, records: &[Record]) {
        self.recorded(self.index.append(records));
    }

    fn recorded(&self, appended: io::Result<()>) {
        if let Err(error) = appended {
            self.metrics.index_errors.inc();
            tracing::warn!(%error, "cannot write the cache's index");
        }
        if self.index.is_overgrown(self.table.live()) {
            self.compact();
        }
    }

    fn compact(&self) {
        let snapshot = || present(self.table.take_all());
        if let Err(error) = self.index.compact(&self.store, snapshot) {
            self.metrics.index_errors.inc();
            tracing::warn!(%error, "cannot compact the cache's index");
        }
    }

    /// Writes down what was used lately: a row at the end of the log is one used last.
    pub(crate) fn write_uses(&self) {
        self.recorded(
            self.index
                .append_present(|| present(self.table.take_touched())),
        );
    }

    fn write_uses_in_time(&self) {
        // Whoever finds it locked leaves it to the other.
        let Ok(mut written) = self.uses_written.try_lock() else {
            return;
        };
        if written.elapsed() < USE_INTERVAL {
            return;
        }
        *written = Instant::now();
        drop(written);
        self.write_uses();
    }

    /// Brings the gauges up to date.
    pub(crate) fn show(&self, accounts: &Accounts) {
        self.metrics.used_bytes.set(accounts.used + accounts.beside);
        self.metrics.beside_bytes.set(accounts.beside);
        self.metrics.objects.set(self.table.live());
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.write_uses();
    }
}

/// Uses as records, in their order.
pub(crate) fn present(uses: Vec<Use>) -> Vec<Record> {
    let record = |one: Use| Record::Present {
        key: key_tag(&one.key),
        row: one.row,
    };
    uses.into_iter().map(record).collect()
}

/// Failures that say that the object is gone or unreadable, not that we are in trouble.
fn is_damage(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    let gone = [
        Errno::NOENT,
        Errno::NOTDIR,
        Errno::LOOP,
        Errno::ISDIR,
        Errno::NXIO,
        Errno::IO,
        // The file system's own checksums and checks of structure.
        Errno::BADMSG,
        Errno::UCLEAN,
    ];
    errno.is_some_and(|errno| gone.contains(&errno))
}

fn is_out_of_files(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

/// Length and digest of what is in the file.
fn digest(mut file: &File) -> io::Result<(u64, u128)> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; READ];
    let mut len = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((len, hasher.finish_128())),
            Ok(count) => {
                hasher.write(&buffer[..count]);
                len += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
