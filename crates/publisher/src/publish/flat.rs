//! Layout `flat`: of the preferred platform, all layers merged.
//!
//! Layers are read once more for it. What was stored for another layout a moment ago is neither deflated nor written again.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use image::Descriptor;
use tree::Tree;

use super::PublishOptions;
use super::error::PublishError;
use crate::entry::Entry;
use crate::layer::{LayerBlob, LayerError, unpack};
use crate::layouts::flat::{self, FlatSink};
use crate::layouts::metadata::{PlatformImage, ResolvedImage, ensure_catalog};
use crate::layouts::{Backend, Changes, Layout};
use crate::source::ImageSource;

/// Puts the flat image and its public name into the new revision.
pub(crate) fn publish<B: Backend, C: Changes<Subtree = B::Subtree>>(
    backend: &B,
    source: &dyn ImageSource,
    changes: &mut C,
    image: &ResolvedImage,
    options: &PublishOptions,
) -> Result<(), PublishError> {
    if !options.layouts.contains(&Layout::Flat) {
        return Ok(());
    }
    let platform = &image.platforms[image.preferred];
    let configuration = &platform.manifest.config.digest;
    let has_catalog = |catalog: &cvmfs::ContentHash| backend.has_catalog(catalog);
    let mtime = options.now.as_second();
    if options.again || !flat::is_there(changes, configuration, &has_catalog)? {
        let layers = trees(backend, source, platform, options)?;
        let subtree = flat::subtree(backend, &layers, &platform.config, mtime)?;
        for path in Layout::Flat.catalogs(configuration) {
            ensure_catalog(changes, &path)?;
        }
        changes.graft(&Layout::Flat.place(configuration), &subtree)?;
    }
    let (path, target) = flat::link(image, configuration);
    let known = changes.lookup(&path)?.map(|found| found.symlink);
    if known.as_deref() != Some(target.as_bytes()) {
        changes.symlink(&path, Entry::symlink(target, mtime))?;
    }
    Ok(())
}

/// A tree of each layer, bottom to top.
fn trees<B: Backend>(
    backend: &B,
    source: &dyn ImageSource,
    platform: &PlatformImage,
    options: &PublishOptions,
) -> Result<Vec<Tree<Vec<u8>>>, PublishError> {
    let Some(config) = &platform.parsed else {
        return Err(PublishError::Inconsistent {
            image: source.name(),
            reason: "none of its platforms has a file system".to_owned(),
        });
    };
    let layers = &platform.manifest.layers;
    let next = AtomicUsize::new(0);
    let trees = Mutex::new((Vec::new(), None));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(layer) = layers.get(number) else {
                break;
            };
            let diff_id = config.rootfs.diff_ids.get(number).copied();
            let tree = tree(backend, source, layer, diff_id, options);
            let mut trees = trees.lock().unwrap_or_else(PoisonError::into_inner);
            match tree {
                Ok(tree) => trees.0.push((number, tree)),
                Err(error) => {
                    trees.1.get_or_insert(error);
                    next.store(layers.len(), Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..options.parallel.clamp(1, layers.len().max(1)) {
            scope.spawn(work);
        }
        work();
    });
    let (mut trees, failure) = trees.into_inner().unwrap_or_else(PoisonError::into_inner);
    match failure {
        Some(error) => Err(error),
        None => {
            trees.sort_by_key(|(number, _)| *number);
            Ok(trees.into_iter().map(|(_, tree)| tree).collect())
        }
    }
}

fn tree<B: Backend>(
    backend: &B,
    source: &dyn ImageSource,
    layer: &Descriptor,
    diff_id: Option<image::Digest>,
    options: &PublishOptions,
) -> Result<Tree<Vec<u8>>, PublishError> {
    let failed = |error: LayerError| match error {
        LayerError::Store(error) => PublishError::Repository(*error),
        error => PublishError::Layer {
            digest: layer.digest,
            source: Box::new(error),
        },
    };
    let reader = source
        .blob(layer)
        .map_err(|error| failed(LayerError::Read(io::Error::other(error))))?;
    let blob = LayerBlob {
        reader,
        descriptor: layer,
        diff_id,
    };
    let mut sink = FlatSink::new(backend);
    unpack(blob, options.limits, &mut sink, &mut |_| {}).map_err(failed)?;
    Ok(sink.finish()?)
}
