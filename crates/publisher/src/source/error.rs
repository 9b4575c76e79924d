use std::io;

use image::{Digest, DocumentError};

use crate::error::Kind;

/// Why an image cannot be read from its source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Whoever reads was asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The text names no source, or no image in it.
    #[error("{name}: {reason}")]
    Name {
        /// As it was given.
        name: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// File or directory.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A manifest, index or configuration is not what it should be.
    #[error("{what} in {name}")]
    Document {
        /// Which one.
        what: String,
        /// The source.
        name: String,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// The archive or layout is damaged or of an unknown form.
    #[error("{name} is malformed: {reason}")]
    Malformed {
        /// The source.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry does not give it.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The source lacks a blob that its manifest lists.
    #[error("{name} holds no blob {digest}")]
    Missing {
        /// The source.
        name: String,
        /// What is missing.
        digest: Digest,
    },
}

impl SourceError {
    /// What a caller does about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Name { .. } => Kind::Usage,
            Self::Document { .. } | Self::Malformed { .. } | Self::Missing { .. } => Kind::Corrupt,
            Self::Interrupted | Self::Io { .. } => Kind::Unavailable,
            Self::Registry(error) => match error {
                registry::Error::NotFound { .. } => Kind::Usage,
                registry::Error::Config { .. } | registry::Error::NoHost { .. } => Kind::Config,
                registry::Error::Unauthorized { .. } => Kind::Config,
                registry::Error::Document { .. } | registry::Error::Protocol { .. } => {
                    Kind::Corrupt
                }
                _ => Kind::Unavailable,
            },
        }
    }

    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Io { path, source }
    }
}
