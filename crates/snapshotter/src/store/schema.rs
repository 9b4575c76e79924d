//! Tables of `records.db`, and what a connection to it must be like.

use rusqlite::Connection;

use crate::Error;

/// Grows by one with each change of the tables.
pub(super) const VERSION: i64 = 2;

/// How long one process waits for another's write (`outcrop` commands read while the daemon writes).
const BUSY: std::time::Duration = std::time::Duration::from_secs(5);

/// AUTOINCREMENT: a number is never reused, so no directory can be taken for another snapshot's.
const TABLES: &str = "
    CREATE TABLE snapshots (
        id           INTEGER PRIMARY KEY AUTOINCREMENT,
        name         TEXT NOT NULL UNIQUE,
        kind         INTEGER NOT NULL CHECK (kind IN (1, 2, 3)),
        parent       INTEGER REFERENCES snapshots(id),
        created      INTEGER NOT NULL,
        updated      INTEGER NOT NULL,
        labels       TEXT NOT NULL,      -- JSON object
        snapshot_ref TEXT,               -- from the labels, for the index
        size         INTEGER,
        inodes       INTEGER,
        reason       TEXT,
        chain        TEXT,               -- of actives and views: the attached chain below
        private      INTEGER NOT NULL DEFAULT 0,
        namespace    TEXT,
        layer        TEXT,               -- the rest: claimed layers only
        tree         TEXT,
        source       TEXT,
        diff_id      TEXT,
        reference    TEXT,               -- image for which it was claimed
        annotations  TEXT                -- JSON object: what the layer was verified by
    ) STRICT;
    CREATE INDEX snapshots_parent ON snapshots(parent);
    CREATE INDEX snapshots_ref ON snapshots(snapshot_ref) WHERE snapshot_ref IS NOT NULL;
    CREATE INDEX snapshots_chain ON snapshots(chain) WHERE chain IS NOT NULL;
    CREATE INDEX snapshots_order ON snapshots(private, id);
";

/// Version 1 knew neither: its layers were found by their digests alone.
const FROM_1: &str = "
    ALTER TABLE snapshots ADD COLUMN reference TEXT;
    ALTER TABLE snapshots ADD COLUMN annotations TEXT;
";

/// Durable before the answer: containerd forgets nothing that we said, so we must not either.
pub(super) fn configure(connection: &Connection) -> Result<(), Error> {
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(())
}

/// Makes the tables in an empty file, brings older ones up to date, or checks that they are ours.
pub(super) fn create_or_check(connection: &mut Connection) -> Result<(), Error> {
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let change = match version(&transaction)? {
        0 => Some(TABLES),
        1 => Some(FROM_1),
        _ => None,
    };
    if let Some(change) = change {
        transaction.execute_batch(change)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()?;
    check(connection)
}

/// Refuses records of another version.
pub(super) fn check(connection: &Connection) -> Result<(), Error> {
    let found = version(connection)?;
    if found == VERSION {
        Ok(())
    } else {
        Err(Error::Schema {
            found,
            known: VERSION,
        })
    }
}

fn version(connection: &Connection) -> Result<i64, Error> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}
