//! The repository as layouts see it.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use cvmfs::{ContentHash, ObjectRef, Suffix};

use super::Transaction;
use crate::entry::Entry;
use crate::error::Error;
use crate::history::NewTag;
use crate::layouts::{Backend, Changes, Found};
use crate::objects::{How, ObjectStore, StoredContent};
use crate::repository::Repository;
use crate::subtree::{Subtree, SubtreeBuilder, SubtreeOptions};

/// An open repository and the store for its objects.
#[derive(Clone)]
pub struct RepositoryBackend {
    /// The repository, opened with its keys.
    pub repository: Repository,
    /// Where content goes: the same backend.
    pub objects: ObjectStore,
    /// How long another publisher is waited for.
    pub wait: Duration,
    /// When all this happens.
    pub now: jiff::Timestamp,
    /// Rows of one catalog at most; see [`SubtreeOptions::max_rows`].
    pub max_rows: u64,
}

impl Backend for RepositoryBackend {
    type Builder = SubtreeBuilder;
    type Subtree = Subtree;
    type Changes = Transaction;

    fn begin(&self) -> Result<Transaction, Error> {
        let lock = self.repository.lock(self.wait, self.now)?;
        Transaction::begin(&self.repository, lock, &self.objects, self.now)
    }

    fn look(&self) -> Result<Transaction, Error> {
        Transaction::look(&self.repository, &self.objects, self.now)
    }

    fn subtree(&self, implicit_mtime: i64) -> Result<SubtreeBuilder, Error> {
        SubtreeBuilder::new(
            &self.objects,
            SubtreeOptions {
                max_rows: self.max_rows,
                implicit_mtime,
            },
        )
    }

    fn finish(&self, builder: SubtreeBuilder) -> Result<Subtree, Error> {
        builder.finish()
    }

    fn store(
        &self,
        reader: &mut dyn Read,
        length: u64,
        how: How<'_>,
    ) -> Result<StoredContent, Error> {
        self.objects.store(reader, length, how)
    }

    fn scratch_file(&self) -> Result<File, Error> {
        tempfile::tempfile_in(&self.objects.options().scratch).map_err(Error::Scratch)
    }

    fn has_catalog(&self, catalog: &ContentHash) -> Result<bool, Error> {
        let path = ObjectRef::zlib(*catalog, Suffix::Catalog).url_path();
        Ok(self.repository.storage().size(&path)?.is_some())
    }
}

impl Changes for Transaction {
    type Subtree = Subtree;

    fn lookup(&mut self, path: &str) -> Result<Option<Found>, Error> {
        let found = Self::lookup(self, path.as_bytes())?;
        Ok(found.map(|found| Found {
            kind: found.kind,
            symlink: found.symlink,
            catalog: found.catalog,
        }))
    }

    fn list(&mut self, path: &str) -> Result<Vec<Vec<u8>>, Error> {
        Self::list(self, path.as_bytes())
    }

    fn read(&mut self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        Self::read(self, path.as_bytes(), limit)
    }

    fn graft(&mut self, path: &str, subtree: &Subtree) -> Result<(), Error> {
        Self::graft(self, path.as_bytes(), subtree)
    }

    fn file(&mut self, path: &str, entry: Entry, bytes: &[u8]) -> Result<(), Error> {
        Self::file(self, path.as_bytes(), entry, bytes)
    }

    fn symlink(&mut self, path: &str, entry: Entry) -> Result<(), Error> {
        Self::symlink(self, path.as_bytes(), entry)
    }

    fn nested_catalog(&mut self, path: &str) -> Result<(), Error> {
        Self::nested_catalog(self, path.as_bytes())
    }

    fn remove(&mut self, path: &str) -> Result<(), Error> {
        Self::remove(self, path.as_bytes())
    }

    fn commit(self, tag: Option<NewTag>) -> Result<u64, Error> {
        Ok(Self::commit(self, tag)?.revision)
    }

    fn abandon(self) -> Result<(), Error> {
        Self::abandon(self)
    }
}
