//! How a tree's opaque content references are spelled: written when a layer's tree is built, read
//! when the kernel asks for bytes. A reference is at most some 4 KiB long.
//!
//! ```text
//! 0x00 object (cvmfs::ObjectRef, see there)
//! 0x01 object (fixed length), path in the external store
//! 0x02 ino u64, size u64, mtime i64 ns, path below the mounted repository
//! 0x03 the same with a mark of the layer's catalog in place of the ino
//! 0x04 chunk of the layer's blob (image::estargz::Chunk, see there)
//! ```

use cvmfs::{Compression, ContentHash, ObjectRef, Suffix};

/// A decoded content reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContentRef<'a> {
    /// An object of the repository.
    Object(ObjectRef),
    /// A range of a file in the repository's external store.
    External {
        /// Hash of the range.
        hash: ContentHash,
        /// Path of the file in the store, absolute.
        path: &'a [u8],
    },
    /// A file below a mounted repository.
    File {
        /// What the file looked like when the tree was built.
        stamp: Stamp,
        /// Path below the mounted repository.
        path: &'a [u8],
    },
    /// A chunk of the layer's own blob, as [`image::estargz::Chunk::to_reference`] spells it.
    Chunk(&'a [u8]),
}

/// Identity of a file in a file system that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub belongs: Belongs,
    pub size: u64,
    pub mtime_nanos: i64,
}

/// By what a file is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Belongs {
    /// Its own inode number.
    Inode(u64),
    /// The catalog of its layer, see [`crate::catalog_watch::mark`]: a client's inode numbers change
    /// whenever it is started anew.
    Catalog(u64),
}

const OBJECT: u8 = 0;
const EXTERNAL: u8 = 1;
const FILE: u8 = 2;
const FILE_OF_CATALOG: u8 = 3;
const CHUNK: u8 = 4;

impl ContentRef<'_> {
    /// Spells the reference.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Object(object) => {
                out.push(OBJECT);
                out.extend_from_slice(&object.to_bytes());
            }
            Self::External { hash, path } => {
                // Spelled like an object that is stored plain, which it is, elsewhere.
                let object = ObjectRef {
                    hash: *hash,
                    suffix: Suffix::Bulk,
                    compression: Compression::None,
                }
                .to_bytes();
                out.push(EXTERNAL);
                out.extend_from_slice(&object);
                out.extend_from_slice(path);
            }
            Self::File { stamp, path } => {
                let (kind, number) = match stamp.belongs {
                    Belongs::Inode(ino) => (FILE, ino),
                    Belongs::Catalog(mark) => (FILE_OF_CATALOG, mark),
                };
                out.push(kind);
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&stamp.size.to_le_bytes());
                out.extend_from_slice(&stamp.mtime_nanos.to_le_bytes());
                out.extend_from_slice(path);
            }
            Self::Chunk(reference) => {
                out.push(CHUNK);
                out.extend_from_slice(reference);
            }
        }
        out
    }
}

/// Reads a reference; `None` if it is none of ours.
pub(crate) fn decode(bytes: &[u8]) -> Option<ContentRef<'_>> {
    let (&kind, rest) = bytes.split_first()?;
    match kind {
        OBJECT => Some(ContentRef::Object(ObjectRef::from_bytes(rest)?)),
        EXTERNAL => {
            let (object, path) = rest.split_at_checked(ObjectRef::ENCODED_BYTES)?;
            Some(ContentRef::External {
                hash: ObjectRef::from_bytes(object)?.hash,
                path,
            })
        }
        FILE | FILE_OF_CATALOG => {
            let (number, rest) = rest.split_first_chunk::<8>()?;
            let (size, rest) = rest.split_first_chunk::<8>()?;
            let (mtime, path) = rest.split_first_chunk::<8>()?;
            let number = u64::from_le_bytes(*number);
            let stamp = Stamp {
                belongs: match kind {
                    FILE => Belongs::Inode(number),
                    _ => Belongs::Catalog(number),
                },
                size: u64::from_le_bytes(*size),
                mtime_nanos: i64::from_le_bytes(*mtime),
            };
            Some(ContentRef::File { stamp, path })
        }
        CHUNK => Some(ContentRef::Chunk(rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_comes_back() {
        for belongs in [Belongs::Inode(7), Belongs::Catalog(u64::MAX)] {
            let stamp = Stamp {
                belongs,
                size: 1 << 40,
                mtime_nanos: -5,
            };
            let file = ContentRef::File {
                stamp,
                path: b"a/\xff",
            };
            assert_eq!(decode(&file.encode()), Some(file));
        }
        let chunk = ContentRef::Chunk(b"any");
        assert_eq!(decode(&chunk.encode()), Some(chunk));
    }

    #[test]
    fn foreign_bytes_are_nothing() {
        for bytes in [
            &b""[..],
            b"\x02short",
            b"\x01\xff",
            b"\x01",
            b"\x09abc",
            b"\x00",
        ] {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
    }
}
