//! `.cvmfsreflog`: all root catalogs, certificates, histories and meta-infos that were ever published and not yet collected.

use cvmfs::{ContentHash, Suffix};
use rusqlite::{Connection, params};

use crate::error::Error;
use crate::sqlite;

/// Name of the plain SQLite file.
pub(crate) const REFLOG: &str = ".cvmfsreflog";
/// Larger ones are refused.
pub(crate) const MAX_REFLOG_BYTES: u64 = 1 << 30;

const SCHEMA: &str = "
CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key));
CREATE TABLE refs (hash TEXT, type INTEGER, timestamp INTEGER, CONSTRAINT pk_refs PRIMARY KEY (hash));
INSERT INTO properties VALUES ('schema', '1.0'), ('schema_revision', '0');";

/// What the numbers in column `type` mean.
const KINDS: [Suffix; 4] = [
    Suffix::Catalog,
    Suffix::Certificate,
    Suffix::History,
    Suffix::MetaInfo,
];

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) hash: ContentHash,
    /// Catalog, certificate, history or meta-info.
    pub(crate) suffix: Suffix,
    /// When it was published first, seconds since the epoch.
    pub(crate) timestamp: i64,
}

/// An open reflog.
pub(crate) struct Reflog {
    connection: Connection,
}

fn failed(source: rusqlite::Error) -> Error {
    Error::database("reflog")(source)
}

impl Reflog {
    /// An empty one.
    pub(crate) fn new(fqrn: &str) -> Result<Self, Error> {
        let inner = || {
            let connection = sqlite::create(SCHEMA)?;
            sqlite::set_property(&connection, "fqrn", fqrn)?;
            Ok(Self { connection })
        };
        inner().map_err(failed)
    }

    pub(crate) fn open(bytes: &[u8]) -> Result<Self, Error> {
        let broken = |error: &dyn std::fmt::Display| Error::corrupt(REFLOG, error);
        let inner = || {
            let connection = sqlite::open(bytes, false)?;
            let columns = sqlite::columns(&connection, "refs")?;
            Ok((connection, columns))
        };
        let (connection, columns) = inner().map_err(|error: rusqlite::Error| broken(&error))?;
        if columns.is_empty() {
            return Err(broken(&"it has no table of references"));
        }
        Ok(Self { connection })
    }

    /// All entries, oldest first.
    pub(crate) fn references(&self) -> Result<Vec<Reference>, Error> {
        let inner = || -> rusqlite::Result<Vec<(String, i64, i64)>> {
            let sql = "SELECT hash, type, timestamp FROM refs ORDER BY timestamp, rowid";
            let mut statement = self.connection.prepare(sql)?;
            statement
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect()
        };
        let rows = inner().map_err(|error| Error::corrupt(REFLOG, error))?;
        rows.into_iter().map(decode).collect()
    }

    /// Adds an entry unless it is there already.
    pub(crate) fn add(&self, reference: Reference) -> Result<(), Error> {
        let kind = KINDS.iter().position(|kind| *kind == reference.suffix);
        let Some(kind) = kind.and_then(|kind| i64::try_from(kind).ok()) else {
            return Ok(());
        };
        self.connection
            .execute(
                "INSERT OR IGNORE INTO refs (hash, type, timestamp) VALUES (?1, ?2, ?3)",
                params![reference.hash.to_string(), kind, reference.timestamp],
            )
            .map(drop)
            .map_err(failed)
    }

    /// Removes an entry.
    pub(crate) fn remove(&self, hash: &ContentHash) -> Result<(), Error> {
        self.connection
            .execute("DELETE FROM refs WHERE hash = ?1", [hash.to_string()])
            .map(drop)
            .map_err(failed)
    }

    /// The file's bytes.
    pub(crate) fn finish(self) -> Result<Vec<u8>, Error> {
        sqlite::bytes(self.connection).map_err(failed)
    }
}

fn decode((hash, kind, timestamp): (String, i64, i64)) -> Result<Reference, Error> {
    let suffix = usize::try_from(kind)
        .ok()
        .and_then(|kind| KINDS.get(kind).copied())
        .ok_or_else(|| Error::corrupt(REFLOG, format!("{hash} has the unknown type {kind}")))?;
    let hash = ContentHash::parse(&hash).map_err(|error| Error::corrupt(REFLOG, error))?;
    Ok(Reference {
        hash,
        suffix,
        timestamp,
    })
}
