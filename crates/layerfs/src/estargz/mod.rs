//! Layers that are read piece by piece: eStargz, stargz and zstd:chunked, from repositories that
//! hold their blobs and from the registries that images come from.
//!
//! ```text
//! tocs         footer and TOC of a blob, verified
//! toc_tree     the layer's tree
//! chunks       contents: cache, sources in order, verification
//! blobs        where blobs lie
//! members      what lies next to each other in a blob
//! background   what is fetched before anybody asks
//! ```

mod background;
mod blobs;
mod chunks;
mod flights;
mod members;
mod toc_tree;
mod tocs;
mod window;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cache::Cache;
use image::estargz::{Chunk, Landmark, Toc, TocDigest};

use crate::builds::lock;
use crate::error::SourceError;
use crate::metrics::LazyMetrics;
use crate::source::{Layer, LayerSource, Located, Opened, OwnedExtent, Wanted};
use crate::tree_store::{TreeStore, tree_key};
use background::Background;
pub(crate) use blobs::{BlobSource, MountedBlobs, RegistryBlobs, RepositoryBlobs};
use chunks::Chunks;
use members::{MembersOf, chunk_of};
pub(crate) use toc_tree::tree_of;
use tocs::{Ahead, FoundToc};

/// Name of the source; labels have it with the place of the blob.
const NAME: &str = "estargz";

/// Compressed bytes that a request brings along from what follows: about what a connection carries
/// while the request is on its way.
const BESIDE: u64 = 128 << 10;

/// Parsed TOCs wait so long for their tree to be built, which follows at once.
const PARSED: Duration = Duration::from_secs(60);
const MAX_PARSED: usize = 8;

/// What is fetched before anybody asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetching {
    /// The files that a layer's maker marked, when it is claimed.
    pub prefetch: bool,
    /// Everything, when a container uses the layer and no read waits.
    pub background: bool,
}

/// All lazy layers.
pub(crate) struct EstargzSource {
    chunks: Arc<Chunks>,
    ahead: Ahead,
    parsed: Mutex<HashMap<String, (Instant, FoundToc)>>,
    trees: Arc<TreeStore>,
    members: Arc<MembersOf>,
    background: Background,
    fetching: Fetching,
    metrics: LazyMetrics,
}

impl EstargzSource {
    pub(crate) fn new(
        sources: Vec<Arc<dyn BlobSource>>,
        cache: Arc<Cache>,
        trees: Arc<TreeStore>,
        fetching: Fetching,
        metrics: LazyMetrics,
    ) -> Self {
        let chunks = Arc::new(Chunks::new(sources, cache, metrics.clone()));
        let members = Arc::new(MembersOf::default());
        Self {
            background: Background::new(
                Arc::clone(&chunks),
                Arc::clone(&members),
                Arc::clone(&trees),
                metrics.clone(),
            ),
            chunks,
            ahead: Ahead::default(),
            parsed: Mutex::default(),
            trees,
            members,
            fetching,
            metrics,
        }
    }

    fn find(
        &self,
        wanted: &Wanted,
        expected: Option<&TocDigest>,
    ) -> Result<Option<FoundToc>, SourceError> {
        let sources: Vec<_> = self.chunks.sources().collect();
        tocs::find(&sources, &self.ahead, wanted, expected, &self.metrics)
    }

    /// A layer whose tree was made before, by the digest of its TOC: nothing needs to be read.
    fn known(&self, wanted: &Wanted, identity: &str) -> Option<Located> {
        let tree = tree_key(&wanted.blob.digest, identity);
        self.trees.want(&tree);
        if !self.trees.contains(&tree) {
            return None;
        }
        let tree = self.trees.get(&tree).ok()??;
        let source = self
            .chunks
            .sources()
            .find(|source| matches!(source.may_hold(&wanted.blob), Ok(true)))?;
        Some(Located {
            source: format!("{NAME}:{}", source.shown(&wanted.blob)),
            trusted: source.is_trusted(),
            path: String::new(),
            identity: identity.to_owned(),
            diff_id: None,
            size: tree.content_bytes(),
        })
    }

    fn remember(&self, tree: String, found: FoundToc) {
        let mut parsed = lock(&self.parsed);
        parsed.retain(|_, (at, _)| at.elapsed() < PARSED);
        if parsed.len() < MAX_PARSED {
            parsed.insert(tree, (Instant::now(), found));
        }
    }

    /// What the layer's maker wants to be there early.
    fn prefetch(&self, wanted: &Wanted, toc: &Toc) {
        let Landmark::Prefetch { end } = toc.landmark() else {
            return;
        };
        if self.fetching.prefetch {
            let early = toc.chunks().iter().filter(|chunk| chunk.start < end);
            let early: Vec<Chunk> = early.copied().collect();
            self.background.prefetch(&wanted.blob, &early);
        }
    }

    fn beside(&self, layer: &Layer, chunk: &Chunk) -> Vec<Chunk> {
        let members = self.members.get(&self.trees, &layer.tree);
        let members = members.unwrap_or_else(|error| {
            tracing::warn!(%error, "chunks are fetched one by one");
            None
        });
        members.map_or_else(Vec::new, |members| members.beside(chunk, BESIDE))
    }
}

impl LayerSource for EstargzSource {
    fn name(&self) -> &str {
        NAME
    }

    fn is_named(&self, name: &str) -> bool {
        let place = name.strip_prefix(NAME);
        place.is_some_and(|place| place.is_empty() || place.starts_with(':'))
    }

    fn locate(&self, wanted: &Wanted) -> Result<Option<Located>, SourceError> {
        let expected = expected(wanted)?;
        let identity = expected.as_ref().map(identity);
        if let Some(known) = identity.as_ref().and_then(|one| self.known(wanted, one)) {
            return Ok(Some(known));
        }
        let Some(found) = self.find(wanted, expected.as_ref())? else {
            return Ok(None);
        };
        let identity = identity
            .unwrap_or_else(|| self::identity(&TocDigest::Uncompressed(*found.toc.digest())));
        let located = Located {
            source: format!("{NAME}:{}", found.place),
            trusted: found.trusted,
            path: String::new(),
            diff_id: None,
            size: found.toc.entries().map(|entry| entry.size()).sum(),
            identity,
        };
        let tree = tree_key(&wanted.blob.digest, &located.identity);
        if !self.trees.contains(&tree) {
            self.remember(tree, found);
        }
        Ok(Some(located))
    }

    fn build(&self, wanted: &Wanted, located: &Located) -> Result<Vec<u8>, SourceError> {
        let tree = tree_key(&wanted.blob.digest, &located.identity);
        let parsed = lock(&self.parsed).remove(&tree);
        let found = match parsed {
            Some((_, found)) => Some(found),
            None => self.find(wanted, expected(wanted)?.as_ref())?,
        };
        let found = found.ok_or_else(|| SourceError::Unavailable {
            source_name: located.source.clone(),
            reason: format!("it has not blob {} any more", wanted.blob.digest),
        })?;
        let built = tree_of(&found.toc).map_err(|cause| SourceError::Tree {
            source_name: located.source.clone(),
            cause,
        })?;
        self.prefetch(wanted, &found.toc);
        Ok(built)
    }

    fn prepare(&self, wanted: &Wanted) {
        if matches!(expected(wanted), Ok(None)) {
            let sources: Vec<_> = self.chunks.sources().collect();
            self.ahead.fetch(&sources, &wanted.blob);
        }
    }

    fn fetch(&self, layer: &Layer, extents: &[OwnedExtent]) {
        let chunks = extents.iter().map(|extent| chunk_of(&extent.borrowed()));
        let chunks: Option<Vec<Chunk>> = chunks.collect();
        self.chunks.ready(&layer.blob, &chunks.unwrap_or_default());
    }

    /// All in one request.
    fn ahead(&self, extents: &[OwnedExtent]) -> Vec<Vec<OwnedExtent>> {
        if extents.is_empty() {
            return Vec::new();
        }
        vec![extents.to_vec()]
    }

    fn used(&self, layer: &Layer) {
        if self.fetching.background {
            self.background.rest(layer);
        }
    }

    fn open(
        &self,
        layer: &Layer,
        extent: &tree::Extent<'_>,
        skip: u64,
        wanted: u64,
    ) -> Result<Opened, SourceError> {
        let chunk = chunk_of(extent).ok_or_else(|| SourceError::Corrupt {
            source_name: NAME.to_owned(),
            reason: "a tree refers to content of another kind".to_owned(),
        })?;
        let beside = || self.beside(layer, &chunk);
        self.chunks.open(layer, &chunk, (skip, wanted), &beside)
    }
}

fn expected(wanted: &Wanted) -> Result<Option<TocDigest>, SourceError> {
    TocDigest::from_annotations(&wanted.annotations).map_err(|error| SourceError::Corrupt {
        source_name: NAME.to_owned(),
        reason: format!("layer {}: {error}", wanted.blob.digest),
    })
}

/// What a tree is named by: the digest of the TOC that it was made from.
fn identity(digest: &TocDigest) -> String {
    match digest {
        TocDigest::Uncompressed(digest) => format!("toc {digest}"),
        TocDigest::Compressed(digest) => format!("compressed toc {digest}"),
        TocDigest::Unverified => "toc".to_owned(),
    }
}
