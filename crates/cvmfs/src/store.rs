//! Open catalogs, shared by all revisions: a catalog's hash is its content.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::catalog::Catalog;
use crate::error::Error;
use crate::hash::ContentHash;
use crate::metrics::Metrics;
use crate::object::{ObjectRef, Suffix};
use crate::objects::Objects;

/// Largest catalog read when nobody states its size.
const MAX_CATALOG_BYTES: u64 = 4 << 30;

/// Catalogs, opened when needed; those used longest ago are closed.
pub(crate) struct Catalogs {
    objects: Arc<Objects>,
    limit: usize,
    open: Mutex<Open>,
    metrics: Metrics,
}

#[derive(Default)]
struct Open {
    catalogs: HashMap<ContentHash, (Arc<Catalog>, u64)>,
    /// Counts uses, to tell which was longest ago.
    clock: u64,
}

impl Open {
    fn get(&mut self, hash: &ContentHash) -> Option<Arc<Catalog>> {
        self.clock += 1;
        let (catalog, used) = self.catalogs.get_mut(hash)?;
        *used = self.clock;
        Some(catalog.clone())
    }

    fn insert(&mut self, catalog: Arc<Catalog>, limit: usize) -> Vec<Arc<Catalog>> {
        let clock = self.clock;
        self.catalogs.insert(catalog.hash(), (catalog, clock));
        let mut closed = Vec::new();
        while self.catalogs.len() > limit {
            let oldest = self.catalogs.iter().min_by_key(|(_, (_, used))| *used);
            let Some(hash) = oldest.map(|(hash, _)| *hash) else {
                break;
            };
            closed.extend(self.catalogs.remove(&hash).map(|(catalog, _)| catalog));
        }
        closed
    }
}

impl Catalogs {
    pub(crate) fn new(objects: Arc<Objects>, limit: usize, metrics: Metrics) -> Self {
        Self {
            objects,
            limit: limit.max(1),
            open: Mutex::default(),
            metrics,
        }
    }

    /// A catalog by its hash; `size` = uncompressed bytes, 0 = unknown.
    pub(crate) fn get(&self, hash: ContentHash, size: u64) -> Result<Arc<Catalog>, Error> {
        let object = ObjectRef::zlib(hash, Suffix::Catalog);
        self.get_by(object, || {
            self.objects.fetch(&object, (size > 0).then_some(size))
        })
    }

    /// A root catalog, which may lie at an alternative location.
    pub(crate) fn get_root(
        &self,
        hash: ContentHash,
        alternative: bool,
    ) -> Result<Arc<Catalog>, Error> {
        let object = ObjectRef::zlib(hash, Suffix::Catalog);
        self.get_by(object, || {
            self.objects
                .fetch_public(&object, alternative, MAX_CATALOG_BYTES)
        })
    }

    fn get_by(
        &self,
        object: ObjectRef,
        fetch: impl FnOnce() -> Result<cache::Object, Error>,
    ) -> Result<Arc<Catalog>, Error> {
        if let Some(catalog) = self.lock().get(&object.hash) {
            return Ok(catalog);
        }
        let file = self.objects.fetch_pinned(&object, fetch)?;
        let catalog = Arc::new(Catalog::open(object.hash, file)?);
        let mut open = self.lock();
        // Another thread may have opened it meanwhile.
        if let Some(catalog) = open.get(&object.hash) {
            return Ok(catalog);
        }
        let closed = open.insert(catalog.clone(), self.limit);
        self.metrics.open_catalogs.set(open.catalogs.len() as i64);
        drop(open);
        drop(closed);
        Ok(catalog)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn objects(&self) -> &Arc<Objects> {
        &self.objects
    }
}
