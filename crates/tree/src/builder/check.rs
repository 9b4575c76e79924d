//! What a builder refuses.

use crate::entry::{Entry, Kind};
use crate::format::{MAX_CONTENT, MAX_PATH, MAX_XATTR_VALUE, MAX_XATTRS};
use crate::path::{self, Fault};
use crate::whiteout::{self, Name};
use crate::write::TooLarge;

use super::MAX_LINKS;

/// Why a layer cannot become a tree. Paths are as the caller gave them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A path that leads out of the layer, or with a name that no directory can hold.
    #[error("{}: not a path within a layer", path.escape_ascii())]
    BadPath {
        /// The path.
        path: Vec<u8>,
    },
    /// A path longer than [`MAX_PATH`](crate::format::MAX_PATH).
    #[error("{}…: path longer than {MAX_PATH} bytes", path.escape_ascii())]
    PathTooLong {
        /// Its beginning.
        path: Vec<u8>,
    },
    /// A name below something that is no directory in this layer.
    #[error("{}: lies below something that is no directory", path.escape_ascii())]
    NotADirectory {
        /// The path.
        path: Vec<u8>,
    },
    /// The root must stay a directory, and cannot be whited out.
    #[error("the root of a layer can only be a directory")]
    BadRoot,
    /// A hardlink to a directory of this layer.
    #[error("{}: hardlink to a directory", path.escape_ascii())]
    LinkToDirectory {
        /// The link's path.
        path: Vec<u8>,
    },
    /// A field of an entry that no file system could show.
    #[error("{}: bad {what}", path.escape_ascii())]
    BadEntry {
        /// The entry's path.
        path: Vec<u8>,
        /// The field.
        what: &'static str,
    },
    /// Hardlinks to hardlinks to hardlinks.
    #[error("{}: hardlink through more than {MAX_LINKS} others", path.escape_ascii())]
    LinkChain {
        /// Where the first of them leads.
        path: Vec<u8>,
    },
    /// More than 2³² of something, or sizes that add up to more than 2⁶⁴.
    #[error("the layer is too large for a tree")]
    TooLarge,
}

impl From<TooLarge> for BuildError {
    fn from(_: TooLarge) -> Self {
        Self::TooLarge
    }
}

pub(super) fn bad_path(path: &[u8]) -> BuildError {
    BuildError::BadPath { path: path.into() }
}

pub(super) fn check_path(path: &[u8]) -> Result<(), BuildError> {
    path::check(path).map_err(|fault| match fault {
        Fault::BadName => bad_path(path),
        Fault::TooLong => BuildError::PathTooLong {
            path: path.get(..80).unwrap_or(path).into(),
        },
    })
}

/// Whether a directory's path goes through what AUFS kept for itself.
pub(super) fn below_metadata(directory: &[u8]) -> bool {
    path::components(directory).any(|name| whiteout::interpret(name) == Name::Metadata)
}

pub(super) fn check_entry(path: &[u8], entry: &Entry) -> Result<(), BuildError> {
    let bad = |what| {
        let path = path.into();
        Err(BuildError::BadEntry { path, what })
    };
    if entry.kind == Kind::Link {
        return bad("kind: hardlinks have a method of their own");
    }
    if entry.mtime_nanos >= 1_000_000_000 {
        return bad("time: more nanoseconds than a second has");
    }
    let target = &entry.symlink;
    let target_fits = !target.is_empty() && target.len() <= MAX_PATH && !target.contains(&0);
    if entry.kind == Kind::Symlink && !target_fits {
        return bad("target of a symlink");
    }
    if entry.xattrs.len() > MAX_XATTRS {
        return bad("number of extended attributes");
    }
    for (name, value) in &entry.xattrs {
        if name.is_empty() || name.len() > 255 || name.contains(&0) {
            return bad("name of an extended attribute");
        }
        if value.len() > MAX_XATTR_VALUE {
            return bad("value of an extended attribute");
        }
    }
    let mut covered = 0;
    for (offset, length, content) in &entry.extents {
        let end = offset.checked_add(*length).filter(|end| *end <= entry.size);
        let Some(end) = end else {
            return bad("extent: past the end of the file");
        };
        if *offset < covered || *length == 0 || content.len() > MAX_CONTENT {
            return bad("extent");
        }
        covered = end;
    }
    Ok(())
}
