//! Claim and attach: from a layer's digest to a mounted chain.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::attach::Attachments;
use crate::builds::{Build, Builds, Outcome};
use crate::chain_fs::ChainFs;
use crate::embedded::EmbeddedSource;
use crate::error::{AttachError, Refusal, SourceError};
use crate::locate::{Found, Sources};
use crate::metrics::Metrics;
use crate::mounted::MountedSource;
use crate::source::{LayerSource, Located, Opened, Source};
use crate::space::Space;
use crate::tree_store::{MappedTree, TreeStore, chain_key, is_key, map, tree_key, write_counted};
use image::{Digest, EMPTY_LAYER, chain_id};

/// Name of the source of layers that need none.
const EMPTY_SOURCE: &str = "empty";

/// How long a claim waits for its layer's tree, which it needs for the number of inodes only.
const INODES_PATIENCE: Duration = Duration::from_millis(20);

/// What [`Layers::open`] needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// State directory, on a real disk file system.
    pub root: PathBuf,
    /// How long attach waits for a layer's tree.
    pub build_deadline: Duration,
    /// Threads that resolve layers and build trees.
    pub build_threads: usize,
    /// Threads that answer the kernel, for each mount.
    pub workers: usize,
    /// Read-ahead of each mount, KiB.
    pub read_ahead_kib: u32,
    /// How long a tree that no record names waits for one: claims are recorded after they are
    /// answered.
    pub tree_grace: Duration,
    /// How long a mounted repository may take for one answer.
    pub mounted_deadline: Duration,
    /// The cache whose quota the trees share.
    pub cache: Option<Arc<cache::Cache>>,
}

/// A layer that is asked for.
#[derive(Debug, Clone)]
pub struct LayerRequest {
    /// Digest of the layer's blob as the manifest has it.
    pub layer: Digest,
    /// chainID of the layer with all below it.
    pub chain_id: Digest,
    /// chainID of the layers below; none for the lowest layer.
    pub parent_chain_id: Option<Digest>,
    /// diffID as the image states it, where known and checked to lead to `chain_id`.
    pub diff_id: Option<Digest>,
    /// This and the following layers of the image, as far as known.
    pub image_layers: Vec<Digest>,
}

/// A layer that can be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Name of the source.
    pub source: String,
    /// Name of the tree.
    pub tree: String,
    /// diffID as the signed source states it.
    pub diff_id: Option<Digest>,
    /// Bytes of the unpacked layer, 0 if unknown.
    pub size: u64,
    /// Inodes of the layer, 0 while its tree is still being built.
    pub inodes: u64,
}

/// One layer of a chain, from its snapshot's record.
#[derive(Debug, Clone)]
pub struct ChainLayer {
    /// Digest of the layer's blob.
    pub layer: Digest,
    /// Name of its tree.
    pub tree: String,
    /// Name of its source.
    pub source: String,
}

/// What the records of snapshots name.
#[derive(Debug, Clone, Default)]
pub struct Named {
    /// Trees of claimed layers.
    pub trees: HashSet<String>,
    /// Chains that somebody uses: their layers' trees, bottom to top.
    pub chains: Vec<Vec<String>>,
}

/// How much was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Layers' trees.
    pub trees: usize,
    /// Merged trees, or what was left of them.
    pub chains: usize,
}

/// The lazy layers of one node. Cheap to share.
pub struct Layers {
    inner: Arc<Inner>,
}

struct Inner {
    sources: Sources,
    trees: TreeStore,
    builds: Arc<Builds>,
    attachments: Attachments,
    space: Arc<Space>,
    build_deadline: Duration,
    metrics: Metrics,
}

impl Layers {
    /// Opens the state below `config.root`. Needs no network.
    ///
    /// # Errors
    /// The state directory cannot be used, or threads cannot be started.
    pub fn open(config: Config, sources: Vec<Source>) -> Result<Self, AttachError> {
        let Config {
            root,
            build_deadline,
            build_threads,
            workers,
            read_ahead_kib,
            tree_grace,
            mounted_deadline,
            cache,
        } = config;
        let metrics = Metrics::default();
        let space = Arc::new(Space::new(cache));
        let trees = TreeStore::open(&root, Arc::clone(&space), tree_grace)?;
        let attachments = Attachments::open(
            &root,
            workers,
            read_ahead_kib,
            Arc::clone(&space),
            metrics.clone(),
        )?;
        let sources = sources.into_iter().map(|source| -> Arc<dyn LayerSource> {
            match source {
                Source::Embedded(embedded) => Arc::new(EmbeddedSource::new(embedded)),
                Source::Mounted(mounted) => {
                    let own = Arc::clone(attachments.own());
                    Arc::new(MountedSource::new(mounted, own, mounted_deadline))
                }
            }
        });
        let sources = Sources::new(sources.chain([Arc::new(Empty) as _]).collect());
        let builds = Builds::start(build_threads)
            .map_err(|cause| AttachError::Disk { path: root, cause })?;
        let inner = Inner {
            sources,
            trees,
            builds,
            attachments,
            space,
            build_deadline,
            metrics,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Figures.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Finds a layer, verifies what its source states, and begins to build its tree and those of
    /// the image's other layers.
    ///
    /// # Errors
    /// Why the layer cannot be served lazily.
    pub fn claim(&self, request: &LayerRequest) -> Result<Claimed, Refusal> {
        let claimed = self.inner.claim(request);
        match &claimed {
            Ok(_) => self.inner.metrics.claimed.inc(),
            Err(_) => self.inner.metrics.refused.inc(),
        };
        if claimed.is_ok() {
            self.resolve_ahead(&request.image_layers);
        }
        claimed
    }

    /// Makes the merged tree of `chain` (bottom to top) appear; returns its path.
    ///
    /// # Errors
    /// What keeps the chain from being mounted now; names the layer.
    pub fn attach(&self, chain: &[ChainLayer]) -> Result<PathBuf, AttachError> {
        let trees: Vec<&str> = chain.iter().map(|layer| layer.tree.as_str()).collect();
        let key = chain_key(trees.iter().copied());
        let inner = &self.inner;
        inner.attachments.attach(&key, &trees, || {
            let tree = inner.merged(&key, chain)?;
            let sources = chain
                .iter()
                .map(|layer| inner.source_of(layer).cloned())
                .collect::<Result<_, _>>()?;
            Ok(ChainFs::new(tree, sources, inner.metrics.clone()))
        })
    }

    /// Owner of the root directory of an attached chain.
    pub fn root_owner(&self, chain: &[ChainLayer]) -> Option<(u32, u32)> {
        let key = chain_key(chain.iter().map(|layer| layer.tree.as_str()));
        self.inner.attachments.root_owner(&key)
    }

    /// Unmounts a chain that nobody uses any more.
    pub fn detach(&self, chain: &[ChainLayer]) {
        let key = chain_key(chain.iter().map(|layer| layer.tree.as_str()));
        self.inner.attachments.detach(&key);
    }

    /// Removes the trees that no record names and nothing mounted is made of. Claims and attaches
    /// may go on meanwhile: what they asked for lately stays.
    ///
    /// # Errors
    /// The state directory cannot be read or written.
    pub fn retain(&self, named: &Named) -> Result<Removed, AttachError> {
        let key = |chain: &Vec<String>| chain_key(chain.iter().map(String::as_str));
        let chains: HashSet<String> = named.chains.iter().map(key).collect();
        let chains = self.inner.attachments.retain(&chains)?;
        let mounted = self.inner.attachments.trees();
        let trees = self.inner.trees.retain(|tree| {
            named.trees.contains(tree)
                || mounted.contains(tree)
                || named.chains.iter().flatten().any(|named| named == tree)
        })?;
        Ok(Removed { trees, chains })
    }

    /// Unmounts every chain on purpose; returns how many were mounted.
    ///
    /// # Errors
    /// The kernel refuses an unmount.
    pub fn release(&self) -> Result<usize, AttachError> {
        self.inner.attachments.release()
    }

    /// Resolves the image's layers in parallel in the background.
    fn resolve_ahead(&self, layers: &[Digest]) {
        for &layer in layers {
            let inner = Arc::clone(&self.inner);
            self.inner.builds.later(move || {
                if let Ok(found) = inner.sources.find(&layer) {
                    inner.build(&layer, &found);
                }
            });
        }
    }
}

impl Inner {
    fn claim(self: &Arc<Self>, request: &LayerRequest) -> Result<Claimed, Refusal> {
        let parent = request.parent_chain_id.as_ref();
        if chain_id(parent, &EMPTY_LAYER) == request.chain_id {
            return self.claim_empty(request);
        }
        let found = self.sources.find(&request.layer)?;
        if let Some(stated) = &found.located.diff_id
            && chain_id(parent, stated) != request.chain_id
        {
            return Err(Refusal::DiffIdMismatch {
                layer: request.layer.to_string(),
                stated: stated.to_string(),
                chain_id: request.chain_id.to_string(),
            });
        }
        let build = self.build(&request.layer, &found);
        // Most trees are there in a moment; a claim does not wait for the others.
        if let Some(build) = build {
            build.wait(Instant::now() + INODES_PATIENCE);
        }
        let believed = request.diff_id.filter(|_| found.source.trusted());
        Ok(Claimed {
            source: found.source.name().to_owned(),
            inodes: self.trees.inodes(&found.tree),
            tree: found.tree,
            diff_id: found.located.diff_id.or(believed),
            size: found.located.size,
        })
    }

    fn claim_empty(&self, request: &LayerRequest) -> Result<Claimed, Refusal> {
        let key = tree_key(&request.layer, EMPTY_SOURCE);
        self.trees.want(&key);
        self.put_empty(&key)
            .map_err(|error| SourceError::Unavailable {
                source_name: EMPTY_SOURCE.to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Claimed {
            source: EMPTY_SOURCE.to_owned(),
            inodes: self.trees.inodes(&key),
            tree: key,
            diff_id: Some(EMPTY_LAYER),
            size: 0,
        })
    }

    fn put_empty(&self, key: &str) -> Result<(), AttachError> {
        if self.trees.contains(key) {
            return Ok(());
        }
        let bytes = tree::Builder::new()
            .finish()
            .map_err(|error| AttachError::TreeFile {
                path: self.trees.path(key),
                reason: error.to_string(),
            })?;
        self.trees.put(key, &bytes)
    }

    /// Builds the tree in the background unless it is there.
    fn build(self: &Arc<Self>, layer: &Digest, found: &Found) -> Option<Arc<Build>> {
        self.trees.want(&found.tree);
        if self.trees.contains(&found.tree) {
            return None;
        }
        let inner = Arc::clone(self);
        let (layer, work) = (*layer, found.clone());
        Some(
            self.builds
                .build(&found.tree, move || inner.build_now(&layer, &work)),
        )
    }

    fn build_now(&self, layer: &Digest, found: &Found) -> Result<(), String> {
        if self.trees.contains(&found.tree) {
            return Ok(());
        }
        let started = Instant::now();
        let built = found
            .source
            .build(&found.located)
            .map_err(|error| error.to_string())
            .and_then(|bytes| {
                self.trees
                    .put(&found.tree, &bytes)
                    .map_err(|error| error.to_string())?;
                Ok(bytes.len())
            });
        match built {
            Ok(bytes) => {
                self.metrics.trees_built.inc();
                tracing::info!(%layer, bytes, seconds = started.elapsed().as_secs_f64(), "tree built");
                Ok(())
            }
            Err(reason) => {
                self.metrics.trees_failed.inc();
                // Perhaps it is no longer what was found.
                self.sources.forget(layer);
                tracing::warn!(%layer, reason, "tree cannot be built");
                Err(reason)
            }
        }
    }

    fn source_of(&self, layer: &ChainLayer) -> Result<&Arc<dyn LayerSource>, AttachError> {
        self.sources
            .named(&layer.source)
            .ok_or_else(|| AttachError::UnknownSource {
                layer: layer.layer.to_string(),
                source_name: layer.source.clone(),
            })
    }

    /// The chain's tree: kept from before, or merged from its layers' trees.
    fn merged(
        self: &Arc<Self>,
        key: &str,
        chain: &[ChainLayer],
    ) -> Result<MappedTree, AttachError> {
        let path = self.attachments.tree_path(key);
        match map(&path) {
            Ok(Some(tree)) => return Ok(tree),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "damaged merged tree is made again"),
        }
        let deadline = Instant::now() + self.build_deadline;
        let trees = chain
            .iter()
            .map(|layer| self.layer_tree(layer, deadline))
            .collect::<Result<Vec<_>, _>>()?;
        let borrowed: Vec<&MappedTree> = trees.iter().map(AsRef::as_ref).collect();
        write_counted(&self.space, &path, "merged", &tree::merge(&borrowed)?)?;
        map(&path)?.ok_or_else(|| AttachError::TreeFile {
            path,
            reason: "vanished after it was written".to_owned(),
        })
    }

    /// One layer's tree: from the store, from a build in hand, or built again from its source.
    fn layer_tree(
        self: &Arc<Self>,
        layer: &ChainLayer,
        deadline: Instant,
    ) -> Result<Arc<MappedTree>, AttachError> {
        if !is_key(&layer.tree) {
            return Err(AttachError::TreeFile {
                path: self.trees.path("?"),
                reason: format!("{:?} is not the name of a tree", layer.tree),
            });
        }
        self.trees.want(&layer.tree);
        if layer.source == EMPTY_SOURCE {
            self.put_empty(&layer.tree)?;
        }
        if let Some(tree) = self.trees.get(&layer.tree)? {
            return Ok(tree);
        }
        let source = self.source_of(layer)?;
        let failed = |cause| AttachError::Layer {
            layer: layer.layer.to_string(),
            cause,
        };
        let found = self.find_as_claimed(layer, source)?;
        if let Some(build) = self.build(&layer.layer, &found) {
            match build.wait(deadline) {
                Some(Outcome::Built) => {}
                Some(Outcome::Failed(reason)) => {
                    let source_name = layer.source.clone();
                    return Err(failed(SourceError::Unavailable {
                        source_name,
                        reason,
                    }));
                }
                None => {
                    return Err(AttachError::Deadline {
                        layer: layer.layer.to_string(),
                        seconds: self.build_deadline.as_secs(),
                    });
                }
            }
        }
        self.trees
            .get(&layer.tree)?
            .ok_or_else(|| AttachError::TreeFile {
                path: self.trees.path(&layer.tree),
                reason: "vanished after it was built".to_owned(),
            })
    }

    fn find_as_claimed(
        &self,
        layer: &ChainLayer,
        source: &Arc<dyn LayerSource>,
    ) -> Result<Found, AttachError> {
        // Past what is remembered: the repository may have moved on, and a tree is made from what
        // is there now.
        let found = Sources::find_in(source, &layer.layer).map_err(|cause| AttachError::Layer {
            layer: layer.layer.to_string(),
            cause,
        })?;
        found
            .filter(|found| found.tree == layer.tree)
            .ok_or_else(|| AttachError::Republished {
                layer: layer.layer.to_string(),
                source_name: layer.source.clone(),
            })
    }
}

/// The source of the empty layer, which needs none: it is found by its diffID, never searched.
struct Empty;

impl LayerSource for Empty {
    fn name(&self) -> &str {
        EMPTY_SOURCE
    }

    fn trusted(&self) -> bool {
        false
    }

    fn locate(&self, _: &Digest) -> Result<Option<Located>, SourceError> {
        Ok(None)
    }

    fn build(&self, _: &Located) -> Result<Vec<u8>, SourceError> {
        Err(no_content())
    }

    fn open(&self, _: &tree::Extent<'_>, _: u64, _: u64) -> Result<Opened, SourceError> {
        Err(no_content())
    }
}

fn no_content() -> SourceError {
    SourceError::Corrupt {
        source_name: EMPTY_SOURCE.to_owned(),
        reason: "an empty layer has no content".to_owned(),
    }
}
