use std::io::Read;

use crate::entry::Entry;
use crate::error::Error;
use crate::objects::{How, StoredContent};
use crate::subtree::{Linked, SubtreeBuilder};

/// Takes the entries of a layer. Paths are relative to its root and clean; empty is the root. A later entry for a path replaces the
/// earlier with all below it, but a directory over a directory changes only its attributes.
pub trait Sink {
    /// Anything but regular files.
    ///
    /// # Errors
    /// If it cannot be, or cannot be kept.
    fn add(&mut self, path: &[u8], entry: Entry) -> Result<(), Error>;

    /// A regular file of exactly `length` bytes.
    ///
    /// # Errors
    /// If it cannot be, cannot be kept, or the reader fails.
    fn file(
        &mut self,
        path: &[u8],
        entry: Entry,
        reader: &mut dyn Read,
        length: u64,
        how: How<'_>,
    ) -> Result<(), Error>;

    /// A regular file that is stored already.
    ///
    /// # Errors
    /// If it cannot be, or cannot be kept.
    fn file_with(
        &mut self,
        path: &[u8],
        entry: Entry,
        content: &StoredContent,
    ) -> Result<(), Error>;

    /// Another name for what is at `target`.
    ///
    /// # Errors
    /// If it cannot be, or cannot be kept.
    fn hardlink(&mut self, path: &[u8], target: &[u8]) -> Result<Linked, Error>;

    /// Directories that no entry named so far, though entries lie in them. Ascending.
    ///
    /// # Errors
    /// If they cannot be told.
    fn implicit_directories(&self) -> Result<Vec<Vec<u8>>, Error>;
}

impl Sink for SubtreeBuilder {
    fn add(&mut self, path: &[u8], entry: Entry) -> Result<(), Error> {
        match entry.kind {
            cvmfs::Kind::Directory => self.directory(path, entry),
            _ => Self::add(self, path, entry),
        }
    }

    fn file(
        &mut self,
        path: &[u8],
        entry: Entry,
        reader: &mut dyn Read,
        length: u64,
        how: How<'_>,
    ) -> Result<(), Error> {
        Self::file(self, path, entry, reader, length, how)
    }

    fn file_with(
        &mut self,
        path: &[u8],
        entry: Entry,
        content: &StoredContent,
    ) -> Result<(), Error> {
        Self::file_with(self, path, entry, content)
    }

    fn hardlink(&mut self, path: &[u8], target: &[u8]) -> Result<Linked, Error> {
        Self::hardlink(self, path, target)
    }

    fn implicit_directories(&self) -> Result<Vec<Vec<u8>>, Error> {
        Self::implicit_directories(self)
    }
}
