//! What of an image is missing.

use std::collections::{BTreeMap, BTreeSet};

use image::{Descriptor, Digest, EMPTY_LAYER};

use super::PublishOptions;
use super::error::PublishError;
use crate::error::Error;
use crate::layer::LayerError;
use crate::layouts::layers::{Presence, presence};
use crate::layouts::metadata::ResolvedImage;
use crate::layouts::{Backend, Changes, Layout, erofs};

/// A blob that is a layer of one platform at least.
#[derive(Clone, Debug)]
pub(crate) struct LayerPlan {
    pub(crate) descriptor: Descriptor,
    /// None if it is no tar: part of an attestation, for instance.
    pub(crate) diff_id: Option<Digest>,
    pub(crate) chain_ids: BTreeSet<Digest>,
    /// Configurations of the images with it.
    pub(crate) origins: BTreeSet<Digest>,
    /// Layouts that lack it.
    pub(crate) missing: Vec<Layout>,
    /// Layouts that have it.
    pub(crate) present: Vec<Layout>,
}

impl LayerPlan {
    pub(crate) fn unpackable(&self) -> bool {
        self.diff_id.is_some()
    }

    /// No registry holds it.
    pub(crate) fn foreign(&self) -> bool {
        matches!(
            self.descriptor.media_type,
            image::MediaType::ForeignLayer(_)
        )
    }
}

/// Each layer once, in the order in which they first occur.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) layers: Vec<LayerPlan>,
}

/// Looks at each layer in each layout.
pub(crate) fn plan<B: Backend, C: Changes>(
    backend: &B,
    changes: &mut C,
    image: &ResolvedImage,
    options: &PublishOptions,
) -> Result<Plan, PublishError> {
    let mut plan = collect(image)?;
    for layer in &mut plan.layers {
        if layer.foreign() {
            continue;
        }
        for layout in options
            .layouts
            .iter()
            .filter(|layout| **layout != Layout::Flat)
        {
            if !layout.stores_blobs() && !layer.unpackable() {
                continue;
            }
            let there = !options.again && is_present(backend, changes, layer, *layout)?;
            match there {
                true => layer.present.push(*layout),
                false => layer.missing.push(*layout),
            }
        }
    }
    Ok(plan)
}

fn collect(image: &ResolvedImage) -> Result<Plan, PublishError> {
    let mut layers: Vec<LayerPlan> = Vec::new();
    let mut known: BTreeMap<Digest, usize> = BTreeMap::new();
    for platform in &image.platforms {
        let (diff_ids, chain_ids) = match &platform.parsed {
            Some(config) => (config.rootfs.diff_ids.clone(), config.chain_ids()),
            None => (Vec::new(), Vec::new()),
        };
        for (position, descriptor) in platform.manifest.layers.iter().enumerate() {
            let diff_id = diff_ids.get(position).copied();
            let number = *known.entry(descriptor.digest).or_insert(layers.len());
            if number == layers.len() {
                layers.push(LayerPlan {
                    descriptor: descriptor.clone(),
                    diff_id,
                    chain_ids: BTreeSet::new(),
                    origins: BTreeSet::new(),
                    missing: Vec::new(),
                    present: Vec::new(),
                });
            }
            let layer = &mut layers[number];
            contradicts(layer, descriptor, diff_id)?;
            layer.diff_id = layer.diff_id.or(diff_id);
            layer.chain_ids.extend(chain_ids.get(position));
            layer.origins.insert(platform.manifest.config.digest);
        }
    }
    Ok(Plan { layers })
}

/// One blob is one tar, whatever configurations say.
fn contradicts(
    layer: &LayerPlan,
    descriptor: &Descriptor,
    diff_id: Option<Digest>,
) -> Result<(), PublishError> {
    if layer.descriptor.size != descriptor.size {
        return Err(PublishError::Inconsistent {
            image: layer.descriptor.digest.to_string(),
            reason: "two descriptors of this layer state different sizes".to_owned(),
        });
    }
    match (layer.diff_id, diff_id) {
        (Some(actual), Some(expected)) if actual != expected => Err(PublishError::Layer {
            digest: descriptor.digest,
            source: Box::new(LayerError::DiffId { expected, actual }),
        }),
        _ => Ok(()),
    }
}

fn is_present<B: Backend, C: Changes>(
    backend: &B,
    changes: &mut C,
    layer: &LayerPlan,
    layout: Layout,
) -> Result<bool, PublishError> {
    let digest = &layer.descriptor.digest;
    let has_catalog = |catalog: &cvmfs::ContentHash| backend.has_catalog(catalog);
    let diff_id = layer.diff_id.unwrap_or(EMPTY_LAYER);
    match presence(changes, layout, digest, &diff_id, &has_catalog)? {
        Presence::Absent => Ok(false),
        Presence::Present if layout.unpacks() => Ok(true),
        Presence::Present if layout == Layout::Erofs => {
            Ok(erofs::is_there(changes, digest, &diff_id)?)
        }
        Presence::Present => Ok(has_blob(changes, layer, layout)?),
        Presence::Contradiction(actual) => Err(PublishError::Layer {
            digest: *digest,
            source: Box::new(LayerError::DiffId {
                expected: diff_id,
                actual,
            }),
        }),
    }
}

fn has_blob<C: Changes>(changes: &mut C, layer: &LayerPlan, layout: Layout) -> Result<bool, Error> {
    let path = format!("{}/data", layout.place(&layer.descriptor.digest));
    let found = changes.lookup(&path)?;
    Ok(found.is_some_and(|found| found.kind == cvmfs::Kind::File))
}
