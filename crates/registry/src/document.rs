use image::{Digest, DocumentError, ManifestOrIndex, MediaType};

/// A manifest or index as bytes: what its digest is of, and what has to be stored and handed on unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The bytes as they came.
    pub bytes: Vec<u8>,
    /// What they say they are; else what the sender said; else what they look like.
    pub media_type: MediaType,
    /// Of `bytes`.
    pub digest: Digest,
}

impl Document {
    /// From bytes that are not yet trusted. `sent_as` is what the sender called them (`Content-Type`).
    ///
    /// # Errors
    /// [`DocumentError`] if they are neither a manifest nor an index, or not those that `expected` names.
    pub fn new(
        bytes: Vec<u8>,
        sent_as: Option<MediaType>,
        expected: Option<&Digest>,
    ) -> Result<Self, DocumentError> {
        let (own, default, digest) = match ManifestOrIndex::parse(&bytes)? {
            ManifestOrIndex::Manifest(manifest) => {
                let sent_as = sent_as.filter(MediaType::is_manifest);
                (
                    manifest.media_type.clone().or(sent_as),
                    MediaType::OciManifest,
                    *manifest.digest(),
                )
            }
            ManifestOrIndex::Index(index) => {
                let sent_as = sent_as.filter(MediaType::is_index);
                (
                    index.media_type.clone().or(sent_as),
                    MediaType::OciIndex,
                    *index.digest(),
                )
            }
        };
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(DocumentError::DigestMismatch {
                expected: *expected,
                actual: digest,
            });
        }
        Ok(Self {
            bytes,
            media_type: own.unwrap_or(default),
            digest,
        })
    }

    /// Parsed.
    ///
    /// # Errors
    /// None for documents made by [`Document::new`].
    pub fn parse(&self) -> Result<ManifestOrIndex, DocumentError> {
        ManifestOrIndex::parse(&self.bytes)
    }
}
