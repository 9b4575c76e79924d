//! Which source holds a layer: asked in order, remembered for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::builds::lock;
use crate::error::{Refusal, SourceError};
use crate::source::{LayerSource, Located, Wanted};
use crate::tree_store::tree_key;

/// A layer of an image is asked for again within seconds, by the next Prepare. Longer memory would
/// hide a new revision.
const REMEMBER: Duration = Duration::from_secs(30);
/// Bound of the memory; an image has at most some hundred layers.
const MAX_REMEMBERED: usize = 4096;

/// A layer and where it was found.
#[derive(Clone)]
pub(crate) struct Found {
    pub source: Arc<dyn LayerSource>,
    pub located: Located,
    /// Name of its tree.
    pub tree: String,
}

/// The configured sources.
pub(crate) struct Sources {
    sources: Vec<Arc<dyn LayerSource>>,
    remembered: Mutex<HashMap<Wanted, (Instant, Found)>>,
}

impl Sources {
    pub(crate) fn new(sources: Vec<Arc<dyn LayerSource>>) -> Self {
        Self {
            sources,
            remembered: Mutex::default(),
        }
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Arc<dyn LayerSource>> {
        self.sources.iter().find(|source| source.is_named(name))
    }

    /// The first source that holds the layer. A source that fails does not hide the next one.
    pub(crate) fn find(&self, wanted: &Wanted) -> Result<Found, Refusal> {
        let layer = &wanted.blob.digest;
        if let Some(found) = self.recall(wanted) {
            return Ok(found);
        }
        let mut failed: Option<SourceError> = None;
        for source in &self.sources {
            match source.locate(wanted) {
                Ok(Some(located)) => return Ok(self.remember(wanted, source, located)),
                Ok(None) => {}
                Err(error) => {
                    if !matches!(error, SourceError::NoTocDigest { .. }) {
                        tracing::warn!(%layer, %error, "a source failed, the next one is asked");
                    }
                    failed.get_or_insert(error);
                }
            }
        }
        Err(failed.map_or_else(
            || Refusal::NotFound {
                layer: layer.to_string(),
            },
            Refusal::Source,
        ))
    }

    /// Asks one source again, past what is remembered.
    pub(crate) fn find_in(
        source: &Arc<dyn LayerSource>,
        wanted: &Wanted,
    ) -> Result<Option<Found>, SourceError> {
        let located = source.locate(wanted)?;
        Ok(located.map(|located| Found {
            tree: tree_key(&wanted.blob.digest, &located.identity),
            source: Arc::clone(source),
            located,
        }))
    }

    /// Lets every source begin what finding the layer will need.
    pub(crate) fn prepare(&self, wanted: &Wanted) {
        for source in &self.sources {
            source.prepare(wanted);
        }
    }

    /// What a source had is not remembered any more.
    pub(crate) fn forget_all_of(&self, source: &str) {
        lock(&self.remembered).retain(|_, (_, found)| !found.source.is_named(source));
    }

    /// The next one who asks gets a fresh answer.
    pub(crate) fn forget(&self, wanted: &Wanted) {
        lock(&self.remembered).remove(wanted);
    }

    fn recall(&self, wanted: &Wanted) -> Option<Found> {
        let remembered = lock(&self.remembered);
        let (at, found) = remembered.get(wanted)?;
        (at.elapsed() < REMEMBER).then(|| found.clone())
    }

    fn remember(&self, wanted: &Wanted, source: &Arc<dyn LayerSource>, located: Located) -> Found {
        let tree = tree_key(&wanted.blob.digest, &located.identity);
        let found = Found {
            source: Arc::clone(source),
            located,
            tree,
        };
        let mut remembered = lock(&self.remembered);
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(wanted.clone(), (Instant::now(), found.clone()));
        found
    }
}
