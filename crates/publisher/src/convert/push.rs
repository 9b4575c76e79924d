//! A registry.

use std::fs::File;
use std::io::Read;

use image::{Digest, Reference};
use registry::{Client, Document};

use super::{ConvertError, Target};

/// Pushes to a repository of a registry.
pub struct RegistryTarget {
    client: Client,
    reference: Reference,
}

impl RegistryTarget {
    /// The image will have the tag of `reference`.
    #[must_use]
    pub fn new(client: Client, reference: Reference) -> Self {
        Self { client, reference }
    }

    fn put(&self, digest: &Digest, size: u64, content: &mut dyn Read) -> Result<(), ConvertError> {
        self.client
            .push_blob(&self.reference, digest, size, content, None)
            .map(|_| ())
            .map_err(|error| ConvertError::Push(Box::new(error)))
    }

    /// The repository without a tag: for what only its digest names.
    fn untagged(&self, digest: &Digest) -> Result<Reference, ConvertError> {
        let (registry, repository) = (self.reference.registry(), self.reference.repository());
        let text = format!("{registry}/{repository}@{digest}");
        text.parse().map_err(|_| ConvertError::TargetName {
            name: text.clone(),
            reason: "not a reference",
        })
    }

    fn push(&self, reference: &Reference, document: &Document) -> Result<(), ConvertError> {
        self.client
            .push_manifest(reference, document)
            .map(|_| ())
            .map_err(|error| ConvertError::Push(Box::new(error)))
    }
}

impl Target for RegistryTarget {
    fn put_blob(&self, digest: &Digest, size: u64, content: &mut File) -> Result<(), ConvertError> {
        self.put(digest, size, content)
    }

    fn put_bytes(&self, digest: &Digest, mut bytes: &[u8]) -> Result<(), ConvertError> {
        self.put(digest, bytes.len() as u64, &mut bytes)
    }

    fn put_document(&self, document: &Document) -> Result<(), ConvertError> {
        self.push(&self.untagged(&document.digest)?, document)
    }

    fn finish(&self, top: &Document) -> Result<(), ConvertError> {
        if self.reference.tag().is_none() {
            return Ok(());
        }
        self.push(&self.reference, top)
    }
}
