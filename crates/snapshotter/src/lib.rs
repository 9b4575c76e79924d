//! containerd's `snapshots.v1` service as a remote snapshotter: records, labels, filters, overlay mounts.

pub mod api;
mod error;
pub mod filters;
pub mod labels;
pub mod layers;
pub mod status;

pub use error::Error;
pub use layers::{AttachError, ChainLayer, ClaimRequest, Claimed, LazyLayers, Refusal};
