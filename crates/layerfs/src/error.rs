//! What can go wrong between a layer's digest and a mounted chain.

use std::path::PathBuf;

use fuse::Errno;

/// Why a source could not locate a layer, build its tree or open a content.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The source cannot be reached now; a later try may succeed.
    #[error("source {source_name} cannot be reached: {reason}")]
    Unavailable {
        /// The source's name, as labels state it.
        source_name: String,
        /// What failed, with the object or URL.
        reason: String,
    },
    /// What the source states is not what it should be; a retry gives the same.
    #[error("source {source_name} is damaged: {reason}")]
    Corrupt {
        /// The source's name, as labels state it.
        source_name: String,
        /// What is wrong, with the object.
        reason: String,
    },
    /// A mounted repository shows one owner for everything, so the layer's owners are lost.
    #[error(
        "{directory} shows every file with one owner: set CVMFS_CLAIM_OWNERSHIP=no for it and remount"
    )]
    ClaimedOwnership {
        /// The mounted repository.
        directory: PathBuf,
    },
    /// A layer in a mounted repository is no longer the one whose tree was built.
    #[error("{path} changed since its layer was claimed")]
    Changed {
        /// The file or layer that changed.
        path: PathBuf,
    },
    /// The directory given as a mounted repository is served by this very process.
    #[error("{directory} is one of Outcrop's own mounts and cannot be a source")]
    OwnMount {
        /// The directory of the configuration.
        directory: PathBuf,
    },
    /// A registry has the layer, but the image's manifest does not say how to verify its table of
    /// contents: an ordinary layer, or one that nobody vouches for.
    #[error(
        "the image states no TOC digest for layer {layer}: it cannot be read piece by piece from {source_name}"
    )]
    NoTocDigest {
        /// The source's name, as labels state it.
        source_name: String,
        /// The layer's digest.
        layer: String,
    },
    /// The layer's files do not form a tree.
    #[error("layer from {source_name} does not form a tree: {cause}")]
    Tree {
        /// The source's name, as labels state it.
        source_name: String,
        /// The rule that was broken.
        cause: tree::BuildError,
    },
}

/// Error number that a reader in a container sees. Never ENOENT: a file whose content cannot be had
/// exists all the same.
pub(crate) fn errno(error: &SourceError) -> Errno {
    match error {
        // Every host failed, or the mounted client did; the process may retry.
        SourceError::Unavailable { .. } => Errno::EIO,
        // Never hand out bytes that do not match their hash.
        SourceError::Corrupt { .. } => Errno::EIO,
        SourceError::ClaimedOwnership { .. } => Errno::EIO,
        // Other bytes than those that the layer had.
        SourceError::Changed { .. } => Errno::EIO,
        SourceError::OwnMount { .. } | SourceError::NoTocDigest { .. } => Errno::EIO,
        SourceError::Tree { .. } => Errno::EIO,
    }
}

/// Why a layer is not served lazily; the caller falls back to an ordinary pull.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No source holds the layer.
    #[error("no source holds layer {layer}")]
    NotFound {
        /// The layer's digest.
        layer: String,
    },
    /// At least one source that might hold it failed, and no other had it.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The signed source states another diffID than the one that leads to the chainID asked for.
    #[error("layer {layer} has diffID {stated}, which does not lead to chainID {chain_id}")]
    DiffIdMismatch {
        /// The layer's digest.
        layer: String,
        /// diffID as the source states it.
        stated: String,
        /// chainID that the image claims.
        chain_id: String,
    },
}

/// Why a chain cannot be mounted now.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A layer names a source that the configuration does not have (any more).
    #[error("layer {layer} came from source {source_name}, which is not configured")]
    UnknownSource {
        /// The layer's digest.
        layer: String,
        /// Name of the source, from the snapshot's record.
        source_name: String,
    },
    /// The source fails, or no longer has the layer as it was claimed.
    #[error("layer {layer}: {cause}")]
    Layer {
        /// The layer's digest.
        layer: String,
        /// What the source said.
        cause: SourceError,
    },
    /// The layer was republished since it was claimed, so its tree cannot be made again.
    #[error(
        "layer {layer} in {source_name} is not the one that was claimed; remove and pull the image again"
    )]
    Republished {
        /// The layer's digest.
        layer: String,
        /// Name of the source.
        source_name: String,
    },
    /// A tree was not ready within the configured deadline.
    #[error("tree of layer {layer} was not ready within {seconds} s; it is still being built")]
    Deadline {
        /// The layer's digest.
        layer: String,
        /// The deadline.
        seconds: u64,
    },
    /// The trees do not merge.
    #[error("layers do not merge: {0}")]
    Merge(#[from] tree::MergeError),
    /// A tree file is unusable.
    #[error("tree file {path}: {reason}")]
    TreeFile {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The state directory cannot be written or read.
    #[error("{path}: {cause}")]
    Disk {
        /// File or directory.
        path: PathBuf,
        /// Error of the operating system.
        cause: std::io::Error,
    },
    /// The kernel refused the mount.
    #[error(transparent)]
    Mount(#[from] fuse::MountError),
}
