//! What can go wrong when a repository is written, by who has to do something about it.

use std::path::PathBuf;

use crate::storage::StorageError;

/// Who has to act; the same kinds as the exit codes of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What was asked for cannot be done as given.
    Usage,
    /// A key or a setting is missing or wrong.
    Config,
    /// Something outside is not there or full: a server, a disk, another publisher's lock.
    Unavailable,
    /// Bytes are there and are not what was signed or announced.
    Corrupt,
    /// A fault of this program or of the machine's scratch space.
    Internal,
}

/// Failures of publishing. Each names the object or path; [`Error::hint`] names the next step where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The backend failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An object or signed file is malformed or differs from its hash.
    #[error("{what} is corrupt: {reason}")]
    Corrupt {
        /// Object, file or catalog.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An object that a revision names does not exist.
    #[error("{what} is missing in {location}")]
    Missing {
        /// Path of the object.
        what: String,
        /// Backend.
        location: String,
    },
    /// The backend holds no repository.
    #[error("{location} holds no CVMFS repository")]
    NoRepository {
        /// Backend.
        location: String,
    },
    /// The backend holds a repository already.
    #[error("{location} holds a repository already")]
    Exists {
        /// Backend.
        location: String,
    },
    /// The chain of trust does not hold.
    #[error("{what} of {fqrn} is not trusted: {reason}")]
    Untrusted {
        /// Repository.
        fqrn: String,
        /// `manifest`, `whitelist` or `certificate`.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The whitelist has expired: clients refuse the repository until it is signed anew.
    #[error("whitelist of {fqrn} expired at {expiry}")]
    Expired {
        /// Repository.
        fqrn: String,
        /// When.
        expiry: jiff::Timestamp,
    },
    /// A key or certificate is missing or unusable.
    #[error("{path}: {reason}")]
    Key {
        /// File.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
    },
    /// The repository was opened without the key that this needs.
    #[error("{fqrn} was opened without its {what}")]
    NoKey {
        /// Repository.
        fqrn: String,
        /// `signing key` or `master key`.
        what: &'static str,
    },
    /// A repository's name cannot be one.
    #[error("{fqrn:?} is no repository name: {reason}")]
    BadName {
        /// The name.
        fqrn: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Another publisher holds the lock.
    #[error("another publisher works on {location}: {holder}")]
    Locked {
        /// Backend.
        location: String,
        /// What it says about itself.
        holder: String,
    },
    /// The lock was taken over by somebody else meanwhile: nothing was published.
    #[error("the lock of {location} was lost: {reason}")]
    LockLost {
        /// Backend.
        location: String,
        /// How it is known.
        reason: String,
    },
    /// A tag's name is not allowed.
    #[error("{name:?} is no tag name: {reason}")]
    BadTag {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no such tag, path or revision.
    #[error("{0} does not exist")]
    NotFound(String),
    /// Input that must not be published: a hostile or impossible path, name or attribute.
    #[error("{what} is refused: {reason}")]
    Refused {
        /// Path or name, shortened and printable.
        what: String,
        /// Why.
        reason: String,
    },
    /// What is asked contradicts the repository's settings.
    #[error("{0}")]
    NotAllowed(String),
    /// A source of content failed while it was read.
    #[error("{what} cannot be read: {source}")]
    Input {
        /// What was read.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// A temporary file of this process failed.
    #[error("scratch file: {0}")]
    Scratch(#[source] std::io::Error),
    /// SQLite failed on a database that this process writes.
    #[error("{what}: {source}")]
    Database {
        /// `catalog`, `history`, `reflog` …
        what: &'static str,
        /// Why.
        source: rusqlite::Error,
    },
    /// A signature cannot be made.
    #[error("cannot sign: {0}")]
    Sign(String),
}

impl Error {
    /// Who has to act.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Storage(error) => error.kind(),
            Self::Corrupt { .. } | Self::Missing { .. } | Self::Untrusted { .. } => Kind::Corrupt,
            Self::NoRepository { .. }
            | Self::Exists { .. }
            | Self::BadName { .. }
            | Self::BadTag { .. }
            | Self::NotFound(_)
            | Self::NotAllowed(_) => Kind::Usage,
            Self::Refused { .. } => Kind::Corrupt,
            Self::Key { .. } | Self::NoKey { .. } | Self::Expired { .. } => Kind::Config,
            Self::Locked { .. } | Self::LockLost { .. } | Self::Input { .. } => Kind::Unavailable,
            Self::Scratch(source) if source.kind() == std::io::ErrorKind::StorageFull => {
                Kind::Unavailable
            }
            Self::Scratch(_) | Self::Database { .. } | Self::Sign(_) => Kind::Internal,
        }
    }

    /// The next step, where there is one to name.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Storage(error) => error.hint(),
            Self::NoRepository { .. } => Some("create one with `outcrop repository init`"),
            Self::Exists { .. } => Some("choose an empty directory or prefix"),
            Self::Expired { .. } => Some("sign it anew with `outcrop repository resign`"),
            Self::NoKey { .. } => Some("name the directory with the repository's keys (--keys)"),
            Self::Key { .. } => Some(
                "the keys are FQRN.pub, FQRN.crt, FQRN.key and, for whitelists, FQRN.masterkey",
            ),
            Self::Untrusted { .. } => Some("check that these are the repository's own keys"),
            Self::Locked { .. } => Some("wait until it has finished, or let this one wait longer"),
            Self::LockLost { .. } => Some("publish again; nothing was changed"),
            Self::BadTag { .. } => Some("letters, digits and - _ : . only, at most 255"),
            Self::Missing { .. } | Self::Corrupt { .. } => {
                Some("`outcrop repository check` lists all that is damaged")
            }
            Self::Scratch(_) => Some("is there space left in the directory for temporary files?"),
            _ => None,
        }
    }

    pub(crate) fn corrupt(what: impl std::fmt::Display, reason: impl std::fmt::Display) -> Self {
        Self::Corrupt {
            what: what.to_string(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn database(what: &'static str) -> impl Fn(rusqlite::Error) -> Self {
        move |source| Self::Database { what, source }
    }
}
