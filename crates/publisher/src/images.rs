//! Which images the newest revision holds, read without the publisher's lock.
//!
//! An image is a directory below `/.metadata` with a `manifest.json`, DUCC's as well as ours. Names of flat images that have no documents
//! are not listed: nothing says which of the repository's symlinks are such.

use std::collections::{BTreeMap, BTreeSet};

use image::{Digest, MAX_DOCUMENT_BYTES, Platform, repository_layout};
use serde::{Deserialize, Serialize};

use crate::any_manifest::AnyManifest;
use crate::error::Error;
use crate::layouts::Layout;
use crate::repository::Repository;
use crate::view::View;

/// Directories below `/.metadata` are nested this deep at most.
const MAX_DEPTH: usize = 64;

/// An image of the newest revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedImage {
    /// `registry/repository:tag`, or with `@digest`.
    pub name: String,
    /// Of its index, or of its manifest where there is no index; of what lies in the repository if DUCC has written it anew.
    pub digest: Digest,
    /// `os/architecture[/variant]`, sorted.
    pub platforms: Vec<String>,
    /// Distinct layers of all platforms.
    pub layers: usize,
    /// Bytes of their blobs.
    pub bytes: u64,
    /// Layouts that have all of them.
    pub layouts: Vec<Layout>,
}

impl Repository {
    /// The images, by name.
    ///
    /// # Errors
    /// If a catalog or a document of an image cannot be read.
    pub fn images(&self) -> Result<Vec<ListedImage>, Error> {
        let mut view = View::newest(self)?;
        let mut images = Vec::new();
        let mut directories = vec![("/.metadata".to_owned(), 0)];
        while let Some((directory, depth)) = directories.pop() {
            if depth > MAX_DEPTH {
                return Err(Error::corrupt(directory, "directories nested too deep"));
            }
            if let Some(image) = listed(&mut view, &directory)? {
                images.push(image);
                continue;
            }
            for name in view.list(&directory)? {
                // Names that are no text are not ours.
                if let Ok(name) = String::from_utf8(name) {
                    directories.push((format!("{directory}/{name}"), depth + 1));
                }
            }
        }
        images.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(images)
    }
}

/// The image whose documents lie in a directory.
fn listed(view: &mut View, directory: &str) -> Result<Option<ListedImage>, Error> {
    let Some(manifest) = document(view, &format!("{directory}/manifest.json"))? else {
        return Ok(None);
    };
    let index = document(view, &format!("{directory}/index.json"))?;
    let mut found = Found::default();
    match &index {
        None => found.platform(view, directory, &manifest)?,
        Some(_) => {
            let platforms = format!("{directory}/platforms");
            for name in view.list(&platforms)? {
                let directory = format!("{platforms}/{}", String::from_utf8_lossy(&name));
                if let Some(manifest) = document(view, &format!("{directory}/manifest.json"))? {
                    found.platform(view, &directory, &manifest)?;
                }
            }
        }
    }
    let preferred: AnyManifest = parsed(directory, &manifest)?;
    let layouts = found.layouts(view, &preferred.config.digest)?;
    Ok(Some(ListedImage {
        name: directory.trim_start_matches("/.metadata/").to_owned(),
        digest: Digest::of(index.as_ref().unwrap_or(&manifest)),
        platforms: found.platforms.into_iter().collect(),
        layers: found.layers.len(),
        bytes: found.layers.values().sum(),
        layouts,
    }))
}

fn document(view: &mut View, path: &str) -> Result<Option<Vec<u8>>, Error> {
    view.read(path, MAX_DOCUMENT_BYTES as u64)
}

fn parsed<'a, T: Deserialize<'a>>(path: &str, bytes: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::corrupt(path, error))
}

#[derive(Default)]
struct Found {
    platforms: BTreeSet<String>,
    /// With the bytes of their blobs.
    layers: BTreeMap<Digest, u64>,
}

impl Found {
    fn platform(&mut self, view: &mut View, directory: &str, manifest: &[u8]) -> Result<(), Error> {
        let manifest: AnyManifest = parsed(directory, manifest)?;
        let path = format!("{directory}/config.json");
        let config = document(view, &path)?;
        // DUCC keeps no configuration; attestations have one that is no image's.
        if let Some(config) = &config {
            let Ok(config) = serde_json::from_slice::<AnyConfig>(config) else {
                return Ok(());
            };
            let Platform {
                architecture,
                os,
                variant,
            } = config.platform;
            if config.rootfs.is_none() || os == "unknown" {
                return Ok(());
            }
            let parts = [Some(os), Some(architecture), variant];
            let parts: Vec<_> = parts.into_iter().flatten().collect();
            self.platforms.insert(parts.join("/"));
        }
        for layer in manifest.layers {
            self.layers.insert(layer.digest, layer.size);
        }
        Ok(())
    }

    fn layouts(&self, view: &mut View, configuration: &Digest) -> Result<Vec<Layout>, Error> {
        let mut layouts = Vec::new();
        for layout in Layout::ALL {
            let mut places: Vec<_> = match layout {
                Layout::Flat => vec![layout.place(configuration)],
                Layout::Layers => self
                    .layers
                    .keys()
                    .map(repository_layout::layer_directory)
                    .collect(),
                _ => self
                    .layers
                    .keys()
                    .map(|layer| layout.place(layer))
                    .collect(),
            };
            let mut there = !places.is_empty();
            while let (true, Some(place)) = (there, places.pop()) {
                there = view.lookup(&place)?.is_some();
            }
            if there {
                layouts.push(layout);
            }
        }
        Ok(layouts)
    }
}

#[derive(Deserialize)]
struct AnyConfig {
    #[serde(flatten)]
    platform: Platform,
    rootfs: Option<serde::de::IgnoredAny>,
}
