//! What publishing needs of a repository: a seam, so that layouts can be tried without one.

use std::fs::File;
use std::io::Read;

use cvmfs::{ContentHash, Kind};

use crate::entry::Entry;
use crate::error::Error;
use crate::history::NewTag;
use crate::layer::Sink;
use crate::objects::{How, StoredContent};

/// What a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// Target of a symlink.
    pub symlink: Vec<u8>,
    /// The catalog, where one begins.
    pub catalog: Option<ContentHash>,
}

/// A repository that images are published to.
pub trait Backend: Sync {
    /// A subtree being written.
    type Builder: Sink + Send;
    /// A finished one.
    type Subtree: Send;
    /// Changes until they are committed. Dropped, nothing has changed.
    type Changes: Changes<Subtree = Self::Subtree>;

    /// Waits for the right to publish.
    ///
    /// # Errors
    /// If another publisher has it, or the repository cannot be read.
    fn begin(&self) -> Result<Self::Changes, Error>;

    /// The newest revision to look at. Nobody is waited for, nothing is written, and it cannot be committed.
    ///
    /// # Errors
    /// If the repository cannot be read.
    fn look(&self) -> Result<Self::Changes, Error>;

    /// A subtree whose implicit directories get this time.
    ///
    /// # Errors
    /// If scratch space fails.
    fn subtree(&self, implicit_mtime: i64) -> Result<Self::Builder, Error>;

    /// Waits until everything in it is stored.
    ///
    /// # Errors
    /// Those of storing.
    fn finish(&self, builder: Self::Builder) -> Result<Self::Subtree, Error>;

    /// Stores one file.
    ///
    /// # Errors
    /// Those of the reader and of storing.
    fn store(
        &self,
        reader: &mut dyn Read,
        length: u64,
        how: How<'_>,
    ) -> Result<StoredContent, Error>;

    /// An unnamed temporary file.
    ///
    /// # Errors
    /// If scratch space fails.
    fn scratch_file(&self) -> Result<File, Error>;

    /// Whether the object of a catalog is there.
    ///
    /// # Errors
    /// Those of the storage.
    fn has_catalog(&self, catalog: &ContentHash) -> Result<bool, Error>;
}

/// A new revision in the making. Paths are absolute, `/a/b`; missing parents are made.
pub trait Changes {
    /// See [`Backend::Subtree`].
    type Subtree;

    /// What is at a path.
    ///
    /// # Errors
    /// Those of reading catalogs.
    fn lookup(&mut self, path: &str) -> Result<Option<Found>, Error>;

    /// Names in a directory; none if there is none.
    ///
    /// # Errors
    /// Those of reading catalogs.
    fn list(&mut self, path: &str) -> Result<Vec<Vec<u8>>, Error>;

    /// A small file's content; `None` if there is no such file.
    ///
    /// # Errors
    /// Those of reading, also if it is longer than `limit`.
    fn read(&mut self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Error>;

    /// Puts a subtree in place of what is there, with a catalog of its own.
    ///
    /// # Errors
    /// Those of reading catalogs and of storing.
    fn graft(&mut self, path: &str, subtree: &Self::Subtree) -> Result<(), Error>;

    /// Writes a small file in place of what is there.
    ///
    /// # Errors
    /// Those of reading catalogs and of storing.
    fn file(&mut self, path: &str, entry: Entry, bytes: &[u8]) -> Result<(), Error>;

    /// Makes a symlink in place of what is there.
    ///
    /// # Errors
    /// Those of reading catalogs and of storing.
    fn symlink(&mut self, path: &str, entry: Entry) -> Result<(), Error>;

    /// Makes a directory a catalog of its own, with its `.cvmfscatalog`.
    ///
    /// # Errors
    /// Those of reading catalogs and of storing.
    fn nested_catalog(&mut self, path: &str) -> Result<(), Error>;

    /// Removes what is at a path with all below it; nothing if nothing is there.
    ///
    /// # Errors
    /// Those of reading catalogs.
    fn remove(&mut self, path: &str) -> Result<(), Error>;

    /// Publishes; the revision's number.
    ///
    /// # Errors
    /// If it cannot: then the last revision is intact.
    fn commit(self, tag: Option<NewTag>) -> Result<u64, Error>;

    /// Gives up without a change. Dropping does so too, but then the next publisher looks for objects that were stored in vain.
    ///
    /// # Errors
    /// Those of the storage.
    fn abandon(self) -> Result<(), Error>;
}
