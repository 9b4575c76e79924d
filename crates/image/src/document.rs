use std::ops::Deref;

use serde::de::DeserializeOwned;

use crate::Digest;

/// A manifest, index or configuration longer than this is refused; registries refuse to store longer manifests.
pub const MAX_DOCUMENT_BYTES: usize = 4 << 20;

/// More layers, manifests or diffIDs than this in one document are refused. Runtimes stop at 128 layers; an index may
/// list each platform twice (attestations).
pub const MAX_ENTRIES: usize = 1024;

/// A parsed document together with the exact bytes it was parsed from: a digest is of bytes, never of a value.
#[derive(Clone, Debug)]
pub struct Document<T> {
    value: T,
    raw: Vec<u8>,
    digest: Digest,
}

/// Why bytes are not the document that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Longer than [`MAX_DOCUMENT_BYTES`].
    #[error("document of {0} bytes exceeds the limit of {MAX_DOCUMENT_BYTES}")]
    TooLong(usize),
    /// More entries than [`MAX_ENTRIES`] in a list.
    #[error("document lists {0} {1}, the limit is {MAX_ENTRIES}")]
    TooMany(usize, &'static str),
    /// Not JSON, or not of this shape.
    #[error("malformed {0}: {1}")]
    Malformed(&'static str, #[source] serde_json::Error),
    /// A schema 1 manifest: has no diffIDs, pull it the ordinary way.
    #[error("schema version {0} is not supported, only 2")]
    SchemaVersion(u64),
    /// The bytes are not those that the digest names.
    #[error("document has digest {actual}, expected {expected}")]
    DigestMismatch {
        /// what was asked for
        expected: Digest,
        /// what came
        actual: Digest,
    },
    /// The document says that it is of another type.
    #[error("expected a manifest or an index, found media type {0:?}")]
    MediaType(String),
}

impl<T> Document<T> {
    /// The bytes as they came.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The digest of [`Document::raw`].
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The value alone.
    #[must_use]
    pub fn into_value(self) -> T {
        self.value
    }

    /// Passes the document on only if it is the one that `expected` names.
    ///
    /// # Errors
    /// [`DocumentError::DigestMismatch`] otherwise.
    pub fn verified(self, expected: &Digest) -> Result<Self, DocumentError> {
        if self.digest == *expected {
            return Ok(self);
        }
        Err(DocumentError::DigestMismatch {
            expected: *expected,
            actual: self.digest,
        })
    }
}

impl<T: DeserializeOwned> Document<T> {
    pub(crate) fn decode(raw: &[u8], what: &'static str) -> Result<Self, DocumentError> {
        let value = from_json(raw, what)?;
        Ok(Self {
            value,
            raw: raw.to_vec(),
            digest: Digest::of(raw),
        })
    }
}

impl<T> Deref for Document<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// The recursion limit of `serde_json` (128) bounds the depth, [`MAX_DOCUMENT_BYTES`] everything else.
pub(crate) fn from_json<T: DeserializeOwned>(
    raw: &[u8],
    what: &'static str,
) -> Result<T, DocumentError> {
    if raw.len() > MAX_DOCUMENT_BYTES {
        return Err(DocumentError::TooLong(raw.len()));
    }
    serde_json::from_slice(raw).map_err(|error| DocumentError::Malformed(what, error))
}

pub(crate) fn bounded(count: usize, what: &'static str) -> Result<(), DocumentError> {
    if count > MAX_ENTRIES {
        Err(DocumentError::TooMany(count, what))
    } else {
        Ok(())
    }
}
