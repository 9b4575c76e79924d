//! From the configuration's sources to what each can be, and the one source that needs no configuration.

use std::sync::Arc;
use std::time::Duration;

use super::{Config, EMPTY_SOURCE};
use crate::embedded::EmbeddedSource;
use crate::error::{AttachError, SourceError};
use crate::estargz::{BlobSource, EstargzSource, MountedBlobs, RegistryBlobs, RepositoryBlobs};
use crate::locate::Sources;
use crate::metrics::Metrics;
use crate::mounted::MountedSource;
use crate::own_mounts::OwnMounts;
use crate::source::{FromRegistry, Layer, LayerSource, Located, Opened, Source, Wanted};
use crate::space::Space;
use crate::tree_store::TreeStore;
use crate::unpacked::UnpackedSource;

/// The sources of the configuration, each as what it can be.
#[derive(Default)]
pub(super) struct Opening {
    /// Layers unpacked in repositories.
    pub(super) layers: Vec<Arc<dyn LayerSource>>,
    /// Blobs, in repositories and registries.
    pub(super) blobs: Vec<Arc<dyn BlobSource>>,
}

impl Opening {
    pub(super) fn add(&mut self, source: Source, own: &Arc<OwnMounts>, mounted_deadline: Duration) {
        match source {
            Source::Embedded(embedded) => {
                let source = Arc::new(EmbeddedSource::new(embedded));
                let blobs = RepositoryBlobs::new(Arc::clone(&source), source.name());
                self.blobs.push(Arc::new(blobs));
                self.layers.push(source);
            }
            Source::Mounted(mounted) => {
                let source = MountedSource::new(mounted, Arc::clone(own), mounted_deadline);
                let source = Arc::new(source);
                let blobs = MountedBlobs::new(Arc::clone(&source), source.name());
                self.blobs.push(Arc::new(blobs));
                self.layers.push(source);
            }
            Source::Registry(FromRegistry {
                client,
                trust_without_diff_id,
            }) => {
                let blobs = RegistryBlobs::new(client, trust_without_diff_id);
                self.blobs.push(Arc::new(blobs));
            }
        }
    }
}

impl Opening {
    /// All sources in the order in which they are asked, and the one that unpacks.
    pub(super) fn finish(
        mut self,
        config: &Config,
        trees: &Arc<TreeStore>,
        space: &Arc<Space>,
        metrics: &Metrics,
    ) -> Result<(Sources, Arc<UnpackedSource>), AttachError> {
        let unpacked = Arc::new(UnpackedSource::open(
            &config.root,
            self.blobs.clone(),
            Arc::clone(trees),
            Arc::clone(space),
            config.cache.as_ref().map_or(0, |cache| cache.quota()),
            metrics.lazy.clone(),
        )?);
        if let Some(cache) = &config.cache {
            self.layers.push(Arc::new(EstargzSource::new(
                self.blobs,
                Arc::clone(cache),
                Arc::clone(trees),
                config.fetching,
                metrics.lazy.clone(),
            )));
        }
        self.layers.push(Arc::clone(&unpacked) as _);
        self.layers.push(Arc::new(Empty));
        Ok((Sources::new(self.layers), unpacked))
    }
}

/// The source of the empty layer, which needs none: it is found by its diffID, never searched.
pub(super) struct Empty;

impl LayerSource for Empty {
    fn name(&self) -> &str {
        EMPTY_SOURCE
    }

    fn locate(&self, _: &Wanted) -> Result<Option<Located>, SourceError> {
        Ok(None)
    }

    fn build(&self, _: &Wanted, _: &Located) -> Result<Vec<u8>, SourceError> {
        Err(no_content())
    }

    fn open(&self, _: &Layer, _: &tree::Extent<'_>, _: u64, _: u64) -> Result<Opened, SourceError> {
        Err(no_content())
    }
}

fn no_content() -> SourceError {
    SourceError::Corrupt {
        source_name: EMPTY_SOURCE.to_owned(),
        reason: "an empty layer has no content".to_owned(),
    }
}
