//! What a path is to become, apart from a file's bytes.

use cvmfs::Kind;

/// One entry of a directory, its name left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with suid, sgid and sticky (`0o7777`); type bits are ignored.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Nanoseconds beyond `mtime`.
    pub mtime_nanos: u32,
    /// Device number as `stat` shows it; only of devices.
    pub rdev: u64,
    /// Extended attributes: full name, value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Target; only of symlinks.
    pub symlink: Vec<u8>,
    /// Bytes; only of regular files whose content was stored before.
    pub size: u64,
}

impl Entry {
    /// Owned by root, without attributes.
    pub fn new(kind: Kind, mode: u32, mtime: i64) -> Self {
        Self {
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime,
            mtime_nanos: 0,
            rdev: 0,
            xattrs: Vec::new(),
            symlink: Vec::new(),
            size: 0,
        }
    }

    /// A regular file.
    pub fn file(mode: u32, mtime: i64) -> Self {
        Self::new(Kind::File, mode, mtime)
    }

    /// A directory.
    pub fn directory(mode: u32, mtime: i64) -> Self {
        Self::new(Kind::Directory, mode, mtime)
    }

    /// A symbolic link.
    pub fn symlink(target: impl Into<Vec<u8>>, mtime: i64) -> Self {
        Self {
            symlink: target.into(),
            ..Self::new(Kind::Symlink, 0o777, mtime)
        }
    }

    /// The whole `st_mode`.
    pub(crate) fn st_mode(&self) -> u32 {
        let kind = match self.kind {
            Kind::File => 0o100_000,
            Kind::Directory => 0o040_000,
            Kind::Symlink => 0o120_000,
            Kind::CharDevice => 0o020_000,
            Kind::BlockDevice => 0o060_000,
            Kind::Fifo => 0o010_000,
            Kind::Socket => 0o140_000,
        };
        kind | self.mode & 0o7777
    }
}
