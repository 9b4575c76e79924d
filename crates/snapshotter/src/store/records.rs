//! Snapshot records in SQLite: each operation is one transaction, durable when it returns.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{
    Connection, OpenFlags, OptionalExtension as _, Row, Transaction, TransactionBehavior, params,
};

use super::schema;
use super::snapshot::{Claim, Kind, Parent, Snapshot, Usage};
use crate::Error;
use crate::labels::{self, Labels};
use crate::layers::ChainLayer;

/// Name of the file below the root.
const FILE: &str = "records.db";
/// containerd's own server streams lists in blocks of this many.
const PAGE: i64 = 100;
/// Idle connections kept for readers.
const IDLE_READERS: usize = 4;

/// SQLite's answer.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DatabaseError(rusqlite::Error);

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Records(DatabaseError(error))
    }
}

/// The records of one state directory.
pub(crate) struct Records {
    writer: Mutex<Connection>,
    /// Readers do not wait for a writer's fsync.
    readers: Mutex<Vec<Connection>>,
    file: PathBuf,
}

/// An active or view to be.
#[derive(Debug)]
pub(crate) struct NewSnapshot<'a> {
    pub(crate) id: i64,
    pub(crate) name: &'a str,
    pub(crate) kind: Kind,
    pub(crate) parent: &'a str,
    pub(crate) labels: &'a Labels,
    pub(crate) reason: Option<&'a str>,
    pub(crate) chain: Option<&'a str>,
    pub(crate) now: i64,
}

/// A committed lazy layer to be.
#[derive(Debug)]
pub(crate) struct NewClaim<'a> {
    pub(crate) id: i64,
    pub(crate) name: &'a str,
    pub(crate) parent: &'a str,
    pub(crate) labels: &'a Labels,
    pub(crate) claim: &'a Claim,
    pub(crate) usage: Usage,
    pub(crate) now: i64,
}

/// Where a list goes on. Unproven claims come last: containerd takes the first of those that have the chainID.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    private: bool,
    id: i64,
}

impl Cursor {
    pub(crate) fn after(snapshot: &Snapshot) -> Self {
        Self {
            private: snapshot.claim.as_ref().is_some_and(|claim| claim.private),
            id: snapshot.id,
        }
    }
}

const SELECT: &str = "SELECT s.id, s.name, s.kind, s.parent, p.name, s.created, s.updated, s.labels, s.size, s.inodes,
    s.reason, s.chain, s.private, s.namespace, s.layer, s.tree, s.source, s.diff_id,
    s.reference, s.annotations
    FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent";

impl Records {
    /// Opens or creates the records below `root`.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let file = root.join(FILE);
        let mut writer = Connection::open(&file)?;
        schema::configure(&writer)?;
        schema::create_or_check(&mut writer)?;
        Ok(Self {
            writer: Mutex::new(writer),
            readers: Mutex::default(),
            file,
        })
    }

    /// Opens existing records; every write fails.
    pub(crate) fn open_read_only(root: &Path) -> Result<Self, Error> {
        let file = root.join(FILE);
        let connection = Connection::open_with_flags(
            &file,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        schema::check(&connection)?;
        Ok(Self {
            readers: Mutex::new(vec![reader(&file)?]),
            writer: Mutex::new(connection),
            file,
        })
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut writer = lock(&self.writer);
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = work(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let idle = lock(&self.readers).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => reader(&self.file)?,
        };
        let value = work(&connection);
        let mut readers = lock(&self.readers);
        if readers.len() < IDLE_READERS {
            readers.push(connection);
        }
        value
    }

    /// The snapshot called `name`.
    pub(crate) fn get(&self, name: &str) -> Result<Snapshot, Error> {
        self.read(|connection| get(connection, name))
    }

    /// Refuses what [`Self::create`] would refuse; returns the parent.
    pub(crate) fn check_new(&self, name: &str, parent: &str) -> Result<Option<Snapshot>, Error> {
        self.read(|connection| check_new(connection, name, parent))
    }

    /// Records an active or a view.
    pub(crate) fn create(&self, new: &NewSnapshot<'_>) -> Result<(), Error> {
        self.write(|transaction| {
            let parent = check_new(transaction, new.name, new.parent)?;
            transaction
                .prepare_cached(
                    "INSERT INTO snapshots (id, name, kind, parent, created, updated, labels, snapshot_ref, reason, chain)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7, ?8, ?9)",
                )?
                .execute(params![
                    new.id,
                    new.name,
                    new.kind as i64,
                    parent.map(|parent| parent.id),
                    new.now,
                    to_json(new.labels),
                    new.labels.get(labels::SNAPSHOT_REF),
                    new.reason,
                    new.chain,
                ])?;
            Ok(())
        })
    }

    /// Records a lazy layer, committed from the start.
    pub(crate) fn claim(&self, new: &NewClaim<'_>) -> Result<(), Error> {
        let layer = &new.claim.layer;
        self.write(|transaction| {
            let parent = check_new(transaction, new.name, new.parent)?;
            transaction
                .prepare_cached(
                    "INSERT INTO snapshots (id, name, kind, parent, created, updated, labels, snapshot_ref, size, inodes,
                     private, namespace, layer, tree, source, diff_id, reference, annotations)
                     VALUES (?1, ?2, 3, ?3, ?4, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
                )?
                .execute(params![
                    new.id,
                    new.name,
                    parent.map(|parent| parent.id),
                    new.now,
                    to_json(new.labels),
                    new.labels.get(labels::SNAPSHOT_REF),
                    to_integer(new.usage.size),
                    to_integer(new.usage.inodes),
                    new.claim.private,
                    new.claim.namespace,
                    layer.layer.to_string(),
                    layer.tree,
                    layer.source,
                    layer.diff_id.as_ref().map(ToString::to_string),
                    layer.reference,
                    (!layer.annotations.is_empty()).then(|| to_json(&layer.annotations)),
                ])?;
            Ok(())
        })
    }

    /// Makes the active `key` the committed `name`; a parent may be given to one that has none.
    pub(crate) fn commit(
        &self,
        name: &str,
        key: &str,
        labels: &Labels,
        parent: &str,
        now: i64,
    ) -> Result<Snapshot, Error> {
        self.write(|transaction| {
            if find(transaction, name)?.is_some() {
                return Err(Error::KeyExists(name.to_owned()));
            }
            let active = get(transaction, key)?;
            if active.kind != Kind::Active {
                return Err(Error::NotActive(key.to_owned()));
            }
            let parent_id = rebased(transaction, &active, parent)?;
            transaction
                .prepare_cached(
                    "UPDATE snapshots SET name = ?2, kind = 3, parent = ?3, created = ?4, updated = ?4, labels = ?5,
                     snapshot_ref = ?6, chain = NULL WHERE id = ?1",
                )?
                .execute(params![
                    active.id,
                    name,
                    parent_id,
                    now,
                    to_json(labels),
                    labels.get(labels::SNAPSHOT_REF)
                ])?;
            Ok(active)
        })
    }

    /// Forgets a snapshot without children.
    pub(crate) fn remove(&self, name: &str) -> Result<Snapshot, Error> {
        self.write(|transaction| {
            let snapshot = get(transaction, name)?;
            let children = transaction
                .prepare_cached("SELECT 1 FROM snapshots WHERE parent = ?1 LIMIT 1")?
                .exists([snapshot.id])?;
            if children {
                return Err(Error::HasChildren(name.to_owned()));
            }
            transaction
                .prepare_cached("DELETE FROM snapshots WHERE id = ?1")?
                .execute([snapshot.id])?;
            Ok(snapshot)
        })
    }

    /// Replaces the labels by what `change` makes of them.
    pub(crate) fn update(
        &self,
        name: &str,
        now: i64,
        change: impl FnOnce(Labels) -> Result<Labels, Error>,
    ) -> Result<Snapshot, Error> {
        self.write(|transaction| {
            let mut snapshot = get(transaction, name)?;
            snapshot.labels = change(std::mem::take(&mut snapshot.labels))?;
            snapshot.updated = now;
            transaction
                .prepare_cached("UPDATE snapshots SET labels = ?2, snapshot_ref = ?3, updated = ?4 WHERE id = ?1")?
                .execute(params![snapshot.id, to_json(&snapshot.labels), snapshot.snapshot_ref(), now])?;
            Ok(snapshot)
        })
    }

    /// Keeps the usage of a committed snapshot; one that is gone meanwhile is no error.
    pub(crate) fn set_usage(&self, id: i64, usage: Usage) -> Result<(), Error> {
        self.write(|transaction| {
            transaction
                .prepare_cached("UPDATE snapshots SET size = ?2, inodes = ?3 WHERE id = ?1")?
                .execute(params![
                    id,
                    to_integer(usage.size),
                    to_integer(usage.inodes)
                ])?;
            Ok(())
        })
    }

    /// The snapshot with a number, if there is one.
    pub(crate) fn with_id(&self, id: i64) -> Result<Option<Snapshot>, Error> {
        let query = format!("{SELECT} WHERE s.id = ?1");
        Ok(self.read(|connection| all(connection, &query, [id]))?.pop())
    }

    /// All below a snapshot, nearest first.
    pub(crate) fn ancestors(&self, id: i64) -> Result<Vec<Snapshot>, Error> {
        let query = format!(
            "WITH RECURSIVE up(id, parent, depth) AS (
                SELECT id, parent, 0 FROM snapshots WHERE id = ?1
                UNION ALL SELECT n.id, n.parent, up.depth + 1 FROM snapshots n JOIN up ON n.id = up.parent)
             {SELECT} JOIN up ON up.id = s.id WHERE up.depth > 0 ORDER BY up.depth"
        );
        self.read(|connection| all(connection, &query, [id]))
    }

    /// Committed snapshots for a chainID on exactly that parent, proven ones first.
    pub(crate) fn with_ref(
        &self,
        snapshot_ref: &str,
        parent: &str,
    ) -> Result<Vec<Snapshot>, Error> {
        let query = format!(
            "{SELECT} WHERE s.snapshot_ref = ?1 AND s.kind = 3 AND coalesce(p.name, '') = ?2 ORDER BY s.private, s.id"
        );
        self.read(|connection| all(connection, &query, [snapshot_ref, parent]))
    }

    /// Up to a hundred snapshots after `cursor`, only those of a chainID if one is given.
    pub(crate) fn page(
        &self,
        cursor: Cursor,
        snapshot_ref: Option<&str>,
    ) -> Result<Vec<Snapshot>, Error> {
        let only = if snapshot_ref.is_some() {
            "s.snapshot_ref = ?4"
        } else {
            "?4 IS NULL"
        };
        let query = format!(
            "{SELECT} WHERE (s.private, s.id) > (?1, ?2) AND {only} ORDER BY s.private, s.id LIMIT ?3"
        );
        self.read(|connection| {
            all(
                connection,
                &query,
                params![cursor.private, cursor.id, PAGE, snapshot_ref],
            )
        })
    }

    /// Whether an active or view stands on the chain.
    pub(crate) fn chain_in_use(&self, chain: &str) -> Result<bool, Error> {
        self.read(|connection| {
            Ok(connection
                .prepare_cached("SELECT 1 FROM snapshots WHERE chain = ?1 LIMIT 1")?
                .exists([chain])?)
        })
    }

    /// One active or view of each chain in use.
    pub(crate) fn chain_users(&self) -> Result<Vec<Snapshot>, Error> {
        let query = format!(
            "{SELECT} WHERE s.id IN (SELECT min(id) FROM snapshots WHERE chain IS NOT NULL GROUP BY chain)"
        );
        self.read(|connection| all(connection, &query, []))
    }

    /// Numbers of all snapshots.
    pub(crate) fn ids(&self) -> Result<HashSet<i64>, Error> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT id FROM snapshots")?;
            let ids = statement.query_map([], |row| row.get(0))?;
            Ok(ids.collect::<Result<_, _>>()?)
        })
    }

    /// The highest number that was ever recorded.
    pub(crate) fn last_id(&self) -> Result<i64, Error> {
        self.read(|connection| {
            let last = connection
                .query_row(
                    "SELECT seq FROM sqlite_sequence WHERE name = 'snapshots'",
                    [],
                    |row| row.get(0),
                )
                .optional()?;
            Ok(last.unwrap_or(0))
        })
    }
}

fn reader(file: &Path) -> Result<Connection, Error> {
    let connection = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(connection)
}

/// A thread that panicked left at most a rolled-back transaction.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_new(connection: &Connection, name: &str, parent: &str) -> Result<Option<Snapshot>, Error> {
    if find(connection, name)?.is_some() {
        return Err(Error::KeyExists(name.to_owned()));
    }
    if parent.is_empty() {
        return Ok(None);
    }
    let parent = get(connection, parent)?;
    if parent.kind != Kind::Committed {
        return Err(Error::ParentNotCommitted(parent.name));
    }
    Ok(Some(parent))
}

/// The parent's number after a commit that gave `wanted` as parent ("" = as it is).
fn rebased(connection: &Connection, active: &Snapshot, wanted: &str) -> Result<Option<i64>, Error> {
    let current = active.parent.as_ref().map(|parent| parent.id);
    if wanted.is_empty() || active.parent_name() == wanted {
        return Ok(current);
    }
    if current.is_some() {
        return Err(Error::ParentMismatch {
            key: active.name.clone(),
            has: active.parent_name().to_owned(),
            given: wanted.to_owned(),
        });
    }
    let parent = get(connection, wanted)?;
    if parent.kind != Kind::Committed {
        return Err(Error::RebaseOntoUncommitted(parent.name));
    }
    Ok(Some(parent.id))
}

fn get(connection: &Connection, name: &str) -> Result<Snapshot, Error> {
    find(connection, name)?.ok_or_else(|| Error::NotFound(name.to_owned()))
}

fn find(connection: &Connection, name: &str) -> Result<Option<Snapshot>, Error> {
    Ok(all(connection, &format!("{SELECT} WHERE s.name = ?1"), [name])?.pop())
}

fn all(
    connection: &Connection,
    query: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<Snapshot>, Error> {
    let mut statement = connection.prepare_cached(query)?;
    let mut rows = statement.query(parameters)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(from_row(row)?);
    }
    Ok(found)
}

fn from_row(row: &Row<'_>) -> Result<Snapshot, Error> {
    let id = row.get(0)?;
    let bad = |problem: String| Error::BadRecord { id, problem };
    let kind: i64 = row.get(2)?;
    let labels: String = row.get(7)?;
    let size: Option<i64> = row.get(8)?;
    let inodes: Option<i64> = row.get(9)?;
    let parent = match (row.get(3)?, row.get(4)?) {
        (Some(id), Some(name)) => Some(Parent { id, name }),
        _ => None,
    };
    Ok(Snapshot {
        id,
        name: row.get(1)?,
        kind: Kind::from_number(kind).ok_or_else(|| bad(format!("kind {kind}")))?,
        parent,
        created: row.get(5)?,
        updated: row.get(6)?,
        labels: serde_json::from_str(&labels).map_err(|error| bad(error.to_string()))?,
        usage: size.zip(inodes).map(|(size, inodes)| Usage {
            size: size.unsigned_abs(),
            inodes: inodes.unsigned_abs(),
        }),
        reason: row.get(10)?,
        chain: row.get(11)?,
        claim: claim_from_row(row, id)?,
    })
}

fn claim_from_row(row: &Row<'_>, id: i64) -> Result<Option<Claim>, Error> {
    let Some(layer) = row.get::<_, Option<String>>(14)? else {
        return Ok(None);
    };
    let digest = |text: &str| {
        text.parse().map_err(|_| Error::BadRecord {
            id,
            problem: format!("{text} is no digest"),
        })
    };
    let diff_id: Option<String> = row.get(17)?;
    let annotations: Option<String> = row.get(19)?;
    let annotations = annotations
        .map(|json| serde_json::from_str(&json))
        .transpose();
    Ok(Some(Claim {
        layer: ChainLayer {
            layer: digest(&layer)?,
            tree: row.get(15)?,
            source: row.get(16)?,
            diff_id: diff_id.as_deref().map(digest).transpose()?,
            reference: row.get(18)?,
            annotations: annotations
                .map_err(|error| Error::BadRecord {
                    id,
                    problem: error.to_string(),
                })?
                .unwrap_or_default(),
        },
        private: row.get(12)?,
        namespace: row.get::<_, Option<String>>(13)?.unwrap_or_default(),
    }))
}

fn to_json(labels: &Labels) -> String {
    let map = labels
        .iter()
        .map(|(key, value)| (key.clone(), serde_json::Value::from(value.as_str())))
        .collect();
    serde_json::Value::Object(map).to_string()
}

/// SQLite's integers are signed; no layer has 2^63 bytes.
fn to_integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
