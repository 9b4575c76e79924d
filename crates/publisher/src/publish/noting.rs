use crate::entry::Entry;
use crate::error::Error;
use crate::history::NewTag;
use crate::layouts::{Changes, Found};

/// Changes that know whether there are any: a revision that differs in nothing would make every client load catalogs for nothing.
pub(crate) struct Noting<C> {
    inner: C,
    changed: bool,
}

impl<C> Noting<C> {
    pub(crate) fn new(inner: C) -> Self {
        Self {
            inner,
            changed: false,
        }
    }

    pub(crate) fn changed(&self) -> bool {
        self.changed
    }

    /// To be changed.
    fn noted(&mut self) -> &mut C {
        self.changed = true;
        &mut self.inner
    }
}

impl<C: Changes> Changes for Noting<C> {
    type Subtree = C::Subtree;

    fn lookup(&mut self, path: &str) -> Result<Option<Found>, Error> {
        self.inner.lookup(path)
    }

    fn list(&mut self, path: &str) -> Result<Vec<Vec<u8>>, Error> {
        self.inner.list(path)
    }

    fn read(&mut self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        self.inner.read(path, limit)
    }

    fn graft(&mut self, path: &str, subtree: &Self::Subtree) -> Result<(), Error> {
        self.noted().graft(path, subtree)
    }

    fn file(&mut self, path: &str, entry: Entry, bytes: &[u8]) -> Result<(), Error> {
        self.noted().file(path, entry, bytes)
    }

    fn symlink(&mut self, path: &str, entry: Entry) -> Result<(), Error> {
        self.noted().symlink(path, entry)
    }

    fn nested_catalog(&mut self, path: &str) -> Result<(), Error> {
        self.noted().nested_catalog(path)
    }

    fn remove(&mut self, path: &str) -> Result<(), Error> {
        self.noted().remove(path)
    }

    fn commit(self, tag: Option<NewTag>) -> Result<u64, Error> {
        self.inner.commit(tag)
    }

    fn abandon(self) -> Result<(), Error> {
        self.inner.abandon()
    }
}
