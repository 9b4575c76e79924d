//! Layers stored in parallel.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cvmfs::Compression;

use super::PublishOptions;
use super::error::PublishError;
use super::plan::{LayerPlan, Plan};
use super::progress::{LayerPhase, Progress};
use super::summary::LayerState;
use crate::entry::Entry;
use crate::error::Error;
use crate::layer::{LayerBlob, LayerError, Sink, Unpacked, unpack};
use crate::layouts::erofs::{self, ErofsSink};
use crate::layouts::{Backend, Layout, mark, stargz};
use crate::objects::How;
use crate::source::ImageSource;
use registry::Verified;

/// An unpacked layer, stored.
pub(crate) struct UnpackedLayer<S> {
    pub(crate) subtree: S,
    pub(crate) layer: Unpacked,
    pub(crate) implicit_directories: Vec<Vec<u8>>,
}

/// What one reading of a layer made; nothing where nothing was wanted.
struct Entries<S> {
    unpacked: Option<UnpackedLayer<S>>,
    image: Option<S>,
}

/// What was made of one layer.
pub(crate) struct Built<S> {
    /// Its number in the plan.
    pub(crate) layer: usize,
    pub(crate) unpacked: Option<UnpackedLayer<S>>,
    /// Its EROFS image, if one was wanted and can be.
    pub(crate) image: Option<S>,
    blobs: Vec<(Layout, S)>,
    pub(crate) elapsed: Duration,
}

impl<S> Built<S> {
    pub(crate) fn blob(&self, layout: Layout) -> Option<&S> {
        let found = self.blobs.iter().find(|(blob, _)| *blob == layout);
        found.map(|(_, subtree)| subtree)
    }
}

/// Stores what is missing. After the first failure no other layer is begun.
pub(crate) fn build<B: Backend>(
    backend: &B,
    source: &dyn ImageSource,
    plan: &Plan,
    options: &PublishOptions,
    progress: &dyn Progress,
) -> Result<Vec<Built<B::Subtree>>, PublishError> {
    let missing: Vec<usize> = (0..plan.layers.len())
        .filter(|number| !plan.layers[*number].missing.is_empty())
        .collect();
    report_present(plan, progress);
    let next = AtomicUsize::new(0);
    let results = Mutex::new((Vec::new(), None));
    let work = || {
        while let Some(number) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            let builder = LayerBuilder {
                backend,
                source,
                layer: &plan.layers[*number],
                options,
                progress,
            };
            let result = builder.build(*number);
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(built) => results.0.push(built),
                Err(error) => {
                    results.1.get_or_insert(error);
                    next.store(missing.len(), Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..options.parallel.clamp(1, missing.len().max(1)) {
            scope.spawn(work);
        }
        work();
    });
    let (mut built, failure) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    match failure {
        Some(error) => Err(error),
        None => {
            built.sort_by_key(|built| built.layer);
            Ok(built)
        }
    }
}

fn report_present(plan: &Plan, progress: &dyn Progress) {
    for layer in plan.layers.iter().filter(|layer| layer.missing.is_empty()) {
        let descriptor = &layer.descriptor;
        let state = LayerState::of_untouched(layer);
        progress.phase(&descriptor.digest, descriptor.size, LayerPhase::Done(state));
    }
}

struct LayerBuilder<'a, B> {
    backend: &'a B,
    source: &'a dyn ImageSource,
    layer: &'a LayerPlan,
    options: &'a PublishOptions,
    progress: &'a dyn Progress,
}

impl<B: Backend> LayerBuilder<'_, B> {
    fn build(&self, number: usize) -> Result<Built<B::Subtree>, PublishError> {
        let started = Instant::now();
        self.phase(LayerPhase::Storing);
        let entries = self.unpack();
        let built = entries.and_then(|entries| Ok((entries, self.blobs()?)));
        let (entries, blobs) = built.map_err(|source| self.failed(source))?;
        self.phase(LayerPhase::Done(LayerState::Published));
        Ok(Built {
            layer: number,
            unpacked: entries.unpacked,
            image: entries.image,
            blobs,
            elapsed: started.elapsed(),
        })
    }

    /// The repository's failures are not the layer's.
    fn failed(&self, error: LayerError) -> PublishError {
        match error {
            LayerError::Store(error) => PublishError::Repository(*error),
            source => PublishError::Layer {
                digest: self.layer.descriptor.digest,
                source: Box::new(source),
            },
        }
    }

    fn phase(&self, phase: LayerPhase) {
        let descriptor = &self.layer.descriptor;
        self.progress
            .phase(&descriptor.digest, descriptor.size, phase);
    }

    fn open(&self) -> Result<Box<dyn Read + Send>, LayerError> {
        self.source
            .blob(&self.layer.descriptor)
            .map_err(|error| LayerError::Read(io::Error::other(error)))
    }

    /// What the layer's entries make, read once for all layouts that want them.
    fn unpack(&self) -> Result<Entries<B::Subtree>, LayerError> {
        let missing = &self.layer.missing;
        let mtime = self.options.now.as_second();
        let unpacks = missing.iter().any(|layout| layout.unpacks());
        let builder = unpacks.then(|| self.backend.subtree(mtime)).transpose();
        let mut builder = builder.map_err(store)?;
        let image = missing.contains(&Layout::Erofs);
        let image = image.then(|| self.backend.scratch_file()).transpose();
        let (layer, image) = match (&mut builder, image.map_err(store)?) {
            (None, None) => {
                return Ok(Entries {
                    unpacked: None,
                    image: None,
                });
            }
            (Some(builder), None) => (self.read(builder)?, None),
            (builder, Some(contents)) => {
                let other = builder.as_mut().map(|builder| builder as &mut dyn Sink);
                let mut sink = ErofsSink::new(contents).beside(other);
                let layer = self.read(&mut sink)?;
                let image = self.image(sink, &layer)?;
                (layer, image)
            }
        };
        let unpacked = builder
            .map(|builder| self.unpacked(builder, layer))
            .transpose()?;
        Ok(Entries { unpacked, image })
    }

    fn read(&self, sink: &mut dyn Sink) -> Result<Unpacked, LayerError> {
        let blob = LayerBlob {
            reader: self.open()?,
            descriptor: &self.layer.descriptor,
            diff_id: self.layer.diff_id,
        };
        let digest = &self.layer.descriptor.digest;
        let mut report = |bytes| self.progress.bytes(digest, bytes);
        let layer = unpack(blob, self.options.limits, sink, &mut report)?;
        self.phase(LayerPhase::Finishing);
        Ok(layer)
    }

    /// A layer that cannot be an image is none the worse for its other layouts.
    fn image(
        &self,
        sink: ErofsSink<'_>,
        layer: &Unpacked,
    ) -> Result<Option<B::Subtree>, LayerError> {
        let stored = sink.finish(&layer.diff_id, |reader, length, how| {
            self.backend.store(reader, length, how)
        });
        match stored.map_err(LayerError::from_store)? {
            Ok(image) => {
                let subtree = erofs::subtree(self.backend, &image, self.options.now);
                subtree.map(Some).map_err(store)
            }
            Err(reason) => {
                let digest = &self.layer.descriptor.digest;
                tracing::warn!(layer = %digest, %reason, "the layer has no EROFS image");
                Ok(None)
            }
        }
    }

    fn unpacked(
        &self,
        mut builder: B::Builder,
        layer: Unpacked,
    ) -> Result<UnpackedLayer<B::Subtree>, LayerError> {
        let implicit_directories = builder.implicit_directories().map_err(store)?;
        mark(&mut builder, self.options.now.as_second()).map_err(store)?;
        Ok(UnpackedLayer {
            subtree: self.backend.finish(builder).map_err(store)?,
            layer,
            implicit_directories,
        })
    }

    /// The blob as it is, in a subtree for each layout that wants it.
    fn blobs(&self) -> Result<Vec<(Layout, B::Subtree)>, LayerError> {
        let wanted = self
            .layer
            .missing
            .iter()
            .filter(|layout| layout.stores_blobs());
        let wanted: Vec<Layout> = wanted.copied().collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut blob = self.spooled()?;
        let size = self.layer.descriptor.size;
        let boundaries = match size {
            0 => None,
            _ => stargz::boundaries(&mut blob, &self.layer.descriptor),
        };
        blob.rewind().map_err(scratch)?;
        let how = How {
            compression: Compression::None,
            boundaries: boundaries.as_deref(),
        };
        let content = self
            .backend
            .store(&mut blob, size, how)
            .map_err(LayerError::from_store)?;
        let mtime = self.options.now.as_second();
        wanted
            .into_iter()
            .map(|layout| {
                let mut builder = self.backend.subtree(mtime).map_err(store)?;
                let entry = Entry {
                    size,
                    ..Entry::file(0o644, mtime)
                };
                builder.file_with(b"data", entry, &content).map_err(store)?;
                Ok((layout, self.backend.finish(builder).map_err(store)?))
            })
            .collect()
    }

    /// The table of an eStargz is at its end, and nothing may be stored before the whole blob is verified.
    fn spooled(&self) -> Result<File, LayerError> {
        let mut file = self.backend.scratch_file().map_err(store)?;
        let mut blob = Verified::new(self.open()?, &self.layer.descriptor);
        let mut buffer = vec![0; 128 << 10];
        let mut read = 0;
        loop {
            let count = match blob.read(&mut buffer) {
                Ok(0) => return Ok(file),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(LayerError::from_io(error)),
            };
            io::Write::write_all(&mut file, &buffer[..count]).map_err(scratch)?;
            read += count as u64;
            self.progress.bytes(&self.layer.descriptor.digest, read);
        }
    }
}

fn store(error: Error) -> LayerError {
    LayerError::Store(Box::new(error))
}

fn scratch(error: io::Error) -> LayerError {
    store(Error::Scratch(error))
}
