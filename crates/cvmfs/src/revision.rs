//! One revision of a repository: an immutable tree of catalogs.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::catalog::{Catalog, CatalogRow, Counters, Mountpoint, PathKey};
use crate::content::{Chunk, Content};
use crate::dirent::{Dirent, Kind};
use crate::error::Error;
use crate::hash::ContentHash;
use crate::store::Catalogs;
use crate::walk::{self, WalkEntry};
use crate::xattr::Xattrs;

/// What is known of a revision besides its tree.
#[derive(Clone, Debug, Default)]
pub(crate) struct About {
    pub(crate) number: u64,
    /// Publication, seconds since the epoch; 0 = unknown.
    pub(crate) timestamp: i64,
    pub(crate) tag: Option<String>,
}

/// An immutable state of the repository's tree. Paths are absolute within the repository: empty or `/` for the root, else `/a/b`.
pub struct Revision {
    root: Arc<Catalog>,
    catalogs: Arc<Catalogs>,
    about: About,
}

impl std::fmt::Debug for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Revision")
            .field("root", &self.root.hash())
            .field("about", &self.about)
            .finish_non_exhaustive()
    }
}

/// The catalog that is responsible for a path, and the path in its terms.
pub(crate) struct Place {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) path: Vec<u8>,
}

impl Place {
    pub(crate) fn row(&self) -> Result<Option<CatalogRow>, Error> {
        self.catalog.by_path(&self.path)
    }
}

impl Revision {
    pub(crate) fn new(root: Arc<Catalog>, catalogs: Arc<Catalogs>, about: About) -> Self {
        Self {
            root,
            catalogs,
            about,
        }
    }

    /// Hash of the root catalog, which names the revision.
    pub fn root_hash(&self) -> ContentHash {
        self.root.hash()
    }

    /// Number of the revision; 0 if unknown.
    pub fn number(&self) -> u64 {
        self.about.number
    }

    /// When it was published, if known.
    pub fn timestamp(&self) -> Option<jiff::Timestamp> {
        jiff::Timestamp::from_second(self.about.timestamp)
            .ok()
            .filter(|timestamp| timestamp.as_second() > 0)
    }

    /// The tag by which it was opened.
    pub fn tag(&self) -> Option<&str> {
        self.about.tag.as_deref()
    }

    /// The entry at a path, hidden ones too; `None` if there is none. Symlinks are not followed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] or [`Error::Corrupt`] if a catalog on the way cannot be had.
    pub fn lookup(&self, path: &[u8]) -> Result<Option<Dirent>, Error> {
        let row = self.locate(&normal(path), false)?.row()?;
        Ok(row.map(|row| row.dirent))
    }

    /// The entries of a directory, hidden ones left out.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotADirectory`], and as [`Revision::lookup`].
    pub fn list(&self, path: &[u8]) -> Result<Vec<Dirent>, Error> {
        let path = normal(path);
        let place = self.locate(&path, true)?;
        let row = place
            .row()?
            .ok_or_else(|| Error::NotFound(display(&path)))?;
        if row.dirent.kind != Kind::Directory {
            return Err(Error::NotADirectory(display(&path)));
        }
        let children = place
            .catalog
            .children(PathKey::of(&place.path), i64::MIN, usize::MAX)?;
        let visible = children
            .into_iter()
            .filter(|row| !row.dirent.flags.hidden());
        Ok(visible.map(|row| row.dirent).collect())
    }

    /// Where the bytes of the file at a path are.
    ///
    /// # Errors
    /// [`Error::NotFound`], and as [`Revision::lookup`].
    pub fn content(&self, path: &[u8]) -> Result<Content, Error> {
        let (path, place, row) = self.existing(path)?;
        place.catalog.content(&row, &path)
    }

    /// Extended attributes (full name, value) of the entry at a path.
    ///
    /// # Errors
    /// [`Error::NotFound`], and as [`Revision::lookup`].
    pub fn xattrs(&self, path: &[u8]) -> Result<Xattrs, Error> {
        let (path, place, row) = self.existing(path)?;
        row.dirent.xattrs().map_err(|error| {
            place
                .catalog
                .corrupt(&format_args!("{}: {error}", display(&path)))
        })
    }

    fn existing<'a>(&self, path: &'a [u8]) -> Result<(Cow<'a, [u8]>, Place, CatalogRow), Error> {
        let path = normal(path);
        let place = self.locate(&path, false)?;
        let row = place
            .row()?
            .ok_or_else(|| Error::NotFound(display(&path)))?;
        Ok((path, place, row))
    }

    /// The catalog whose root is exactly at this path: its hash and uncompressed size (0 = unknown).
    ///
    /// # Errors
    /// As [`Revision::lookup`].
    pub fn nested_catalog(&self, path: &[u8]) -> Result<Option<(ContentHash, u64)>, Error> {
        let path = normal(path);
        if path.is_empty() {
            return Ok(Some((self.root.hash(), 0)));
        }
        let place = self.locate(&path, false)?;
        let mounted = place.catalog.mounted_at(&place.path)?;
        Ok(mounted.map(|mountpoint| (mountpoint.hash, mountpoint.size)))
    }

    /// The content of a regular file of at most `limit` bytes; `None` if there is no regular file at the path.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Unavailable`] or [`Error::Corrupt`] if a catalog or the content cannot be had.
    pub fn read_small(&self, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let path = normal(path);
        let place = self.locate(&path, false)?;
        let Some(row) = place.row()?.filter(|row| row.dirent.kind == Kind::File) else {
            return Ok(None);
        };
        let size = row.dirent.size;
        if size > limit {
            return Err(Error::TooLarge {
                path: display(&path),
                size,
                limit,
            });
        }
        let objects = self.catalogs.objects();
        let pieces = match place.catalog.content(&row, &path)? {
            Content::None => Vec::new(),
            Content::Whole(object) => vec![objects.fetch(&object, Some(size))?],
            Content::Chunked(chunks) => {
                let fetch = |chunk: &Chunk| objects.fetch(&chunk.object, Some(chunk.size));
                chunks.iter().map(fetch).collect::<Result<_, _>>()?
            }
            Content::External(chunks) => chunks
                .iter()
                .map(|chunk| {
                    objects.fetch_external(&chunk.path, chunk.offset, chunk.size, &chunk.hash)
                })
                .collect::<Result<_, _>>()?,
        };
        let mut bytes = Vec::new();
        for piece in pieces {
            let piece = piece.read_all().map_err(|source| Error::State {
                path: piece.path(),
                source,
            })?;
            bytes.extend_from_slice(&piece);
        }
        Ok(Some(bytes))
    }

    /// Visits everything below and including `path`: parents before children, hidden entries left out, nested catalogs followed,
    /// bind mountpoints not. The visitor gets the path relative to `path`: empty for itself, else `a/b`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Unavailable`] or [`Error::Corrupt`] if a catalog cannot be had or a row is malformed.
    pub fn walk(
        &self,
        path: &[u8],
        visit: &mut dyn FnMut(&[u8], &WalkEntry) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let (path, place, row) = self.existing(path)?;
        walk::walk(self, &path, place, row, visit)
    }

    /// Statistics over the whole revision.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the root catalog's counters are malformed.
    pub fn counters(&self) -> Result<Counters, Error> {
        self.root.counters()
    }

    /// The catalog that holds the row of a path, or, if `inclusive`, the listing of a directory.
    pub(crate) fn locate(&self, path: &[u8], inclusive: bool) -> Result<Place, Error> {
        let mut place = Place {
            catalog: self.root.clone(),
            path: path.to_vec(),
        };
        // Each turn shortens what lies below the catalog's root, so there is an end.
        while let Some(mountpoint) = place.catalog.mounted_on_way(&place.path, inclusive)? {
            let below = place.path.split_off(mountpoint.path.len());
            place = self.enter(&mountpoint)?;
            place.path.extend_from_slice(&below);
        }
        Ok(place)
    }

    /// The root of a mounted catalog.
    pub(crate) fn enter(&self, mountpoint: &Mountpoint) -> Result<Place, Error> {
        let catalog = self.catalogs.get(mountpoint.hash, mountpoint.size)?;
        Ok(Place {
            path: catalog.root_prefix().to_vec(),
            catalog,
        })
    }
}

/// A path as catalogs spell it: a slash before each name, none behind the last.
fn normal(path: &[u8]) -> Cow<'_, [u8]> {
    let end = path
        .iter()
        .rposition(|byte| *byte != b'/')
        .map_or(0, |last| last + 1);
    let path = &path[..end];
    if path.is_empty() || path.starts_with(b"/") {
        Cow::Borrowed(path)
    } else {
        Cow::Owned([b"/", path].concat())
    }
}

fn display(path: &[u8]) -> String {
    if path.is_empty() {
        return "/".to_owned();
    }
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_paths() {
        for (path, expected) in [
            ("", ""),
            ("/", ""),
            ("//", ""),
            ("/a/", "/a"),
            ("a/b", "/a/b"),
            ("/a/b", "/a/b"),
        ] {
            assert_eq!(normal(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }
}
