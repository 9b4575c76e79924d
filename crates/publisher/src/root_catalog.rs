//! Root catalogs: an empty one for a new repository, and an old one made the newest revision again.

use cvmfs::ContentHash;
use rusqlite::params;

use crate::error::Error;
use crate::sqlite;

pub(crate) const SCHEMA: &str = "
CREATE TABLE catalog (md5path_1 INTEGER, md5path_2 INTEGER, parent_1 INTEGER, parent_2 INTEGER, hardlinks INTEGER, \
hash BLOB, size INTEGER, mode INTEGER, mtime INTEGER, mtimens INTEGER, flags INTEGER, name TEXT, symlink TEXT, \
uid INTEGER, gid INTEGER, xattr BLOB, CONSTRAINT pk_catalog PRIMARY KEY (md5path_1, md5path_2));
CREATE INDEX idx_catalog_parent ON catalog (parent_1, parent_2);
CREATE TABLE chunks (md5path_1 INTEGER, md5path_2 INTEGER, offset INTEGER, size INTEGER, hash BLOB, \
CONSTRAINT pk_chunks PRIMARY KEY (md5path_1, md5path_2, offset, size), \
FOREIGN KEY (md5path_1, md5path_2) REFERENCES catalog (md5path_1, md5path_2));
CREATE TABLE nested_catalogs (path TEXT, sha1 TEXT, size INTEGER, CONSTRAINT pk_nested_catalogs PRIMARY KEY (path));
CREATE TABLE bind_mountpoints (path TEXT, sha1 TEXT, size INTEGER, CONSTRAINT pk_bind_mountpoints PRIMARY KEY (path));
CREATE TABLE statistics (counter TEXT, value INTEGER, CONSTRAINT pk_statistics PRIMARY KEY (counter));
CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key));
INSERT INTO properties VALUES ('schema', '2.5'), ('schema_revision', '7');";

/// Names of the counters, without `self_` and `subtree_`.
pub(crate) const COUNTERS: [&str; 12] = [
    "regular",
    "symlink",
    "special",
    "dir",
    "nested",
    "chunked",
    "chunks",
    "file_size",
    "chunked_size",
    "xattr",
    "external",
    "external_file_size",
];

/// A root directory with nothing in it.
pub(crate) fn empty(
    revision: u64,
    time_to_live: u64,
    now: jiff::Timestamp,
) -> Result<Vec<u8>, Error> {
    let inner = || {
        let connection = sqlite::create(SCHEMA)?;
        let (path_1, path_2) = crate::path_key::of(b"");
        connection.execute(
            "INSERT INTO catalog VALUES (?1, ?2, 0, 0, 2, NULL, 4096, ?3, ?4, NULL, 1, '', '', 0, 0, NULL)",
            params![path_1, path_2, 0o040_755, now.as_second()],
        )?;
        for scope in ["self", "subtree"] {
            for counter in COUNTERS {
                let value = i64::from(scope == "self" && counter == "dir");
                connection.execute(
                    "INSERT INTO statistics VALUES (?1, ?2)",
                    params![format!("{scope}_{counter}"), value],
                )?;
            }
        }
        let set = |key: &str, value: String| sqlite::set_property(&connection, key, &value);
        set("revision", revision.to_string())?;
        set("last_modified", now.as_second().to_string())?;
        set("TTL", time_to_live.to_string())?;
        sqlite::bytes(connection)
    };
    inner().map_err(Error::database("catalog"))
}

/// The same content as another revision.
pub(crate) fn renumbered(
    bytes: &[u8],
    revision: u64,
    previous: &ContentHash,
    now: jiff::Timestamp,
) -> Result<Vec<u8>, Error> {
    let inner = || {
        let connection = sqlite::open(bytes, false)?;
        let set = |key: &str, value: String| sqlite::set_property(&connection, key, &value);
        set("revision", revision.to_string())?;
        set("previous_revision", previous.to_string())?;
        set("last_modified", now.as_second().to_string())?;
        sqlite::bytes(connection)
    };
    inner().map_err(Error::database("catalog"))
}
