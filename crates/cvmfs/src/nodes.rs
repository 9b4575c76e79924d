//! The node-level view for mounts: numbers that name immutable content for life, without handles and without a table of paths.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::sync::Cache;

use crate::catalog::{Catalog, CatalogRow, Mountpoint, PathKey};
use crate::content::Content;
use crate::dirent::{Dirent, Kind};
use crate::error::Error;
use crate::hash::ContentHash;
use crate::store::Catalogs;
use crate::xattr::Xattrs;

/// Bits of a node's number that hold its row.
const ROW_BITS: u32 = 40;
/// Directories whose paths are remembered.
const LOCATIONS: usize = 16 << 10;
/// Files whose chunk tables are remembered.
const CONTENTS: usize = 8 << 10;
/// Directories cannot lie deeper: paths have at most 4096 bytes.
const MAX_DEPTH: usize = 2048;

/// A node: the number of an attached catalog in the upper 24 bits, the row in it in the lower 40.
/// Numbers of catalogs are never used again, so a number names the same content as long as the repository is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    fn new(slot: usize, rowid: i64) -> Option<Self> {
        let row = u64::try_from(rowid)
            .ok()
            .filter(|row| *row < 1 << ROW_BITS)?;
        let slot = u64::try_from(slot)
            .ok()
            .filter(|slot| *slot < 1 << (64 - ROW_BITS))?;
        Some(Self(slot << ROW_BITS | row))
    }

    /// Number of the attached catalog; hardlink groups count within it.
    pub fn slot(self) -> u32 {
        (self.0 >> ROW_BITS) as u32
    }

    /// Row in the catalog.
    pub fn row(self) -> u64 {
        self.0 & ((1 << ROW_BITS) - 1)
    }
}

/// The catalog of a slot.
#[derive(Clone, Copy)]
struct Slot {
    hash: ContentHash,
    size: u64,
}

/// Where the listing of a directory lies.
struct Location {
    slot: usize,
    /// Path in the terms of the slot's catalog.
    path: Vec<u8>,
}

/// All nodes of all revisions that a repository has shown.
pub(crate) struct Nodes {
    catalogs: Arc<Catalogs>,
    slots: Mutex<Slots>,
    locations: Cache<NodeId, Arc<Location>>,
    contents: Cache<NodeId, Arc<Content>>,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    /// Slots of mounted catalogs, by the directory at which they are mounted.
    mounted: HashMap<NodeId, usize>,
}

impl Nodes {
    pub(crate) fn new(catalogs: Arc<Catalogs>) -> Self {
        Self {
            catalogs,
            slots: Mutex::default(),
            locations: Cache::new(LOCATIONS),
            contents: Cache::new(CONTENTS),
        }
    }

    /// Attaches a revision's root catalog; the root's node.
    pub(crate) fn attach(&self, hash: ContentHash) -> Result<NodeId, Error> {
        let catalog = self.catalogs.get(hash, 0)?;
        let row = catalog
            .by_path(catalog.root_prefix())?
            .ok_or_else(|| catalog.corrupt(&"it has no root directory"))?;
        let slot = self.lock().push(Slot { hash, size: 0 });
        id(&catalog, slot, row.rowid)
    }

    pub(crate) fn node(&self, node: NodeId) -> Result<Dirent, Error> {
        Ok(self.row(node)?.1.dirent)
    }

    pub(crate) fn lookup_child(
        &self,
        parent: NodeId,
        name: &[u8],
    ) -> Result<Option<(NodeId, Dirent)>, Error> {
        if name.is_empty() || name.contains(&b'/') {
            return Ok(None);
        }
        let location = self.location(parent)?;
        let catalog = self.catalog(location.slot)?;
        let path = [&location.path, &b"/"[..], name].concat();
        let Some(row) = catalog.by_path(&path)? else {
            return Ok(None);
        };
        let node = id(&catalog, location.slot, row.rowid)?;
        if row.dirent.kind == Kind::Directory && !row.dirent.is_mountpoint() {
            let slot = location.slot;
            self.locations
                .insert(node, Arc::new(Location { slot, path }));
        }
        Ok(Some((node, row.dirent)))
    }

    pub(crate) fn children(
        &self,
        directory: NodeId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, NodeId, Dirent)>, Error> {
        let location = self.location(directory)?;
        let catalog = self.catalog(location.slot)?;
        let key = PathKey::of(&location.path);
        let mut after = i64::try_from(after).unwrap_or(i64::MAX);
        loop {
            let rows = catalog.children(key, after, limit)?;
            let Some(last) = rows.last() else {
                return Ok(Vec::new());
            };
            after = last.rowid;
            let visible = rows.into_iter().filter(|row| !row.dirent.flags.hidden());
            let children: Vec<_> = visible
                .map(|row| {
                    let node = id(&catalog, location.slot, row.rowid)?;
                    Ok((node.row(), node, row.dirent))
                })
                .collect::<Result<_, Error>>()?;
            if !children.is_empty() {
                return Ok(children);
            }
        }
    }

    pub(crate) fn content(&self, node: NodeId) -> Result<Arc<Content>, Error> {
        if let Some(content) = self.contents.get(&node) {
            return Ok(content);
        }
        let (catalog, row) = self.row(node)?;
        let path = if row.dirent.flags.external() {
            own_path(&catalog, &row)?
        } else {
            Vec::new()
        };
        let content = Arc::new(catalog.content(&row, &path)?);
        self.contents.insert(node, content.clone());
        Ok(content)
    }

    pub(crate) fn xattrs(&self, node: NodeId) -> Result<Xattrs, Error> {
        let (catalog, row) = self.row(node)?;
        row.dirent.xattrs().map_err(|error| catalog.corrupt(&error))
    }

    /// Hash of the catalog that lists a directory, or holds another node.
    pub(crate) fn catalog_hash(&self, node: NodeId) -> Result<ContentHash, Error> {
        let slot = match self.location(node) {
            Ok(location) => location.slot,
            Err(Error::NotADirectory(_)) => node.slot() as usize,
            Err(error) => return Err(error),
        };
        let found = self.lock().slots.get(slot).map(|slot| slot.hash);
        found.ok_or_else(|| Error::NotFound(format!("catalog slot {slot}")))
    }

    fn row(&self, node: NodeId) -> Result<(Arc<Catalog>, CatalogRow), Error> {
        let catalog = self.catalog(node.slot() as usize)?;
        let row = catalog.by_rowid(node.row().cast_signed())?;
        let row = row.ok_or_else(|| Error::NotFound(format!("node {:#x}", node.0)))?;
        Ok((catalog, row))
    }

    fn location(&self, directory: NodeId) -> Result<Arc<Location>, Error> {
        if let Some(location) = self.locations.get(&directory) {
            return Ok(location);
        }
        let (catalog, row) = self.row(directory)?;
        if row.dirent.kind != Kind::Directory {
            return Err(Error::NotADirectory(format!("node {:#x}", directory.0)));
        }
        let path = own_path(&catalog, &row)?;
        let mounted = if row.dirent.is_mountpoint() {
            catalog.mounted_at(&path)?
        } else {
            None
        };
        let location = match mounted {
            None => Location {
                slot: directory.slot() as usize,
                path,
            },
            Some(mountpoint) => self.mount(directory, &mountpoint)?,
        };
        let location = Arc::new(location);
        self.locations.insert(directory, location.clone());
        Ok(location)
    }

    fn mount(&self, directory: NodeId, mountpoint: &Mountpoint) -> Result<Location, Error> {
        let (hash, size) = (mountpoint.hash, mountpoint.size);
        // First, so that a catalog that cannot be had takes no slot.
        let catalog = self.catalogs.get(hash, size)?;
        let mut slots = self.lock();
        let slot = match slots.mounted.get(&directory) {
            Some(slot) => *slot,
            None => {
                let slot = slots.push(Slot { hash, size });
                slots.mounted.insert(directory, slot);
                slot
            }
        };
        Ok(Location {
            slot,
            path: catalog.root_prefix().to_vec(),
        })
    }

    fn catalog(&self, slot: usize) -> Result<Arc<Catalog>, Error> {
        let found = self.lock().slots.get(slot).copied();
        let Slot { hash, size } =
            found.ok_or_else(|| Error::NotFound(format!("catalog slot {slot}")))?;
        self.catalogs.get(hash, size)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    fn push(&mut self, slot: Slot) -> usize {
        self.slots.push(slot);
        self.slots.len() - 1
    }
}

fn id(catalog: &Catalog, slot: usize, rowid: i64) -> Result<NodeId, Error> {
    NodeId::new(slot, rowid)
        .ok_or_else(|| catalog.corrupt(&format_args!("row {rowid} cannot be numbered")))
}

/// A row's path in its catalog's terms, by climbing to the catalog's root.
fn own_path(catalog: &Catalog, row: &CatalogRow) -> Result<Vec<u8>, Error> {
    let root = PathKey::of(catalog.root_prefix());
    let mut names = Vec::new();
    let (mut key, mut parent, mut name) = (row.key, row.parent, row.dirent.name.clone());
    while key != root {
        names.push(name);
        let above = catalog.by_key(parent)?.filter(|_| names.len() < MAX_DEPTH);
        let above = above.ok_or_else(|| {
            catalog.corrupt(&format_args!("row {} has no way to the root", row.rowid))
        })?;
        (key, parent, name) = (above.key, above.parent, above.dirent.name);
    }
    let mut path = catalog.root_prefix().to_vec();
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_nodes() {
        let node = NodeId::new(3, 7).unwrap();
        assert_eq!(node, NodeId(3 << 40 | 7));
        assert_eq!((node.slot(), node.row()), (3, 7));
        assert_eq!(NodeId::new(0, -1), None);
        assert_eq!(NodeId::new(0, 1 << 40), None);
        assert_eq!(NodeId::new(1 << 24, 1), None);
    }
}
