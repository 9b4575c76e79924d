//! An image into the same image with layers that can be read piece by piece: eStargz or zstd:chunked.
//!
//! ```text
//! layer       one layer: verified, converted into a scratch file, or left as it is
//! documents   manifest, configuration and index with what changed; all else in them stays
//! target      where it goes: oci_layout, archive, push
//! ```
//!
//! Layers are converted in parallel, each once whatever the number of manifests that list it. A layer that cannot be
//! converted (names that no TOC holds) stays as it is; one that is already of the wanted form is used again.

mod archive;
mod documents;
mod error;
mod layer;
mod oci_layout;
mod push;
mod target;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;

use image::{Descriptor, Digest, ImageConfig, Manifest, ManifestOrIndex};
use rayon::prelude::*;
use registry::Document;

use crate::layer::LayerLimits;
use crate::source::ImageSource;

pub use error::ConvertError;
pub use push::RegistryTarget;
pub use target::{Target, open_target};

/// How an image is converted.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Format, level and chunks of the layers. `threads` is of the whole image.
    pub layer: image::estargz::Options,
    /// Files that come first in each layer that has them, in this order.
    pub prioritized: Vec<String>,
    /// Of layers.
    pub limits: LayerLimits,
    /// Where layers lie while they are made; empty: the system's place.
    pub scratch: PathBuf,
    /// Convert layers again that are of the wanted form.
    pub again: bool,
}

impl ConvertOptions {
    /// As the tools of the format do.
    #[must_use]
    pub fn new(format: image::estargz::Format) -> Self {
        Self {
            layer: image::estargz::Options::new(format),
            prioritized: Vec::new(),
            limits: LayerLimits::default(),
            scratch: PathBuf::new(),
            again: false,
        }
    }
}

/// What became of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerOutcome {
    /// It was converted.
    Converted,
    /// It is of the wanted form already.
    Reused,
    /// It cannot be converted, and why.
    Kept(String),
}

/// One layer of the image, before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvertedLayer {
    /// Of the blob in the source.
    pub from: Digest,
    /// The layer in the target.
    pub to: Descriptor,
    /// The diffID in the target.
    pub diff_id: Digest,
    /// What became of it.
    pub outcome: LayerOutcome,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Converted {
    /// Of the manifest or index that the target's name leads to.
    pub digest: Digest,
    /// Each layer once, in the order of the manifests.
    pub layers: Vec<ConvertedLayer>,
    /// Prioritised files that no layer has.
    pub missing: Vec<String>,
    /// Attestations that are left out: they are of the image as it was.
    pub dropped: Vec<Digest>,
}

/// A manifest with its configuration.
struct Image {
    manifest: image::Document<Manifest>,
    config: image::Document<ImageConfig>,
}

/// Converts all of an image into `target`. `done` hears of each layer as it is finished.
///
/// # Errors
/// [`ConvertError`]: then the target's name leads to what it led to before.
pub fn convert(
    source: &dyn ImageSource,
    target: &dyn Target,
    options: &ConvertOptions,
    done: &(dyn Fn(&ConvertedLayer) + Sync),
) -> Result<Converted, ConvertError> {
    let top = source.manifest(None)?;
    let mut images = HashMap::new();
    let mut dropped = Vec::new();
    let mut order = Vec::new();
    match parsed(&top)? {
        ManifestOrIndex::Manifest(manifest) => {
            order.push(top.digest);
            images.insert(top.digest, load(source, manifest)?);
        }
        ManifestOrIndex::Index(index) => {
            for entry in &index.manifests {
                if documents::is_attestation(entry) {
                    dropped.push(entry.digest);
                    continue;
                }
                let ManifestOrIndex::Manifest(manifest) =
                    parsed(&source.manifest(Some(&entry.digest))?)?
                else {
                    return Err(ConvertError::NestedIndex(entry.digest));
                };
                order.push(entry.digest);
                images.insert(entry.digest, load(source, manifest)?);
            }
        }
    }
    let work = Work::new(order.iter().filter_map(|digest| images.get(digest)))?;
    let (layers, missing) = work.run(source, target, options, done)?;
    let changed: HashMap<Digest, &ConvertedLayer> =
        layers.iter().map(|layer| (layer.from, layer)).collect();
    let mut manifests = HashMap::new();
    for (digest, image) in &images {
        let config = documents::config(image, &changed)?;
        target.put_bytes(&config.digest, &config.bytes)?;
        let manifest = documents::manifest(image, &config, &changed)?;
        target.put_document(&manifest)?;
        manifests.insert(*digest, manifest);
    }
    let result = match manifests.remove(&top.digest) {
        Some(manifest) => manifest,
        None => {
            let index = documents::index(&top, &manifests)?;
            target.put_document(&index)?;
            index
        }
    };
    target.finish(&result)?;
    Ok(Converted {
        digest: result.digest,
        layers,
        missing,
        dropped,
    })
}

fn parsed(document: &Document) -> Result<ManifestOrIndex, ConvertError> {
    document
        .parse()
        .map_err(|error| ConvertError::Document(document.digest, error))
}

fn load(
    source: &dyn ImageSource,
    manifest: image::Document<Manifest>,
) -> Result<Image, ConvertError> {
    use std::io::Read;
    let descriptor = &manifest.config;
    let mut raw = Vec::new();
    source
        .blob(descriptor)?
        .take(image::MAX_DOCUMENT_BYTES as u64 + 1)
        .read_to_end(&mut raw)
        .map_err(|error| ConvertError::Blob(descriptor.digest, error))?;
    let config = ImageConfig::parse(&raw)
        .and_then(|config| config.verified(&descriptor.digest))
        .map_err(|error| ConvertError::Document(descriptor.digest, error))?;
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(ConvertError::DiffIds(*manifest.digest()));
    }
    Ok(Image { manifest, config })
}

/// The layers of all manifests, each once.
struct Work {
    layers: Vec<(Descriptor, Digest)>,
}

impl Work {
    fn new<'a>(images: impl Iterator<Item = &'a Image>) -> Result<Self, ConvertError> {
        let mut seen: HashMap<Digest, Digest> = HashMap::new();
        let mut layers = Vec::new();
        for image in images {
            let diff_ids = &image.config.rootfs.diff_ids;
            for (layer, diff_id) in image.manifest.layers.iter().zip(diff_ids) {
                match seen.insert(layer.digest, *diff_id) {
                    None => layers.push((layer.clone(), *diff_id)),
                    Some(other) if other == *diff_id => {}
                    Some(_) => return Err(ConvertError::DiffIds(*image.manifest.digest())),
                }
            }
        }
        Ok(Self { layers })
    }

    fn run(
        &self,
        source: &dyn ImageSource,
        target: &dyn Target,
        options: &ConvertOptions,
        done: &(dyn Fn(&ConvertedLayer) + Sync),
    ) -> Result<(Vec<ConvertedLayer>, Vec<String>), ConvertError> {
        let threads = options.layer.threads.max(1);
        let parallel = threads.min(self.layers.len().max(1));
        let mut one = options.clone();
        one.layer.threads = threads.div_ceil(parallel);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(parallel)
            .build()
            .map_err(|error| ConvertError::Scratch(std::io::Error::other(error)))?;
        let missing: Mutex<Option<Vec<String>>> = Mutex::new(None);
        let layers: Result<Vec<_>, ConvertError> = pool.install(|| {
            // One at a time off the list: a range would give one thread all the large layers.
            let each = self.layers.par_iter().with_max_len(1);
            each.map(|(descriptor, diff_id)| {
                let (layer, missed) = layer::convert(source, target, descriptor, diff_id, &one)?;
                if let Some(missed) = missed {
                    let mut missing = missing.lock().unwrap_or_else(|error| error.into_inner());
                    let before = missing.get_or_insert_with(|| options.prioritized.clone());
                    before.retain(|file| missed.contains(file));
                }
                done(&layer);
                Ok(layer)
            })
            .collect()
        });
        let missing = missing
            .into_inner()
            .unwrap_or_else(|error| error.into_inner());
        Ok((layers?, missing.unwrap_or_default()))
    }
}
