//! Keeps verified content by key on local disk, within a quota, each key fetched at most once at a time.
//!
//! ```text
//! <directory>/v1/
//! ├── objects/3f/9a…   verified content; name = key, never rewritten
//! ├── incoming/        unfinished; emptied at start
//! └── index            length, digest, boot and stamp of each object, in order of last use
//! ```
//! A content becomes visible only by [`Entry::finish`], which wants the digest that its key
//! promises. Since that digest may be of other bytes than those stored (CVMFS hashes what was
//! compressed), the index keeps one of the stored bytes: an object is compared with it at its
//! first use after another boot, and whenever its file's stamp differs from the one noted.
//! Nothing is synced: what a crash loses or tears is found missing or different, and fetched anew.
//!
//! The crate knows no source, no network and no runtime: how to fetch is an argument.

mod cache;
mod entry;
mod error;
mod index;
mod key;
mod metrics;
mod object;
mod row;
mod single_flight;
mod space;
mod store;
mod table;

pub use cache::{Cache, Config};
pub use entry::{Entry, Verified};
pub use error::{Error, FetchError};
pub use key::{Key, KeyError, LONGEST_KEY, SHORTEST_KEY};
pub use metrics::Metrics;
pub use object::Object;

/// Version of the layout on disk, part of every path: another version's files are ignored, not misread.
pub const LAYOUT: &str = "v1";
