//! Hardlinks whose target has not come yet, or never comes in this layer.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::error::LayerError;
use super::sink::Sink;
use crate::subtree::Linked;

/// A hardlink to a file of a lower layer. `layerfs` cannot hold it; it is stated beside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowerLink {
    /// The link, relative to the layer's root.
    pub path: Vec<u8>,
    /// What it links to.
    pub target: Vec<u8>,
}

/// Links by path: the later of two counts.
#[derive(Default)]
pub(crate) struct Waiting {
    links: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Waiting {
    pub(crate) fn insert(
        &mut self,
        path: Vec<u8>,
        target: Vec<u8>,
        limit: usize,
    ) -> Result<(), LayerError> {
        self.links.insert(path, target);
        match self.links.len() > limit {
            true => Err(LayerError::Limit {
                what: "hardlinks to what is not there",
                limit: limit as u64,
            }),
            false => Ok(()),
        }
    }

    /// An entry has come at `path`: a link there has lost, and unless it is a directory also those below.
    pub(crate) fn replaced(&mut self, path: &[u8], directory: bool) {
        if self.links.is_empty() {
            return;
        }
        self.links.remove(path);
        if directory {
            return;
        }
        let below = [path, b"/"].concat();
        let range = (Bound::Included(below.clone()), Bound::Unbounded);
        let doomed: Vec<Vec<u8>> = self
            .links
            .range(range)
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(&below))
            .cloned()
            .collect();
        for path in doomed {
            self.links.remove(&path);
        }
    }

    /// All entries have come: links to later ones are made, also through other links. What is left links to lower layers.
    pub(crate) fn settle(
        mut self,
        sink: &mut dyn Sink,
    ) -> Result<(Vec<LowerLink>, u64), LayerError> {
        let mut lower = BTreeMap::new();
        let mut linked = 0;
        while let Some(first) = self.links.pop_first() {
            let mut chain = vec![first];
            // A target that waits itself comes first.
            while let Some(next) = chain
                .last()
                .and_then(|(_, target)| self.links.remove_entry(target))
            {
                chain.push(next);
            }
            for (path, target) in chain.into_iter().rev() {
                let made = sink.hardlink(&path, &target);
                match made.map_err(LayerError::from_store)? {
                    Linked::Linked => linked += 1,
                    Linked::TargetMissing => {
                        let resolved = lower.get(&target).filter(|further| **further != path);
                        let target = resolved.cloned().unwrap_or(target);
                        lower.insert(path, target);
                    }
                }
            }
        }
        let lower = lower
            .into_iter()
            .map(|(path, target)| LowerLink { path, target })
            .collect();
        Ok((lower, linked))
    }
}
