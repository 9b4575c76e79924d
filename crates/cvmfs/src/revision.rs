//! One revision of a repository: an immutable tree of catalogs.

use std::ops::ControlFlow;

use crate::content::Content;
use crate::dirent::Dirent;
use crate::error::Error;
use crate::hash::ContentHash;
use crate::walk::WalkEntry;

/// An immutable state of the repository's tree. Paths are absolute within the repository: empty for the root, else `/a/b`.
pub struct Revision {}

impl Revision {
    /// Hash of the root catalog, which names the revision.
    pub fn root_hash(&self) -> ContentHash {
        unimplemented!()
    }
    /// Number of the revision; 0 if unknown (opened by root hash).
    pub fn number(&self) -> u64 {
        unimplemented!()
    }
    /// When it was published.
    pub fn timestamp(&self) -> Option<jiff::Timestamp> {
        unimplemented!()
    }
    /// The tag by which it was opened.
    pub fn tag(&self) -> Option<&str> {
        unimplemented!()
    }
    /// The entry at a path, hidden ones too; `None` if there is none.
    pub fn lookup(&self, _path: &[u8]) -> Result<Option<Dirent>, Error> {
        unimplemented!()
    }
    /// The entries of a directory, hidden ones left out.
    pub fn list(&self, _path: &[u8]) -> Result<Vec<Dirent>, Error> {
        unimplemented!()
    }
    /// Where the bytes of the file at a path are.
    pub fn content(&self, _path: &[u8]) -> Result<Content, Error> {
        unimplemented!()
    }
    /// Extended attributes (full name, value) of the entry at a path.
    pub fn xattrs(&self, _path: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
        unimplemented!()
    }
    /// The catalog whose root is exactly at this path: its hash and uncompressed size (0 = unknown).
    pub fn nested_catalog(&self, _path: &[u8]) -> Result<Option<(ContentHash, u64)>, Error> {
        unimplemented!()
    }
    /// The content of a regular file of at most `limit` bytes; `None` if there is no regular file at the path.
    pub fn read_small(&self, _path: &[u8], _limit: u64) -> Result<Option<Vec<u8>>, Error> {
        unimplemented!()
    }
    /// Visits everything below and including `path`: parents before children, hidden entries left out, nested catalogs followed, bind mountpoints not.
    /// The visitor gets the path relative to `path` (empty for itself, else `a/b` without leading slash).
    pub fn walk(
        &self,
        _path: &[u8],
        _visit: &mut dyn FnMut(&[u8], &WalkEntry) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        unimplemented!()
    }
}
