use image::Digest;
use serde::Serialize;

use super::build::Built;
use super::plan::{LayerPlan, Plan};
use crate::layouts::Layout;
use crate::layouts::metadata::{ResolvedImage, image_name};

/// What became of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerState {
    /// It was stored.
    Published,
    /// It was there already.
    Present,
    /// It is missing: a dry run stores nothing.
    Missing,
    /// No registry holds it, or it is no file system layer.
    Skipped,
}

impl LayerState {
    pub(crate) fn of_untouched(layer: &LayerPlan) -> Self {
        match (layer.missing.is_empty(), layer.present.is_empty()) {
            (false, _) => Self::Missing,
            (true, false) => Self::Present,
            (true, true) => Self::Skipped,
        }
    }
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerSummary {
    /// Of the blob.
    pub digest: Digest,
    /// Of the uncompressed tar.
    pub diff_id: Option<Digest>,
    /// What became of it.
    pub state: LayerState,
    /// Layouts that lacked it.
    pub layouts: Vec<Layout>,
    /// Bytes of the blob.
    pub compressed: u64,
    /// Bytes of the tar; `None` if it was not read.
    pub uncompressed: Option<u64>,
    /// Entries of the tar.
    pub entries: Option<u64>,
    /// Hardlinks to files of lower layers.
    pub lower_hardlinks: usize,
    /// Attributes that could not be kept.
    pub dropped_xattrs: u64,
    /// Until everything of it was stored.
    pub seconds: f64,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImageSummary {
    /// Name.
    pub image: String,
    /// Digest of its manifest or index.
    pub digest: Digest,
    /// Platforms.
    pub platforms: usize,
    /// The new revision; none of a dry run, or if the repository had all of it.
    pub revision: Option<u64>,
    /// Each once.
    pub layers: Vec<LayerSummary>,
    /// From beginning to end.
    pub seconds: f64,
}

pub(crate) fn of<S>(image: &ResolvedImage, plan: &Plan, built: &[Built<S>]) -> ImageSummary {
    let layers = plan.layers.iter().enumerate().map(|(number, layer)| {
        let built = built.iter().find(|built| built.layer == number);
        summary(layer, built)
    });
    ImageSummary {
        image: image_name(&image.reference),
        digest: image.top,
        platforms: image.platforms.len(),
        revision: None,
        layers: layers.collect(),
        seconds: 0.0,
    }
}

fn summary<S>(layer: &LayerPlan, built: Option<&Built<S>>) -> LayerSummary {
    let unpacked = built.and_then(|built| built.unpacked.as_ref());
    let unpacked = unpacked.map(|unpacked| &unpacked.layer);
    LayerSummary {
        digest: layer.descriptor.digest,
        diff_id: layer.diff_id,
        state: match built {
            Some(_) => LayerState::Published,
            None => LayerState::of_untouched(layer),
        },
        layouts: layer.missing.clone(),
        compressed: layer.descriptor.size,
        uncompressed: unpacked.map(|layer| layer.uncompressed),
        entries: unpacked.map(|layer| layer.entries),
        lower_hardlinks: unpacked.map_or(0, |layer| layer.lower_links.len()),
        dropped_xattrs: unpacked.map_or(0, |layer| layer.dropped_xattrs),
        seconds: built.map_or(0.0, |built| built.elapsed.as_secs_f64()),
    }
}
