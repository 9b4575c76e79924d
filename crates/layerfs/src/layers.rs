//! Claim and attach: from a layer's digest to a mounted chain.

mod opening;
mod unpacking;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::attach::Attachments;
use crate::builds::{Build, Builds, Outcome};
use crate::chain_fs::ChainFs;
use crate::error::{AttachError, Refusal, SourceError};
use crate::estargz::Fetching;
use crate::locate::{Found, Sources};
use crate::metrics::Metrics;
use crate::reads::ReadsOfTrees;
use crate::source::{Blob, Layer, LayerSource, Source, Wanted};
use crate::space::Space;
use crate::tree_store::{MappedTree, TreeStore, chain_key, is_key, map, tree_key, write_counted};
use crate::unpacked::{self, Unpack};
use image::{Digest, EMPTY_LAYER, Reference, chain_id};
use opening::Opening;
use unpacking::{UNPACKED_AT_ONCE, Unpacking};

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
    /// The cache whose quota the trees share. Without it no layer is read piece by piece.
    pub cache: Option<Arc<cache::Cache>>,
    /// What is fetched before anybody asks.
    pub fetching: Fetching,
    /// Which ordinary layers are fetched and unpacked here.
    pub unpack: Unpack,
}

/// A layer as its image's manifest states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// Digest of its blob.
    pub digest: Digest,
    /// Annotations of its descriptor, as far as they are known.
    pub annotations: BTreeMap<String, String>,
}

impl From<Digest> for ImageLayer {
    fn from(digest: Digest) -> Self {
        Self {
            digest,
            annotations: BTreeMap::new(),
        }
    }
}

/// A layer that is asked for.
#[derive(Debug, Clone)]
pub struct LayerRequest {
    /// Digest of the layer's blob as the manifest has it.
    pub layer: Digest,
    /// Annotations of the layer's descriptor, as far as they are known: they say how to verify a
    /// layer that is read piece by piece.
    pub annotations: BTreeMap<String, String>,
    /// The image that is pulled: where its registry has the layers.
    pub reference: Option<Reference>,
    /// chainID of the layer with all below it.
    pub chain_id: Digest,
    /// chainID of the layers below; none for the lowest layer.
    pub parent_chain_id: Option<Digest>,
    /// diffID as the image states it, where known and checked to lead to `chain_id`.
    pub diff_id: Option<Digest>,
    /// This and the following layers of the image, as far as known.
    pub image_layers: Vec<ImageLayer>,
    /// Whether nothing more will be known of the image: only then an ordinary layer is unpacked here.
    pub complete: bool,
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
    /// The image that it was claimed for.
    pub reference: Option<Reference>,
    /// What it was verified by when it was claimed.
    pub annotations: BTreeMap<String, String>,
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

impl LayerRequest {
    fn wanted(&self) -> Wanted {
        Wanted {
            blob: Blob {
                digest: self.layer,
                reference: self.reference.clone(),
            },
            annotations: self.annotations.clone(),
        }
    }
}

impl LayerRequest {
    /// Another layer of the same image.
    fn wanted_above(&self, layer: &ImageLayer) -> Wanted {
        Wanted {
            blob: Blob {
                digest: layer.digest,
                reference: self.reference.clone(),
            },
            annotations: layer.annotations.clone(),
        }
    }
}

impl ChainLayer {
    fn wanted(&self) -> Wanted {
        Wanted {
            blob: self.opened().blob,
            annotations: self.annotations.clone(),
        }
    }

    fn opened(&self) -> Layer {
        Layer {
            blob: Blob {
                digest: self.layer,
                reference: self.reference.clone(),
            },
            tree: self.tree.clone(),
        }
    }
}

/// The lazy layers of one node. Cheap to share.
pub struct Layers {
    inner: Arc<Inner>,
}

struct Inner {
    sources: Sources,
    trees: Arc<TreeStore>,
    builds: Arc<Builds>,
    unpacking: Unpacking,
    attachments: Attachments,
    space: Arc<Space>,
    build_deadline: Duration,
    reads: ReadsOfTrees,
    metrics: Metrics,
}

impl Layers {
    /// Opens the state below `config.root`. Needs no network.
    ///
    /// # Errors
    /// The state directory cannot be used, or threads cannot be started.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a constructor takes its settings"
    )]
    pub fn open(config: Config, sources: Vec<Source>) -> Result<Self, AttachError> {
        let metrics = Metrics::default();
        let root = &config.root;
        let space = Arc::new(Space::new(config.cache.clone()));
        let trees = TreeStore::open(root, Arc::clone(&space), config.tree_grace)?;
        let trees = Arc::new(trees);
        let attachments = Attachments::open(
            root,
            config.workers,
            config.read_ahead_kib,
            Arc::clone(&space),
            metrics.clone(),
        )?;
        let mut opening = Opening::default();
        for source in sources {
            opening.add(source, attachments.own(), config.mounted_deadline);
        }
        let (sources, unpacked) = opening.finish(&config, &trees, &space, &metrics)?;
        let threads = |number| {
            Builds::start(number).map_err(|cause| AttachError::Disk {
                path: root.clone(),
                cause,
            })
        };
        let inner = Inner {
            sources,
            trees,
            builds: threads(config.build_threads)?,
            unpacking: Unpacking {
                source: unpacked,
                which: config.unpack,
                builds: threads(UNPACKED_AT_ONCE)?,
            },
            attachments,
            space,
            build_deadline: config.build_deadline,
            reads: ReadsOfTrees::default(),
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
        // At once: what the first layer waits for, the others wait for meanwhile.
        self.resolve_ahead(request);
        let claimed = self.inner.claim(request);
        match &claimed {
            Ok(_) => self.inner.metrics.claimed.inc(),
            Err(_) => self.inner.metrics.refused.inc(),
        };
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
        let path = inner.attachments.attach(&key, &trees, || {
            let tree = inner.merged(&key, chain)?;
            let layers = chain
                .iter()
                .map(|layer| Ok((layer.opened(), Arc::clone(inner.source_of(layer)?))))
                .collect::<Result<_, AttachError>>()?;
            let reads = trees.iter().map(|tree| inner.reads.of(tree)).collect();
            Ok(ChainFs::new(tree, layers, reads, inner.metrics.clone()))
        })?;
        for layer in chain {
            if let Ok(source) = inner.source_of(layer) {
                source.used(&layer.opened());
            }
        }
        Ok(path)
    }

    /// Owner of the root directory of an attached chain.
    pub fn root_owner(&self, chain: &[ChainLayer]) -> Option<(u32, u32)> {
        let key = chain_key(chain.iter().map(|layer| layer.tree.as_str()));
        self.inner.attachments.root_owner(&key)
    }

    /// Bytes of a layer's contents that were read since the start, each content once and as a whole: an object, or a chunk. `None` if the
    /// layer was in no chain.
    pub fn read_bytes(&self, tree: &str) -> Option<u64> {
        self.inner.reads.bytes(tree)
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
        let kept = |tree: &str| {
            named.trees.contains(tree)
                || mounted.contains(tree)
                || named.chains.iter().flatten().any(|named| named == tree)
        };
        let trees = self.inner.trees.retain(kept)?;
        self.inner.reads.retain(kept);
        if self.inner.unpacking.source.retain()? {
            self.inner.sources.forget_all_of(unpacked::NAME);
        }
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
    fn resolve_ahead(&self, request: &LayerRequest) {
        let others = request
            .image_layers
            .iter()
            .filter(|layer| layer.digest != request.layer);
        for layer in others {
            let inner = Arc::clone(&self.inner);
            let wanted = request.wanted_above(layer);
            self.inner.builds.later(move || {
                inner.sources.prepare(&wanted);
                if let Ok(found) = inner.sources.find(&wanted) {
                    inner.build(&wanted, &found);
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
        let wanted = request.wanted();
        let found = match self.sources.find(&wanted) {
            Err(refusal) if self.may_unpack(request, &refusal) => self.unpack(request, &wanted)?,
            found => found?,
        };
        if let Some(stated) = &found.located.diff_id
            && chain_id(parent, stated) != request.chain_id
        {
            return Err(Refusal::DiffIdMismatch {
                layer: request.layer.to_string(),
                stated: stated.to_string(),
                chain_id: request.chain_id.to_string(),
            });
        }
        let build = self.build(&wanted, &found);
        // Most trees are there in a moment; a claim does not wait for the others.
        if let Some(build) = build {
            build.wait(Instant::now() + INODES_PATIENCE);
        }
        let believed = request.diff_id.filter(|_| found.located.trusted);
        Ok(Claimed {
            source: found.located.source,
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
    fn build(self: &Arc<Self>, wanted: &Wanted, found: &Found) -> Option<Arc<Build>> {
        self.trees.want(&found.tree);
        if self.trees.contains(&found.tree) {
            return None;
        }
        let inner = Arc::clone(self);
        let (wanted, work) = (wanted.clone(), found.clone());
        Some(
            self.builds
                .build(&found.tree, move || inner.build_now(&wanted, &work)),
        )
    }

    fn build_now(&self, wanted: &Wanted, found: &Found) -> Result<(), String> {
        let layer = wanted.blob.digest;
        if self.trees.contains(&found.tree) {
            return Ok(());
        }
        let started = Instant::now();
        let built = found
            .source
            .build(wanted, &found.located)
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
                self.sources.forget(wanted);
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
        // Mostly its claim has begun to build it.
        if let Some(build) = self.builds.in_hand(&layer.tree)
            && matches!(build.wait(deadline), Some(Outcome::Built))
            && let Some(tree) = self.trees.get(&layer.tree)?
        {
            return Ok(tree);
        }
        let source = self.source_of(layer)?;
        let failed = |cause| AttachError::Layer {
            layer: layer.layer.to_string(),
            cause,
        };
        if layer.source == unpacked::NAME {
            self.unpack_again(layer, deadline).map_err(failed)?;
        }
        let found = self.find_as_claimed(layer, source)?;
        if let Some(build) = self.build(&layer.wanted(), &found) {
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
        let found =
            Sources::find_in(source, &layer.wanted()).map_err(|cause| AttachError::Layer {
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
