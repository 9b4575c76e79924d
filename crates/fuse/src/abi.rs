//! The kernel's structures, from `linux/fuse.h` at version 7.40 (`request_timeout`: 7.43), in the byte order of the machine.
//!
//! Only what a read-only file system meets. Field order and sizes are compared with generated bindings in the tests.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Protocol version that we speak; another major version is another protocol.
pub(crate) const MAJOR: u32 = 7;
/// Newest minor version whose meaning we know.
pub(crate) const NEWEST_MINOR: u32 = 40;
/// Oldest minor version taken (Linux 4.20): `max_pages`, cached symlinks, and structures of today's size.
pub(crate) const OLDEST_MINOR: u32 = 28;

/// Written in place of an error, with `unique` 0: "send again what was read and not answered".
pub(crate) const NOTIFY_RESEND: i32 = 7;

/// Operation codes.
pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const READDIRPLUS: u32 = 44;

    /// Names by number, for metrics; gaps in the numbering are empty.
    pub(crate) const NAMES: [&str; 53] = [
        "",
        "lookup",
        "forget",
        "getattr",
        "setattr",
        "readlink",
        "symlink",
        "",
        "mknod",
        "mkdir",
        "unlink",
        "rmdir",
        "rename",
        "link",
        "open",
        "read",
        "write",
        "statfs",
        "release",
        "",
        "fsync",
        "setxattr",
        "getxattr",
        "listxattr",
        "removexattr",
        "flush",
        "init",
        "opendir",
        "readdir",
        "releasedir",
        "fsyncdir",
        "getlk",
        "setlk",
        "setlkw",
        "access",
        "create",
        "interrupt",
        "bmap",
        "destroy",
        "ioctl",
        "poll",
        "notify_reply",
        "batch_forget",
        "fallocate",
        "readdirplus",
        "rename2",
        "lseek",
        "copy_file_range",
        "setupmapping",
        "removemapping",
        "syncfs",
        "tmpfile",
        "statx",
    ];
}

/// Features negotiated by INIT: bits 0–31 travel in `flags`, bits 32–63 in `flags2`.
pub(crate) mod feature {
    pub(crate) const ASYNC_READ: u64 = 1;
    pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(crate) const ASYNC_DIO: u64 = 1 << 15;
    pub(crate) const NO_OPEN_SUPPORT: u64 = 1 << 17;
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(crate) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub(crate) const INIT_EXT: u64 = 1 << 30;
    pub(crate) const HAS_RESEND: u64 = 1 << 39;
    pub(crate) const ALLOW_IDMAP: u64 = 1 << 40;
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct InHeader {
    pub(crate) len: u32,
    pub(crate) opcode: u32,
    pub(crate) unique: u64,
    pub(crate) nodeid: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
    /// Length of extensions at the end of the request, in units of 8 bytes.
    pub(crate) total_extlen: u16,
    pub(crate) padding: u16,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct OutHeader {
    pub(crate) len: u32,
    /// 0 or a negated error number.
    pub(crate) error: i32,
    pub(crate) unique: u64,
}

/// The part of `fuse_init_in` that every version sends.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct InitIn {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct InitOut {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: u32,
    pub(crate) max_background: u16,
    pub(crate) congestion_threshold: u16,
    pub(crate) max_write: u32,
    pub(crate) time_gran: u32,
    pub(crate) max_pages: u16,
    pub(crate) map_alignment: u16,
    pub(crate) flags2: u32,
    pub(crate) max_stack_depth: u32,
    pub(crate) unused: [u32; 6],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Attr {
    pub(crate) ino: u64,
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    pub(crate) atime: u64,
    pub(crate) mtime: u64,
    pub(crate) ctime: u64,
    pub(crate) atimensec: u32,
    pub(crate) mtimensec: u32,
    pub(crate) ctimensec: u32,
    pub(crate) mode: u32,
    pub(crate) nlink: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u32,
    pub(crate) blksize: u32,
    pub(crate) flags: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct EntryOut {
    pub(crate) nodeid: u64,
    pub(crate) generation: u64,
    pub(crate) entry_valid: u64,
    pub(crate) attr_valid: u64,
    pub(crate) entry_valid_nsec: u32,
    pub(crate) attr_valid_nsec: u32,
    pub(crate) attr: Attr,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct AttrOut {
    pub(crate) attr_valid: u64,
    pub(crate) attr_valid_nsec: u32,
    pub(crate) dummy: u32,
    pub(crate) attr: Attr,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct StatfsOut {
    pub(crate) blocks: u64,
    pub(crate) bfree: u64,
    pub(crate) bavail: u64,
    pub(crate) files: u64,
    pub(crate) ffree: u64,
    pub(crate) bsize: u32,
    pub(crate) namelen: u32,
    pub(crate) frsize: u32,
    pub(crate) padding: u32,
    pub(crate) spare: [u32; 6],
}

/// Body of READ, READDIR and READDIRPLUS.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ReadIn {
    pub(crate) fh: u64,
    pub(crate) offset: u64,
    pub(crate) size: u32,
    pub(crate) read_flags: u32,
    pub(crate) lock_owner: u64,
    pub(crate) flags: u32,
    pub(crate) padding: u32,
}

/// Body of GETXATTR (a name follows) and LISTXATTR.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct GetxattrIn {
    pub(crate) size: u32,
    pub(crate) padding: u32,
}

/// Answer to GETXATTR and LISTXATTR that ask for a length only.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct GetxattrOut {
    pub(crate) size: u32,
    pub(crate) padding: u32,
}

/// A directory entry without its name, which follows, padded to 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Dirent {
    pub(crate) ino: u64,
    pub(crate) off: u64,
    pub(crate) namelen: u32,
    pub(crate) kind: u32,
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use fuse_abi::linux as kernel;

    use super::*;

    macro_rules! same_layout {
        ($ours:ty, $theirs:ty, $($field:ident = $theirs_field:ident),*) => {
            assert_eq!(size_of::<$ours>(), size_of::<$theirs>());
            same_fields!($ours, $theirs, $($field = $theirs_field),*);
        };
    }

    macro_rules! same_fields {
        ($ours:ty, $theirs:ty, $($field:ident = $theirs_field:ident),*) => {
            $(assert_eq!(
                offset_of!($ours, $field),
                offset_of!($theirs, $theirs_field),
                stringify!($ours.$field)
            );)*
        };
    }

    #[test]
    fn headers_lie_as_the_kernels() {
        same_layout!(
            InHeader,
            kernel::fuse_in_header,
            len = len,
            opcode = opcode,
            unique = unique,
            nodeid = nodeid,
            uid = uid,
            gid = gid,
            pid = pid,
            total_extlen = total_extlen,
            padding = padding
        );
        same_layout!(
            OutHeader,
            kernel::fuse_out_header,
            len = len,
            error = error,
            unique = unique
        );
    }

    #[test]
    fn init_lies_as_the_kernels() {
        same_fields!(
            InitIn,
            kernel::fuse_init_in,
            major = major,
            minor = minor,
            max_readahead = max_readahead,
            flags = flags
        );
        assert_eq!(
            size_of::<InitIn>(),
            offset_of!(kernel::fuse_init_in, flags2)
        );
        same_layout!(
            InitOut,
            kernel::fuse_init_out,
            major = major,
            minor = minor,
            max_readahead = max_readahead,
            flags = flags,
            max_background = max_background,
            congestion_threshold = congestion_threshold,
            max_write = max_write,
            time_gran = time_gran,
            max_pages = max_pages,
            map_alignment = map_alignment,
            flags2 = flags2,
            max_stack_depth = max_stack_depth,
            unused = unused
        );
    }

    #[test]
    fn attributes_lie_as_the_kernels() {
        same_layout!(
            Attr,
            kernel::fuse_attr,
            ino = ino,
            size = size,
            blocks = blocks,
            atime = atime,
            mtime = mtime,
            ctime = ctime,
            atimensec = atimensec,
            mtimensec = mtimensec,
            ctimensec = ctimensec,
            mode = mode,
            nlink = nlink,
            uid = uid,
            gid = gid,
            rdev = rdev,
            blksize = blksize,
            flags = flags
        );
        same_layout!(
            EntryOut,
            kernel::fuse_entry_out,
            nodeid = nodeid,
            generation = generation,
            entry_valid = entry_valid,
            attr_valid = attr_valid,
            entry_valid_nsec = entry_valid_nsec,
            attr_valid_nsec = attr_valid_nsec,
            attr = attr
        );
        same_layout!(
            AttrOut,
            kernel::fuse_attr_out,
            attr_valid = attr_valid,
            attr_valid_nsec = attr_valid_nsec,
            dummy = dummy,
            attr = attr
        );
        same_layout!(
            StatfsOut,
            kernel::fuse_kstatfs,
            blocks = blocks,
            bfree = bfree,
            bavail = bavail,
            files = files,
            ffree = ffree,
            bsize = bsize,
            namelen = namelen,
            frsize = frsize,
            padding = padding,
            spare = spare
        );
        assert_eq!(size_of::<StatfsOut>(), size_of::<kernel::fuse_statfs_out>());
    }

    #[test]
    fn bodies_lie_as_the_kernels() {
        same_layout!(
            ReadIn,
            kernel::fuse_read_in,
            fh = fh,
            offset = offset,
            size = size,
            read_flags = read_flags,
            lock_owner = lock_owner,
            flags = flags,
            padding = padding
        );
        same_layout!(
            GetxattrIn,
            kernel::fuse_getxattr_in,
            size = size,
            padding = padding
        );
        same_layout!(
            GetxattrOut,
            kernel::fuse_getxattr_out,
            size = size,
            padding = padding
        );
        same_fields!(
            Dirent,
            kernel::fuse_dirent,
            ino = ino,
            off = off,
            namelen = namelen,
            kind = type_
        );
        assert_eq!(size_of::<Dirent>(), offset_of!(kernel::fuse_dirent, name));
        assert_eq!(
            size_of::<EntryOut>(),
            offset_of!(kernel::fuse_direntplus, dirent)
        );
    }

    #[test]
    fn operation_codes_are_the_kernels() {
        use kernel::fuse_opcode as theirs;
        for (ours, theirs, name) in [
            (opcode::LOOKUP, theirs::FUSE_LOOKUP, "lookup"),
            (opcode::FORGET, theirs::FUSE_FORGET, "forget"),
            (opcode::GETATTR, theirs::FUSE_GETATTR, "getattr"),
            (opcode::READLINK, theirs::FUSE_READLINK, "readlink"),
            (opcode::OPEN, theirs::FUSE_OPEN, "open"),
            (opcode::READ, theirs::FUSE_READ, "read"),
            (opcode::STATFS, theirs::FUSE_STATFS, "statfs"),
            (opcode::RELEASE, theirs::FUSE_RELEASE, "release"),
            (opcode::GETXATTR, theirs::FUSE_GETXATTR, "getxattr"),
            (opcode::LISTXATTR, theirs::FUSE_LISTXATTR, "listxattr"),
            (opcode::INIT, theirs::FUSE_INIT, "init"),
            (opcode::OPENDIR, theirs::FUSE_OPENDIR, "opendir"),
            (opcode::READDIR, theirs::FUSE_READDIR, "readdir"),
            (opcode::RELEASEDIR, theirs::FUSE_RELEASEDIR, "releasedir"),
            (opcode::INTERRUPT, theirs::FUSE_INTERRUPT, "interrupt"),
            (opcode::DESTROY, theirs::FUSE_DESTROY, "destroy"),
            (
                opcode::BATCH_FORGET,
                theirs::FUSE_BATCH_FORGET,
                "batch_forget",
            ),
            (opcode::READDIRPLUS, theirs::FUSE_READDIRPLUS, "readdirplus"),
        ] {
            assert_eq!(ours, theirs as u32);
            assert_eq!(opcode::NAMES[ours as usize], name);
        }
        assert_eq!(opcode::NAMES[theirs::FUSE_STATX as usize], "statx");
        assert_eq!(opcode::NAMES[theirs::FUSE_LSEEK as usize], "lseek");
    }

    #[test]
    fn notifications_are_the_kernels() {
        assert_eq!(
            NOTIFY_RESEND,
            kernel::fuse_notify_code::FUSE_NOTIFY_RESEND as i32
        );
    }

    #[test]
    fn features_are_the_kernels() {
        assert_eq!(feature::ASYNC_READ, u64::from(kernel::FUSE_ASYNC_READ));
        assert_eq!(
            feature::DO_READDIRPLUS,
            u64::from(kernel::FUSE_DO_READDIRPLUS)
        );
        assert_eq!(feature::ASYNC_DIO, u64::from(kernel::FUSE_ASYNC_DIO));
        assert_eq!(
            feature::NO_OPEN_SUPPORT,
            u64::from(kernel::FUSE_NO_OPEN_SUPPORT)
        );
        assert_eq!(
            feature::PARALLEL_DIROPS,
            u64::from(kernel::FUSE_PARALLEL_DIROPS)
        );
        assert_eq!(feature::MAX_PAGES, u64::from(kernel::FUSE_MAX_PAGES));
        assert_eq!(
            feature::CACHE_SYMLINKS,
            u64::from(kernel::FUSE_CACHE_SYMLINKS)
        );
        assert_eq!(
            feature::NO_OPENDIR_SUPPORT,
            u64::from(kernel::FUSE_NO_OPENDIR_SUPPORT)
        );
        assert_eq!(feature::INIT_EXT, u64::from(kernel::FUSE_INIT_EXT));
        assert_eq!(feature::HAS_RESEND, kernel::FUSE_HAS_RESEND);
    }
}
