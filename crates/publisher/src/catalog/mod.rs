//! Catalogs being written: SQLite files of schema 2.5, revision 7, as `cvmfs_server` writes them, with exact counters.

mod counters;
mod file;
mod row;

pub(crate) use counters::Values;
pub(crate) use file::{CatalogFile, split};
pub(crate) use row::{Row, flags};

/// Makes the directory that holds it the root of a catalog; `cvmfs_server check` wants it there, and nowhere else.
pub(crate) const MARKER: &[u8] = b".cvmfscatalog";
