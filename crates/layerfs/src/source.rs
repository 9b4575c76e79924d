//! Where layers come from.

use std::path::PathBuf;

use image::Digest;

use crate::error::SourceError;

/// A source as the configuration names it.
pub enum Source {
    /// A repository read by our own client.
    Embedded(Embedded),
    /// A repository that somebody else keeps mounted.
    Mounted(Mounted),
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

/// A layer as a source states it.
#[derive(Debug, Clone)]
pub(crate) struct Located {
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
    /// What was wanted, from a mounted repository; its client has verified it. Shorter only if the
    /// file is.
    Bytes(Vec<u8>),
}

/// What every kind of source can do. Two implementations: embedded and mounted.
pub(crate) trait LayerSource: Send + Sync {
    /// Name as labels state it, for example `cvmfs:unpacked.cern.ch`.
    fn name(&self) -> &str;

    /// Whether the image is believed about diffIDs that the source does not state.
    fn trusted(&self) -> bool;

    /// Finds a layer; `None` if the source does not hold it.
    fn locate(&self, layer: &Digest) -> Result<Option<Located>, SourceError>;

    /// Builds the layer's tree.
    fn build(&self, located: &Located) -> Result<Vec<u8>, SourceError>;

    /// Opens the content of one extent, of which `wanted` bytes from `skip` on will be read.
    fn open(
        &self,
        extent: &tree::Extent<'_>,
        skip: u64,
        wanted: u64,
    ) -> Result<Opened, SourceError>;
}
