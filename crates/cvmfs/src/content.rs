//! Where the bytes of a regular file are stored.

use crate::hash::ContentHash;
use crate::object::ObjectRef;

/// Where a file's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Not a regular file.
    None,
    /// One object holds all of it.
    Whole(ObjectRef),
    /// Objects in the order of their offsets, without gaps, covering the file's size.
    Chunked(Vec<Chunk>),
    /// Outside of the repository, by path; in the order of offsets, without gaps, covering the file's size.
    External(Vec<ExternalChunk>),
}

/// A piece of a chunked file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// First byte, counted in the file.
    pub offset: u64,
    /// Decoded bytes.
    pub size: u64,
    /// The object that holds them.
    pub object: ObjectRef,
}

/// A piece of an external file; its bytes are stored as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalChunk {
    /// Path in the repository (`/a/b`), which is also the path below the external servers' URLs.
    pub path: Vec<u8>,
    /// First byte, counted in the file.
    pub offset: u64,
    /// Number of bytes.
    pub size: u64,
    /// Hash of these bytes.
    pub hash: ContentHash,
}
