//! What a tree says about one file.

/// A node's number in its tree, counted from 0 (the root). A FUSE inode number is this plus 1.
///
/// The public number makes conversions cheap; numbers from outside (the kernel) are checked by
/// [`Tree::node_id`](crate::Tree::node_id).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The root directory of every tree.
    pub const ROOT: Self = Self(0);
}

/// What a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Regular file; its content is given by extents.
    #[default]
    File,
    /// Directory.
    Directory,
    /// Symbolic link; its target is verbatim, nothing is expanded.
    Symlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Hides the name in the layers below. Only in the tree of a layer, never in a merged tree.
    Whiteout,
    /// Hardlink to a path of a lower layer; [`Tree::symlink`](crate::Tree::symlink) is that path.
    /// Only in the tree of a layer, never in a merged tree.
    Link,
}

impl Kind {
    /// The file type bits of `st_mode` (`S_IFMT`); 0 for what no file system shows.
    #[must_use]
    pub const fn type_bits(self) -> u32 {
        match self {
            Self::File => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Symlink => 0o120_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::Whiteout | Self::Link => 0,
        }
    }

    /// The kind with these `S_IFMT` bits (other bits of `mode` are ignored).
    #[must_use]
    pub const fn from_type_bits(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o100_000 => Self::File,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Symlink,
            0o020_000 => Self::CharDevice,
            0o060_000 => Self::BlockDevice,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }

    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Directory => 2,
            Self::Symlink => 3,
            Self::CharDevice => 4,
            Self::BlockDevice => 5,
            Self::Fifo => 6,
            Self::Socket => 7,
            Self::Whiteout => 8,
            Self::Link => 9,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::File,
            2 => Self::Directory,
            3 => Self::Symlink,
            4 => Self::CharDevice,
            5 => Self::BlockDevice,
            6 => Self::Fifo,
            7 => Self::Socket,
            8 => Self::Whiteout,
            9 => Self::Link,
            _ => return None,
        })
    }

    pub(crate) const fn is_device(self) -> bool {
        matches!(self, Self::CharDevice | Self::BlockDevice)
    }

    /// Whether the record's payload is a path: a symlink's target, or a link's.
    pub(crate) const fn has_target(self) -> bool {
        matches!(self, Self::Symlink | Self::Link)
    }
}

/// What `stat` shows of a node. Access and change time are the modification time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-uid, set-gid and sticky (`0o7777`), without the type.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes; of a symlink the length of its target; of a directory what its source said.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds, below 10⁹.
    pub mtime_nanos: u32,
    /// Device number as `stat` shows it (Linux `dev_t`); 0 unless a device.
    pub rdev: u64,
    /// Names of this node in the tree; of a directory 2 plus its subdirectories.
    pub nlink: u32,
}

impl Attributes {
    /// `st_mode`: type and permission bits.
    #[must_use]
    pub const fn st_mode(&self) -> u32 {
        self.kind.type_bits() | self.mode
    }
}

/// A part of a file and where its bytes come from. Extents of a file are in order of their offset
/// and do not overlap; what none of them covers reads as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent<'a> {
    /// Where in the file the part starts, in bytes.
    pub offset: u64,
    /// Its length in bytes, at least 1.
    pub length: u64,
    /// Opaque reference to the bytes, at most [`MAX_CONTENT`](crate::format::MAX_CONTENT) long.
    pub content: &'a [u8],
}

/// What a source says about one path of a layer; input of [`Builder::add`](crate::Builder::add).
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// What it is; [`Kind::Link`] is refused here (see [`Builder::hardlink`](crate::Builder::hardlink)).
    pub kind: Kind,
    /// Permission bits; others are dropped.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a file; kept for a directory, ignored for all others.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds, below 10⁹.
    pub mtime_nanos: u32,
    /// Linux `dev_t` of a device, ignored for all others.
    pub rdev: u64,
    /// Extended attributes, name and value, in any order; of two with one name the later counts.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Target of a symlink, ignored for all others.
    pub symlink: Vec<u8>,
    /// Offset, length and content reference of each part of a file, in order.
    pub extents: Vec<(u64, u64, Vec<u8>)>,
    /// Entries of one layer with the same group are names of one file; the latest one's attributes
    /// count. Ignored for directories.
    pub link_group: Option<u64>,
    /// A directory that the layer's tar does not name: in a merge it takes the attributes of the
    /// layer below. Ignored for all others.
    pub implicit: bool,
}

impl Entry {
    /// An entry of root's, empty and of 1970; set the other fields as needed.
    #[must_use]
    pub fn new(kind: Kind, mode: u32) -> Self {
        Self {
            kind,
            mode,
            ..Self::default()
        }
    }
}
