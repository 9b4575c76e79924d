//! Client library for CVMFS repositories: from signed manifest to verified content.
//!
//! A repository is a tree of signed, content-addressed objects on plain HTTP servers. [`Repository::open`] checks the chain of trust
//! (master key → whitelist → certificate → manifest → root catalog), [`Revision`] reads catalogs, [`Repository::fetch`] brings objects into
//! a [`cache::Cache`], inflated and verified. No FUSE, no containers in here.
//!
//! Calls are synchronous and may be made from any thread but a worker of an asynchronous runtime (use `spawn_blocking` there):
//! they wait for the network through the runtime handle given at open, each wait with a deadline.

mod blacklist;
mod breadcrumb;
mod catalog;
mod certificate;
mod config;
mod content;
mod dirent;
mod download;
mod error;
mod hash;
mod history;
mod inflate;
mod keys;
mod manifest;
mod metrics;
mod nodes;
mod object;
mod objects;
mod repository;
mod revision;
mod signature;
mod store;
mod trust;
mod variables;
mod walk;
mod whitelist;
mod xattr;

pub mod etc_cvmfs;

pub use blacklist::Blacklist;
pub use breadcrumb::Breadcrumb;
pub use catalog::Counters;
pub use certificate::{Certificate, fingerprint};
pub use config::{Jitter, OpenAt, RepositoryConfig, ResetAfter, Retries, Timeouts};
pub use content::{Chunk, Content, ExternalChunk};
pub use dirent::{Dirent, Flags, Kind};
pub use download::{Attempt, Failure};
pub use error::Error;
pub use hash::{Algorithm, ContentHash, DIGEST_BYTES, HashError, Hasher};
pub use history::Tag;
pub use keys::MasterKeys;
pub use manifest::{Manifest, ManifestError};
pub use metrics::Metrics;
pub use nodes::NodeId;
pub use object::{Compression, ObjectRef, Suffix};
pub use repository::{Refresh, Repository};
pub use revision::Revision;
pub use signature::{FrameError, Signed};
pub use variables::expand_variables;
pub use walk::WalkEntry;
pub use whitelist::{Whitelist, WhitelistError};
pub use xattr::{XattrError, Xattrs};
