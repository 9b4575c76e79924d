//! A file or directory as a builder keeps it.

use std::collections::{BTreeMap, BTreeSet};

use crate::entry::{Entry, Kind};

use super::Index;

#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) implicit: bool,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) mtime_nanos: u32,
    pub(super) size: u64,
    pub(super) rdev: u64,
    /// Names that lead here; without any it is not written.
    pub(super) names: u32,
    /// File: its extents in `extents`. Symlink, link: its target in `blob`.
    pub(super) payload: (usize, usize),
    pub(super) xattrs: Box<[(Vec<u8>, Vec<u8>)]>,
    pub(super) directory: Option<Box<Directory>>,
}

#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) opaque: bool,
    pub(super) children: BTreeMap<Box<[u8]>, Index>,
    pub(super) whiteouts: BTreeSet<Box<[u8]>>,
}

#[derive(Debug)]
pub(super) struct StoredExtent {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) content: (usize, usize),
}

impl Node {
    /// What most runtimes give a directory that no entry names.
    pub(super) fn implicit_directory() -> Self {
        Self {
            kind: Kind::Directory,
            implicit: true,
            mode: 0o755,
            ..Self::default()
        }
    }

    /// An entry's node without its payload.
    pub(super) fn attributes_of(entry: Entry) -> Self {
        // Sorted by name; of equal names the last, which a stable sort leaves last.
        let mut xattrs = entry.xattrs;
        xattrs.sort_by(|a, b| a.0.cmp(&b.0));
        xattrs.reverse();
        xattrs.dedup_by(|later, kept| later.0 == kept.0);
        xattrs.reverse();
        Self {
            kind: entry.kind,
            mode: (entry.mode & 0o7777) as u16,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            mtime_nanos: entry.mtime_nanos,
            size: entry.size,
            rdev: if entry.kind.is_device() {
                entry.rdev
            } else {
                0
            },
            xattrs: xattrs.into_boxed_slice(),
            ..Self::default()
        }
    }
}
