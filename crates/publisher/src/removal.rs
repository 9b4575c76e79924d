//! Images taken out of a repository, with the layers that no other image names.
//!
//! Objects stay until garbage collection finds no kept revision that names them: clients still read the last revision. Which layers are in
//! use is what all `manifest.json` below `/.metadata` say, DUCC's as well as ours; a manifest that cannot be read keeps everything.

use std::collections::BTreeSet;

use image::{Digest, MAX_DOCUMENT_BYTES, Manifest, Reference};
use serde::Serialize;

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
    let mut removal = Removal {
        changes: backend.begin()?,
        summary: RemovalSummary::default(),
    };
    let (before, _) = removal.used()?;
    for image in images {
        removal.image(image)?;
    }
    let (after, blobs) = removal.used()?;
    let candidates: BTreeSet<Digest> = before.difference(&after).copied().collect();
    for layer in &candidates {
        removal.layer(layer, &blobs)?;
    }
    removal.summary.layers = candidates.into_iter().collect();
    let dangling = pointers::remove_dangling(&mut removal.changes)?;
    removal.summary.paths.extend(dangling);
    let dangling = erofs::remove_dangling(&mut removal.changes)?;
    removal.summary.paths.extend(dangling);
    let Removal {
        changes,
        mut summary,
    } = removal;
    if !dry_run && !summary.paths.is_empty() {
        summary.revision = Some(changes.commit(tag)?);
    }
    Ok(summary)
}

struct Removal<C> {
    changes: C,
    summary: RemovalSummary,
}

impl<C: Changes> Removal<C> {
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
        registry::remove_tag(&mut self.changes, image)?;
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

    fn layer(&mut self, layer: &Digest, used_blobs: &BTreeSet<Digest>) -> Result<(), Error> {
        for layout in Layout::ALL {
            if layout == Layout::Registry && used_blobs.contains(layer) {
                continue;
            }
            let place = match layout {
                Layout::Layers => image::repository_layout::layer_directory(layer),
                layout => layout.place(layer),
            };
            self.path(place)?;
        }
        Ok(())
    }

    /// Layers that some image names; and all blobs that some image names.
    fn used(&mut self) -> Result<(BTreeSet<Digest>, BTreeSet<Digest>), Error> {
        let mut layers = BTreeSet::new();
        let mut blobs = BTreeSet::new();
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
                let kind = found.map(|found| found.kind);
                if name == "manifest.json" && kind == Some(cvmfs::Kind::File) {
                    let manifest = self.manifest(&path)?;
                    layers.extend(manifest.layers.iter().map(|layer| layer.digest));
                    blobs.insert(manifest.config.digest);
                } else if kind == Some(cvmfs::Kind::Directory) {
                    directories.push((path, depth + 1));
                }
            }
        }
        blobs.extend(&layers);
        Ok((layers, blobs))
    }

    fn manifest(&mut self, path: &str) -> Result<Manifest, Error> {
        let bytes = self.changes.read(path, MAX_DOCUMENT_BYTES as u64)?;
        let bytes = bytes.ok_or_else(|| Error::NotFound(path.to_owned()))?;
        let manifest = Manifest::parse(&bytes).map_err(|error| Error::corrupt(path, error))?;
        Ok(manifest.into_value())
    }
}
