//! Images taken out of a repository, with the layers that no other image names.
//!
//! Objects stay until garbage collection finds no kept revision that names them: clients still read the last revision. Which layers are in
//! use is what all `manifest.json` below `/.metadata` say, DUCC's as well as ours; a manifest that cannot be read keeps everything.

use std::collections::BTreeSet;

use image::{Digest, MAX_DOCUMENT_BYTES, Reference};
use serde::Serialize;

use crate::any_manifest::AnyManifest;
use crate::error::Error;
use crate::history::NewTag;
use crate::layouts::metadata::{directory, image_name};
use crate::layouts::{Backend, Changes, Layout, erofs, registry};
use crate::pointers;

/// Directories below `/.metadata` are nested this deep at most: registry, repository with its slashes, platforms.
const MAX_DEPTH: usize = 64;

/// What a removal does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RemovalSummary {
    /// Images that were there.
    pub images: Vec<String>,
    /// Layers that no image names any more.
    pub layers: Vec<Digest>,
    /// Every path removed.
    pub paths: Vec<String>,
    /// The revision without them; none of a dry run, or if there was nothing to remove.
    pub revision: Option<u64>,
}

/// Removes images and what only they need.
///
/// # Errors
/// [`Error::NotFound`] if one is not there, [`Error::Corrupt`] if a manifest cannot be read: then nothing is removed.
pub fn remove<B: Backend>(
    backend: &B,
    images: &[Reference],
    dry_run: bool,
    tag: Option<NewTag>,
) -> Result<RemovalSummary, Error> {
    let mut changes = match dry_run {
        true => backend.look()?,
        false => backend.begin()?,
    };
    let mut summary = take_out(&mut changes, images)?;
    if dry_run {
        return Ok(summary);
    }
    if summary.paths.is_empty() {
        changes.abandon()?;
        return Ok(summary);
    }
    summary.revision = Some(changes.commit(tag)?);
    Ok(summary)
}

/// The same, as a part of other changes.
pub(crate) fn take_out<C: Changes>(
    changes: &mut C,
    images: &[Reference],
) -> Result<RemovalSummary, Error> {
    let mut removal = Removal {
        changes,
        summary: RemovalSummary::default(),
    };
    let before = removal.used()?;
    for image in images {
        removal.image(image)?;
    }
    let after = removal.used()?;
    for layer in before.layers.difference(&after.layers) {
        removal.layer(layer)?;
        removal.summary.layers.push(*layer);
    }
    for configuration in before.configurations.difference(&after.configurations) {
        removal.path(Layout::Flat.place(configuration))?;
    }
    for blob in before.blobs.difference(&after.blobs) {
        let removed = registry::remove_blob(removal.changes, blob)?;
        removal.summary.paths.extend(removed);
    }
    let dangling = pointers::remove_dangling(removal.changes)?;
    removal.summary.paths.extend(dangling);
    let dangling = erofs::remove_dangling(removal.changes)?;
    removal.summary.paths.extend(dangling);
    Ok(removal.summary)
}

struct Removal<'a, C> {
    changes: &'a mut C,
    summary: RemovalSummary,
}

impl<C: Changes> Removal<'_, C> {
    fn path(&mut self, path: String) -> Result<bool, Error> {
        if self.changes.lookup(&path)?.is_none() {
            return Ok(false);
        }
        self.changes.remove(&path)?;
        self.summary.paths.push(path);
        Ok(true)
    }

    /// Its documents, its tag in the registry's tree, and its name for flat images with what that name alone points to.
    fn image(&mut self, image: &Reference) -> Result<(), Error> {
        let name = image_name(image);
        let tags = registry::remove_tag(self.changes, image)?;
        self.summary.paths.extend(tags);
        let documents = self.path(directory(image))?;
        let link = format!("/{name}");
        let flat = self.changes.lookup(&link)?.map(|found| found.symlink);
        let linked = match &flat {
            Some(target) if !target.is_empty() => self.path(link)?,
            _ => false,
        };
        if !documents && !linked {
            return Err(Error::NotFound(name));
        }
        self.summary.images.push(name);
        Ok(())
    }

    fn layer(&mut self, layer: &Digest) -> Result<(), Error> {
        // A registry's blob may be something else's as well, and flat images are not by layer: those are counted by themselves.
        let others = [
            Layout::Layers,
            Layout::Unpacked,
            Layout::Stargz,
            Layout::Erofs,
        ];
        for layout in others {
            let place = match layout {
                Layout::Layers => image::repository_layout::layer_directory(layer),
                layout => layout.place(layer),
            };
            self.path(place)?;
        }
        Ok(())
    }

    /// What all images name.
    fn used(&mut self) -> Result<Used, Error> {
        let mut used = Used::default();
        let mut directories = vec![("/.metadata".to_owned(), 0)];
        while let Some((directory, depth)) = directories.pop() {
            if depth > MAX_DEPTH {
                return Err(Error::corrupt(directory, "directories nested too deep"));
            }
            for name in self.changes.list(&directory)? {
                let Ok(name) = String::from_utf8(name) else {
                    continue;
                };
                let path = format!("{directory}/{name}");
                let found = self.changes.lookup(&path)?;
                match (found.map(|found| found.kind), name.as_str()) {
                    (Some(cvmfs::Kind::File), "manifest.json") => {
                        self.manifest(&path, &mut used)?;
                    }
                    (Some(cvmfs::Kind::File), "index.json") => {
                        used.blobs.insert(Digest::of(&self.document(&path)?));
                    }
                    (Some(cvmfs::Kind::Directory), _) => directories.push((path, depth + 1)),
                    _ => {}
                }
            }
        }
        Ok(used)
    }

    fn document(&mut self, path: &str) -> Result<Vec<u8>, Error> {
        let bytes = self.changes.read(path, MAX_DOCUMENT_BYTES as u64)?;
        bytes.ok_or_else(|| Error::NotFound(path.to_owned()))
    }

    fn manifest(&mut self, path: &str, used: &mut Used) -> Result<(), Error> {
        let bytes = self.document(path)?;
        let manifest: AnyManifest =
            serde_json::from_slice(&bytes).map_err(|error| Error::corrupt(path, error))?;
        used.blobs.insert(Digest::of(&bytes));
        used.blobs.insert(manifest.config.digest);
        used.configurations.insert(manifest.config.digest);
        for layer in &manifest.layers {
            used.blobs.insert(layer.digest);
            used.layers.insert(layer.digest);
        }
        Ok(())
    }
}

/// What some image names.
#[derive(Default)]
struct Used {
    layers: BTreeSet<Digest>,
    /// By which flat images are named.
    configurations: BTreeSet<Digest>,
    /// Layers, configurations, manifests and indexes.
    blobs: BTreeSet<Digest>,
}
