use std::io;

use image::Digest;

use crate::error::Error;

/// Why a layer is not published. Then nothing of it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// An entry that no layer should have: it would escape, or no file system can hold it.
    #[error("entry {path} is refused: {reason}")]
    Entry {
        /// Its name, printable and shortened.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The tar itself is malformed.
    #[error("malformed tar at byte {position}: {reason}")]
    Tar {
        /// In the uncompressed tar.
        position: u64,
        /// What is wrong there.
        reason: String,
    },
    /// More than the limits allow: a decompression bomb, most likely.
    #[error("the layer exceeds the limit of {limit} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
    /// The uncompressed tar is not the one that the image's configuration names.
    #[error("the uncompressed layer is {actual}, the configuration states {expected}")]
    DiffId {
        /// As the configuration says.
        expected: Digest,
        /// As computed.
        actual: Digest,
    },
    /// The blob is damaged, truncated, or not the one that the manifest names.
    #[error("the blob is damaged: {0}")]
    Blob(#[source] io::Error),
    /// The blob cannot be read to its end.
    #[error("the blob cannot be read: {0}")]
    Read(#[source] io::Error),
    /// What was read could not be stored.
    #[error(transparent)]
    Store(Box<Error>),
}

impl LayerError {
    pub(crate) fn entry(path: &[u8], reason: impl Into<String>) -> Self {
        Self::Entry {
            path: printable(path),
            reason: reason.into(),
        }
    }

    /// Takes out again what [`LayerError::into_io`] put in; other failures are the blob's.
    pub(crate) fn from_io(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(error) if is_damage(&error) => Self::Blob(error),
            Err(error) => Self::Read(error),
        }
    }

    /// For the way through readers.
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// A sink fails with the reader's error if reading was what failed.
    pub(crate) fn from_store(error: Error) -> Self {
        match error {
            Error::Input { source, .. } => Self::from_io(source),
            other => Self::Store(Box::new(other)),
        }
    }
}

/// zlib and zstd say so in different ways.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof
    )
}

/// Foreign bytes for a message: control characters escaped, at most 200 characters.
pub(crate) fn printable(path: &[u8]) -> String {
    const MOST: usize = 200;
    let text = path[..path.len().min(MOST)].escape_ascii().to_string();
    match path.len() > MOST {
        true => format!("\"{text}…\""),
        false => format!("\"{text}\""),
    }
}
