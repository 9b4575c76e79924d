//! Turns container images into content of a CVMFS repository, and keeps such a repository.

mod certificate;
mod check;
mod gc;
mod recovery;
mod stored_catalog;
mod tag;
mod error;
mod history;
mod keys;
mod lock;
mod manifest;
mod metainfo;
mod path_key;
mod reflog;
mod repository;
mod root_catalog;
pub mod source;
mod sqlite;
pub mod storage;
mod stored;
mod trust;
mod whitelist;

pub use check::{CheckOptions, CheckReport, Finding, Problem};
pub use gc::{GcOptions, GcReport};
pub use tag::{Info, Revision};
pub use error::{Error, Kind};
pub use history::{NewTag, Tag};
pub use keys::Keys;
pub use lock::PublishLock;
pub use manifest::Head;
pub use metainfo::MetaInfo;
pub use repository::{Commit, InitOptions, Repository};
pub use source::{ImageSource, SourceError, SourceOptions, open_source};
pub use storage::{Storage, StorageError, open_storage};
pub use whitelist::WHITELIST_DAYS;
