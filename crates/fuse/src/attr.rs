//! What `stat` and `statfs` show, and how long the kernel may remember it.

use std::time::Duration;

use zerocopy::FromZeros;

use crate::abi;

/// Unit of `st_blocks`.
const SECTOR: u64 = 512;
/// Unit of `statfs`, and preferred unit of input and output.
const BLOCK: u32 = 4096;
/// Longest name of one directory entry.
const NAME_MAX: u32 = 255;

/// The number by which the kernel names a node of the mount, and that `st_ino` shows; the root is 1.
///
/// Numbers come back in later requests, even from a mount that an earlier process served: check every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inode(pub u64);

impl Inode {
    /// The root directory of the mount.
    pub const ROOT: Self = Self(1);
}

/// Attributes of a node, as `stat` shows them.
///
/// The kernel derives the rest: access and change time equal the modification time, blocks follow from the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Number of the node.
    pub ino: Inode,
    /// Length in bytes; of a symbolic link, the length of its target.
    pub size: u64,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, as `st_rdev` shows it; else 0.
    pub rdev: u64,
    /// Modification time, in seconds since 1970.
    pub mtime: i64,
    /// Fraction of `mtime` in nanoseconds, below 1 000 000 000.
    pub mtime_nanos: u32,
}

/// A name's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number by which later requests name the node. 0 is not a node.
    pub inode: Inode,
    /// Attributes of the node.
    pub attr: Attr,
    /// How long the kernel may take it that the name leads to this node; `Duration::MAX` is for ever.
    pub entry_valid: Duration,
    /// How long the kernel may keep the attributes; `Duration::MAX` is for ever.
    pub attr_valid: Duration,
}

/// Size of the whole file system, as `statfs` shows it. Nothing is ever free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes of all contents.
    pub content_bytes: u64,
    /// Number of nodes.
    pub inodes: u64,
}

/// Seconds and nanoseconds in the kernel's form.
pub(crate) fn validity(duration: Duration) -> (u64, u32) {
    if duration == Duration::MAX {
        // Larger than any clock; the kernel clips it to its own "never".
        return (u64::MAX, 0);
    }
    (duration.as_secs(), duration.subsec_nanos())
}

impl Attr {
    pub(crate) fn encode(&self) -> abi::Attr {
        // The kernel stores seconds as they are, negative ones included.
        let mtime = self.mtime.cast_unsigned();
        abi::Attr {
            ino: self.ino.0,
            size: self.size,
            blocks: self.size.div_ceil(SECTOR),
            atime: mtime,
            mtime,
            ctime: mtime,
            atimensec: self.mtime_nanos,
            mtimensec: self.mtime_nanos,
            ctimensec: self.mtime_nanos,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: device_number(self.rdev),
            blksize: BLOCK,
            flags: 0,
        }
    }
}

/// Major number in bits 8–19, minor in bits 0–7 and 20–31: the low half of `dev_t`, as long as both fit the kernel's
/// 12 and 20 bits. The rest of `dev_t` cannot be said in this protocol.
#[allow(clippy::cast_possible_truncation)]
fn device_number(rdev: u64) -> u32 {
    rdev as u32
}

impl Entry {
    pub(crate) fn encode(&self) -> abi::EntryOut {
        let (entry_valid, entry_valid_nsec) = validity(self.entry_valid);
        let (attr_valid, attr_valid_nsec) = validity(self.attr_valid);
        abi::EntryOut {
            nodeid: self.inode.0,
            // Inode numbers are never used again for another node, so one generation is enough.
            generation: 0,
            entry_valid,
            attr_valid,
            entry_valid_nsec,
            attr_valid_nsec,
            attr: self.attr.encode(),
        }
    }
}

/// "No such name", to be remembered for `valid`.
pub(crate) fn negative_entry(valid: Duration) -> abi::EntryOut {
    let (entry_valid, entry_valid_nsec) = validity(valid);
    abi::EntryOut {
        entry_valid,
        entry_valid_nsec,
        ..abi::EntryOut::new_zeroed()
    }
}

impl StatFs {
    pub(crate) fn encode(&self) -> abi::StatfsOut {
        abi::StatfsOut {
            blocks: self.content_bytes.div_ceil(u64::from(BLOCK)),
            bfree: 0,
            bavail: 0,
            files: self.inodes,
            ffree: 0,
            bsize: BLOCK,
            namelen: NAME_MAX,
            frsize: BLOCK,
            padding: 0,
            spare: [0; 6],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr() -> Attr {
        Attr {
            ino: Inode(7),
            size: 1025,
            mode: 0o100_644,
            nlink: 2,
            uid: 3,
            gid: 4,
            rdev: 0,
            mtime: -5,
            mtime_nanos: 6,
        }
    }

    #[test]
    fn derived_attributes_follow_from_the_given_ones() {
        let encoded = attr().encode();
        assert_eq!(encoded.blocks, 3);
        assert_eq!(encoded.blksize, 4096);
        assert_eq!(encoded.atime.cast_signed(), -5);
        assert_eq!((encoded.ctime, encoded.ctimensec), (encoded.mtime, 6));
    }

    #[test]
    fn device_numbers_keep_major_and_minor() {
        // makedev(5, 1), makedev(259, 70000), makedev(4095, 1048575)
        for (major, minor) in [(5u32, 1u32), (259, 70_000), (4095, 1_048_575)] {
            let rdev = rustix::fs::makedev(major, minor);
            let encoded = device_number(rdev);
            // new_decode_dev() of the kernel
            assert_eq!((encoded & 0xf_ff00) >> 8, major);
            assert_eq!((encoded & 0xff) | ((encoded >> 12) & 0xf_ff00), minor);
        }
    }

    #[test]
    fn validity_is_exact_and_for_ever_is_the_largest() {
        assert_eq!(validity(Duration::ZERO), (0, 0));
        assert_eq!(validity(Duration::from_millis(1500)), (1, 500_000_000));
        assert_eq!(validity(Duration::MAX), (u64::MAX, 0));
    }

    #[test]
    fn a_negative_entry_has_no_node() {
        let entry = negative_entry(Duration::from_secs(9));
        assert_eq!(
            (entry.nodeid, entry.entry_valid, entry.attr.mode),
            (0, 9, 0)
        );
    }

    #[test]
    fn sizes_round_up_to_blocks() {
        let statfs = StatFs {
            content_bytes: 4097,
            inodes: 12,
        }
        .encode();
        assert_eq!((statfs.blocks, statfs.files, statfs.bfree), (2, 12, 0));
    }
}
