//! A directory tree on its way into the repository: written entry by entry in any order, kept in a temporary database.

use std::io::Read;

use crate::entry::Entry;
use crate::error::Error;
use crate::objects::{How, ObjectStore, StoredContent};

/// What a subtree may become.
#[derive(Clone, Copy, Debug)]
pub struct SubtreeOptions {
    /// Catalogs with more rows are split where a directory is heavy enough.
    pub max_rows: u64,
    /// Modification time of directories that the input does not mention, seconds since the epoch.
    pub implicit_mtime: i64,
}

/// What became of a hardlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linked {
    /// It is there.
    Linked,
    /// Its target is not, or not yet.
    TargetMissing,
}

/// Collects the entries of one subtree. Paths are relative to its root, without leading slash; empty is the root itself.
pub struct SubtreeBuilder {
    objects: ObjectStore,
    options: SubtreeOptions,
}

/// A finished subtree, to be grafted somewhere.
pub struct Subtree {}

impl SubtreeBuilder {
    /// An empty directory, 0755 and owned by root.
    ///
    /// # Errors
    /// [`Error::Scratch`] or [`Error::Database`] if the temporary database cannot be made.
    pub fn new(objects: &ObjectStore, options: SubtreeOptions) -> Result<Self, Error> {
        Ok(Self {
            objects: objects.clone(),
            options,
        })
    }

    /// A directory. Over a directory it changes only the attributes, over anything else it replaces it.
    ///
    /// # Errors
    /// [`Error::Refused`] for paths that cannot be.
    pub fn directory(&mut self, path: &[u8], entry: Entry) -> Result<(), Error> {
        self.add(path, entry)
    }

    /// Anything but a regular file. Replaces what was there, with all below it.
    ///
    /// # Errors
    /// [`Error::Refused`] for paths that cannot be.
    pub fn add(&mut self, path: &[u8], entry: Entry) -> Result<(), Error> {
        let _ = (path, entry, &self.objects, &self.options);
        Ok(())
    }

    /// A regular file of exactly `length` bytes: reads them before it returns, while others deflate.
    ///
    /// # Errors
    /// [`Error::Refused`] for paths that cannot be, [`Error::Input`] if the reader fails; failures of the backend may come late.
    pub fn file(
        &mut self,
        path: &[u8],
        entry: Entry,
        reader: &mut dyn Read,
        length: u64,
        how: How<'_>,
    ) -> Result<(), Error> {
        let _ = (path, entry, reader, length, how);
        Ok(())
    }

    /// A regular file whose content is stored already; `entry.size` counts.
    ///
    /// # Errors
    /// [`Error::Refused`] for paths that cannot be.
    pub fn file_with(
        &mut self,
        path: &[u8],
        entry: Entry,
        content: &StoredContent,
    ) -> Result<(), Error> {
        let _ = (path, entry, content);
        Ok(())
    }

    /// Another name for a file that is there. Attributes are the target's.
    ///
    /// # Errors
    /// [`Error::Refused`] for paths that cannot be, and for links to directories.
    pub fn hardlink(&mut self, path: &[u8], target: &[u8]) -> Result<Linked, Error> {
        let _ = (path, target);
        Ok(Linked::Linked)
    }

    /// Directories that were made because something lies below them, and that the input has not named since. Ascending.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn implicit_directories(&self) -> Result<Vec<Vec<u8>>, Error> {
        Ok(Vec::new())
    }

    /// Waits until all content is stored.
    ///
    /// # Errors
    /// Failures of the backend, [`Error::Database`].
    pub fn finish(self) -> Result<Subtree, Error> {
        Ok(Subtree {})
    }
}
