//! Changes of a repository between two revisions.

mod backend;
mod copy;
mod loaded;

use cvmfs::{Compression, ContentHash, Kind, ObjectRef, Suffix};

pub use backend::RepositoryBackend;

use crate::catalog::{CatalogFile, MARKER, Row, flags, split};
use crate::entry::Entry;
use crate::error::Error;
use crate::history::NewTag;
use crate::lock::PublishLock;
use crate::manifest::Head;
use crate::objects::{ObjectStore, StoredContent};
use crate::repository::{Commit, Repository};
use crate::stored;
use crate::subtree::{Subtree, check_path, marker};
use loaded::{Loaded, LoadedCatalogs};

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// Target of a symlink.
    pub symlink: Vec<u8>,
    /// Bytes of a file.
    pub size: u64,
    /// The catalog that begins here; the null hash if it is not stored yet.
    pub catalog: Option<ContentHash>,
}

/// A change, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Something is written, in place of what was there.
    Write(Vec<u8>),
    /// A subtree is put there.
    Graft(Vec<u8>),
    /// A catalog begins there.
    Catalog(Vec<u8>),
    /// It is removed with all below it.
    Remove(Vec<u8>),
}

/// Collects changes; only catalogs that they touch are loaded. Paths are absolute without trailing slash (`/a/b`), empty for the root.
/// Dropped without commit, nothing has changed.
pub struct Transaction {
    repository: Repository,
    /// Without it there is nothing to commit.
    lock: Option<PublishLock>,
    objects: ObjectStore,
    /// Objects written before it began.
    written: u64,
    now: jiff::Timestamp,
    catalogs: LoadedCatalogs,
    /// Catalogs that are stored already and will be part of the revision.
    stored: Vec<ContentHash>,
    changes: Vec<Change>,
}

impl Transaction {
    /// Begins with the newest revision.
    ///
    /// # Errors
    /// If its root catalog cannot be read.
    pub fn begin(
        repository: &Repository,
        lock: PublishLock,
        objects: &ObjectStore,
        now: jiff::Timestamp,
    ) -> Result<Self, Error> {
        objects.forget();
        Self::open(repository, Some(lock), objects, now)
    }

    /// Looks at the newest revision that is known, without a lock: [`Transaction::commit`] is refused.
    ///
    /// # Errors
    /// If its root catalog cannot be read.
    pub fn look(
        repository: &Repository,
        objects: &ObjectStore,
        now: jiff::Timestamp,
    ) -> Result<Self, Error> {
        Self::open(repository, None, objects, now)
    }

    fn open(
        repository: &Repository,
        lock: Option<PublishLock>,
        objects: &ObjectStore,
        now: jiff::Timestamp,
    ) -> Result<Self, Error> {
        let root = repository.head().root_catalog;
        let storage = std::sync::Arc::clone(repository.storage());
        let catalogs = LoadedCatalogs::new(storage, objects.options().scratch.clone(), root)?;
        Ok(Self {
            repository: repository.clone(),
            lock,
            objects: objects.clone(),
            written: objects.statistics().written,
            now,
            catalogs,
            stored: Vec::new(),
            changes: Vec::new(),
        })
    }

    /// What is at a path.
    ///
    /// # Errors
    /// Those of reading catalogs.
    pub fn lookup(&mut self, path: &[u8]) -> Result<Option<Found>, Error> {
        let at = self.catalogs.locate(path)?;
        let catalog = &self.catalogs.get(&at)?.file;
        let Some(row) = catalog.get(path)? else {
            return Ok(None);
        };
        let nested = match path.is_empty() {
            true => Some(self.repository.head().root_catalog),
            false => catalog.nested(path)?,
        };
        Ok(row.kind().map(|kind| Found {
            kind,
            size: match kind {
                Kind::File => row.size.cast_unsigned(),
                _ => 0,
            },
            symlink: row.symlink,
            catalog: nested,
        }))
    }

    /// Names in a directory; none if there is none.
    ///
    /// # Errors
    /// Those of reading catalogs.
    pub fn list(&mut self, path: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let at = self.catalogs.locate_inside(path)?;
        let children = self.catalogs.get(&at)?.file.children(path)?;
        let mut names: Vec<_> = children.into_iter().map(|(name, _)| name).collect();
        names.sort();
        Ok(names)
    }

    /// Content of a file of at most `limit` bytes; `None` if there is no such file.
    ///
    /// # Errors
    /// Those of reading, and [`Error::Refused`] if it is longer or lies outside of the repository.
    pub fn read(&mut self, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let at = self.catalogs.locate(path)?;
        let row = self.catalogs.get(&at)?.file.get(path)?;
        let Some(row) = row.filter(|row| row.kind() == Some(Kind::File)) else {
            return Ok(None);
        };
        if row.size.cast_unsigned() > limit || row.has(flags::EXTERNAL) {
            return Err(refused(path, "it is too long to be read, or external"));
        }
        let algorithm = u8::try_from((row.flags >> 8 & 7) + 1).ok();
        let algorithm = algorithm.and_then(cvmfs::Algorithm::from_number);
        let Some(algorithm) = algorithm else {
            return Err(Error::corrupt("catalog", "a file has an unknown algorithm"));
        };
        let compression = match row.has(flags::UNCOMPRESSED) {
            true => Compression::None,
            false => Compression::Zlib,
        };
        let pieces: Vec<_> = match (row.hash, &row.chunks[..]) {
            (Some(digest), []) => vec![(digest, Suffix::Bulk)],
            (_, chunks) => chunks
                .iter()
                .map(|chunk| (chunk.digest, Suffix::Partial))
                .collect(),
        };
        let mut content = Vec::new();
        for (digest, suffix) in pieces {
            let object = ObjectRef {
                hash: ContentHash { algorithm, digest },
                suffix,
                compression,
            };
            let storage = &**self.repository.storage();
            content.extend(stored::read(storage, &object, limit)?);
        }
        Ok(Some(content))
    }

    /// Writes a small file in place of what is there. Missing parents are made.
    ///
    /// # Errors
    /// Those of reading catalogs and of the backend.
    pub fn file(&mut self, path: &[u8], entry: Entry, bytes: &[u8]) -> Result<(), Error> {
        let content = self.objects.store_bytes(bytes)?;
        let entry = Entry {
            size: bytes.len() as u64,
            ..entry
        };
        self.file_with(path, entry, &content)
    }

    /// Makes a file whose content is stored already; `entry.size` counts.
    ///
    /// # Errors
    /// Those of reading catalogs.
    pub fn file_with(
        &mut self,
        path: &[u8],
        entry: Entry,
        content: &StoredContent,
    ) -> Result<(), Error> {
        let mut row = Row::of(&Entry {
            kind: Kind::File,
            ..entry
        })?;
        row.set_content(content, self.objects.empty()?);
        self.write(path, &row)
    }

    /// Makes a symlink in place of what is there.
    ///
    /// # Errors
    /// Those of reading catalogs.
    pub fn symlink(&mut self, path: &[u8], entry: Entry) -> Result<(), Error> {
        let kind = Kind::Symlink;
        self.write(path, &Row::of(&Entry { kind, ..entry })?)
    }

    /// Makes a directory; over a directory it changes only the attributes.
    ///
    /// # Errors
    /// Those of reading catalogs.
    pub fn directory(&mut self, path: &[u8], entry: Entry) -> Result<(), Error> {
        let kind = Kind::Directory;
        let row = Row::of(&Entry { kind, ..entry })?;
        let known = self.row(path)?;
        if !known.is_some_and(|known| known.is_directory()) {
            return self.write(path, &row);
        }
        self.changes.push(Change::Write(path.to_vec()));
        self.change(path, |known| {
            let Row {
                hardlinks, flags, ..
            } = *known;
            *known = Row {
                hardlinks,
                flags,
                ..row.clone()
            };
        })
    }

    /// Makes a directory a catalog of its own, with its `.cvmfscatalog`; the directory too, if it is missing.
    ///
    /// # Errors
    /// Those of reading catalogs and of the backend.
    pub fn nested_catalog(&mut self, path: &[u8]) -> Result<(), Error> {
        check(path)?;
        self.changes.push(Change::Catalog(path.to_vec()));
        self.parents(&[path, b"/x"].concat())?;
        self.begin_catalog(path)?;
        let mark = [path, b"/", MARKER].concat();
        if self.row(&mark)?.is_none() {
            let row = marker(self.now.as_second(), self.objects.empty()?)?;
            self.put(&mark, &row)?;
        }
        Ok(())
    }

    /// Makes the subtree a nested catalog at a path, in place of what is there. Missing parents are made.
    ///
    /// # Errors
    /// Those of reading catalogs and of the backend.
    pub fn graft(&mut self, path: &[u8], subtree: &Subtree) -> Result<(), Error> {
        check(path)?;
        self.changes.push(Change::Graft(path.to_vec()));
        let revision = self.repository.next_revision();
        let placed = subtree.place(path, &self.objects, revision, self.now.as_second())?;
        self.stored.extend(&placed.catalogs);
        self.take_away(path)?;
        self.parents(path)?;
        self.put(path, &placed.row)?;
        let at = self.catalogs.locate(path)?;
        let parent = self.catalogs.change(&at)?;
        parent.file.set_nested(path, &placed.hash, placed.size)?;
        parent.file.counters.add_subtree(1, placed.total);
        Ok(())
    }

    /// Removes what is at a path with all below it, whole catalogs included; nothing if nothing is there.
    ///
    /// # Errors
    /// Those of reading catalogs.
    pub fn remove(&mut self, path: &[u8]) -> Result<(), Error> {
        check(path)?;
        self.changes.push(Change::Remove(path.to_vec()));
        self.take_away(path)
    }

    /// What has been asked for so far.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Publishes: catalogs from the deepest up, then the repository's commit.
    ///
    /// # Errors
    /// If it cannot: then the last revision is intact.
    pub fn commit(mut self, tag: Option<NewTag>) -> Result<std::sync::Arc<Head>, Error> {
        let Some(lock) = self.lock.take() else {
            return Err(refused(b"/", "the repository is only looked at"));
        };
        let revision = self.repository.next_revision();
        let (root, size) = self.catalogs.store(
            &self.objects,
            revision,
            self.now.as_second(),
            &mut self.stored,
        )?;
        self.repository.commit(
            &lock,
            Commit {
                root_catalog: root,
                root_catalog_size: size,
                catalogs: self.stored,
                tag,
                now: self.now,
            },
        )
    }

    /// Gives up without a change. If no object was stored meanwhile, the next publisher need not look for leftovers.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn abandon(self) -> Result<(), Error> {
        let stored = self.objects.statistics().written != self.written;
        match self.lock {
            Some(lock) if !stored => lock.release_unused(),
            _ => Ok(()),
        }
    }

    fn row(&mut self, path: &[u8]) -> Result<Option<Row>, Error> {
        let at = self.catalogs.locate(path)?;
        self.catalogs.get(&at)?.file.get(path)
    }

    fn write(&mut self, path: &[u8], row: &Row) -> Result<(), Error> {
        check(path)?;
        self.changes.push(Change::Write(path.to_vec()));
        self.parents(path)?;
        self.take_away(path)?;
        self.put(path, row)
    }

    /// Adds a row where none is; its parent is there.
    fn put(&mut self, path: &[u8], row: &Row) -> Result<(), Error> {
        let at = self.catalogs.locate(path)?;
        self.catalogs.change(&at)?.file.insert(path, row)?;
        if row.is_directory() {
            self.count_subdirectory(path, 1)?;
        }
        Ok(())
    }

    fn count_subdirectory(&mut self, path: &[u8], by: i64) -> Result<(), Error> {
        let (Some(parent), _) = split(path) else {
            return Ok(());
        };
        self.change(parent, |row| row.hardlinks += by)
    }

    /// Changes a row in both catalogs that have it.
    fn change(&mut self, path: &[u8], mut change: impl FnMut(&mut Row)) -> Result<(), Error> {
        let outside = self.catalogs.locate(path)?;
        let inside = self.catalogs.locate_inside(path)?;
        for at in [Some(&outside), Some(&inside).filter(|at| **at != outside)]
            .into_iter()
            .flatten()
        {
            let catalog = self.catalogs.change(at)?;
            if let Some(mut row) = catalog.file.get(path)? {
                change(&mut row);
                catalog.file.update(path, &row)?;
            }
        }
        Ok(())
    }

    /// Makes missing directories on the way.
    fn parents(&mut self, path: &[u8]) -> Result<(), Error> {
        let (Some(parent), _) = split(path) else {
            return Ok(());
        };
        match self.row(parent)? {
            Some(row) if row.is_directory() => Ok(()),
            Some(_) => Err(refused(path, "it lies below what is no directory")),
            None => {
                self.parents(parent)?;
                let entry = Entry::directory(0o755, self.now.as_second());
                self.put(parent, &Row::of(&entry)?)
            }
        }
    }

    fn take_away(&mut self, path: &[u8]) -> Result<(), Error> {
        if path.is_empty() {
            return Err(refused(b"/", "the root cannot be removed"));
        }
        let at = self.catalogs.locate(path)?;
        let Some(row) = self.catalogs.get(&at)?.file.get(path)? else {
            return Ok(());
        };
        if row.is_directory() {
            self.clear(&at, path, &row)?;
        }
        self.catalogs.change(&at)?.file.remove(path)?;
        if row.is_directory() {
            self.count_subdirectory(path, -1)?;
        } else if row.link_group() != 0 {
            self.unlink(&at, path, &row)?;
        }
        Ok(())
    }

    /// Removes all below a directory of the catalog `at`.
    fn clear(&mut self, at: &[u8], directory: &[u8], row: &Row) -> Result<(), Error> {
        let mut pending = vec![(directory.to_vec(), row.clone())];
        while let Some((path, row)) = pending.pop() {
            if row.has(flags::NESTED_MOUNTPOINT | flags::BIND_MOUNTPOINT) {
                self.catalogs.unmount(at, &path)?;
                continue;
            }
            let catalog = &mut self.catalogs.change(at)?.file;
            for (name, child) in catalog.children(&path)? {
                let below = [&path[..], b"/", &name].concat();
                if child.is_directory() {
                    pending.push((below.clone(), child));
                }
                catalog.remove(&below)?;
            }
        }
        Ok(())
    }

    /// The other names of an inode in this directory have one link less.
    fn unlink(&mut self, at: &[u8], path: &[u8], row: &Row) -> Result<(), Error> {
        let (Some(parent), _) = split(path) else {
            return Ok(());
        };
        let catalog = &mut self.catalogs.change(at)?.file;
        for (name, sibling) in catalog.children(parent)? {
            if sibling.link_group() == row.link_group() && !sibling.is_directory() {
                let path = [parent, b"/", &name].concat();
                catalog.set_hardlinks(&path, sibling.hardlinks - 1)?;
            }
        }
        Ok(())
    }

    /// Moves what lies below a directory into a catalog of its own.
    fn begin_catalog(&mut self, path: &[u8]) -> Result<(), Error> {
        let at = self.catalogs.locate(path)?;
        let parent = &mut self.catalogs.change(&at)?.file;
        let Some(mut row) = parent.get(path)? else {
            return Err(Error::NotFound(path.escape_ascii().to_string()));
        };
        if path.is_empty() || row.has(flags::NESTED_MOUNTPOINT | flags::BIND_MOUNTPOINT) {
            return Ok(());
        }
        let mut file = CatalogFile::create(&self.objects.options().scratch, path)?;
        let root = Row {
            flags: row.flags | flags::NESTED_ROOT,
            ..row.clone()
        };
        file.insert(path, &root)?;
        row.flags |= flags::NESTED_MOUNTPOINT;
        parent.update(path, &row)?;
        let null = ContentHash {
            algorithm: self.objects.algorithm(),
            digest: [0; cvmfs::DIGEST_BYTES],
        };
        parent.set_nested(path, &null, 0)?;
        self.catalogs.move_below(&at, path, &mut file)?;
        self.catalogs.add(path, Loaded::new(file));
        Ok(())
    }
}

fn refused(path: &[u8], reason: &str) -> Error {
    Error::Refused {
        what: path.escape_ascii().take(200).map(char::from).collect(),
        reason: reason.to_owned(),
    }
}

/// Absolute, and nothing in it that cannot be.
fn check(path: &[u8]) -> Result<(), Error> {
    match path.split_first() {
        None => Ok(()),
        Some((b'/', rest)) if !rest.is_empty() => check_path(rest),
        Some(_) => Err(refused(path, "the path is not absolute")),
    }
}
