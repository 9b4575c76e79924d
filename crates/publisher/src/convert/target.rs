//! Where a converted image goes.

use std::fs::File;

use image::{Digest, Reference};
use registry::Document;

use super::archive::Archive;
use super::oci_layout::OciLayout;
use super::{ConvertError, RegistryTarget};

/// Takes a converted image. What is there already is not written again.
pub trait Target: Send + Sync {
    /// Takes a layer; `content` is at its beginning.
    ///
    /// # Errors
    /// If it cannot be written.
    fn put_blob(&self, digest: &Digest, size: u64, content: &mut File) -> Result<(), ConvertError>;

    /// Takes a configuration.
    ///
    /// # Errors
    /// If it cannot be written.
    fn put_bytes(&self, digest: &Digest, bytes: &[u8]) -> Result<(), ConvertError>;

    /// Takes a manifest or index after all that it lists.
    ///
    /// # Errors
    /// If it cannot be written.
    fn put_document(&self, document: &Document) -> Result<(), ConvertError>;

    /// Makes the target's name lead to a document that it has.
    ///
    /// # Errors
    /// If it cannot be written.
    fn finish(&self, top: &Document) -> Result<(), ConvertError>;
}

/// Opens `REFERENCE`, `oci-layout:DIR[:TAG]` or `oci-archive:FILE[:NAME]` (also as `docker-archive:`: docker loads it, too).
///
/// # Errors
/// If the text names no target, or a reference and there is no client.
pub fn open_target(
    text: &str,
    client: Option<registry::Client>,
) -> Result<Box<dyn Target>, ConvertError> {
    if let Some(place) = text.strip_prefix("oci-layout:") {
        let (directory, tag) = split(place);
        return Ok(Box::new(OciLayout::open(directory.as_ref(), tag)?));
    }
    let archive = ["oci-archive:", "docker-archive:"];
    if let Some(place) = archive.iter().find_map(|kind| text.strip_prefix(kind)) {
        let (file, name) = split(place);
        return Ok(Box::new(Archive::create(file.as_ref(), name)?));
    }
    let reference: Reference = text.parse().map_err(|_| ConvertError::TargetName {
        name: text.to_owned(),
        reason: "neither a reference nor oci-layout:DIR[:TAG] nor oci-archive:FILE[:NAME]",
    })?;
    let client = client.ok_or(ConvertError::TargetName {
        name: text.to_owned(),
        reason: "no registry client",
    })?;
    Ok(Box::new(RegistryTarget::new(client, reference)))
}

/// `PATH[:NAME]`; the path ends at its first colon.
fn split(place: &str) -> (&str, Option<&str>) {
    place
        .split_once(':')
        .map_or((place, None), |(path, name)| (path, Some(name)))
}
