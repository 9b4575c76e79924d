//! Where layers come from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use image::{Digest, Reference};

use crate::error::SourceError;

/// A source as the configuration names it.
pub enum Source {
    /// A repository read by our own client.
    Embedded(Embedded),
    /// A repository that somebody else keeps mounted.
    Mounted(Mounted),
    /// The registries that images come from.
    Registry(FromRegistry),
}

/// Opens an embedded repository; called again after a failure, so that a daemon starts without its
/// network.
pub type OpenRepository = Box<dyn Fn() -> Result<cvmfs::Repository, cvmfs::Error> + Send + Sync>;

/// A repository read by our own client.
pub struct Embedded {
    /// Fully qualified repository name.
    pub fqrn: String,
    /// Opens the repository; offline start included.
    pub open: OpenRepository,
    /// Believe the image about diffIDs that the repository does not state (layout of 2019).
    pub trust_without_diff_id: bool,
}

/// A directory that somebody else's client keeps mounted.
pub struct Mounted {
    /// Root of the repository, for example `/cvmfs/unpacked.cern.ch`.
    pub directory: PathBuf,
    /// Believe the image about diffIDs that the repository does not state (layout of 2019).
    pub trust_without_diff_id: bool,
}

/// The registries that images come from: layers that can be read piece by piece are read there.
pub struct FromRegistry {
    /// Asked for ranges of blobs.
    pub client: registry::Client,
    /// Believe images about the diffIDs of such layers: no registry proves them.
    pub trust_without_diff_id: bool,
}

/// A layer's blob, and the image that has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Blob {
    pub digest: Digest,
    /// Where a registry has it; `None` if nobody said.
    pub reference: Option<Reference>,
}

/// A layer that is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Wanted {
    pub blob: Blob,
    /// Of the layer's descriptor, as far as they are known.
    pub annotations: BTreeMap<String, String>,
}

/// A layer whose contents are read.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub blob: Blob,
    /// Name of its tree.
    pub tree: String,
}

/// An extent that outlives its tree.
#[derive(Debug, Clone)]
pub(crate) struct OwnedExtent {
    pub offset: u64,
    pub length: u64,
    pub content: Vec<u8>,
}

impl OwnedExtent {
    pub(crate) fn borrowed(&self) -> tree::Extent<'_> {
        tree::Extent {
            offset: self.offset,
            length: self.length,
            content: &self.content,
        }
    }
}

impl From<&tree::Extent<'_>> for OwnedExtent {
    fn from(extent: &tree::Extent<'_>) -> Self {
        Self {
            offset: extent.offset,
            length: extent.length,
            content: extent.content.to_vec(),
        }
    }
}

/// A layer as a source states it.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    /// The source's name with what tells where it found the layer, as labels state it.
    pub source: String,
    /// Whether the image is believed about a diffID that the source does not state.
    pub trusted: bool,
    /// Path of the layer's root below the repository's, without a leading slash.
    pub path: String,
    /// What makes the layer's content this and no other: the hash of its catalog, or a substitute.
    pub identity: String,
    /// diffID as the source states it, if it does.
    pub diff_id: Option<Digest>,
    /// Bytes of the unpacked layer, 0 if the source does not say.
    pub size: u64,
}

/// An opened content.
pub(crate) enum Opened {
    /// A verified object of the cache: the whole extent.
    Object(cache::Object),
    /// What was wanted. Shorter only if the file is.
    Bytes(Vec<u8>),
    /// A file of our own that holds the whole extent from this place on.
    File(std::sync::Arc<std::fs::File>, u64),
}

/// What every kind of source can do.
pub(crate) trait LayerSource: Send + Sync {
    /// Name as labels state it, for example `cvmfs:unpacked.cern.ch`.
    fn name(&self) -> &str;

    /// Whether [`Located::source`] names this source.
    fn is_named(&self, name: &str) -> bool {
        self.name() == name
    }

    /// Finds a layer; `None` if the source does not hold it.
    fn locate(&self, wanted: &Wanted) -> Result<Option<Located>, SourceError>;

    /// Builds the layer's tree.
    fn build(&self, wanted: &Wanted, located: &Located) -> Result<Vec<u8>, SourceError>;

    /// Begins to fetch what finding the layer will need, when it is asked for in earnest. May block.
    fn prepare(&self, _wanted: &Wanted) {}

    /// Fetches extents that follow each other, before they are asked for. Failures are the reader's to find.
    fn fetch(&self, layer: &Layer, extents: &[OwnedExtent]) {
        for extent in extents {
            let _ = self.open(layer, &extent.borrowed(), 0, 0);
        }
    }

    /// Which extents that follow each other are fetched in one go: each by itself, at the same time.
    fn ahead(&self, extents: &[OwnedExtent]) -> Vec<Vec<OwnedExtent>> {
        extents.iter().map(|extent| vec![extent.clone()]).collect()
    }

    /// The layer came into use.
    fn used(&self, _layer: &Layer) {}

    /// Opens the content of one extent, of which `wanted` bytes from `skip` on will be read.
    fn open(
        &self,
        layer: &Layer,
        extent: &tree::Extent<'_>,
        skip: u64,
        wanted: u64,
    ) -> Result<Opened, SourceError>;
}
