//! Catalogs: SQLite files that hold a part of the tree. Columns and tables are probed, because old catalogs live on beside new ones.

mod connection;
mod counters;
mod path_key;
mod row;

use std::collections::HashMap;
use std::ops::ControlFlow;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{OptionalExtension, Row};

use connection::{Loan, Pool};
pub(crate) use connection::{columns, open, property};
pub use counters::Counters;
pub(crate) use path_key::PathKey;
use row::RowError;
pub(crate) use row::{CatalogRow, ChunkRow};

use crate::content::Content;
use crate::error::Error;
use crate::hash::ContentHash;

/// Oldest schema read.
const MIN_SCHEMA: f64 = 2.4 - 0.05;
/// First schema that is not read.
const TOO_NEW_SCHEMA: f64 = 3.0 - 0.05;
/// More chunks in one file are refused: 16 TiB at the usual size.
const MAX_CHUNKS: usize = 2 << 20;

/// An open catalog. Paths passed to it are those that it was published with: beginning with its [`Catalog::root_prefix`].
pub(crate) struct Catalog {
    hash: ContentHash,
    root_prefix: Vec<u8>,
    pool: Pool,
    sql: Sql,
    /// Mounts another catalog somewhere.
    has_nested: bool,
    /// Keeps the file open and pinned.
    _file: Pinned,
}

/// An object of the cache that is not evicted meanwhile.
pub(crate) struct Pinned {
    pub(crate) cache: std::sync::Arc<cache::Cache>,
    pub(crate) key: cache::Key,
    pub(crate) object: Option<cache::Object>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.object = None;
        self.cache.unpin(&self.key);
    }
}

/// Statements by the columns that this catalog has.
struct Sql {
    by_key: String,
    by_rowid: String,
    children: String,
    scan: String,
    nested: Option<String>,
}

/// Where another catalog is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mountpoint {
    /// Path in this catalog's terms.
    pub(crate) path: Vec<u8>,
    pub(crate) hash: ContentHash,
    /// Uncompressed bytes; 0 = unknown.
    pub(crate) size: u64,
}

impl Catalog {
    /// Opens a verified file.
    pub(crate) fn open(hash: ContentHash, file: Pinned) -> Result<Self, Error> {
        let path = file
            .object
            .as_ref()
            .map(cache::Object::path)
            .unwrap_or_default();
        let broken =
            |reason: &dyn std::fmt::Display| Error::corrupt(format!("catalog {hash}"), reason);
        let inner = || -> rusqlite::Result<_> {
            let connection = open(&path)?;
            let schema = property(&connection, "schema")?;
            let root_prefix = property(&connection, "root_prefix")?;
            let sql = Sql::probe(&connection)?;
            let has_nested = match &sql.nested {
                Some(nested) => connection
                    .prepare(&format!("{nested} LIMIT 1"))?
                    .exists([])?,
                None => false,
            };
            Ok((connection, schema, root_prefix, sql, has_nested))
        };
        let (connection, schema, root_prefix, sql, has_nested) =
            inner().map_err(|error| broken(&error))?;
        let schema: f64 = schema.and_then(|text| text.parse().ok()).unwrap_or(1.0);
        if !(MIN_SCHEMA..TOO_NEW_SCHEMA).contains(&schema) {
            return Err(broken(&format_args!("schema {schema} is not 2.4 or 2.5")));
        }
        Ok(Self {
            hash,
            root_prefix: root_prefix.unwrap_or_default().into_bytes(),
            pool: Pool::new(path, connection),
            sql,
            has_nested,
            _file: file,
        })
    }

    pub(crate) fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Path of its root directory in its own terms.
    pub(crate) fn root_prefix(&self) -> &[u8] {
        &self.root_prefix
    }

    pub(crate) fn by_path(&self, path: &[u8]) -> Result<Option<CatalogRow>, Error> {
        self.by_key(PathKey::of(path))
    }

    pub(crate) fn by_key(&self, key: PathKey) -> Result<Option<CatalogRow>, Error> {
        self.one(&self.sql.by_key, [key.0, key.1])
    }

    pub(crate) fn by_rowid(&self, rowid: i64) -> Result<Option<CatalogRow>, Error> {
        self.one(&self.sql.by_rowid, [rowid])
    }

    /// Children of a directory with greater row numbers than `after`, by row number.
    pub(crate) fn children(
        &self,
        directory: PathKey,
        after: i64,
        limit: usize,
    ) -> Result<Vec<CatalogRow>, Error> {
        let mut rows = Vec::new();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let parameters = [directory.0, directory.1, after, limit];
        self.each(&self.sql.children, parameters, &mut |row| {
            rows.push(row::decode(row)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(rows)
    }

    /// Visits all rows that are directories, or all that are not, in one pass over the table.
    pub(crate) fn scan(
        &self,
        directories: bool,
        visit: &mut dyn FnMut(CatalogRow) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.each(&self.sql.scan, [i64::from(directories)], &mut |row| {
            Ok(visit(row::decode(row)?))
        })
    }

    /// Chunks of a file by offset.
    fn chunks(&self, key: PathKey) -> Result<Vec<ChunkRow>, Error> {
        let sql = "SELECT offset, size, hash FROM chunks WHERE md5path_1 = ?1 AND md5path_2 = ?2 ORDER BY offset";
        let mut chunks = Vec::new();
        self.each(sql, [key.0, key.1], &mut |row| {
            if chunks.len() >= MAX_CHUNKS {
                return Err(RowError::Chunks);
            }
            chunks.push(row::decode_chunk(row, 0)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(chunks)
    }

    /// Chunks of all files, by offset.
    pub(crate) fn all_chunks(&self) -> Result<HashMap<PathKey, Vec<ChunkRow>>, Error> {
        let sql = "SELECT md5path_1, md5path_2, offset, size, hash FROM chunks ORDER BY 1, 2, 3";
        let mut chunks: HashMap<_, Vec<_>> = HashMap::new();
        self.each(sql, [], &mut |row| {
            let key = PathKey(row.get(0)?, row.get(1)?);
            chunks
                .entry(key)
                .or_default()
                .push(row::decode_chunk(row, 2)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(chunks)
    }

    /// Where the bytes of a row are. `path` is its path in the repository.
    pub(crate) fn content(&self, row: &CatalogRow, path: &[u8]) -> Result<Content, Error> {
        let chunks = if row.dirent.flags.chunked() {
            self.chunks(row.key)?
        } else {
            Vec::new()
        };
        self.content_with(row, path, &chunks)
    }

    pub(crate) fn content_with(
        &self,
        row: &CatalogRow,
        path: &[u8],
        chunks: &[ChunkRow],
    ) -> Result<Content, Error> {
        row.content(path, chunks)
            .map_err(|error| self.corrupt(&error))
    }

    /// The catalog that is mounted exactly at a path.
    pub(crate) fn mounted_at(&self, path: &[u8]) -> Result<Option<Mountpoint>, Error> {
        let Some(nested) = self.sql.nested.as_deref().filter(|_| self.has_nested) else {
            return Ok(None);
        };
        let inner = || -> Result<Option<(String, u64)>, RowError> {
            let connection = self.pool.get()?;
            let mut statement = connection.prepare_cached(&format!("{nested} WHERE path = ?1"))?;
            // Bound as text, whatever its bytes: a blob would never equal it.
            let path = ToSqlOutput::Borrowed(ValueRef::Text(path));
            let found = statement.query_row([path], |row| {
                Ok((row.get(1)?, row.get::<_, Option<i64>>(2)?))
            });
            // Old catalogs do not know the size.
            let known =
                |size: Option<i64>| size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
            Ok(found.optional()?.map(|(hash, size)| (hash, known(size))))
        };
        let Some((hash, size)) = inner().map_err(|error| self.corrupt(&error))? else {
            return Ok(None);
        };
        let hash = ContentHash::parse(&hash).map_err(|error| self.corrupt(&error))?;
        Ok(Some(Mountpoint {
            path: path.to_vec(),
            hash,
            size,
        }))
    }

    /// The uppermost other catalog on the way to a path: mounted at one of its directories, or, if `inclusive`, at itself.
    pub(crate) fn mounted_on_way(
        &self,
        path: &[u8],
        inclusive: bool,
    ) -> Result<Option<Mountpoint>, Error> {
        if !self.has_nested {
            return Ok(None);
        }
        let mut at = self.root_prefix.len();
        while let Some(slash) = path
            .get(at + 1..)
            .and_then(|rest| rest.iter().position(|byte| *byte == b'/'))
        {
            at += 1 + slash;
            if let Some(mountpoint) = self.mounted_at(&path[..at])? {
                return Ok(Some(mountpoint));
            }
        }
        if inclusive && path.len() > self.root_prefix.len() {
            return self.mounted_at(path);
        }
        Ok(None)
    }

    pub(crate) fn counters(&self) -> Result<Counters, Error> {
        let mut table = HashMap::new();
        let sql = "SELECT counter, value FROM statistics WHERE typeof(value) = 'integer' AND value >= 0 LIMIT 1000";
        self.each(sql, [], &mut |row| {
            let value: i64 = row.get(1)?;
            table.insert(row.get(0)?, value.unsigned_abs());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Counters::from_table(&table))
    }

    pub(crate) fn property(&self, key: &str) -> Result<Option<String>, Error> {
        let inner = || property(&*self.pool.get()?, key);
        inner().map_err(|error| self.corrupt(&error))
    }

    fn one(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Option<CatalogRow>, Error> {
        let mut found = None;
        self.each(sql, parameters, &mut |row| {
            found = Some(row::decode(row)?);
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }

    fn each(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        visit: &mut dyn FnMut(&Row<'_>) -> Result<ControlFlow<()>, RowError>,
    ) -> Result<(), Error> {
        let inner = |connection: Loan<'_>| -> Result<(), RowError> {
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query(parameters)?;
            while let Some(row) = rows.next()? {
                if visit(row)?.is_break() {
                    break;
                }
            }
            Ok(())
        };
        self.pool
            .get()
            .map_err(RowError::from)
            .and_then(inner)
            .map_err(|error| self.corrupt(&error))
    }

    pub(crate) fn corrupt(&self, reason: &dyn std::fmt::Display) -> Error {
        Error::corrupt(format!("catalog {}", self.hash), reason)
    }
}

impl Sql {
    fn probe(connection: &rusqlite::Connection) -> rusqlite::Result<Self> {
        let select = format!(
            "SELECT {} FROM catalog",
            row::select_list(&columns(connection, "catalog")?)
        );
        let mounts: Vec<_> = ["nested_catalogs", "bind_mountpoints"]
            .into_iter()
            .map(|table| Ok((table, columns(connection, table)?)))
            .collect::<rusqlite::Result<_>>()?;
        let selects: Vec<_> = mounts
            .iter()
            .filter(|(_, columns)| columns.iter().any(|column| column == "path"))
            .map(|(table, columns)| {
                let size = if columns.iter().any(|column| column == "size") {
                    "size"
                } else {
                    "NULL"
                };
                format!("SELECT path, sha1, {size} AS size FROM {table}")
            })
            .collect();
        Ok(Self {
            by_key: format!("{select} WHERE md5path_1 = ?1 AND md5path_2 = ?2"),
            by_rowid: format!("{select} WHERE rowid = ?1"),
            children: format!(
                "{select} WHERE parent_1 = ?1 AND parent_2 = ?2 AND rowid > ?3 ORDER BY rowid LIMIT ?4"
            ),
            scan: format!("{select} NOT INDEXED WHERE (flags & 1) = ?1"),
            nested: (!selects.is_empty()).then(|| {
                format!(
                    "SELECT path, sha1, size FROM ({})",
                    selects.join(" UNION ALL ")
                )
            }),
        })
    }
}
