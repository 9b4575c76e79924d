//! Rows of table `catalog` with their chunks.

use cvmfs::{Compression, ContentHash, DIGEST_BYTES, Kind};

use crate::entry::Entry;
use crate::error::Error;
use crate::objects::StoredContent;

/// Bits of `catalog.flags`.
pub(crate) mod flags {
    pub(crate) use crate::stored_catalog::flags::{
        CHUNKED, DIRECTORY, EXTERNAL, NESTED_MOUNTPOINT, NESTED_ROOT, SPECIAL, SYMLINK,
    };
    pub(crate) const FILE: i64 = 4;
    pub(crate) const UNCOMPRESSED: i64 = 0x800;
    pub(crate) const BIND_MOUNTPOINT: i64 = 0x4000;
    /// What a row says about its place among catalogs.
    pub(crate) const PLACE: i64 = NESTED_MOUNTPOINT | NESTED_ROOT | BIND_MOUNTPOINT;
}

/// As directories are on the file systems that `cvmfs_server` reads.
const DIRECTORY_BYTES: i64 = 4096;
/// Longest name and value of an attribute, and how many one entry has: each is one byte in a catalog.
const MAX_XATTR: usize = 255;

/// A chunk of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowChunk {
    pub(crate) offset: i64,
    pub(crate) size: i64,
    pub(crate) digest: [u8; DIGEST_BYTES],
}

/// A row; its keys follow from its path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// Group << 32 | number of links in its directory.
    pub(crate) hardlinks: i64,
    pub(crate) hash: Option<[u8; DIGEST_BYTES]>,
    /// Bytes of a file or target; device number.
    pub(crate) size: i64,
    pub(crate) mode: i64,
    pub(crate) mtime: i64,
    pub(crate) mtime_nanos: i64,
    pub(crate) flags: i64,
    pub(crate) symlink: Vec<u8>,
    pub(crate) uid: i64,
    pub(crate) gid: i64,
    /// Encoded; empty for none.
    pub(crate) xattr: Vec<u8>,
    pub(crate) chunks: Vec<RowChunk>,
}

impl Row {
    /// The row of anything but a regular file.
    pub(crate) fn of(entry: &Entry) -> Result<Self, Error> {
        let (flags, size, links) = match entry.kind {
            Kind::Directory => (flags::DIRECTORY, DIRECTORY_BYTES, 2),
            Kind::Symlink => (flags::FILE | flags::SYMLINK, signed(entry.symlink.len()), 1),
            Kind::CharDevice | Kind::BlockDevice => {
                (flags::FILE | flags::SPECIAL, entry.rdev.cast_signed(), 1)
            }
            Kind::Fifo | Kind::Socket => (flags::FILE | flags::SPECIAL, 0, 1),
            Kind::File => (flags::FILE, entry.size.cast_signed(), 1),
        };
        Ok(Self {
            hardlinks: links,
            size,
            mode: i64::from(entry.st_mode()),
            mtime: entry.mtime,
            mtime_nanos: i64::from(entry.mtime_nanos),
            flags,
            symlink: match entry.kind {
                Kind::Symlink => entry.symlink.clone(),
                _ => Vec::new(),
            },
            uid: i64::from(entry.uid),
            gid: i64::from(entry.gid),
            xattr: encode_xattrs(&entry.xattrs)?,
            ..Self::default()
        })
    }

    /// Makes it a regular file. `empty` is the object that stands for no bytes.
    pub(crate) fn set_content(&mut self, content: &StoredContent, empty: ContentHash) {
        let encoding = |hash: &ContentHash, compression: Compression| {
            (hash.algorithm as i64 - 1) << 8
                | match compression {
                    Compression::Zlib => 0,
                    Compression::None => flags::UNCOMPRESSED,
                }
        };
        match content {
            StoredContent::Empty => {
                self.flags |= encoding(&empty, Compression::Zlib);
                self.hash = Some(empty.digest);
                self.size = 0;
            }
            StoredContent::Whole { hash, compression } => {
                self.flags |= encoding(hash, *compression);
                self.hash = Some(hash.digest);
            }
            StoredContent::Chunked(chunks) => {
                self.flags |= flags::CHUNKED;
                if let Some(first) = chunks.first() {
                    self.flags |= encoding(&first.hash, first.compression);
                }
                let chunk = |chunk: &crate::objects::StoredChunk| RowChunk {
                    offset: chunk.offset.cast_signed(),
                    size: chunk.size.cast_signed(),
                    digest: chunk.hash.digest,
                };
                self.chunks = chunks.iter().map(chunk).collect();
                self.size = self.chunks.iter().map(|chunk| chunk.size).sum();
            }
        }
    }

    pub(crate) fn has(&self, flag: i64) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.has(flags::DIRECTORY)
    }

    /// 0: it is no hardlink.
    pub(crate) fn link_group(&self) -> i64 {
        self.hardlinks >> 32
    }

    /// What it is; `None` for a mode that says nothing.
    pub(crate) fn kind(&self) -> Option<Kind> {
        u32::try_from(self.mode).ok().and_then(Kind::from_mode)
    }
}

fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// Version, count, then lengths, name and value of each, by name as `cvmfs_server` does; nothing for none.
pub(crate) fn encode_xattrs(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<u8>, Error> {
    if xattrs.is_empty() {
        return Ok(Vec::new());
    }
    let sorted: std::collections::BTreeMap<_, _> =
        xattrs.iter().map(|(name, value)| (name, value)).collect();
    let byte = |length: usize, name: &[u8]| match u8::try_from(length) {
        Ok(byte) => Ok(byte),
        Err(_) => Err(Error::Refused {
            what: format!("extended attribute {}", name.escape_ascii()),
            reason: format!(
                "a catalog holds at most {MAX_XATTR}, with names and values of at most {MAX_XATTR} bytes"
            ),
        }),
    };
    let mut blob = vec![1, byte(sorted.len(), b"")?];
    for (name, value) in sorted {
        blob.extend([byte(name.len(), name)?, byte(value.len(), name)?]);
        blob.extend_from_slice(name);
        blob.extend_from_slice(value);
    }
    Ok(blob)
}
