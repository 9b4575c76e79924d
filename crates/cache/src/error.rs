//! What can go wrong, each with the next step.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::Key;

/// A failure of the cache itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process has the directory open.
    #[error("the cache {} is in use by another process: stop it or give this one its own directory", .directory.display())]
    InUse {
        /// The configured directory.
        directory: PathBuf,
    },
    /// The file system that holds the cache has no space left, even after eviction.
    #[error("no space left on the file system of the cache {}: free some there or lower the cache's quota", .directory.display())]
    DiskFull {
        /// The configured directory.
        directory: PathBuf,
    },
    /// One object alone is larger than the quota.
    #[error(
        "object {key} needs {bytes} bytes or more, but the cache's quota is {quota}: raise the quota"
    )]
    TooLarge {
        /// The object.
        key: Key,
        /// Bytes on disk that it would occupy as far as it is known.
        bytes: u64,
        /// The configured quota in bytes.
        quota: u64,
    },
    /// Everything kept is pinned or being written, so nothing can make room.
    #[error("no room in the cache {} for object {key}: its quota of {quota} bytes is taken by pinned objects and by objects being written: raise the quota", .directory.display())]
    NoRoom {
        /// The object that was refused.
        key: Key,
        /// The configured directory.
        directory: PathBuf,
        /// The configured quota in bytes.
        quota: u64,
    },
    /// What was fetched is not what the key promises; nothing was kept.
    #[error("object {key} does not match its digest: expected {}, computed {}", Hex(.expected), Hex(.computed))]
    Mismatch {
        /// The object.
        key: Key,
        /// The digest of the bytes that came.
        computed: Vec<u8>,
        /// The digest that they should have.
        expected: Vec<u8>,
    },
    /// A fetch handed back the verified entry of another call.
    #[error("object {expected} was answered with the entry of {got}")]
    WrongEntry {
        /// The key that was to be fetched.
        expected: Key,
        /// The key of the entry that was returned.
        got: Key,
    },
    /// Another thread has been fetching this object for too long.
    #[error(
        "gave up waiting for another fetch of object {key}: the network or the disk may be stuck; try again"
    )]
    Timeout {
        /// The object.
        key: Key,
    },
    /// Any other failure of the disk.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        /// What was tried: a verb.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// Sorts an I/O error: a full disk is one that an operator can do something about.
    pub(crate) fn io(
        source: io::Error,
        operation: &'static str,
        path: PathBuf,
        directory: &Path,
    ) -> Self {
        if is_disk_full(&source) {
            return Self::DiskFull {
                directory: directory.to_path_buf(),
            };
        }
        Self::Io {
            operation,
            path,
            source,
        }
    }
}

/// A full file system, or a full disk quota of our user, which needs the same remedy.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// For [`io::Write`]; the error is found again by `io::Error::downcast`.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::DiskFull { .. } => io::ErrorKind::StorageFull,
            Error::TooLarge { .. } | Error::NoRoom { .. } => io::ErrorKind::QuotaExceeded,
            Error::InUse { .. } => io::ErrorKind::ResourceBusy,
            Error::Mismatch { .. } | Error::WrongEntry { .. } => io::ErrorKind::InvalidData,
            Error::Timeout { .. } => io::ErrorKind::TimedOut,
            Error::Io { source, .. } => source.kind(),
        };
        Self::new(kind, error)
    }
}

/// A failure of [`crate::Cache::get_or_fetch`]: the cache's or, as `E`, the source's.
#[derive(Debug, thiserror::Error)]
pub enum FetchError<E> {
    /// The source failed.
    #[error(transparent)]
    Fetch(E),
    /// The cache failed.
    #[error(transparent)]
    Cache(Error),
}

// Not for `E`: a blanket conversion from the source's error would overlap with this one.
impl<E> From<Error> for FetchError<E> {
    fn from(error: Error) -> Self {
        Self::Cache(error)
    }
}

/// Bytes in hex.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}
