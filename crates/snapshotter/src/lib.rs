//! containerd's `snapshots.v1` service as a remote snapshotter: records, labels, filters, overlay mounts.
//!
//! ```text
//! service        gRPC; the only home of the tonic server
//! snapshotter    the ten operations, synchronous
//! claim          the remote flow: Prepare with a snapshot.ref
//! content        from a chainID to a blob, by containerd's content store
//! layers         the seam to whoever makes lazy layers appear
//! chains         attached or not, by name
//! store          records (SQLite) and directories
//! diff           containerd's diff.v1 beside it: a container's changes as a layer
//! explain        where each layer of an image or container comes from: a client of containerd's
//! mounts, usage, cleanup, filters, labels, status
//! ```
//! A lazy layer is a committed snapshot with a claim and without a directory. Lazy layers are the lowest of an image;
//! what stands on them gets one more lower directory, the path at which their chain is attached.

pub mod api;
mod chains;
mod claim;
mod cleanup;
mod config;
mod content;
mod diff;
mod error;
pub mod explain;
pub mod filters;
pub mod labels;
pub mod layers;
mod metrics;
mod mounts;
mod service;
mod single_flight;
mod snapshotter;
pub mod status;
mod store;
mod usage;

pub use config::{Clock, Config};
pub use error::Error;
pub use layers::{
    Annotations, AttachError, ChainLayer, ClaimRequest, Claimed, ImageLayer, LazyLayers, Refusal,
};
pub use metrics::{Call, ClaimOutcome, Metrics};
pub use service::{listen, serve, serve_opened};
pub use snapshotter::{NewRequest, Snapshotter};
pub use store::{Claim, DatabaseError, Kind, Parent, Snapshot, Usage, read_snapshots};
