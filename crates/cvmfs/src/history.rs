//! The history database: names of revisions.

use rusqlite::{Connection, OptionalExtension, Row};

use crate::catalog::{Pinned, columns, open};
use crate::error::Error;
use crate::hash::ContentHash;

/// A named snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Name.
    pub name: String,
    /// Root catalog.
    pub root_catalog: ContentHash,
    /// Revision.
    pub revision: u64,
    /// Publication, seconds since the epoch.
    pub timestamp: i64,
    /// What the publisher says about it.
    pub description: String,
}

/// An open history database.
pub(crate) struct History {
    connection: Connection,
    select: String,
    /// `AND branch = ''`, if there are branches.
    main_branch: &'static str,
    hash: ContentHash,
    _file: Pinned,
}

/// A row as stored: name, hash, revision, time, description.
type Stored = (String, String, i64, i64, Option<String>);

impl History {
    pub(crate) fn open(hash: ContentHash, file: Pinned) -> Result<Self, Error> {
        let path = file
            .object
            .as_ref()
            .map(cache::Object::path)
            .unwrap_or_default();
        let inner = || {
            let connection = open(&path)?;
            let has_branch = columns(&connection, "tags")?
                .iter()
                .any(|column| column == "branch");
            Ok((connection, has_branch))
        };
        let (connection, has_branch) = inner()
            .map_err(|error: rusqlite::Error| Error::corrupt(format!("history {hash}"), error))?;
        Ok(Self {
            connection,
            select: "SELECT name, hash, revision, timestamp, description FROM tags".to_owned(),
            main_branch: if has_branch { "AND branch = ''" } else { "" },
            hash,
            _file: file,
        })
    }

    /// The tag of a name.
    pub(crate) fn by_name(&self, name: &str) -> Result<Option<Tag>, Error> {
        let sql = format!("{} WHERE name = ?1", self.select);
        self.one(&sql, name)
    }

    /// The greatest tagged revision that was published at or before a time.
    pub(crate) fn by_date(&self, second: i64) -> Result<Option<Tag>, Error> {
        let sql = format!(
            "{} WHERE timestamp <= ?1 {} ORDER BY revision DESC LIMIT 1",
            self.select, self.main_branch
        );
        self.one(&sql, second)
    }

    /// All tags, newest first.
    pub(crate) fn all(&self) -> Result<Vec<Tag>, Error> {
        let sql = format!("{} ORDER BY revision DESC, name", self.select);
        let inner = || -> rusqlite::Result<Vec<Stored>> {
            let mut statement = self.connection.prepare(&sql)?;
            statement.query_map([], stored)?.collect()
        };
        let rows = inner().map_err(|error| self.corrupt(&error))?;
        rows.into_iter().map(|row| self.tag(row)).collect()
    }

    fn one(&self, sql: &str, parameter: impl rusqlite::ToSql) -> Result<Option<Tag>, Error> {
        let row = self
            .connection
            .query_row(sql, [parameter], stored)
            .optional();
        row.map_err(|error| self.corrupt(&error))?
            .map(|row| self.tag(row))
            .transpose()
    }

    fn tag(&self, (name, hash, revision, timestamp, description): Stored) -> Result<Tag, Error> {
        Ok(Tag {
            root_catalog: ContentHash::parse(&hash).map_err(|error| self.corrupt(&error))?,
            revision: u64::try_from(revision).map_err(|error| self.corrupt(&error))?,
            timestamp,
            description: description.unwrap_or_default(),
            name,
        })
    }

    fn corrupt(&self, reason: &dyn std::fmt::Display) -> Error {
        Error::corrupt(format!("history {}", self.hash), reason)
    }
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
    ))
}
