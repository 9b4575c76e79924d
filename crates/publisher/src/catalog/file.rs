//! One catalog, open for changes.

use std::fs::File;
use std::path::Path;

use cvmfs::{ContentHash, DIGEST_BYTES};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, ToSql, params};
use tempfile::NamedTempFile;

use super::counters::{Counters, nested_counter, of_row};
use super::row::{Row, RowChunk};
use crate::error::Error;
use crate::{path_key, root_catalog, sqlite};

const COLUMNS: &str =
    "hardlinks, hash, size, mode, mtime, mtimens, flags, symlink, uid, gid, xattr";
/// Rows are looked up by hashes of paths, so everything is touched all the time.
const PAGE_CACHE_KIB: i64 = 32 << 10;
/// `cvmfs_server` compacts row numbers, from which clients make inode numbers, when more than a quarter is unused.
const SPARSE_ROWS: &str = "SELECT count(*) * 4 < max(rowid) * 3 FROM catalog";

/// TEXT of any bytes: names need not be UTF-8.
struct Text<'a>(&'a [u8]);

impl ToSql for Text<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

/// A catalog. Paths are absolute and belong into it; counters follow each change.
pub(crate) struct CatalogFile {
    connection: Connection,
    file: NamedTempFile,
    pub(crate) counters: Counters,
}

fn failed(source: rusqlite::Error) -> Error {
    Error::Database {
        what: "catalog",
        source,
    }
}

impl CatalogFile {
    /// An empty catalog in `scratch`; not even its root row is there.
    pub(crate) fn create(scratch: &Path, mountpoint: &[u8]) -> Result<Self, Error> {
        let file = NamedTempFile::new_in(scratch).map_err(Error::Scratch)?;
        let connection = connect(file.path()).map_err(failed)?;
        let catalog = Self {
            connection,
            file,
            counters: Counters::default(),
        };
        let inner = || {
            catalog.connection.execute_batch(root_catalog::SCHEMA)?;
            if !mountpoint.is_empty() {
                let sql = "INSERT INTO properties VALUES ('root_prefix', ?1)";
                catalog.connection.execute(sql, [Text(mountpoint)])?;
            }
            Ok(())
        };
        inner().map_err(failed)?;
        Ok(catalog)
    }

    /// A stored catalog's bytes, brought to the newest schema revision.
    pub(crate) fn open(scratch: &Path, bytes: &[u8], mountpoint: &[u8]) -> Result<Self, Error> {
        let mut file = NamedTempFile::new_in(scratch).map_err(Error::Scratch)?;
        std::io::Write::write_all(&mut file, bytes).map_err(Error::Scratch)?;
        let corrupt = |error: &dyn std::fmt::Display| {
            let what = format!("catalog at /{}", mountpoint.escape_ascii());
            Error::corrupt(what, error)
        };
        let inner = || -> rusqlite::Result<_> {
            let connection = connect(file.path())?;
            upgrade(&connection)?;
            let prefix = sqlite::property(&connection, "root_prefix")?;
            let counters = read_counters(&connection)?;
            Ok((connection, prefix.unwrap_or_default(), counters))
        };
        let (connection, prefix, counters) = inner().map_err(|error| corrupt(&error))?;
        if prefix.as_bytes() != mountpoint {
            return Err(corrupt(&format!("it belongs to {prefix:?}")));
        }
        Ok(Self {
            connection,
            file,
            counters,
        })
    }

    /// Adds a row.
    pub(crate) fn insert(&mut self, path: &[u8], row: &Row) -> Result<(), Error> {
        self.insert_row(path, row).map_err(failed)?;
        self.counters.add_own(1, of_row(row));
        Ok(())
    }

    fn insert_row(&self, path: &[u8], row: &Row) -> rusqlite::Result<()> {
        let (path_1, path_2) = path_key::of(path);
        let (parent, name) = split(path);
        let (parent_1, parent_2) = parent.map_or((0, 0), path_key::of);
        let sql = "INSERT INTO catalog (md5path_1, md5path_2, parent_1, parent_2, hardlinks, hash, size, mode, mtime, \
                   mtimens, flags, name, symlink, uid, gid, xattr) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";
        self.connection.prepare_cached(sql)?.execute(params![
            path_1,
            path_2,
            parent_1,
            parent_2,
            row.hardlinks,
            row.hash.as_ref().map(<[u8; DIGEST_BYTES]>::as_slice),
            row.size,
            row.mode,
            row.mtime,
            (row.mtime_nanos != 0).then_some(row.mtime_nanos),
            row.flags,
            Text(name),
            Text(&row.symlink),
            row.uid,
            row.gid,
            (!row.xattr.is_empty()).then_some(&row.xattr),
        ])?;
        let sql =
            "INSERT INTO chunks (md5path_1, md5path_2, offset, size, hash) VALUES (?,?,?,?,?)";
        for chunk in &row.chunks {
            let mut statement = self.connection.prepare_cached(sql)?;
            let RowChunk {
                offset,
                size,
                digest,
            } = chunk;
            statement.execute(params![path_1, path_2, offset, size, digest.as_slice()])?;
        }
        Ok(())
    }

    /// The row of a path.
    pub(crate) fn get(&self, path: &[u8]) -> Result<Option<Row>, Error> {
        let (path_1, path_2) = path_key::of(path);
        let sql = format!("SELECT {COLUMNS} FROM catalog WHERE md5path_1 = ?1 AND md5path_2 = ?2");
        let inner = || {
            let mut statement = self.connection.prepare_cached(&sql)?;
            let row = statement.query_row([path_1, path_2], |row| decode(row, 0));
            let Some(mut row) = row.optional()? else {
                return Ok(None);
            };
            row.chunks = self.chunks((path_1, path_2), &row)?;
            Ok(Some(row))
        };
        inner().map_err(failed)
    }

    fn chunks(&self, key: (i64, i64), row: &Row) -> rusqlite::Result<Vec<RowChunk>> {
        if !row.has(super::flags::CHUNKED) {
            return Ok(Vec::new());
        }
        let sql = "SELECT offset, size, hash FROM chunks WHERE md5path_1 = ?1 AND md5path_2 = ?2 ORDER BY offset";
        let mut statement = self.connection.prepare_cached(sql)?;
        let chunk = |row: &rusqlite::Row<'_>| {
            Ok(RowChunk {
                offset: row.get(0)?,
                size: row.get(1)?,
                digest: row.get(2)?,
            })
        };
        statement.query_map([key.0, key.1], chunk)?.collect()
    }

    /// Names and rows in a directory, in the order of row numbers, without chunks.
    pub(crate) fn children(&self, directory: &[u8]) -> Result<Vec<(Vec<u8>, Row)>, Error> {
        let (parent_1, parent_2) = path_key::of(directory);
        let sql = format!(
            "SELECT name, {COLUMNS} FROM catalog WHERE parent_1 = ?1 AND parent_2 = ?2 ORDER BY rowid"
        );
        let inner = || {
            let mut statement = self.connection.prepare_cached(&sql)?;
            let child = |row: &rusqlite::Row<'_>| Ok((bytes(row, 0)?, decode(row, 1)?));
            statement
                .query_map([parent_1, parent_2], child)?
                .collect::<rusqlite::Result<Vec<_>>>()
        };
        inner().map_err(failed)
    }

    /// Removes a row.
    pub(crate) fn remove(&mut self, path: &[u8]) -> Result<Option<Row>, Error> {
        let Some(row) = self.get(path)? else {
            return Ok(None);
        };
        let (path_1, path_2) = path_key::of(path);
        let inner = || {
            for table in ["chunks", "catalog"] {
                let sql = format!("DELETE FROM {table} WHERE md5path_1 = ?1 AND md5path_2 = ?2");
                self.connection
                    .prepare_cached(&sql)?
                    .execute([path_1, path_2])?;
            }
            Ok(())
        };
        inner().map_err(failed)?;
        self.counters.add_own(-1, of_row(&row));
        Ok(Some(row))
    }

    /// Changes a row in place: its row number stays. Not its chunks.
    pub(crate) fn update(&mut self, path: &[u8], row: &Row) -> Result<(), Error> {
        let Some(old) = self.get(path)? else {
            return Ok(());
        };
        let (path_1, path_2) = path_key::of(path);
        let sql = "UPDATE catalog SET hardlinks = ?3, size = ?4, mode = ?5, mtime = ?6, mtimens = ?7, flags = ?8, uid = ?9, \
                   gid = ?10, xattr = ?11 WHERE md5path_1 = ?1 AND md5path_2 = ?2";
        let inner = || {
            self.connection.prepare_cached(sql)?.execute(params![
                path_1,
                path_2,
                row.hardlinks,
                row.size,
                row.mode,
                row.mtime,
                (row.mtime_nanos != 0).then_some(row.mtime_nanos),
                row.flags,
                row.uid,
                row.gid,
                (!row.xattr.is_empty()).then_some(&row.xattr),
            ])
        };
        inner().map_err(failed)?;
        self.counters.add_own(-1, of_row(&old));
        self.counters.add_own(1, of_row(row));
        Ok(())
    }

    /// Sets only group and number of links.
    pub(crate) fn set_hardlinks(&self, path: &[u8], hardlinks: i64) -> Result<(), Error> {
        let (path_1, path_2) = path_key::of(path);
        let sql = "UPDATE catalog SET hardlinks = ?3 WHERE md5path_1 = ?1 AND md5path_2 = ?2";
        let inner = || {
            self.connection
                .prepare_cached(sql)?
                .execute([path_1, path_2, hardlinks])
        };
        inner().map(drop).map_err(failed)
    }

    /// A group of hardlinks that no row has.
    pub(crate) fn new_link_group(&self) -> Result<i64, Error> {
        let sql = "SELECT coalesce(max(hardlinks) >> 32, 0) + 1 FROM catalog";
        self.connection
            .query_row(sql, [], |row| row.get(0))
            .map_err(failed)
    }

    /// The catalog mounted at a path; the null hash if it has never been stored.
    pub(crate) fn nested(&self, path: &[u8]) -> Result<Option<ContentHash>, Error> {
        let inner = || {
            let sql = "SELECT sha1 FROM nested_catalogs WHERE path = ?1";
            let mut statement = self.connection.prepare_cached(sql)?;
            statement
                .query_row([Text(path)], |row| row.get::<_, String>(0))
                .optional()
        };
        let Some(text) = inner().map_err(failed)? else {
            return Ok(None);
        };
        ContentHash::parse(&text)
            .map(Some)
            .map_err(|error| Error::corrupt("catalog", error))
    }

    /// Uncompressed bytes of the catalog mounted at a path; 0: unknown.
    pub(crate) fn nested_size(&self, path: &[u8]) -> Result<u64, Error> {
        let sql = "SELECT coalesce(size, 0) FROM nested_catalogs WHERE path = ?1";
        self.connection
            .query_row(sql, [Text(path)], |row| row.get::<_, i64>(0))
            .map(i64::cast_unsigned)
            .map_err(failed)
    }

    /// Mounts a catalog, or another version of it.
    pub(crate) fn set_nested(
        &mut self,
        path: &[u8],
        hash: &ContentHash,
        size: u64,
    ) -> Result<(), Error> {
        let new = self.nested(path)?.is_none();
        let inner = || {
            let sql =
                "INSERT OR REPLACE INTO nested_catalogs (path, sha1, size) VALUES (?1, ?2, ?3)";
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.execute(params![Text(path), hash.to_string(), size.cast_signed()])
        };
        inner().map_err(failed)?;
        if new {
            self.counters.add_own(1, nested_counter());
        }
        Ok(())
    }

    /// Forgets a catalog, or the snapshot bound there.
    pub(crate) fn remove_nested(&mut self, path: &[u8]) -> Result<(), Error> {
        let delete = |table: &str| {
            let sql = format!("DELETE FROM {table} WHERE path = ?1");
            self.connection.execute(&sql, [Text(path)]).map_err(failed)
        };
        delete("bind_mountpoints")?;
        if delete("nested_catalogs")? > 0 {
            self.counters.add_own(-1, nested_counter());
        }
        Ok(())
    }

    /// Makes it a revision, and the smallest file that it can be. The file and its length.
    pub(crate) fn finish(
        self,
        revision: u64,
        previous: Option<ContentHash>,
        modified: i64,
    ) -> Result<(NamedTempFile, File, u64), Error> {
        let Self {
            connection,
            file,
            counters,
        } = self;
        let inner = || {
            let previous = previous.map_or_else(|| "0".repeat(40), |hash| hash.to_string());
            sqlite::set_property(&connection, "revision", &revision.to_string())?;
            sqlite::set_property(&connection, "last_modified", &modified.to_string())?;
            sqlite::set_property(&connection, "previous_revision", &previous)?;
            for (name, value) in counters.named() {
                let sql = "INSERT OR REPLACE INTO statistics (counter, value) VALUES (?1, ?2)";
                connection
                    .prepare_cached(sql)?
                    .execute(params![name, value])?;
            }
            let sparse: Option<bool> = connection.query_row(SPARSE_ROWS, [], |row| row.get(0))?;
            if sparse == Some(true) {
                connection.execute_batch(
                    "CREATE TEMPORARY TABLE duplicate AS SELECT * FROM catalog ORDER BY rowid; DELETE FROM catalog; \
                     INSERT INTO catalog SELECT * FROM duplicate ORDER BY rowid; DROP TABLE duplicate;",
                )?;
            }
            connection.execute_batch("COMMIT; VACUUM;")
        };
        inner().map_err(failed)?;
        connection.close().map_err(|(_, error)| failed(error))?;
        let opened = File::open(file.path()).map_err(Error::Scratch)?;
        let length = opened.metadata().map_err(Error::Scratch)?.len();
        Ok((file, opened, length))
    }
}

/// Parent and name; the root has none.
pub(crate) fn split(path: &[u8]) -> (Option<&[u8]>, &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (Some(&path[..slash]), &path[slash + 1..]),
        None => (None, b""),
    }
}

/// A file of our own: nothing in it needs to survive us.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    use rusqlite::config::DbConfig;
    let connection = Connection::open(path)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    connection.pragma_update(None, "journal_mode", "OFF")?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "cache_size", -PAGE_CACHE_KIB)?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.execute_batch("BEGIN")?;
    Ok(connection)
}

/// What `cvmfs_server` does to older catalogs that it changes.
fn upgrade(connection: &Connection) -> rusqlite::Result<()> {
    let missing = |table: &str, column: &str| -> rusqlite::Result<bool> {
        Ok(!sqlite::columns(connection, table)?
            .iter()
            .any(|known| known == column))
    };
    if missing("nested_catalogs", "size")? {
        connection.execute_batch("ALTER TABLE nested_catalogs ADD size INTEGER;")?;
    }
    if missing("catalog", "xattr")? {
        connection.execute_batch("ALTER TABLE catalog ADD xattr BLOB;")?;
    }
    if missing("bind_mountpoints", "path")? {
        connection.execute_batch(
            "CREATE TABLE bind_mountpoints (path TEXT, sha1 TEXT, size INTEGER, \
             CONSTRAINT pk_bind_mountpoints PRIMARY KEY (path));",
        )?;
    }
    if missing("catalog", "mtimens")? {
        connection.execute_batch("ALTER TABLE catalog ADD mtimens INTEGER;")?;
    }
    sqlite::set_property(connection, "schema_revision", "7")
}

/// Missing counters are 0.
fn read_counters(connection: &Connection) -> rusqlite::Result<Counters> {
    let mut statement = connection.prepare("SELECT value FROM statistics WHERE counter = ?1")?;
    let mut values = |scope: &str| -> rusqlite::Result<_> {
        let mut values = super::counters::Values::default();
        for (value, name) in values.iter_mut().zip(root_catalog::COUNTERS) {
            let counter = format!("{scope}_{name}");
            let stored = statement.query_row([counter], |row| row.get(0));
            *value = stored.optional()?.unwrap_or(0);
        }
        Ok(values)
    };
    Ok(Counters {
        own: values("self")?,
        subtree: values("subtree")?,
    })
}

/// The columns [`COLUMNS`], from a position on.
fn decode(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Row> {
    let hash = bytes(row, at + 1)?;
    Ok(Row {
        hardlinks: row.get(at)?,
        hash: <[u8; DIGEST_BYTES]>::try_from(hash).ok(),
        size: row.get(at + 2)?,
        mode: row.get(at + 3)?,
        mtime: row.get(at + 4)?,
        mtime_nanos: row.get::<_, Option<i64>>(at + 5)?.unwrap_or(0),
        flags: row.get(at + 6)?,
        symlink: bytes(row, at + 7)?,
        uid: row.get(at + 8)?,
        gid: row.get(at + 9)?,
        xattr: bytes(row, at + 10)?,
        chunks: Vec::new(),
    })
}

/// Text or blob of any bytes; NULL is empty.
fn bytes(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Vec<u8>> {
    match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(bytes.to_vec()),
        _ => Ok(Vec::new()),
    }
}
