//! Where images come from: a registry, an OCI layout on disk, an archive made by `docker save`.

mod docker_archive;
mod error;
mod oci_layout;
mod registry;

use std::io::Read;
use std::path::PathBuf;

use ::registry::Client;
pub use ::registry::Document;
use image::{Descriptor, Digest, Reference};

use self::registry::RegistryImage;
use docker_archive::DockerArchive;
pub use error::SourceError;
use oci_layout::OciLayout;

/// Where one image (or one index of images) is read from.
///
/// What comes out is verified: documents when they are returned, blobs when they end.
pub trait ImageSource: Send + Sync {
    /// The source as the user named it, for messages.
    fn name(&self) -> String;

    /// The document that the source's name leads to, or with a digest one that this one lists.
    ///
    /// # Errors
    /// If it cannot be had, is malformed, or has another digest.
    fn manifest(&self, digest: Option<&Digest>) -> Result<Document, SourceError>;

    /// A configuration or layer. The reader fails at the end (`InvalidData`) if size or digest are others than stated.
    ///
    /// # Errors
    /// If it does not exist or cannot be opened.
    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, SourceError>;

    /// The image's full name, where the source knows it.
    fn reference(&self) -> Option<Reference>;
}

/// What opening a source may need.
#[derive(Clone, Debug, Default)]
pub struct SourceOptions {
    /// Scratch space for archives that are compressed as a whole; empty: the system's.
    pub scratch: PathBuf,
    /// For images in registries.
    pub registry: Option<Client>,
}

/// Opens `REFERENCE`, `oci-layout:DIR[:TAG]` or `docker-archive:FILE[:NAME[:TAG]]`.
///
/// # Errors
/// If the text names no source, or the source is not there.
pub fn open_source(
    text: &str,
    options: &SourceOptions,
) -> Result<Box<dyn ImageSource>, SourceError> {
    if let Some(place) = text.strip_prefix("oci-layout:") {
        return Ok(Box::new(OciLayout::open(place)?));
    }
    if let Some(place) = text.strip_prefix("docker-archive:") {
        return Ok(Box::new(DockerArchive::open(place, options)?));
    }
    let wrong = |reason: String| SourceError::Name {
        name: text.to_owned(),
        reason,
    };
    let reference: Reference = text
        .strip_prefix("docker://")
        .unwrap_or(text)
        .parse()
        .map_err(|error: image::ReferenceError| wrong(error.to_string()))?;
    let Some(client) = &options.registry else {
        return Err(wrong("registries are not available here".to_owned()));
    };
    Ok(Box::new(RegistryImage::open(client, reference)?))
}

/// Splits `PATH[:NAME]`; a path that exists may contain colons.
fn split_place(place: &str) -> (PathBuf, Option<&str>) {
    if PathBuf::from(place).exists() {
        return (place.into(), None);
    }
    let mut colons = place.match_indices(':').map(|(at, _)| at);
    match colons.find(|at| PathBuf::from(&place[..*at]).exists()) {
        Some(at) => (place[..at].into(), Some(&place[at + 1..])),
        None => (place.into(), None),
    }
}
