//! Changes of a repository between two revisions.

use crate::entry::Entry;
use crate::error::Error;
use crate::subtree::Subtree;

/// Collects changes; only catalogs that they touch are loaded. Paths are absolute without trailing slash (`/a/b`), empty for the root.
/// Dropped without commit, nothing has changed.
pub struct Transaction {}

impl Transaction {
    /// Makes the subtree a nested catalog at a path, in place of what is there. Missing parents are made.
    ///
    /// # Errors
    /// Those of reading catalogs and of the backend.
    pub fn graft(&mut self, path: &[u8], subtree: &Subtree) -> Result<(), Error> {
        let _ = (path, subtree);
        Ok(())
    }

    /// Writes a small file. Missing parents are made.
    ///
    /// # Errors
    /// Those of reading catalogs and of the backend.
    pub fn file(&mut self, path: &[u8], entry: Entry, bytes: &[u8]) -> Result<(), Error> {
        let _ = (path, entry, bytes);
        Ok(())
    }
}
