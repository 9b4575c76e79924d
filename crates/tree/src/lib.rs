//! A layer's files as one compact immutable value: build, merge with whiteouts, look up, list.
//!
//! A [`Tree`] is a view over one byte string (a mapped file, or a `Vec`) that [`Tree::parse`] has
//! validated once; it keeps nothing else in memory. A layer's tree comes from a [`Builder`], the
//! tree of a whole chain from [`merge()`]. The layout of the bytes is drawn in [`mod@format`].
//!
//! The crate is pure: no I/O, no clock, no global state. It knows neither where a file's content
//! lies nor who asks: an [`Extent`] carries an opaque reference that only its owner can read.
//!
//! ```
//! use tree::{Builder, Entry, Kind, Tree, merge};
//!
//! let mut lower = Builder::new();
//! lower.add(b"etc/hosts", Entry::new(Kind::File, 0o644))?;
//! let lower = Tree::parse(lower.finish()?)?;
//!
//! let mut upper = Builder::new();
//! upper.add(b"etc/.wh.hosts", Entry::new(Kind::File, 0o644))?;
//! let upper = Tree::parse(upper.finish()?)?;
//!
//! let chain = Tree::parse(merge(&[&lower, &upper])?)?;
//! assert!(chain.lookup_path(b"etc").is_some());
//! assert!(chain.lookup_path(b"etc/hosts").is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod builder;
mod entry;
pub mod erofs;
pub mod format;
mod merge;
mod parse;
mod path;
mod view;
mod walk;
mod whiteout;
mod write;

pub use builder::{BuildError, Builder};
pub use entry::{Attributes, Entry, Extent, Kind, NodeId};
pub use format::FORMAT_VERSION;
pub use merge::{MergeError, merge};
pub use parse::FormatError;
pub use view::{Children, Extents, Tree, Xattrs};
pub use walk::Walk;
