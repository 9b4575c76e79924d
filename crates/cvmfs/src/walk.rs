//! Walks over whole subtrees: two scans of each catalog instead of a lookup for each entry.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::catalog::{Catalog, CatalogRow, ChunkRow, PathKey};
use crate::content::Content;
use crate::dirent::{Dirent, Kind};
use crate::error::Error;
use crate::revision::{Place, Revision};
use crate::xattr::Xattrs;

/// An entry met on a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkEntry {
    /// The entry.
    pub dirent: Dirent,
    /// Where its bytes are.
    pub content: Content,
    /// Extended attributes: full name, value.
    pub xattrs: Xattrs,
    /// Number of the catalog, by the order of the walk, that holds the entry; hardlink groups count within one catalog.
    pub catalog: u32,
}

type Visitor<'a> = dyn FnMut(&[u8], &WalkEntry) -> ControlFlow<()> + 'a;

/// A directory whose listing lies in another catalog, by its place and its path relative to the walk's start.
struct Pending {
    place: Place,
    relative: Vec<u8>,
}

/// A walk through one catalog.
struct CatalogWalk<'a> {
    catalog: Arc<Catalog>,
    number: u32,
    /// Path in the repository of the walk's start.
    base: &'a [u8],
    chunks: HashMap<PathKey, Vec<ChunkRow>>,
    /// Relative paths of the directories listed by this catalog.
    directories: HashMap<PathKey, Vec<u8>>,
}

/// Visits `row`, which is at `path` in the repository, and all below it.
pub(crate) fn walk(
    revision: &Revision,
    path: &[u8],
    place: Place,
    row: CatalogRow,
    visit: &mut Visitor<'_>,
) -> Result<(), Error> {
    let first = CatalogWalk {
        catalog: place.catalog.clone(),
        number: 0,
        base: path,
        chunks: HashMap::new(),
        directories: HashMap::new(),
    };
    let is_directory = row.dirent.kind == Kind::Directory;
    let entry = WalkEntry {
        content: place.catalog.content(&row, path)?,
        xattrs: first.xattrs(&row, b"")?,
        dirent: row.dirent,
        catalog: 0,
    };
    if visit(b"", &entry).is_break() || !is_directory {
        return Ok(());
    }
    // The listing of a mountpoint lies in the mounted catalog.
    let place = match place.catalog.mounted_at(&place.path)? {
        Some(mountpoint) if place.path != place.catalog.root_prefix() => {
            revision.enter(&mountpoint)?
        }
        _ => place,
    };
    let mut pending = vec![Pending {
        place,
        relative: Vec::new(),
    }];
    let mut number = 0;
    while let Some(next) = pending.pop() {
        let mut walk = CatalogWalk {
            chunks: next.place.catalog.all_chunks()?,
            catalog: next.place.catalog.clone(),
            number,
            base: path,
            directories: HashMap::new(),
        };
        number += 1;
        if walk
            .directories(revision, next, &mut pending, visit)?
            .is_break()
            || walk.others(visit)?.is_break()
        {
            break;
        }
    }
    Ok(())
}

impl CatalogWalk<'_> {
    /// Visits all directories below a start, top down.
    fn directories(
        &mut self,
        revision: &Revision,
        start: Pending,
        pending: &mut Vec<Pending>,
        visit: &mut Visitor<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        let mut children: HashMap<PathKey, Vec<CatalogRow>> = HashMap::new();
        self.catalog.scan(true, &mut |row| {
            // Roots are listed by the parent catalog.
            if !row.dirent.name.is_empty()
                && row.parent != PathKey::NONE
                && !row.dirent.flags.hidden()
            {
                children.entry(row.parent).or_default().push(row);
            }
            ControlFlow::Continue(())
        })?;
        let mut queue = vec![(
            PathKey::of(&start.place.path),
            start.place.path,
            start.relative,
        )];
        while let Some((key, own, relative)) = queue.pop() {
            // Taken out, so that even a cycle ends.
            for row in children.remove(&key).unwrap_or_default() {
                let relative = join(&relative, &row.dirent.name);
                let own = [&own, &b"/"[..], &row.dirent.name].concat();
                let flags = row.dirent.flags;
                let key = row.key;
                if self.show(row, &relative, visit)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                if flags.nested_mountpoint() {
                    let place = self.nested(revision, &own)?;
                    pending.push(Pending { place, relative });
                } else if !flags.bind_mountpoint() {
                    queue.push((key, own, relative));
                }
            }
            self.directories.insert(key, relative);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn nested(&self, revision: &Revision, path: &[u8]) -> Result<Place, Error> {
        let mountpoint = self.catalog.mounted_at(path)?;
        let mountpoint = mountpoint.ok_or_else(|| {
            let path = String::from_utf8_lossy(path);
            self.catalog
                .corrupt(&format_args!("no nested catalog is registered at {path}"))
        })?;
        revision.enter(&mountpoint)
    }

    /// Visits all that are no directories, in stored order.
    fn others(&self, visit: &mut Visitor<'_>) -> Result<ControlFlow<()>, Error> {
        let mut relative = Vec::new();
        let mut outcome = Ok(ControlFlow::Continue(()));
        self.catalog.scan(false, &mut |row| {
            let Some(parent) = self.directories.get(&row.parent) else {
                return ControlFlow::Continue(());
            };
            if row.dirent.flags.hidden() || row.dirent.name.is_empty() {
                return ControlFlow::Continue(());
            }
            relative.clear();
            relative.extend_from_slice(parent);
            if !parent.is_empty() {
                relative.push(b'/');
            }
            relative.extend_from_slice(&row.dirent.name);
            outcome = self.show(row, &relative, visit);
            match outcome {
                Ok(flow) => flow,
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        outcome
    }

    fn show(
        &self,
        row: CatalogRow,
        relative: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        let chunks = self.chunks.get(&row.key).map_or(&[][..], Vec::as_slice);
        let content = if row.dirent.flags.external() {
            let path = [self.base, b"/", relative].concat();
            self.catalog.content_with(&row, &path, chunks)?
        } else {
            self.catalog.content_with(&row, b"", chunks)?
        };
        let entry = WalkEntry {
            content,
            xattrs: self.xattrs(&row, relative)?,
            dirent: row.dirent,
            catalog: self.number,
        };
        Ok(visit(relative, &entry))
    }

    fn xattrs(&self, row: &CatalogRow, relative: &[u8]) -> Result<Xattrs, Error> {
        if row.dirent.xattr_blob.is_empty() {
            return Ok(Vec::new());
        }
        row.dirent.xattrs().map_err(|error| {
            let path = String::from_utf8_lossy(relative);
            self.catalog.corrupt(&format_args!("{path}: {error}"))
        })
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        return name.to_vec();
    }
    [directory, b"/", name].concat()
}
