//! Names and formats of container images: digests, references, manifests, chainIDs, and where a layer lies in a CVMFS
//! repository.
//!
//! Pure: bytes and text in, values out. Nothing here opens a file or a connection, so every parser can be tested and
//! fuzzed by itself; each is bounded, because all that it reads comes from registries and repositories of others.
//!
//! ```text
//! digest             sha256:<hex>
//! reference          registry/repository:tag@digest
//! media_type         OCI and docker names of manifests, configs and layers
//! document           a parsed JSON document together with the bytes that its digest is of
//! manifest, config   image manifest, index, image configuration
//! chain              chainIDs, and the empty layer
//! estargz            layers that are read piece by piece: eStargz, stargz, zstd:chunked
//! layer_tar          the tar in a layer, decompressed
//! repository_layout  paths of layers in a CVMFS repository, and the layers.json beside them
//! ```

mod chain;
mod config;
mod deflate;
mod digest;
mod document;
pub mod estargz;
mod layer_tar;
mod manifest;
mod media_type;
mod reference;
pub mod repository_layout;
pub mod zstd_chunked;

pub use chain::{EMPTY_LAYER, EMPTY_LAYER_GZIP, chain_id, chain_ids};
pub use config::{History, ImageConfig, RootFs};
pub use digest::{Digest, DigestError};
pub use document::{Document, DocumentError, MAX_DOCUMENT_BYTES, MAX_ENTRIES};
pub use layer_tar::layer_tar;
pub use manifest::{Descriptor, Index, Manifest, ManifestOrIndex, Platform};
pub use media_type::{LayerCompression, MediaType};
pub use reference::{Reference, ReferenceError};
