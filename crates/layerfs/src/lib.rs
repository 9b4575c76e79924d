//! Finds an image's layers where they already lie and makes chains of them appear at paths.
//!
//! * A [`Source`] — an embedded CVMFS repository, a directory that somebody else's client keeps
//!   mounted, or the registries that images come from — locates a layer by its digest and yields its
//!   tree. Repositories hold layers unpacked, or as blobs that are read piece by piece (eStargz).
//! * [`Layers::claim`] answers whether a layer can be served without being pulled.
//! * [`Layers::attach`] merges the trees of a chain and mounts the result: *attach a chain, get a
//!   path*. [`Layers::detach`] ends it when nobody uses the chain any more.
//! * [`RepositoryFs`] is the other file system on the same FUSE loop: a whole repository.
//!
//! Who asks is not known here: containerd's words stop at the crate `snapshotter`.
//!
//! ```text
//! <root>/
//! ├── trees/v<format>/<key>       a layer's tree, immutable, named by what it was made from
//! ├── unpacked/<layer>.<diffID>   tars of ordinary layers that lie below lazy ones
//! └── chains/<key>/{tree,fs/}     the merged tree of a chain and its mount point
//! ```

mod attach;
mod builds;
mod catalog_watch;
mod chain_fs;
mod content;
mod embedded;
mod error;
mod estargz;
mod implicit;
mod inode_numbers;
mod layers;
mod locate;
mod metrics;
mod mounted;
mod own_mounts;
mod patience;
mod read_ahead;
mod reads;
mod repository_fs;
mod source;
mod space;
mod tree_store;
mod unpacked;

pub use error::{AttachError, Refusal, SourceError};
pub use estargz::Fetching;
pub use layers::{ChainLayer, Claimed, Config, ImageLayer, LayerRequest, Layers, Named, Removed};
pub use metrics::{LazyMetrics, Metrics};
pub use repository_fs::{Ownership, RepositoryFs, RepositoryFsOptions};
pub use source::{Embedded, FromRegistry, Mounted, OpenRepository, Source};
pub use unpacked::Unpack;
