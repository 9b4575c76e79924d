//! The catalogs that a transaction has read or made.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use cvmfs::{ContentHash, ObjectRef, Suffix};

use crate::catalog::{CatalogFile, Values, flags};
use crate::error::Error;
use crate::objects::ObjectStore;
use crate::storage::Storage;
use crate::stored;
use crate::stored_catalog::MAX_CATALOG_BYTES;

/// A catalog in work.
pub(super) struct Loaded {
    pub(super) file: CatalogFile,
    /// What it was; none for new ones.
    hash: Option<ContentHash>,
    /// What the parent's counters hold of it.
    accounted: Values,
    changed: bool,
}

impl Loaded {
    /// One that has never been stored.
    pub(super) fn new(file: CatalogFile) -> Self {
        Self {
            file,
            hash: None,
            accounted: Values::default(),
            changed: true,
        }
    }
}

/// By mountpoint.
pub(super) struct LoadedCatalogs {
    storage: Arc<dyn Storage>,
    scratch: PathBuf,
    catalogs: BTreeMap<Vec<u8>, Loaded>,
}

impl LoadedCatalogs {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        scratch: PathBuf,
        root: ContentHash,
    ) -> Result<Self, Error> {
        let mut catalogs = Self {
            storage,
            scratch,
            catalogs: BTreeMap::new(),
        };
        catalogs.load(b"", root)?;
        Ok(catalogs)
    }

    fn load(&mut self, mountpoint: &[u8], hash: ContentHash) -> Result<(), Error> {
        if self.catalogs.contains_key(mountpoint) {
            return Ok(());
        }
        let object = ObjectRef::zlib(hash, Suffix::Catalog);
        let bytes = stored::read(&*self.storage, &object, MAX_CATALOG_BYTES)?;
        let file = CatalogFile::open(&self.scratch, &bytes, mountpoint)?;
        let loaded = Loaded {
            accounted: file.counters.total(),
            file,
            hash: Some(hash),
            changed: false,
        };
        self.catalogs.insert(mountpoint.to_vec(), loaded);
        Ok(())
    }

    pub(super) fn add(&mut self, mountpoint: &[u8], loaded: Loaded) {
        self.catalogs.insert(mountpoint.to_vec(), loaded);
    }

    pub(super) fn get(&self, mountpoint: &[u8]) -> Result<&Loaded, Error> {
        let loaded = self.catalogs.get(mountpoint);
        loaded.ok_or_else(|| Error::NotFound(mountpoint.escape_ascii().to_string()))
    }

    pub(super) fn change(&mut self, mountpoint: &[u8]) -> Result<&mut Loaded, Error> {
        let loaded = self.catalogs.get_mut(mountpoint);
        let loaded =
            loaded.ok_or_else(|| Error::NotFound(mountpoint.escape_ascii().to_string()))?;
        loaded.changed = true;
        Ok(loaded)
    }

    /// Mountpoint of the catalog that has a path's row, as its parent directory lists it.
    pub(super) fn locate(&mut self, path: &[u8]) -> Result<Vec<u8>, Error> {
        let mut at = Vec::new();
        let slashes = (1..path.len()).filter(|at| path[*at] == b'/');
        for slash in slashes {
            self.enter(&mut at, &path[..slash])?;
        }
        Ok(at)
    }

    /// Mountpoint of the catalog that has what lies in a directory.
    pub(super) fn locate_inside(&mut self, path: &[u8]) -> Result<Vec<u8>, Error> {
        let mut at = self.locate(path)?;
        if !path.is_empty() {
            self.enter(&mut at, path)?;
        }
        Ok(at)
    }

    fn enter(&mut self, at: &mut Vec<u8>, path: &[u8]) -> Result<(), Error> {
        if let Some(hash) = self.get(at)?.file.nested(path)? {
            self.load(path, hash)?;
            path.clone_into(at);
        }
        Ok(())
    }

    /// Forgets the catalog that is mounted in `at`, with all below it.
    pub(super) fn unmount(&mut self, at: &[u8], path: &[u8]) -> Result<(), Error> {
        if let Some(hash) = self.get(at)?.file.nested(path)? {
            self.load(path, hash)?;
            let accounted = self.get(path)?.accounted;
            self.change(at)?.file.counters.add_subtree(-1, accounted);
        }
        self.change(at)?.file.remove_nested(path)?;
        let below = [path, b"/"].concat();
        self.catalogs
            .retain(|known, _| known != path && !known.starts_with(&below));
        Ok(())
    }

    /// Moves all that lies below a directory from the catalog `at` into a new one.
    pub(super) fn move_below(
        &mut self,
        at: &[u8],
        directory: &[u8],
        to: &mut CatalogFile,
    ) -> Result<(), Error> {
        let mut pending = vec![directory.to_vec()];
        while let Some(path) = pending.pop() {
            for (name, row) in self.get(at)?.file.children(&path)? {
                let below = [&path[..], b"/", &name].concat();
                let Some(whole) = self.change(at)?.file.remove(&below)? else {
                    continue;
                };
                to.insert(&below, &whole)?;
                if row.has(flags::NESTED_MOUNTPOINT) {
                    self.move_nested(at, &below, to)?;
                } else if row.is_directory() {
                    pending.push(below);
                }
            }
        }
        Ok(())
    }

    fn move_nested(&mut self, at: &[u8], path: &[u8], to: &mut CatalogFile) -> Result<(), Error> {
        let Some(hash) = self.get(at)?.file.nested(path)? else {
            return Err(Error::corrupt(
                format!("catalog at {}", at.escape_ascii()),
                "a nested catalog is not named",
            ));
        };
        self.load(path, hash)?;
        let accounted = self.get(path)?.accounted;
        let size = self.get(at)?.file.nested_size(path)?;
        let from = &mut self.change(at)?.file;
        from.remove_nested(path)?;
        from.counters.add_subtree(-1, accounted);
        to.set_nested(path, &hash, size)?;
        to.counters.add_subtree(1, accounted);
        Ok(())
    }

    /// Stores all that has changed, those below first. Name and uncompressed bytes of the root catalog.
    pub(super) fn store(
        &mut self,
        objects: &ObjectStore,
        revision: u64,
        now: i64,
        stored: &mut Vec<ContentHash>,
    ) -> Result<(ContentHash, u64), Error> {
        self.change(b"")?;
        // A mountpoint sorts before all that lies below it.
        while let Some((mountpoint, loaded)) = self.catalogs.pop_last() {
            if !loaded.changed {
                continue;
            }
            let Loaded {
                file,
                hash,
                accounted,
                ..
            } = loaded;
            let total = file.counters.total();
            let (_file, mut opened, size) = file.finish(revision, hash, now)?;
            let hash = objects.store_file(&mut opened, Suffix::Catalog)?;
            stored.push(hash);
            if mountpoint.is_empty() {
                return Ok((hash, size));
            }
            let parent = self.locate_known(&mountpoint);
            let parent = self.change(&parent)?;
            parent.file.set_nested(&mountpoint, &hash, size)?;
            parent.file.counters.add_subtree(1, total);
            parent.file.counters.add_subtree(-1, accounted);
        }
        Err(Error::NotFound("root catalog".to_owned()))
    }

    /// The catalog in which another one is mounted: it has been loaded to find the other.
    fn locate_known(&self, path: &[u8]) -> Vec<u8> {
        (0..path.len())
            .rev()
            .filter(|at| path[*at] == b'/')
            .map(|at| &path[..at])
            .find(|prefix| self.catalogs.contains_key(*prefix))
            .unwrap_or_default()
            .to_vec()
    }
}
