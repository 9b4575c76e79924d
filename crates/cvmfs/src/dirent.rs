//! Directory entries as a catalog's rows describe them.

use crate::xattr::{self, XattrError, Xattrs};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

impl Kind {
    /// The kind that the type bits of an `st_mode` name.
    pub fn from_mode(mode: u32) -> Option<Self> {
        match mode & 0o170_000 {
            0o100_000 => Some(Self::File),
            0o040_000 => Some(Self::Directory),
            0o120_000 => Some(Self::Symlink),
            0o020_000 => Some(Self::CharDevice),
            0o060_000 => Some(Self::BlockDevice),
            0o010_000 => Some(Self::Fifo),
            0o140_000 => Some(Self::Socket),
            _ => None,
        }
    }
}

/// The `flags` column of a catalog row (CVMFS `catalog_sql.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u32);

impl Flags {
    const DIRECTORY: u32 = 1;
    const NESTED_MOUNTPOINT: u32 = 2;
    const NESTED_ROOT: u32 = 32;
    const CHUNKED: u32 = 64;
    const EXTERNAL: u32 = 128;
    const BIND_MOUNTPOINT: u32 = 0x4000;
    const HIDDEN: u32 = 0x8000;
    const DIRECT_IO: u32 = 0x1_0000;

    fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    /// A directory.
    pub fn directory(self) -> bool {
        self.has(Self::DIRECTORY)
    }

    /// A directory whose listing another catalog holds (row of the parent catalog).
    pub fn nested_mountpoint(self) -> bool {
        self.has(Self::NESTED_MOUNTPOINT)
    }

    /// The root row of a nested catalog (row of the child catalog).
    pub fn nested_root(self) -> bool {
        self.has(Self::NESTED_ROOT)
    }

    /// A file stored as several objects.
    pub fn chunked(self) -> bool {
        self.has(Self::CHUNKED)
    }

    /// A file stored outside of the repository, found by its path.
    pub fn external(self) -> bool {
        self.has(Self::EXTERNAL)
    }

    /// A directory at which the root of another catalog shows, such as a snapshot.
    pub fn bind_mountpoint(self) -> bool {
        self.has(Self::BIND_MOUNTPOINT)
    }

    /// Found by lookup, left out of listings.
    pub fn hidden(self) -> bool {
        self.has(Self::HIDDEN)
    }

    /// To be read past the page cache.
    pub fn direct_io(self) -> bool {
        self.has(Self::DIRECT_IO)
    }

    /// Number of the hash algorithm (1 SHA-1, 2 RIPEMD-160, 3 SHAKE-128; more are unknown).
    pub(crate) fn hash_algorithm(self) -> u8 {
        (self.0 >> 8 & 7) as u8 + 1
    }

    /// Number of the compression (0 zlib, 1 none; more are unknown).
    pub(crate) fn compression(self) -> u8 {
        (self.0 >> 11 & 7) as u8
    }
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirent {
    /// Basename; empty for the root row of a catalog.
    pub name: Vec<u8>,
    /// What it is; agrees with the type bits of `mode`.
    pub kind: Kind,
    /// Whole `st_mode`.
    pub mode: u32,
    /// Stored owner.
    pub uid: u32,
    /// Stored group.
    pub gid: u32,
    /// Bytes of a file; of a directory as stored; of a symlink the length of the raw target (who expands it sets the size anew);
    /// 0 for special files.
    pub size: u64,
    /// `st_rdev` of devices, glibc's `makedev` encoding; else 0.
    pub rdev: u64,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Nanoseconds beyond `mtime`.
    pub mtime_nanos: u32,
    /// Number of hardlinks; at least 1.
    pub nlink: u32,
    /// Entries of one catalog with the same number are one inode; 0 = none.
    pub link_group: u32,
    /// Target of a symlink as stored, with variables unexpanded.
    pub symlink: Vec<u8>,
    /// Flags of the row.
    pub flags: Flags,
    /// Stored extended attributes; [`Dirent::xattrs`] reads them.
    pub xattr_blob: Vec<u8>,
}

impl Dirent {
    /// Extended attributes (full name, value) in stored order.
    ///
    /// # Errors
    /// [`XattrError`] if the stored bytes are malformed. Attributes and content of the entry are not affected.
    pub fn xattrs(&self) -> Result<Xattrs, XattrError> {
        xattr::parse(&self.xattr_blob)
    }

    /// True if the entry's listing lies in another catalog.
    pub(crate) fn is_mountpoint(&self) -> bool {
        self.flags.nested_mountpoint() || self.flags.bind_mountpoint()
    }
}
