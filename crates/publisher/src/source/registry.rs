//! `REFERENCE`: an image in a registry.

use std::io::Read;

use image::{Descriptor, Digest, Reference};
use registry::Client;

use super::{Document, ImageSource, SourceError};

/// An image in a registry. What its tag means is asked once.
pub(crate) struct RegistryImage {
    client: Client,
    reference: Reference,
    top: Document,
}

impl RegistryImage {
    pub(crate) fn open(client: &Client, reference: Reference) -> Result<Self, SourceError> {
        let top = client.document(&reference, &[])?;
        Ok(Self {
            client: client.clone(),
            reference,
            top,
        })
    }
}

impl ImageSource for RegistryImage {
    fn name(&self) -> String {
        self.reference.to_string()
    }

    fn manifest(&self, digest: Option<&Digest>) -> Result<Document, SourceError> {
        let Some(digest) = digest.filter(|digest| **digest != self.top.digest) else {
            return Ok(self.top.clone());
        };
        let (registry, repository) = (self.reference.registry(), self.reference.repository());
        let text = format!("{registry}/{repository}@{digest}");
        let named: Reference =
            text.parse()
                .map_err(|error: image::ReferenceError| SourceError::Name {
                    name: text.clone(),
                    reason: error.to_string(),
                })?;
        Ok(self.client.document(&named, &[])?)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, SourceError> {
        Ok(Box::new(self.client.blob(&self.reference, descriptor)?))
    }

    fn reference(&self) -> Option<Reference> {
        Some(self.reference.clone())
    }
}
