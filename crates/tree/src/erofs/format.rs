//! The records of an EROFS image, little endian (`fs/erofs/erofs_fs.h` of Linux).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Size of a block. 4 KiB mount on every kernel whose pages are not smaller.
pub(super) const BLOCK: u64 = 4096;
pub(super) const BLOCK_BITS: u8 = 12;
/// An inode's number is its place in the image, counted in slots of this size.
pub(super) const SLOT: u64 = 32;
/// Where the superblock lies; the bytes before are free for boot loaders.
pub(super) const SUPERBLOCK_AT: usize = 1024;
/// Inodes start behind the superblock's block, so its checksum covers nothing else.
pub(super) const METADATA_AT: u64 = BLOCK;
pub(super) const MAGIC: u32 = 0xE0F5_E1E2;

/// Compatible features: the superblock has a checksum; times of inodes are modification times.
pub(super) const CHECKSUM: u32 = 1;
pub(super) const MODIFICATION_TIMES: u32 = 2;

/// What the inode says where there is no block.
pub(super) const NO_BLOCK: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Superblock {
    pub(super) magic: U32,
    pub(super) checksum: U32,
    pub(super) compatible: U32,
    pub(super) block_bits: u8,
    pub(super) extra_slots: u8,
    pub(super) root: U16,
    pub(super) inodes: U64,
    pub(super) build_time: U64,
    pub(super) build_time_nanos: U32,
    pub(super) blocks: U32,
    pub(super) metadata_block: U32,
    pub(super) xattr_block: U32,
    pub(super) uuid: [u8; 16],
    pub(super) volume_name: [u8; 16],
    pub(super) incompatible: U32,
    /// Compression, devices, prefixes, packed inodes: none of it is used.
    pub(super) unused: [u8; 44],
}

/// Data follows the inode's block address; the last block may lie behind the inode instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataLayout {
    Plain = 0,
    Inline = 2,
}

/// The 64-byte form; the short one has neither its own time nor 32-bit owners.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Inode {
    /// Bit 0: this form. From bit 1: [`DataLayout`].
    pub(super) format: U16,
    /// Size of the attributes behind the inode, see [`xattr_count`].
    pub(super) xattr_count: U16,
    pub(super) mode: U16,
    pub(super) reserved: U16,
    pub(super) size: U64,
    /// First block of the data, or a device's number.
    pub(super) data: U32,
    /// What 32-bit `stat` shows.
    pub(super) number: U32,
    pub(super) uid: U32,
    pub(super) gid: U32,
    /// Two's complement.
    pub(super) mtime: U64,
    pub(super) mtime_nanos: U32,
    pub(super) nlink: U32,
    pub(super) reserved_2: [u8; 16],
}

/// Begins the attributes behind an inode: then come `shared` numbers of shared attributes, then
/// attributes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct XattrHeader {
    /// Not used without its feature flag.
    pub(super) name_filter: U32,
    pub(super) shared: u8,
    pub(super) reserved: [u8; 7],
}

/// An attribute: this, the name without its prefix, the value, up to a multiple of 4 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct XattrEntry {
    pub(super) name_length: u8,
    pub(super) prefix: u8,
    pub(super) value_length: U16,
}

/// A name in a block of a directory: these records first, then the names.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Dirent {
    pub(super) inode: U64,
    pub(super) name_at: U16,
    pub(super) file_type: u8,
    pub(super) reserved: u8,
}

pub(super) const INODE: usize = size_of::<Inode>();
pub(super) const XATTR_HEADER: usize = size_of::<XattrHeader>();
pub(super) const XATTR_ENTRY: usize = size_of::<XattrEntry>();
pub(super) const DIRENT: usize = size_of::<Dirent>();

const _: () = assert!(size_of::<Superblock>() == 128 && INODE == 64);
const _: () = assert!(XATTR_HEADER == 12 && XATTR_ENTRY == 4 && DIRENT == 12);

/// The inode's count for attributes of so many bytes (a multiple of 4, header included); nothing
/// if there are too many.
pub(super) fn xattr_count(bytes: usize) -> Option<u16> {
    match bytes {
        0 => Some(0),
        _ => u16::try_from((bytes - XATTR_HEADER) / 4 + 1).ok(),
    }
}
