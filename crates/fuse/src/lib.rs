//! The kernel's FUSE protocol for read-only trees: a request in, an answer out.
//!
//! [`FileSystem`] is what a mount shows, [`Session`] a mount that is served. The loop is our own because a daemon may
//! die at any moment and be replaced with no reader noticing, which rules out what libraries do: state from a handshake
//! (INIT is a request like any other), tables of handles and reference counts (there are none: OPEN and OPENDIR are
//! answered with ENOSYS, inode numbers are the file system's), buffers that may be absent when the kernel copies (all
//! are resident), clones of the descriptor (there is one), unmounting on exit.
//!
//! Nothing here ever touches a mount of ours by path: it would wait for itself.

mod abi;
mod answer;
mod attr;
mod directory;
mod errno;
mod file_system;
mod init;
mod metrics;
mod mount;
mod mountinfo;
mod read_reply;
mod reply_buffer;
mod request;
mod session;
mod worker;

pub use attr::{Attr, Entry, Inode, StatFs};
pub use directory::{DirFormat, DirReply, ListedEntry, parse_directory};
pub use errno::Errno;
pub use file_system::FileSystem;
pub use init::{MAX_READ, Negotiated, Proposal};
pub use metrics::{ErrnoLabel, Metrics, OpcodeLabel};
pub use mount::{MountError, MountOptions, detach_path};
pub use mountinfo::{MountInfo, mounts_below, parse_mountinfo};
pub use read_reply::ReadReply;
pub use request::{Operation, Request, RequestError, parse_request};
pub use session::Session;
