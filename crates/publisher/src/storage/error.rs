use std::io;

use crate::error::Kind;

/// Failures of a backend. Each names the backend and the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The location names no backend.
    #[error("{location} is no backend: {reason}")]
    BadLocation {
        /// As given.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A path that leads out of the repository.
    #[error("{path:?} is no path in a repository")]
    BadPath {
        /// The path.
        path: String,
    },
    /// The backend has no space left.
    #[error("{location} has no space left for {path}")]
    Full {
        /// Backend.
        location: String,
        /// File.
        path: String,
    },
    /// The backend may be read only.
    #[error("{location} cannot be written: {reason}")]
    ReadOnly {
        /// Backend.
        location: String,
        /// What it says.
        reason: String,
    },
    /// The server cannot be reached or fails, also after several tries.
    #[error("{location}: {path}: {reason}")]
    Unavailable {
        /// Backend.
        location: String,
        /// File.
        path: String,
        /// What the last try said.
        reason: String,
    },
    /// The server refuses the credentials.
    #[error("{location} refuses access to {path}: {reason}")]
    Denied {
        /// Backend.
        location: String,
        /// File.
        path: String,
        /// What it says.
        reason: String,
    },
    /// A file is larger than is sensible.
    #[error("{location}: {path} has more than {limit} bytes")]
    TooLarge {
        /// Backend.
        location: String,
        /// File.
        path: String,
        /// What is allowed.
        limit: u64,
    },
    /// Somebody else has taken the lock over.
    #[error("{location}: the lock now belongs to {holder}")]
    LockLost {
        /// Backend.
        location: String,
        /// What it says about itself.
        holder: String,
    },
    /// The operating system failed.
    #[error("{location}: {path}: {source}")]
    Io {
        /// Backend.
        location: String,
        /// File.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl StorageError {
    /// Who has to act.
    pub fn kind(&self) -> Kind {
        match self {
            Self::BadLocation { .. } => Kind::Usage,
            Self::Denied { .. } | Self::ReadOnly { .. } => Kind::Config,
            Self::TooLarge { .. } => Kind::Corrupt,
            Self::Full { .. }
            | Self::Unavailable { .. }
            | Self::LockLost { .. }
            | Self::Io { .. } => Kind::Unavailable,
            Self::BadPath { .. } => Kind::Internal,
        }
    }

    /// The next step, where there is one to name.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Full { .. } => Some(
                "make room, or collect garbage with `outcrop repository gc`; the last revision is intact",
            ),
            Self::ReadOnly { .. } => {
                Some("is it mounted read-only? else publish as a user who may write there")
            }
            Self::Denied { .. } => Some("check access key, secret and the bucket's policy"),
            Self::Unavailable { .. } => Some("try again later; the last revision is intact"),
            Self::LockLost { .. } => Some("publish again; nothing was changed"),
            Self::BadLocation { .. } => Some("give a directory, or s3+https://host/bucket/prefix"),
            _ => None,
        }
    }

    /// An operating system's error, by what it means to a caller.
    pub(crate) fn from_io(location: &str, path: &str, source: io::Error) -> Self {
        let (location, path) = (location.to_owned(), path.to_owned());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { location, path }
            }
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => Self::ReadOnly {
                reason: format!("{path}: {source}"),
                location,
            },
            _ => Self::Io {
                location,
                path,
                source,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_becomes_what_a_person_can_do() {
        for (kind, expected, hint) in [
            (
                io::ErrorKind::StorageFull,
                Kind::Unavailable,
                Some("make room"),
            ),
            (
                io::ErrorKind::QuotaExceeded,
                Kind::Unavailable,
                Some("make room"),
            ),
            (
                io::ErrorKind::ReadOnlyFilesystem,
                Kind::Config,
                Some("is it mounted read-only?"),
            ),
            (
                io::ErrorKind::PermissionDenied,
                Kind::Config,
                Some("is it mounted read-only?"),
            ),
            (io::ErrorKind::TimedOut, Kind::Unavailable, None),
        ] {
            let error = StorageError::from_io("/srv/x", "data/aa/bb", kind.into());
            assert_eq!(error.kind(), expected, "{error}");
            assert_eq!(error.hint().is_some(), hint.is_some(), "{error}");
            assert!(
                error
                    .hint()
                    .unwrap_or_default()
                    .starts_with(hint.unwrap_or_default())
            );
            assert!(error.to_string().contains("/srv/x"), "{error}");
        }
    }
}
