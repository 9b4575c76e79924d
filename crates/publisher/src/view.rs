//! The newest revision as a tree of names, read without the publisher's lock. A catalog is read as a whole when a path leads into it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cvmfs::{ContentHash, ObjectRef, Suffix};

use crate::error::Error;
use crate::path_key;
use crate::repository::Repository;
use crate::storage::Storage;
use crate::stored;
use crate::stored_catalog::{StoredCatalog, StoredChunk, StoredRow};

/// One revision, read only.
pub(crate) struct View {
    storage: Arc<dyn Storage>,
    /// By mountpoint.
    catalogs: BTreeMap<String, Catalog>,
}

struct Catalog {
    rows: HashMap<(i64, i64), StoredRow>,
    children: HashMap<(i64, i64), Vec<Vec<u8>>>,
    chunks: BTreeMap<(i64, i64), Vec<StoredChunk>>,
    nested: HashMap<Vec<u8>, ContentHash>,
}

impl View {
    pub(crate) fn newest(repository: &Repository) -> Result<Self, Error> {
        let mut view = Self {
            storage: Arc::clone(repository.storage()),
            catalogs: BTreeMap::new(),
        };
        view.load("", repository.head().root_catalog)?;
        Ok(view)
    }

    /// What is at an absolute path.
    pub(crate) fn lookup(&mut self, path: &str) -> Result<Option<StoredRow>, Error> {
        let at = self.locate(path)?;
        Ok(self
            .catalog(&at)?
            .rows
            .get(&path_key::of(path.as_bytes()))
            .cloned())
    }

    /// Names in a directory, sorted.
    pub(crate) fn list(&mut self, path: &str) -> Result<Vec<Vec<u8>>, Error> {
        // What lies in a mountpoint is in the catalog that is mounted there.
        let at = self.locate(&format!("{path}/"))?;
        let catalog = self.catalog(&at)?;
        let mut names = catalog
            .children
            .get(&path_key::of(path.as_bytes()))
            .cloned()
            .unwrap_or_default();
        names.sort();
        Ok(names)
    }

    /// A small file's content; `None` if there is no such file.
    pub(crate) fn read(&mut self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let Some(row) = self.lookup(path)?.filter(StoredRow::has_objects) else {
            return Ok(None);
        };
        let wrong = |reason: &str| Error::corrupt(path, reason);
        if row.size.unsigned_abs() > limit {
            return Err(wrong("it is too long for what it is"));
        }
        let algorithm = row.algorithm().ok_or_else(|| wrong("unknown hash"))?;
        let compression = row
            .compression()
            .ok_or_else(|| wrong("unknown compression"))?;
        let at = self.locate(path)?;
        let chunks = self.catalog(&at)?.chunks.get(&row.key);
        let pieces: Vec<_> = match (row.hash, chunks) {
            (_, Some(chunks)) => chunks
                .iter()
                .map(|chunk| (chunk.digest, Suffix::Partial))
                .collect(),
            (Some(digest), None) => vec![(digest, Suffix::Bulk)],
            (None, None) => return Err(wrong("it names no object")),
        };
        let mut content = Vec::new();
        for (digest, suffix) in pieces {
            let object = ObjectRef {
                hash: ContentHash { algorithm, digest },
                suffix,
                compression,
            };
            content.extend(stored::read(&*self.storage, &object, limit)?);
        }
        Ok(Some(content))
    }

    /// Mountpoint of the catalog that has a path's row, as its parent directory lists it.
    fn locate(&mut self, path: &str) -> Result<String, Error> {
        let mut at = String::new();
        for (slash, _) in path.match_indices('/').skip(1) {
            let mountpoint = &path[..slash];
            let nested = self.catalog(&at)?.nested.get(mountpoint.as_bytes());
            if let Some(hash) = nested.copied() {
                self.load(mountpoint, hash)?;
                mountpoint.clone_into(&mut at);
            }
        }
        Ok(at)
    }

    fn catalog(&self, mountpoint: &str) -> Result<&Catalog, Error> {
        let catalog = self.catalogs.get(mountpoint);
        catalog.ok_or_else(|| Error::NotFound(mountpoint.to_owned()))
    }

    fn load(&mut self, mountpoint: &str, hash: ContentHash) -> Result<(), Error> {
        if self.catalogs.contains_key(mountpoint) {
            return Ok(());
        }
        let stored = StoredCatalog::load(&*self.storage, hash)?;
        let stored = stored.ok_or_else(|| Error::Missing {
            what: ObjectRef::zlib(hash, Suffix::Catalog).url_path(),
            location: self.storage.location(),
        })?;
        let mut children: HashMap<_, Vec<_>> = HashMap::new();
        let mut rows = HashMap::new();
        for row in stored.rows()? {
            // The root of a repository is its own parent's only child without a name.
            if !row.name.is_empty() {
                children
                    .entry(row.parent)
                    .or_default()
                    .push(row.name.clone());
            }
            rows.insert(row.key, row);
        }
        let nested = stored.nested()?;
        let catalog = Catalog {
            rows,
            children,
            chunks: stored.chunks()?,
            nested: nested
                .into_iter()
                .map(|nested| (nested.path, nested.hash))
                .collect(),
        };
        self.catalogs.insert(mountpoint.to_owned(), catalog);
        Ok(())
    }
}
