//! An image into a repository: resolved, planned, its layers stored in parallel, and everything published in one revision.
//!
//! A failure at any point publishes nothing: objects that are stored by then are named by no revision, and the next publish or garbage
//! collection removes them.

mod build;
mod error;
mod flat;
mod noting;
mod plan;
mod progress;
mod resolve;
mod summary;

use std::time::Instant;

use image::Reference;

use crate::history::NewTag;
use crate::layer::LayerLimits;
use crate::layouts::metadata::{self, ResolvedImage, ensure_catalog};
use crate::layouts::{Backend, Changes, Layout, erofs, layers, registry};
use crate::pointers;
use crate::source::ImageSource;
use crate::wishlist::{self, WishlistName};

pub use error::PublishError;
pub use progress::{LayerPhase, NoProgress, Progress};
pub use summary::{ImageSummary, LayerState, LayerSummary};

use build::Built;
use noting::Noting;
use plan::{LayerPlan, Plan};

/// How an image is published.
#[derive(Clone, Debug)]
pub struct PublishOptions {
    /// The layouts, each once.
    pub layouts: Vec<Layout>,
    /// The image's name where its source knows none, or another than the source's.
    pub name: Option<Reference>,
    /// Of layers.
    pub limits: LayerLimits,
    /// Layers at the same time.
    pub parallel: usize,
    /// Store layers again that are there already.
    pub again: bool,
    /// Publish nothing, only say what would be.
    pub dry_run: bool,
    /// A name for the new revision.
    pub tag: Option<NewTag>,
    /// The list that names the image: it is noted what was published for it.
    pub wishlist: Option<WishlistName>,
    /// When.
    pub now: jiff::Timestamp,
}

impl PublishOptions {
    /// Layout `layers`, four layers at a time.
    #[must_use]
    pub fn new(now: jiff::Timestamp) -> Self {
        Self {
            layouts: vec![Layout::Layers],
            name: None,
            limits: LayerLimits::default(),
            parallel: 4,
            again: false,
            dry_run: false,
            tag: None,
            wishlist: None,
            now,
        }
    }
}

/// Publishes one image as one revision; none if the repository has all of it already.
///
/// # Errors
/// [`PublishError`]: then nothing is published.
pub fn publish<B: Backend>(
    backend: &B,
    source: &dyn ImageSource,
    options: &PublishOptions,
    progress: &dyn Progress,
) -> Result<ImageSummary, PublishError> {
    let started = Instant::now();
    let image = resolve::resolve(source, options)?;
    let mut changes = Noting::new(match options.dry_run {
        true => backend.look()?,
        false => backend.begin()?,
    });
    let plan = plan::plan(backend, &mut changes, &image, options)?;
    let built = match options.dry_run {
        true => Vec::new(),
        false => build::build(backend, source, &plan, options, progress)?,
    };
    let mut summary = summary::of(&image, &plan, &built);
    if !options.dry_run {
        flat::publish(backend, source, &mut changes, &image, options)?;
        apply(&mut changes, &image, &plan, &built, options)?;
        if let Some(list) = &options.wishlist {
            let changed = changes.changed();
            let (name, digest) = (&image.reference, &image.top);
            wishlist::note(&mut changes, list, name, digest, changed, options.now)?;
        }
        match changes.changed() || options.tag.is_some() {
            true => summary.revision = Some(changes.commit(options.tag.clone())?),
            false => changes.abandon()?,
        }
    }
    summary.seconds = started.elapsed().as_secs_f64();
    Ok(summary)
}

/// Everything that is stored becomes part of the new revision.
fn apply<C: Changes>(
    changes: &mut C,
    image: &ResolvedImage,
    plan: &Plan,
    built: &[Built<C::Subtree>],
    options: &PublishOptions,
) -> Result<(), PublishError> {
    for built in built {
        let layer = &plan.layers[built.layer];
        graft(changes, layer, built, options)?;
    }
    if options.layouts.contains(&Layout::Layers) {
        for layer in plan.layers.iter().filter(|layer| layer.unpackable()) {
            let digest = &layer.descriptor.digest;
            layers::add_origins(changes, digest, &layer.origins, options.now)?;
            point(changes, layer, options)?;
        }
    }
    if options.layouts.contains(&Layout::Registry) {
        registry::write(changes, image, options.now)?;
    }
    metadata::write(changes, image, options.now)?;
    Ok(())
}

fn graft<C: Changes>(
    changes: &mut C,
    layer: &LayerPlan,
    built: &Built<C::Subtree>,
    options: &PublishOptions,
) -> Result<(), PublishError> {
    let digest = &layer.descriptor.digest;
    for layout in &layer.missing {
        for path in layout.catalogs(digest) {
            ensure_catalog(changes, &path)?;
        }
        let subtree = match layout {
            Layout::Layers | Layout::Unpacked => {
                built.unpacked.as_ref().map(|unpacked| &unpacked.subtree)
            }
            Layout::Stargz | Layout::Registry => built.blob(*layout),
            Layout::Erofs => built.image.as_ref(),
            // Of images, not of layers.
            Layout::Flat => None,
        };
        if let Some(subtree) = subtree {
            changes.graft(&layout.place(digest), subtree)?;
        }
    }
    if let (Some(_), Some(diff_id)) = (&built.image, &layer.diff_id) {
        erofs::point(changes, digest, diff_id, options.now)?;
    }
    if let Some(unpacked) = &built.unpacked
        && layer.missing.contains(&Layout::Layers)
    {
        let implicit = &unpacked.implicit_directories;
        layers::describe(changes, digest, &unpacked.layer, implicit, options.now)?;
    }
    Ok(())
}

fn point<C: Changes>(
    changes: &mut C,
    layer: &LayerPlan,
    options: &PublishOptions,
) -> Result<(), PublishError> {
    let Some(diff_id) = &layer.diff_id else {
        return Ok(());
    };
    for chain_id in &layer.chain_ids {
        pointers::write(
            changes,
            &layer.descriptor.digest,
            diff_id,
            chain_id,
            options.now,
        )?;
    }
    Ok(())
}
