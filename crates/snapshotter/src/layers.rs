//! The seam to whoever can make layers appear without their blobs being downloaded.

use std::collections::BTreeMap;
use std::path::PathBuf;

use image::Digest;

/// Finds lazy layers and makes chains of them appear at paths.
///
/// All methods are called from threads that may block; each implementation keeps its own deadlines.
/// None is called while a lock or a transaction of the snapshotter is held, and none within Commit.
pub trait LazyLayers: Send + Sync {
    /// Finds the layer, verifies it, and makes its tree.
    ///
    /// # Errors
    /// Any refusal makes the snapshot an ordinary one, which containerd fills by itself.
    fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Refusal>;

    /// Makes the merged, read-only root of `chain` (bottom to top) appear; returns its path. Idempotent.
    ///
    /// The path must not contain `:` or `,`, and should lie below the snapshotter's root: containerd
    /// shortens lowerdirs only by their common prefix.
    ///
    /// # Errors
    /// The container's image is unavailable for now; the same call may succeed later.
    fn attach(&self, chain: &[ChainLayer]) -> Result<PathBuf, AttachError>;

    /// Nothing uses `chain` any more. Called in the background; never concurrently with `attach` of the same chain.
    fn detach(&self, chain: &[ChainLayer]);

    /// Bytes of a layer's files that were read since the process's start, whole objects or chunks, through any chain; `None` if it was not
    /// in any.
    fn read_bytes(&self, _layer: &ChainLayer) -> Option<u64> {
        None
    }

    /// Owner (uid, gid) of the root directory of `chain`; a new snapshot above it starts with that owner.
    ///
    /// It comes from the tree: the snapshotter never looks at a mount that its own process serves.
    fn root_owner(&self, _chain: &[ChainLayer]) -> (u32, u32) {
        (0, 0)
    }
}

/// Annotations of a layer's descriptor.
pub type Annotations = BTreeMap<String, String>;

/// A layer as its image's manifest states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLayer {
    /// Digest of its blob.
    pub digest: Digest,
    /// Those that say how it can be read piece by piece and verified, as far as known.
    pub annotations: Annotations,
}

impl From<Digest> for ImageLayer {
    fn from(digest: Digest) -> Self {
        Self {
            digest,
            annotations: Annotations::new(),
        }
    }
}

/// What containerd asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRequest {
    /// chainID of the layer with all below it: `sha256:…` (label `containerd.io/snapshot.ref`).
    pub snapshot_ref: String,
    /// chainID of the parent; none for the lowest layer.
    pub parent_chain_id: Option<String>,
    /// Digest of the layer's blob as the manifest has it (compressed). For the empty layer, when no label names the
    /// blob, it is the empty layer's diffID.
    pub layer: Digest,
    /// Annotations of the layer that say how it can be read piece by piece and verified, as far as known.
    pub annotations: Annotations,
    /// diffID that leads from the parent to `snapshot_ref`, where known and checked to do so.
    pub diff_id: Option<Digest>,
    /// Blobs of this and the following layers, as far as known.
    pub image_layers: Vec<ImageLayer>,
    /// Whether this is all that will be known: a refusal for want of knowledge will be final.
    pub complete: bool,
    /// Reference as pulled, e.g. `registry.example/a/b:1`, or at least the repository: `registry.example/a/b`.
    pub image_reference: Option<String>,
    /// containerd's namespace; empty when the key does not tell.
    pub namespace: String,
}

/// A layer that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// For humans and for label `containerd.io/snapshot/outcrop.source`: `cvmfs:unpacked.cern.ch`, `mounted:/cvmfs/…`, `empty`.
    pub source: String,
    /// Name of the layer's tree; label `containerd.io/snapshot/outcrop.tree`. Stable across restarts.
    pub tree: String,
    /// The uncompressed digest as a signed source states it; `None` where the source states none.
    pub diff_id: Option<Digest>,
    /// Bytes of the layer's files.
    pub size: u64,
    /// Inodes of the layer.
    pub inodes: u64,
}

/// One layer of a chain, as it was claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainLayer {
    /// The blob's digest.
    pub layer: Digest,
    /// [`Claimed::tree`].
    pub tree: String,
    /// [`Claimed::source`].
    pub source: String,
    /// [`Claimed::diff_id`].
    pub diff_id: Option<Digest>,
    /// [`ClaimRequest::image_reference`].
    pub reference: Option<String>,
    /// [`ClaimRequest::annotations`].
    pub annotations: Annotations,
}

/// Why a layer is not served lazily. None of these fails a pull.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No source has the layer.
    #[error("no source has the layer")]
    NotFound,
    /// A source may have it but cannot be asked.
    #[error("source unavailable: {0}")]
    Unavailable(String),
    /// The mounted repository replaces owners.
    #[error("the mounted repository claims ownership of all files; set CVMFS_CLAIM_OWNERSHIP=no")]
    ClaimedOwnership,
    /// The source states another diffID than the one that leads to the chainID.
    #[error(
        "the source says that the layer's diffID is {stated}, which does not lead to {snapshot_ref}"
    )]
    DiffIdMismatch {
        /// What the source states.
        stated: String,
        /// The chainID asked for.
        snapshot_ref: String,
    },
    /// Bytes do not match their hash.
    #[error("corrupt layer: {0}")]
    Corrupt(String),
    /// The layer has something that cannot be served lazily.
    #[error("unsupported layer: {0}")]
    Unsupported(String),
    /// A registry has the layer, but nothing says how to verify it piece by piece.
    #[error("nothing says how to verify the layer piece by piece: {0}")]
    NoTocDigest(String),
    /// The parent is an ordinary local snapshot; lazy layers form a prefix of the image.
    #[error("the layer lies above a local one")]
    AboveLocalLayer,
    /// Neither labels nor containerd's content store tell the layer's digest.
    #[error("neither labels nor containerd's content store tell the layer's digest")]
    UnknownLayer,
    /// containerd's content store did not answer.
    #[error("containerd's content store did not answer: {0}")]
    ContentStore(String),
    /// Another namespace holds this chainID by a source that states no diffID.
    #[error("another namespace holds this chainID without proof")]
    UnprovenChainId,
    /// Another call was claiming the same layer for too long.
    #[error("another call has been claiming this layer for too long")]
    ClaimTimeout,
    /// A bug or a full disk of ours.
    #[error("internal failure: {0}")]
    Internal(String),
}

impl Refusal {
    /// Value of label `containerd.io/snapshot/outcrop.reason` and of the metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Unavailable(_) => "source-unavailable",
            Self::ClaimedOwnership => "claimed-ownership",
            Self::DiffIdMismatch { .. } => "diff-id-mismatch",
            Self::Corrupt(_) => "corrupt",
            Self::Unsupported(_) => "unsupported",
            Self::NoTocDigest(_) => "no-toc-digest",
            Self::AboveLocalLayer => "above-local-layer",
            Self::UnknownLayer => "unknown-layer",
            Self::ContentStore(_) => "content-store",
            Self::UnprovenChainId => "unproven-chain-id",
            Self::ClaimTimeout => "claim-timeout",
            Self::Internal(_) => "internal",
        }
    }
}

/// The chain cannot appear now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// A source does not answer; the message names it and the next step.
    #[error("{0}")]
    Unavailable(String),
    /// A tree is lost and cannot be made again.
    #[error("{0}")]
    Lost(String),
    /// The kernel refused the mount.
    #[error("cannot mount the chain: {0}")]
    Mount(String),
}
