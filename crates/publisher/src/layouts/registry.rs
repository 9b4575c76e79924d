//! The storage tree of CNCF distribution's `filesystem` driver: a stock registry whose `rootdirectory` is the repository's mount serves it.
//!
//! ```text
//! /docker/registry/v2/blobs/sha256/<xx>/<hex>/data                                  manifests, configurations, layers
//! /docker/registry/v2/repositories/<name>/_layers/sha256/<hex>/link                 sha256:<hex>
//! /docker/registry/v2/repositories/<name>/_manifests/revisions/sha256/<hex>/link
//! /docker/registry/v2/repositories/<name>/_manifests/tags/<tag>/current/link
//! /docker/registry/v2/repositories/<name>/_manifests/tags/<tag>/index/sha256/<hex>/link
//! ```
//! `<name>` is the repository as its registry calls it, since that is what a mirror is asked for; and once more below the registry's own
//! name, since two registries may have repositories of one name. The short name belongs to the registry that had it first.

use image::{Digest, Reference};

use super::metadata::ResolvedImage;
use super::{Changes, Layout};
use crate::entry::Entry;
use crate::error::Error;

/// Where the tree begins.
pub(crate) const ROOT: &str = "/docker/registry/v2";
/// Where its blobs are.
pub(crate) const BLOBS: &str = "/docker/registry/v2/blobs/sha256";

/// Whose a short name is.
fn owner_file(repository: &str) -> String {
    format!("/.metadata/registry-names/{repository}/owner")
}

/// The names under which an image's repository is served.
pub(crate) fn names<C: Changes>(
    changes: &mut C,
    reference: &Reference,
) -> Result<Vec<String>, Error> {
    // A registry's name may have a port; a repository's may not have a colon.
    let registry = reference.registry().replace([':', '[', ']'], "_");
    let mut names = vec![format!("{registry}/{}", reference.repository())];
    let owner = changes.read(&owner_file(reference.repository()), 1024)?;
    if owner.is_none_or(|owner| owner == reference.registry().as_bytes()) {
        names.push(reference.repository().to_owned());
    }
    Ok(names)
}

/// Writes documents and links; layers' blobs are there already.
pub(crate) fn write<C: Changes>(
    changes: &mut C,
    image: &ResolvedImage,
    now: jiff::Timestamp,
) -> Result<(), Error> {
    let mut writer = Writer {
        changes,
        mtime: now.as_second(),
    };
    writer.documents(image)?;
    for name in names(writer.changes, &image.reference)? {
        writer.links(image, &format!("{ROOT}/repositories/{name}"))?;
    }
    let owner = owner_file(image.reference.repository());
    if writer.changes.lookup(&owner)?.is_none() {
        let registry = image.reference.registry().as_bytes();
        writer
            .changes
            .file(&owner, Entry::file(0o644, writer.mtime), registry)?;
    }
    Ok(())
}

/// Removes an image's tag; the whole repository if that was the last. The paths removed.
pub(crate) fn remove_tag<C: Changes>(
    changes: &mut C,
    reference: &Reference,
) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    let Some(tag) = reference.tag() else {
        return Ok(removed);
    };
    for name in names(changes, reference)? {
        let repository = format!("{ROOT}/repositories/{name}");
        let tags = format!("{repository}/_manifests/tags");
        let path = format!("{tags}/{tag}");
        if changes.lookup(&path)?.is_none() {
            continue;
        }
        let others = changes.list(&tags)?;
        let path = match others.iter().any(|other| other != tag.as_bytes()) {
            true => path,
            false => repository,
        };
        changes.remove(&path)?;
        removed.push(path);
    }
    Ok(removed)
}

/// Removes a blob that no image names any more.
pub(crate) fn remove_blob<C: Changes>(
    changes: &mut C,
    blob: &Digest,
) -> Result<Option<String>, Error> {
    let path = Layout::Registry.place(blob);
    if changes.lookup(&path)?.is_none() {
        return Ok(None);
    }
    changes.remove(&path)?;
    Ok(Some(path))
}

struct Writer<'a, C> {
    changes: &'a mut C,
    mtime: i64,
}

impl<C: Changes> Writer<'_, C> {
    fn documents(&mut self, image: &ResolvedImage) -> Result<(), Error> {
        if let Some(index) = &image.index {
            self.document(&image.top, index)?;
        }
        for platform in &image.platforms {
            self.document(platform.manifest.digest(), platform.manifest.raw())?;
            self.document(&platform.manifest.config.digest, &platform.config)?;
        }
        Ok(())
    }

    fn document(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        let path = format!("{}/data", Layout::Registry.place(digest));
        if self.changes.lookup(&path)?.is_none() {
            self.changes
                .file(&path, Entry::file(0o644, self.mtime), bytes)?;
        }
        Ok(())
    }

    fn links(&mut self, image: &ResolvedImage, repository: &str) -> Result<(), Error> {
        let blobs = image.platforms.iter().flat_map(|platform| {
            let layers = platform.manifest.layers.iter();
            layers
                .chain([&platform.manifest.config])
                .map(|blob| blob.digest)
        });
        for digest in blobs {
            let place = format!("{repository}/_layers/sha256/{}/link", digest.hex());
            self.link(&place, &digest)?;
        }
        let manifests = image
            .platforms
            .iter()
            .map(|platform| *platform.manifest.digest())
            .chain([image.top]);
        for digest in manifests {
            let place = format!("_manifests/revisions/sha256/{}/link", digest.hex());
            self.link(&format!("{repository}/{place}"), &digest)?;
        }
        if let Some(tag) = image.reference.tag() {
            let tag = format!("{repository}/_manifests/tags/{tag}");
            let hex = image.top.hex();
            self.link(&format!("{tag}/index/sha256/{hex}/link"), &image.top)?;
            self.link(&format!("{tag}/current/link"), &image.top)?;
        }
        Ok(())
    }

    fn link(&mut self, path: &str, digest: &Digest) -> Result<(), Error> {
        let text = digest.to_string();
        let known = match self.changes.lookup(path)? {
            Some(_) => self.changes.read(path, 1024)?,
            None => None,
        };
        if known.as_deref() == Some(text.as_bytes()) {
            return Ok(());
        }
        self.changes
            .file(path, Entry::file(0o644, self.mtime), text.as_bytes())
    }
}
