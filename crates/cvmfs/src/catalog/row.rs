//! Rows of the table `catalog`, decoded strictly.

use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::path_key::PathKey;
use crate::content::{Chunk, Content, ExternalChunk};
use crate::dirent::{Dirent, Flags, Kind};
use crate::hash::{Algorithm, ContentHash, DIGEST_BYTES};
use crate::object::{Compression, ObjectRef, Suffix};

const MAX_NAME: usize = 255;
/// Stored targets may be longer than a path, by their variables.
const MAX_TARGET: usize = 16 << 10;
/// Version, count, and 255 attributes with two lengths, name and value.
const MAX_XATTR: usize = 2 + 255 * (2 + 255 + 255);

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct CatalogRow {
    pub(crate) rowid: i64,
    pub(crate) key: PathKey,
    pub(crate) parent: PathKey,
    pub(crate) dirent: Dirent,
    pub(crate) digest: Option<[u8; DIGEST_BYTES]>,
}

/// A row of the table `chunks`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkRow {
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) digest: [u8; DIGEST_BYTES],
}

/// What is wrong with a row.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowError {
    #[error("column {0} is malformed")]
    Column(&'static str),
    #[error("the chunks do not cover the file without gaps")]
    Chunks,
    #[error("hash algorithm {0} is unknown")]
    Algorithm(u8),
    #[error("compression {0} is unknown")]
    Compression(u8),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// The columns of [`decode`], given those that a catalog of this revision has.
pub(crate) fn select_list(columns: &[String]) -> String {
    let has = |name: &str| columns.iter().any(|column| column == name);
    let mtime_nanos = if has("mtimens") { "mtimens" } else { "NULL" };
    let xattr = if has("xattr") { "xattr" } else { "NULL" };
    format!(
        "rowid, md5path_1, md5path_2, parent_1, parent_2, hardlinks, hash, size, mode, mtime, {mtime_nanos}, flags, \
         name, symlink, uid, gid, {xattr}"
    )
}

/// Reads a row selected by [`select_list`].
pub(crate) fn decode(row: &Row<'_>) -> Result<CatalogRow, RowError> {
    let mode = number::<u32>(row, 8, "mode")?;
    let flags = Flags(number(row, 11, "flags")?);
    let kind = Kind::from_mode(mode).ok_or(RowError::Column("mode"))?;
    if flags.directory() != (kind == Kind::Directory) {
        return Err(RowError::Column("flags"));
    }
    let hardlinks = integer(row, 5, "hardlinks")?;
    let stored_size: u64 = number(row, 7, "size")?;
    let symlink = bytes(row, 13, "symlink", MAX_TARGET)?.to_vec();
    let (size, rdev) = match kind {
        Kind::File | Kind::Directory => (stored_size, 0),
        Kind::Symlink => (symlink.len() as u64, 0),
        Kind::CharDevice | Kind::BlockDevice => (0, stored_size),
        Kind::Fifo | Kind::Socket => (0, 0),
    };
    let dirent = Dirent {
        name: name(row)?,
        kind,
        mode,
        uid: number(row, 14, "uid")?,
        gid: number(row, 15, "gid")?,
        size,
        rdev,
        mtime: integer(row, 9, "mtime")?,
        mtime_nanos: nanos(row)?,
        // Group and count share the column; the casts take the halves apart.
        nlink: (hardlinks as u32).max(1),
        link_group: (hardlinks >> 32) as u32,
        symlink,
        flags,
        xattr_blob: bytes(row, 16, "xattr", MAX_XATTR)?.to_vec(),
    };
    Ok(CatalogRow {
        rowid: integer(row, 0, "rowid")?,
        key: PathKey(integer(row, 1, "md5path_1")?, integer(row, 2, "md5path_2")?),
        parent: PathKey(integer(row, 3, "parent_1")?, integer(row, 4, "parent_2")?),
        dirent,
        digest: digest(row, 6)?,
    })
}

/// Reads `offset, size, hash` beginning at a column.
pub(crate) fn decode_chunk(row: &Row<'_>, first: usize) -> Result<ChunkRow, RowError> {
    Ok(ChunkRow {
        offset: number(row, first, "offset")?,
        size: number(row, first + 1, "size")?,
        digest: digest(row, first + 2)?.ok_or(RowError::Column("hash"))?,
    })
}

impl CatalogRow {
    /// Where the row's bytes are. `path` is the file's path in the repository; `chunks` are its chunks by offset.
    pub(crate) fn content(&self, path: &[u8], chunks: &[ChunkRow]) -> Result<Content, RowError> {
        let dirent = &self.dirent;
        if dirent.kind != Kind::File {
            return Ok(Content::None);
        }
        let number = dirent.flags.hash_algorithm();
        let algorithm = Algorithm::from_number(number).ok_or(RowError::Algorithm(number))?;
        let compression = match dirent.flags.compression() {
            0 => Compression::Zlib,
            1 => Compression::None,
            other => return Err(RowError::Compression(other)),
        };
        let own;
        let chunks = if dirent.flags.chunked() {
            check_cover(chunks, dirent.size)?;
            chunks
        } else {
            own = [ChunkRow {
                offset: 0,
                size: dirent.size,
                digest: self.digest.ok_or(RowError::Column("hash"))?,
            }];
            &own
        };
        let hash = |chunk: &ChunkRow| ContentHash {
            algorithm,
            digest: chunk.digest,
        };
        if dirent.flags.external() {
            // External bytes are stored as they are: there is nothing that could be inflated range by range.
            let piece = |chunk: &ChunkRow| ExternalChunk {
                path: path.to_vec(),
                offset: chunk.offset,
                size: chunk.size,
                hash: hash(chunk),
            };
            return Ok(Content::External(chunks.iter().map(piece).collect()));
        }
        let object = |chunk: &ChunkRow, suffix| ObjectRef {
            hash: hash(chunk),
            suffix,
            compression,
        };
        if !dirent.flags.chunked() {
            return Ok(Content::Whole(object(&chunks[0], Suffix::Bulk)));
        }
        let piece = |chunk: &ChunkRow| Chunk {
            offset: chunk.offset,
            size: chunk.size,
            object: object(chunk, Suffix::Partial),
        };
        Ok(Content::Chunked(chunks.iter().map(piece).collect()))
    }
}

fn check_cover(chunks: &[ChunkRow], size: u64) -> Result<(), RowError> {
    let mut end = 0_u64;
    for chunk in chunks {
        if chunk.offset != end {
            return Err(RowError::Chunks);
        }
        end = end.checked_add(chunk.size).ok_or(RowError::Chunks)?;
    }
    if end == size {
        Ok(())
    } else {
        Err(RowError::Chunks)
    }
}

fn integer(row: &Row<'_>, column: usize, name: &'static str) -> Result<i64, RowError> {
    match row.get_ref(column)? {
        ValueRef::Integer(number) => Ok(number),
        _ => Err(RowError::Column(name)),
    }
}

fn number<N: TryFrom<i64>>(
    row: &Row<'_>,
    column: usize,
    name: &'static str,
) -> Result<N, RowError> {
    N::try_from(integer(row, column, name)?).map_err(|_| RowError::Column(name))
}

/// Old catalogs have no column, old rows NULL, some writers −1: all mean zero.
fn nanos(row: &Row<'_>) -> Result<u32, RowError> {
    match row.get_ref(10)? {
        ValueRef::Null => Ok(0),
        ValueRef::Integer(number) if number < 1_000_000_000 => {
            Ok(u32::try_from(number).unwrap_or(0))
        }
        _ => Err(RowError::Column("mtimens")),
    }
}

fn bytes<'a>(
    row: &'a Row<'_>,
    column: usize,
    name: &'static str,
    limit: usize,
) -> Result<&'a [u8], RowError> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(&[]),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) if bytes.len() <= limit => Ok(bytes),
        _ => Err(RowError::Column(name)),
    }
}

/// A name must be one component that cannot lead elsewhere; the root row's is empty.
fn name(row: &Row<'_>) -> Result<Vec<u8>, RowError> {
    let name = bytes(row, 12, "name", MAX_NAME)?;
    let bad = name.iter().any(|byte| matches!(byte, 0 | b'/')) || matches!(name, b"." | b"..");
    if bad {
        Err(RowError::Column("name"))
    } else {
        Ok(name.to_vec())
    }
}

fn digest(row: &Row<'_>, column: usize) -> Result<Option<[u8; DIGEST_BYTES]>, RowError> {
    match bytes(row, column, "hash", DIGEST_BYTES)? {
        [] => Ok(None),
        bytes => Ok(Some(
            bytes.try_into().map_err(|_| RowError::Column("hash"))?,
        )),
    }
}
