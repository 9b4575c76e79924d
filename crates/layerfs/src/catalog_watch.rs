//! Whether a layer in a mounted repository is still the one whose tree was built, asked of the
//! client that keeps it mounted by its magic attributes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::builds::lock;

/// A client shows a new revision every few minutes; asking at each read would cost a round trip.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Bound of the memory.
const MAX_LAYERS: usize = 4096;

/// The catalogs of one mounted repository's layers.
#[derive(Default)]
pub(crate) struct CatalogWatch {
    revision: Mutex<Option<(Instant, Vec<u8>)>>,
    /// By layer: at which revision it was looked at, and what its catalog was.
    layers: Mutex<HashMap<PathBuf, (Vec<u8>, u64)>>,
}

impl CatalogWatch {
    /// Whether the layer at `files` below `repository` has the catalog that is marked so.
    pub(crate) fn is_still(
        &self,
        repository: &Path,
        files: &Path,
        mark: u64,
    ) -> std::io::Result<bool> {
        let revision = self.revision(repository)?;
        if let Some((at, known)) = lock(&self.layers).get(files)
            && *at == revision
        {
            return Ok(*known == mark);
        }
        let found = catalog_hash(files)?.map_or(0, |hash| self::mark(&hash));
        let mut layers = lock(&self.layers);
        if layers.len() >= MAX_LAYERS {
            layers.clear();
        }
        layers.insert(files.to_owned(), (revision, found));
        Ok(found == mark)
    }

    fn revision(&self, repository: &Path) -> std::io::Result<Vec<u8>> {
        if let Some((at, revision)) = &*lock(&self.revision)
            && at.elapsed() < ASK_AGAIN_AFTER
        {
            return Ok(revision.clone());
        }
        let revision = magic(repository, "user.revision")?.unwrap_or_default();
        *lock(&self.revision) = Some((Instant::now(), revision.clone()));
        Ok(revision)
    }
}

/// Hash of the catalog at a layer's root, in hex with suffix; none where the client tells none.
pub(crate) fn catalog_hash(files: &Path) -> std::io::Result<Option<String>> {
    let counters = magic(files, "user.catalog_counters")?;
    let text = counters.and_then(|counters| String::from_utf8(counters).ok());
    let hash = text
        .as_deref()
        .and_then(|text| text.lines().next())
        .and_then(|line| line.strip_prefix("catalog_hash: "));
    Ok(hash.map(|hash| hash.trim().to_owned()))
}

/// A catalog's hash, short enough to stand beside each file of a tree.
pub(crate) fn mark(hash: &str) -> u64 {
    let digest = Sha256::digest(hash);
    digest
        .iter()
        .take(8)
        .fold(0, |mark, byte| mark << 8 | u64::from(*byte))
}

fn magic(path: &Path, name: &str) -> std::io::Result<Option<Vec<u8>>> {
    use rustix::io::Errno;
    let mut value = vec![0; 64 << 10];
    match rustix::fs::getxattr(path, name, &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS | Errno::RANGE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
