//! An image's own documents, byte for byte, and the catalogs above what layouts write.

use image::{Digest, Document, ImageConfig, Manifest, Reference};

use super::Changes;
use crate::entry::Entry;
use crate::error::Error;

/// One platform's image.
#[derive(Clone, Debug)]
pub(crate) struct PlatformImage {
    pub(crate) manifest: Document<Manifest>,
    /// The configuration's bytes.
    pub(crate) config: Vec<u8>,
    /// What the configuration says, unless it is something else than an image's (an attestation, for instance).
    pub(crate) parsed: Option<Document<ImageConfig>>,
}

/// An image with all that its index lists.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedImage {
    pub(crate) reference: Reference,
    /// The index's bytes, if it is one.
    pub(crate) index: Option<Vec<u8>>,
    pub(crate) top: Digest,
    /// At least one.
    pub(crate) platforms: Vec<PlatformImage>,
    /// The one that readers who know no platforms get.
    pub(crate) preferred: usize,
}

/// `<registry>/<repository>:<tag>`, or with `@<digest>` where there is no tag.
pub(crate) fn image_name(reference: &Reference) -> String {
    let reference_part = match (reference.tag(), reference.digest()) {
        (Some(tag), _) => format!(":{tag}"),
        (None, Some(digest)) => format!("@{digest}"),
        (None, None) => String::new(),
    };
    format!(
        "{}/{}{reference_part}",
        reference.registry(),
        reference.repository()
    )
}

/// Where an image's documents lie.
pub(crate) fn directory(reference: &Reference) -> String {
    format!("/.metadata/{}", image_name(reference))
}

/// Writes the documents of an image, in place of those of an earlier image of this name.
pub(crate) fn write<C: Changes>(
    changes: &mut C,
    image: &ResolvedImage,
    now: jiff::Timestamp,
) -> Result<(), Error> {
    let directory = directory(&image.reference);
    for (path, bytes) in files(image) {
        let path = format!("{directory}/{path}");
        // The same image published again changes nothing.
        let limit = image::MAX_DOCUMENT_BYTES as u64;
        let known = match changes.lookup(&path)? {
            Some(_) => changes.read(&path, limit)?,
            None => None,
        };
        if known.as_deref() != Some(bytes) {
            changes.file(&path, Entry::file(0o644, now.as_second()), bytes)?;
        }
    }
    remove_others(changes, image, &directory)
}

fn files(image: &ResolvedImage) -> Vec<(String, &[u8])> {
    let preferred = &image.platforms[image.preferred];
    let mut files = vec![
        ("manifest.json".to_owned(), preferred.manifest.raw()),
        ("config.json".to_owned(), preferred.config.as_slice()),
    ];
    if let Some(index) = &image.index {
        files.push(("index.json".to_owned(), index));
        for platform in &image.platforms {
            let place = format!("platforms/{}", platform.manifest.digest().hex());
            files.push((format!("{place}/manifest.json"), platform.manifest.raw()));
            files.push((format!("{place}/config.json"), &platform.config));
        }
    }
    files
}

/// What an earlier image of this name had and this one has not, or its layers would never be removed.
fn remove_others<C: Changes>(
    changes: &mut C,
    image: &ResolvedImage,
    directory: &str,
) -> Result<(), Error> {
    if image.index.is_none() {
        for name in ["index.json", "platforms"] {
            let path = format!("{directory}/{name}");
            if changes.lookup(&path)?.is_some() {
                changes.remove(&path)?;
            }
        }
        return Ok(());
    }
    let platforms = format!("{directory}/platforms");
    for name in changes.list(&platforms)? {
        let name = String::from_utf8_lossy(&name).into_owned();
        let wanted = image
            .platforms
            .iter()
            .any(|platform| platform.manifest.digest().hex() == name);
        if !wanted {
            changes.remove(&format!("{platforms}/{name}"))?;
        }
    }
    Ok(())
}

/// Makes a directory a catalog of its own unless it is.
pub(crate) fn ensure_catalog<C: Changes>(changes: &mut C, path: &str) -> Result<(), Error> {
    match changes.lookup(path)? {
        Some(found) if found.catalog.is_some() => Ok(()),
        _ => changes.nested_catalog(path),
    }
}
