//! What a mount shows.

use std::time::Duration;

use crate::attr::{Attr, Entry, Inode, StatFs};
use crate::directory::DirReply;
use crate::errno::Errno;
use crate::read_reply::ReadReply;

/// A read-only tree of files, answering the kernel's questions about one mount.
///
/// Called from several threads at once. A call may block, on the network say: it holds up one worker and its caller,
/// nobody else. The kernel checks permissions (when mounted with `default_permissions`), name lengths and types, but
/// inode numbers may be anything: answer unknown ones with [`Errno::ESTALE`]. A call that panics is answered with
/// [`Errno::EIO`]. An implementation must not touch the mount that it serves, by path or otherwise: it would wait for
/// itself.
pub trait FileSystem: Send + Sync {
    /// The node behind `name` (never empty, no `/`) in the directory `parent`; `None` when there is none.
    ///
    /// # Errors
    /// Whatever keeps the answer from being known; never `ENOENT` for "could not look".
    fn lookup(&self, parent: Inode, name: &[u8]) -> Result<Option<Entry>, Errno>;

    /// How long the kernel may remember that a name is absent; `Duration::MAX` is for ever, zero not at all.
    fn negative_valid(&self) -> Duration;

    /// Attributes of a node, and how long the kernel may keep them.
    ///
    /// # Errors
    /// `ESTALE` for an unknown node.
    fn getattr(&self, inode: Inode) -> Result<(Attr, Duration), Errno>;

    /// Target of a symbolic link. The kernel keeps it as long as it keeps the node.
    ///
    /// # Errors
    /// `EINVAL` when the node is not a link, `ESTALE` for an unknown one.
    fn readlink(&self, inode: Inode) -> Result<Vec<u8>, Errno>;

    /// Puts the file's bytes from `offset` on into `out`, filling it unless the file ends before.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being had; what was put into `out` so far is then discarded.
    fn read(&self, inode: Inode, offset: u64, out: &mut ReadReply<'_>) -> Result<(), Errno>;

    /// Adds the directory's entries that come after `offset` to `out` until it is full.
    ///
    /// `offset` is 0 or a `next_offset` given with an entry before, perhaps long ago and in another process: offsets
    /// are stable. `.` and `..` may be left out.
    ///
    /// # Errors
    /// `ENOTDIR` when the node is not a directory, `ESTALE` for an unknown one.
    fn readdir(&self, inode: Inode, offset: u64, out: &mut DirReply<'_>) -> Result<(), Errno>;

    /// Whether any node has extended attributes. With `false`, the kernel is told that there are none for the life of
    /// the mount, and never asks again, which makes listings several times cheaper.
    fn has_xattrs(&self) -> bool {
        false
    }

    /// Value of an extended attribute.
    ///
    /// # Errors
    /// `ENODATA` when the node has no such attribute, `ESTALE` for an unknown node.
    fn getxattr(&self, inode: Inode, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let _ = (inode, name);
        Err(Errno::ENODATA)
    }

    /// Names of a node's extended attributes.
    ///
    /// # Errors
    /// `ESTALE` for an unknown node.
    fn listxattr(&self, inode: Inode) -> Result<Vec<Vec<u8>>, Errno> {
        let _ = inode;
        Ok(Vec::new())
    }

    /// Size of the whole.
    fn statfs(&self) -> StatFs;
}
