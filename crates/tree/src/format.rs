//! The layout of a tree's bytes.
//!
//! All numbers are little endian. Sections follow each other without gaps, so the counts in the
//! header give their places and the length of the whole.
//!
//! ```text
//! Header   64 B   magic, version, flags, counts, sum of the file sizes
//! Node     64 B × nodes     attributes; payload = where names, extents or target lie
//! Dirent   12 B × dirents   a name in a directory and the node it names
//! Part     24 B × parts     an extent of a file
//! Xattr    16 B × xattrs    an extended attribute
//! blob                      names, targets, xattrs' names and values, content references
//! ```
//!
//! Order carries the structure, so that validation is one pass with no memory of its own:
//!
//! * node 0 is the root; the others are numbered in the order in which the dirents first name
//!   them. So every node is reachable, and a directory is named exactly once, by its parent.
//! * the dirents of the directories follow each other in the order of the directories' numbers
//!   (breadth first), each directory's sorted strictly by name. A directory is numbered before
//!   its dirents come, so there are no cycles.
//! * the parts of the files follow each other in the order of the files' numbers.
//! * xattr sets may be shared between nodes.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version of the layout; part of the key under which callers keep trees.
pub const FORMAT_VERSION: u32 = 1;

/// Longest name of a file (`NAME_MAX`).
pub const MAX_NAME: usize = 255;
/// Longest path from the root, and longest symlink target (`PATH_MAX` without its NUL).
pub const MAX_PATH: usize = 4095;
/// Longest content reference of an extent.
pub const MAX_CONTENT: usize = 64 * 1024;
/// Longest value of an extended attribute (`XATTR_SIZE_MAX`).
pub const MAX_XATTR_VALUE: usize = 64 * 1024;
/// Most extended attributes of one node: what `listxattr` can return (`XATTR_LIST_MAX`, 64 KiB of
/// names) at 16 bytes a name. Bounds the linear search for one.
pub const MAX_XATTRS: usize = 4096;

pub(crate) const MAGIC: [u8; 8] = *b"OUTCROPT";

/// Header flag: made by a merge, holds neither whiteouts nor links to lower layers.
pub(crate) const MERGED: u32 = 1;

/// Node flag: a directory that no entry of the layer names.
pub(crate) const IMPLICIT: u8 = 1;
/// Node flag: a directory that hides the children of the layers below.
pub(crate) const OPAQUE: u8 = 2;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) magic: [u8; 8],
    pub(crate) version: U32,
    pub(crate) flags: U32,
    pub(crate) nodes: U32,
    pub(crate) dirents: U32,
    pub(crate) parts: U32,
    pub(crate) xattrs: U32,
    pub(crate) blob: U64,
    pub(crate) content_bytes: U64,
    pub(crate) reserved: [u8; 16],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Node {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) layer: U16,
    pub(crate) mode: U16,
    pub(crate) reserved: U16,
    pub(crate) uid: U32,
    pub(crate) gid: U32,
    pub(crate) nlink: U32,
    pub(crate) mtime_nanos: U32,
    pub(crate) mtime: I64,
    pub(crate) size: U64,
    /// Directory: its first dirent. File: its first part. Symlink, link: target's place in the
    /// blob. Device: its number.
    pub(crate) payload: U64,
    /// Directory: dirents. File: parts. Symlink, link: target's length. Others: 0.
    pub(crate) payload_count: U32,
    /// Directory: the directory above (the root's is itself). Others: 0.
    pub(crate) parent: U32,
    pub(crate) xattr_first: U32,
    pub(crate) xattr_count: U32,
}

impl Node {
    /// Stands in for a node that is not there, so that no accessor needs to panic: an empty file
    /// that nobody may open.
    pub(crate) const ABSENT: Self = Self {
        kind: 1,
        flags: 0,
        layer: U16::ZERO,
        mode: U16::ZERO,
        reserved: U16::ZERO,
        uid: U32::ZERO,
        gid: U32::ZERO,
        nlink: U32::ZERO,
        mtime_nanos: U32::ZERO,
        mtime: I64::ZERO,
        size: U64::ZERO,
        payload: U64::ZERO,
        payload_count: U32::ZERO,
        parent: U32::ZERO,
        xattr_first: U32::ZERO,
        xattr_count: U32::ZERO,
    };
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Dirent {
    pub(crate) name: U32,
    pub(crate) node: U32,
    pub(crate) name_length: U16,
    pub(crate) reserved: U16,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Part {
    pub(crate) offset: U64,
    pub(crate) length: U64,
    pub(crate) content: U32,
    pub(crate) content_length: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Xattr {
    pub(crate) name: U32,
    pub(crate) value: U32,
    pub(crate) value_length: U32,
    pub(crate) name_length: U16,
    pub(crate) reserved: U16,
}

pub(crate) const HEADER: usize = size_of::<Header>();
pub(crate) const NODE: usize = size_of::<Node>();
pub(crate) const DIRENT: usize = size_of::<Dirent>();
pub(crate) const PART: usize = size_of::<Part>();
pub(crate) const XATTR: usize = size_of::<Xattr>();

const _: () = assert!(HEADER == 64 && NODE == 64 && DIRENT == 12 && PART == 24 && XATTR == 16);

/// Where the sections lie; made from a header's counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sections {
    pub(crate) nodes: u32,
    pub(crate) dirents: u32,
    pub(crate) parts: u32,
    pub(crate) xattrs: u32,
    pub(crate) blob: u64,
}

impl Sections {
    pub(crate) const fn of(header: &Header) -> Self {
        Self {
            nodes: header.nodes.get(),
            dirents: header.dirents.get(),
            parts: header.parts.get(),
            xattrs: header.xattrs.get(),
            blob: header.blob.get(),
        }
    }

    // The sums cannot overflow: 2³² records of 64 bytes are 2³⁸.
    pub(crate) const fn dirents_at(&self) -> u64 {
        HEADER as u64 + self.nodes as u64 * NODE as u64
    }

    pub(crate) const fn parts_at(&self) -> u64 {
        self.dirents_at() + self.dirents as u64 * DIRENT as u64
    }

    pub(crate) const fn xattrs_at(&self) -> u64 {
        self.parts_at() + self.parts as u64 * PART as u64
    }

    pub(crate) const fn blob_at(&self) -> u64 {
        self.xattrs_at() + self.xattrs as u64 * XATTR as u64
    }

    /// Length of the whole, or nothing if the header asks for more than there are numbers.
    pub(crate) const fn end(&self) -> Option<u64> {
        self.blob_at().checked_add(self.blob)
    }
}
