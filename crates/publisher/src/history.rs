//! The history database: names of revisions. Edited in place, so that what others wrote into it stays.

use cvmfs::ContentHash;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::error::Error;
use crate::sqlite;

/// Larger histories are refused.
pub(crate) const MAX_HISTORY_BYTES: u64 = 1 << 30;
/// The newest revision's tag.
pub(crate) const TRUNK: &str = "trunk";
/// The tag of the one before.
pub(crate) const TRUNK_PREVIOUS: &str = "trunk-previous";

const SCHEMA: &str = "
CREATE TABLE branches (branch TEXT, parent TEXT, initial_revision INTEGER, CONSTRAINT pk_branch PRIMARY KEY (branch), \
FOREIGN KEY (parent) REFERENCES branches (branch), CHECK ((branch <> '') OR (parent IS NULL)), \
CHECK ((branch = '') OR (parent IS NOT NULL)));
CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER, description TEXT, \
size INTEGER, branch TEXT, CONSTRAINT pk_tags PRIMARY KEY (name), FOREIGN KEY (branch) REFERENCES branches (branch));
CREATE TABLE recycle_bin (hash TEXT, flags INTEGER, CONSTRAINT pk_hash PRIMARY KEY (hash));
CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key));
INSERT INTO branches VALUES ('', NULL, 0);
INSERT INTO properties VALUES ('schema', '1.0'), ('schema_revision', '3');";

/// A named revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Name.
    pub name: String,
    /// Root catalog.
    pub root_catalog: ContentHash,
    /// Uncompressed bytes of the root catalog; 0 = unknown.
    pub root_catalog_size: u64,
    /// Number of the revision.
    pub revision: u64,
    /// Its publication, seconds since the epoch.
    pub timestamp: i64,
    /// What the publisher says about it.
    pub description: String,
}

/// A tag for the revision that is being published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTag {
    /// Name: letters, digits and `- _ : .`.
    pub name: String,
    /// Free text.
    pub description: String,
}

impl NewTag {
    /// The tag that `cvmfs_server publish` gives when none is asked for.
    #[must_use]
    pub fn generic(now: jiff::Timestamp) -> Self {
        Self {
            name: now.strftime("generic-%Y-%m-%dT%H:%M:%SZ").to_string(),
            description: "Generated automatically".to_owned(),
        }
    }
}

/// Refuses names that clients could not ask for, and those that publishing moves by itself.
pub(crate) fn check_tag_name(name: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_:.".contains(&byte);
    let reason = if name.is_empty() || name.len() > 255 {
        "it must have 1 to 255 characters"
    } else if !name.bytes().all(plain) {
        "letters, digits and - _ : . only"
    } else if name == TRUNK || name == TRUNK_PREVIOUS {
        "that one follows the newest revision by itself"
    } else {
        return Ok(());
    };
    Err(Error::BadTag {
        name: name.chars().take(255).collect(),
        reason,
    })
}

/// An open history database.
pub(crate) struct History {
    connection: Connection,
    has_size: bool,
    has_branch: bool,
}

fn failed(source: rusqlite::Error) -> Error {
    Error::database("history")(source)
}

impl History {
    /// An empty one.
    pub(crate) fn new(fqrn: &str) -> Result<Self, Error> {
        let inner = || {
            let connection = sqlite::create(SCHEMA)?;
            sqlite::set_property(&connection, "fqrn", fqrn)?;
            Ok(connection)
        };
        Ok(Self {
            connection: inner().map_err(failed)?,
            has_size: true,
            has_branch: true,
        })
    }

    /// Opens the database's bytes. `name` is its hash, for messages.
    pub(crate) fn open(bytes: &[u8], name: &ContentHash) -> Result<Self, Error> {
        let inner = || {
            let connection = sqlite::open(bytes, false)?;
            let columns = sqlite::columns(&connection, "tags")?;
            Ok((connection, columns))
        };
        let (connection, columns) = inner()
            .map_err(|error: rusqlite::Error| Error::corrupt(format!("history {name}"), error))?;
        let has = |column: &str| columns.iter().any(|name| name == column);
        if !has("name") {
            return Err(Error::corrupt(
                format!("history {name}"),
                "it has no table of tags",
            ));
        }
        let (has_size, has_branch) = (has("size"), has("branch"));
        Ok(Self {
            connection,
            has_size,
            has_branch,
        })
    }

    fn select(&self) -> String {
        let size = if self.has_size { "size" } else { "0" };
        format!("SELECT name, hash, revision, timestamp, description, {size} FROM tags")
    }

    /// All tags, newest revision first.
    pub(crate) fn tags(&self) -> Result<Vec<Tag>, Error> {
        let sql = format!(
            "{} ORDER BY revision DESC, timestamp DESC, name",
            self.select()
        );
        let inner = || -> rusqlite::Result<Vec<_>> {
            let mut statement = self.connection.prepare(&sql)?;
            statement.query_map([], stored)?.collect()
        };
        inner()
            .map_err(|error| Error::corrupt("history", error))?
            .into_iter()
            .map(decode)
            .collect()
    }

    /// The tag of a name.
    pub(crate) fn tag(&self, name: &str) -> Result<Option<Tag>, Error> {
        let sql = format!("{} WHERE name = ?1", self.select());
        self.connection
            .query_row(&sql, [name], stored)
            .optional()
            .map_err(|error| Error::corrupt("history", error))?
            .map(decode)
            .transpose()
    }

    /// Adds or replaces a tag.
    pub(crate) fn set(&self, tag: &Tag) -> Result<(), Error> {
        let mut columns = "name, hash, revision, timestamp, channel, description".to_owned();
        let mut values = "?1, ?2, ?3, ?4, 0, ?5".to_owned();
        if self.has_size {
            columns.push_str(", size");
            values.push_str(", ?6");
        } else {
            // The parameter is bound all the same.
            values = values.replace("0, ?5", "0 * ?6, ?5");
        }
        if self.has_branch {
            columns.push_str(", branch");
            values.push_str(", ''");
        }
        let sql = format!("INSERT OR REPLACE INTO tags ({columns}) VALUES ({values})");
        self.connection
            .execute(
                &sql,
                params![
                    tag.name,
                    tag.root_catalog.to_string(),
                    tag.revision.cast_signed(),
                    tag.timestamp,
                    tag.description,
                    tag.root_catalog_size.cast_signed(),
                ],
            )
            .map(drop)
            .map_err(failed)
    }

    /// Removes a tag; false if there is none.
    pub(crate) fn remove(&self, name: &str) -> Result<bool, Error> {
        self.connection
            .execute("DELETE FROM tags WHERE name = ?1", [name])
            .map(|rows| rows > 0)
            .map_err(failed)
    }

    /// The database's bytes, naming its predecessor.
    pub(crate) fn finish(self, previous: Option<ContentHash>) -> Result<Vec<u8>, Error> {
        let inner = || {
            if let Some(previous) = previous {
                sqlite::set_property(&self.connection, "previous_revision", &previous.to_string())?;
            }
            sqlite::bytes(self.connection)
        };
        inner().map_err(failed)
    }
}

/// A row: name, hash, revision, time, description, size.
type Stored = (String, String, i64, i64, Option<String>, Option<i64>);

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
        row.get(5)?,
    ))
}

fn decode((name, hash, revision, timestamp, description, size): Stored) -> Result<Tag, Error> {
    let root_catalog =
        ContentHash::parse(&hash).map_err(|error| Error::corrupt(format!("tag {name}"), error))?;
    Ok(Tag {
        name,
        root_catalog,
        root_catalog_size: size.map_or(0, i64::cast_unsigned),
        revision: revision.cast_unsigned(),
        timestamp,
        description: description.unwrap_or_default(),
    })
}
