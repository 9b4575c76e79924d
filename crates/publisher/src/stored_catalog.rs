//! Catalogs as they are stored, read as a whole: for marking, checking and for publishing an old one anew.

use std::collections::{BTreeMap, HashSet};

use cvmfs::{Algorithm, Compression, ContentHash, DIGEST_BYTES, ObjectRef, Suffix};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use crate::error::Error;
use crate::storage::Storage;
use crate::{sqlite, stored};

/// Larger catalogs are refused: some twenty million entries.
pub(crate) const MAX_CATALOG_BYTES: u64 = 4 << 30;

/// Bits of `catalog.flags` that are looked at.
pub(crate) mod flags {
    pub(crate) const DIRECTORY: i64 = 1;
    pub(crate) const NESTED_MOUNTPOINT: i64 = 2;
    pub(crate) const SYMLINK: i64 = 8;
    pub(crate) const SPECIAL: i64 = 16;
    pub(crate) const NESTED_ROOT: i64 = 32;
    pub(crate) const CHUNKED: i64 = 64;
    pub(crate) const EXTERNAL: i64 = 128;
}

/// A stored object without its encoding: what lies at one path of the backend.
pub(crate) type ObjectKey = [u8; ObjectRef::ENCODED_BYTES];

/// The key of an object.
pub(crate) fn key(hash: ContentHash, suffix: Suffix) -> ObjectKey {
    ObjectRef::zlib(hash, suffix).to_bytes()
}

/// The object at a path of the backend, if there can be one.
pub(crate) fn object_at(path: &str) -> Option<(ContentHash, Suffix)> {
    let (folder, rest) = path.strip_prefix("data/")?.split_once('/')?;
    if folder.len() != 2 {
        return None;
    }
    let (rest, suffix) = match rest.as_bytes().last()? {
        b'C' => (&rest[..rest.len() - 1], Suffix::Catalog),
        b'H' => (&rest[..rest.len() - 1], Suffix::History),
        b'X' => (&rest[..rest.len() - 1], Suffix::Certificate),
        b'M' => (&rest[..rest.len() - 1], Suffix::MetaInfo),
        b'P' => (&rest[..rest.len() - 1], Suffix::Partial),
        _ => (rest, Suffix::Bulk),
    };
    let hash = ContentHash::parse(&format!("{folder}{rest}")).ok()?;
    Some((hash, suffix))
}

/// A catalog in memory.
pub(crate) struct StoredCatalog {
    /// Object, for messages.
    pub(crate) name: String,
    /// Uncompressed bytes.
    pub(crate) size: u64,
    connection: Connection,
}

/// A row of table `nested_catalogs`.
#[derive(Clone, Debug)]
pub(crate) struct Nested {
    pub(crate) path: Vec<u8>,
    pub(crate) hash: ContentHash,
    /// Uncompressed bytes; 0 = unknown.
    pub(crate) size: u64,
}

/// A row of table `catalog`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredRow {
    pub(crate) key: (i64, i64),
    pub(crate) parent: (i64, i64),
    pub(crate) hardlinks: i64,
    pub(crate) hash: Option<[u8; DIGEST_BYTES]>,
    pub(crate) size: i64,
    pub(crate) mode: i64,
    pub(crate) mtime: i64,
    pub(crate) mtime_nanos: i64,
    pub(crate) flags: i64,
    pub(crate) name: Vec<u8>,
    pub(crate) symlink: Vec<u8>,
    pub(crate) uid: i64,
    pub(crate) gid: i64,
    pub(crate) xattr: Vec<u8>,
}

impl StoredRow {
    pub(crate) fn has(&self, flag: i64) -> bool {
        self.flags & flag != 0
    }

    /// True for files whose bytes are in the repository.
    pub(crate) fn has_objects(&self) -> bool {
        !self.has(flags::DIRECTORY | flags::SYMLINK | flags::SPECIAL | flags::EXTERNAL)
    }

    /// What its objects are named by.
    pub(crate) fn algorithm(&self) -> Option<Algorithm> {
        algorithm(self.flags)
    }

    /// How its objects are stored.
    pub(crate) fn compression(&self) -> Option<Compression> {
        match self.flags >> 11 & 7 {
            0 => Some(Compression::Zlib),
            1 => Some(Compression::None),
            _ => None,
        }
    }
}

fn algorithm(flags: i64) -> Option<Algorithm> {
    u8::try_from(flags >> 8 & 7)
        .ok()
        .and_then(|number| Algorithm::from_number(number + 1))
}

/// A chunk of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredChunk {
    pub(crate) offset: i64,
    pub(crate) size: i64,
    pub(crate) digest: [u8; DIGEST_BYTES],
}

impl StoredCatalog {
    /// Reads a catalog; `None` if it does not exist.
    pub(crate) fn load(storage: &dyn Storage, hash: ContentHash) -> Result<Option<Self>, Error> {
        let object = ObjectRef::zlib(hash, Suffix::Catalog);
        let Some(bytes) = stored::read_optional(storage, &object, MAX_CATALOG_BYTES)? else {
            return Ok(None);
        };
        let name = object.url_path();
        let connection =
            sqlite::open(&bytes, true).map_err(|error| Error::corrupt(&name, error))?;
        Ok(Some(Self {
            name,
            size: bytes.len() as u64,
            connection,
        }))
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> Error {
        Error::corrupt(&self.name, error)
    }

    pub(crate) fn property(&self, key: &str) -> Result<Option<String>, Error> {
        sqlite::property(&self.connection, key).map_err(|error| self.broken(&error))
    }

    /// Catalogs that are mounted in it; bind mountpoints are none.
    pub(crate) fn nested(&self) -> Result<Vec<Nested>, Error> {
        let inner = || -> rusqlite::Result<Vec<_>> {
            let columns = sqlite::columns(&self.connection, "nested_catalogs")?;
            let size = if columns.iter().any(|column| column == "size") {
                "size"
            } else {
                "0"
            };
            let sql = format!("SELECT path, sha1, {size} FROM nested_catalogs ORDER BY path");
            let mut statement = self.connection.prepare(&sql)?;
            statement
                .query_map([], |row| {
                    let size: Option<i64> = row.get(2)?;
                    Ok((bytes(row, 0)?, row.get::<_, String>(1)?, size.unwrap_or(0)))
                })?
                .collect()
        };
        let rows = inner().map_err(|error| self.broken(&error))?;
        rows.into_iter()
            .map(|(path, hash, size)| {
                Ok(Nested {
                    path,
                    hash: ContentHash::parse(&hash).map_err(|error| self.broken(&error))?,
                    size: u64::try_from(size).unwrap_or(0),
                })
            })
            .collect()
    }

    /// Table `statistics`.
    pub(crate) fn counters(&self) -> Result<BTreeMap<String, i64>, Error> {
        let inner = || -> rusqlite::Result<_> {
            let mut statement = self
                .connection
                .prepare("SELECT counter, value FROM statistics")?;
            statement
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        };
        inner().map_err(|error| self.broken(&error))
    }

    /// All entries.
    pub(crate) fn rows(&self) -> Result<Vec<StoredRow>, Error> {
        let inner = || -> rusqlite::Result<_> {
            let columns = sqlite::columns(&self.connection, "catalog")?;
            let optional = |name: &'static str| match columns.iter().any(|column| column == name) {
                true => name,
                false => "NULL",
            };
            let sql = format!(
                "SELECT md5path_1, md5path_2, parent_1, parent_2, hardlinks, hash, size, mode, mtime, {}, flags, name, \
                 symlink, uid, gid, {} FROM catalog NOT INDEXED",
                optional("mtimens"),
                optional("xattr")
            );
            let mut statement = self.connection.prepare(&sql)?;
            statement.query_map([], decode)?.collect()
        };
        inner().map_err(|error: rusqlite::Error| self.broken(&error))
    }

    /// All chunks by file and offset.
    pub(crate) fn chunks(&self) -> Result<BTreeMap<(i64, i64), Vec<StoredChunk>>, Error> {
        let mut chunks: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut inner = || {
            let sql =
                "SELECT md5path_1, md5path_2, offset, size, hash FROM chunks ORDER BY 1, 2, 3";
            let mut statement = self.connection.prepare(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let chunk = StoredChunk {
                    offset: row.get(2)?,
                    size: row.get(3)?,
                    digest: row.get(4)?,
                };
                chunks
                    .entry((row.get(0)?, row.get(1)?))
                    .or_default()
                    .push(chunk);
            }
            Ok(())
        };
        inner().map_err(|error: rusqlite::Error| self.broken(&error))?;
        Ok(chunks)
    }

    /// Visits all objects that its files name.
    pub(crate) fn each_object(&self, visit: &mut dyn FnMut(ObjectKey)) -> Result<(), Error> {
        let mut each = |sql: &str, suffix| {
            let mut statement = self.connection.prepare(sql)?;
            let mut rows = statement.query([flags::EXTERNAL])?;
            while let Some(row) = rows.next()? {
                let digest: [u8; DIGEST_BYTES] = row.get(0)?;
                if let Some(algorithm) = algorithm(row.get(1)?) {
                    visit(key(ContentHash { algorithm, digest }, suffix));
                }
            }
            Ok(())
        };
        let bulk = "SELECT hash, flags FROM catalog WHERE length(hash) = 20 AND flags & ?1 = 0";
        let partial = "SELECT chunks.hash, flags FROM chunks JOIN catalog USING (md5path_1, md5path_2) \
                       WHERE length(chunks.hash) = 20 AND flags & ?1 = 0";
        each(bulk, Suffix::Bulk)
            .and_then(|()| each(partial, Suffix::Partial))
            .map_err(|error: rusqlite::Error| self.broken(&error))
    }
}

fn decode(row: &Row<'_>) -> rusqlite::Result<StoredRow> {
    let hash = bytes(row, 5)?;
    Ok(StoredRow {
        key: (row.get(0)?, row.get(1)?),
        parent: (row.get(2)?, row.get(3)?),
        hardlinks: row.get(4)?,
        hash: <[u8; DIGEST_BYTES]>::try_from(hash).ok(),
        size: row.get(6)?,
        mode: row.get(7)?,
        mtime: row.get(8)?,
        mtime_nanos: row.get::<_, Option<i64>>(9)?.unwrap_or(0),
        flags: row.get(10)?,
        name: bytes(row, 11)?,
        symlink: bytes(row, 12)?,
        uid: row.get(13)?,
        gid: row.get(14)?,
        xattr: bytes(row, 15)?,
    })
}

/// Text or blob of any bytes; NULL is empty.
fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<u8>> {
    match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(bytes.to_vec()),
        ValueRef::Null => Ok(Vec::new()),
        other => Err(rusqlite::Error::InvalidColumnType(
            column,
            String::new(),
            other.data_type(),
        )),
    }
}

/// Visits what revisions are made of, each catalog once.
pub(crate) struct Walk<'a> {
    storage: &'a dyn Storage,
    seen: HashSet<ContentHash>,
    /// Missing and damaged catalogs are passed over: nobody can read what is below them.
    lenient: bool,
}

impl<'a> Walk<'a> {
    /// Every catalog must be there.
    pub(crate) fn strict(storage: &'a dyn Storage) -> Self {
        Self {
            storage,
            seen: HashSet::new(),
            lenient: false,
        }
    }

    /// Damaged revisions are visited as far as they go.
    pub(crate) fn lenient(storage: &'a dyn Storage) -> Self {
        Self {
            lenient: true,
            ..Self::strict(storage)
        }
    }

    /// Visits a root catalog, all below it and all that they name.
    pub(crate) fn revision(
        &mut self,
        root: ContentHash,
        visit: &mut dyn FnMut(ObjectKey),
    ) -> Result<(), Error> {
        let mut pending = vec![root];
        while let Some(hash) = pending.pop() {
            if !self.seen.insert(hash) {
                continue;
            }
            visit(key(hash, Suffix::Catalog));
            match self.catalog(hash, visit) {
                Ok(nested) => pending.extend(nested),
                Err(Error::Missing { .. } | Error::Corrupt { .. }) if self.lenient => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn catalog(
        &self,
        hash: ContentHash,
        visit: &mut dyn FnMut(ObjectKey),
    ) -> Result<Vec<ContentHash>, Error> {
        let catalog = StoredCatalog::load(self.storage, hash)?.ok_or_else(|| Error::Missing {
            what: ObjectRef::zlib(hash, Suffix::Catalog).url_path(),
            location: self.storage.location(),
        })?;
        catalog.each_object(visit)?;
        Ok(catalog
            .nested()?
            .into_iter()
            .map(|nested| nested.hash)
            .collect())
    }
}
