//! Joins containerd's side (`snapshotter`) with the layers' side (`layerfs`): neither knows the other.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use image::{Digest, Reference};
use layerfs::{Layers, Named, SourceError};
use snapshotter::{AttachError, ChainLayer, ClaimRequest, Claimed, LazyLayers, Refusal, Snapshot};

/// How often trees without a record are looked for: the removal of a layer's snapshot tells nobody.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// [`Layers`] in the snapshotter's words.
pub struct NodeLayers {
    layers: Arc<Layers>,
    /// Wakes the thread that removes trees; dropping it ends the thread.
    wake: Mutex<Sender<()>>,
}

impl NodeLayers {
    /// Starts the thread that removes the trees of what is removed from the records below `root`.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(root: PathBuf, layers: Arc<Layers>) -> std::io::Result<Self> {
        let (wake, woken) = mpsc::channel();
        let theirs = Arc::clone(&layers);
        std::thread::Builder::new()
            .name("trees".to_owned())
            .spawn(move || {
                while woken.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Disconnected) {
                    // Several wishes at once are one.
                    while woken.try_recv().is_ok() {}
                    drop_unnamed_trees(&root, &theirs);
                }
            })?;
        Ok(Self {
            layers,
            wake: Mutex::new(wake),
        })
    }
}

/// Removes the trees, and the merged trees, that no record names.
pub fn drop_unnamed_trees(root: &Path, layers: &Layers) {
    // Without records there is nothing to compare with: at the first start, and never a reason not to start.
    let Ok(snapshots) = snapshotter::read_snapshots(root) else {
        return;
    };
    match layers.retain(&named(&snapshots)) {
        Ok(removed) if removed == layerfs::Removed::default() => {}
        Ok(removed) => tracing::info!(
            trees = removed.trees,
            chains = removed.chains,
            "removed trees of layers that are gone"
        ),
        Err(error) => tracing::warn!(%error, "cannot remove trees of layers that are gone"),
    }
}

/// What the records name: the trees of claimed layers, and the chains below actives and views.
fn named(snapshots: &[Snapshot]) -> Named {
    let by_id: HashMap<i64, &Snapshot> = snapshots.iter().map(|one| (one.id, one)).collect();
    let tree = |one: &Snapshot| Some(one.claim.as_ref()?.layer.tree.clone());
    let chain = |user: &Snapshot| {
        let parent = |one: &&Snapshot| Some(*by_id.get(&one.parent.as_ref()?.id)?);
        // Bounded: damaged records could lead around in a circle.
        let lineage = std::iter::successors(parent(&user), |one| parent(one)).take(snapshots.len());
        let mut trees: Vec<String> = lineage.filter_map(tree).collect();
        trees.reverse();
        trees
    };
    Named {
        trees: snapshots.iter().filter_map(tree).collect::<HashSet<_>>(),
        chains: snapshots
            .iter()
            .filter(|one| one.chain.is_some())
            .map(chain)
            .collect(),
    }
}

impl LazyLayers for NodeLayers {
    fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Refusal> {
        let digest = |text: &str| {
            text.parse::<Digest>()
                .map_err(|error| Refusal::Internal(error.to_string()))
        };
        let request = layerfs::LayerRequest {
            layer: request.layer,
            chain_id: digest(&request.snapshot_ref)?,
            parent_chain_id: request.parent_chain_id.as_deref().map(digest).transpose()?,
            diff_id: request.diff_id,
            annotations: request.annotations.clone(),
            reference: reference(request.image_reference.as_deref()),
            complete: request.complete,
            image_layers: request.image_layers.iter().map(image_layer).collect(),
        };
        let claimed = self
            .layers
            .claim(&request)
            .map_err(|error| refusal(error, &request))?;
        Ok(Claimed {
            source: claimed.source,
            tree: claimed.tree,
            diff_id: claimed.diff_id,
            size: claimed.size,
            inodes: claimed.inodes,
        })
    }

    fn attach(&self, chain: &[ChainLayer]) -> Result<PathBuf, AttachError> {
        self.layers
            .attach(&layers(chain))
            .map_err(|error| attach_error(&error))
    }

    fn detach(&self, chain: &[ChainLayer]) {
        self.layers.detach(&layers(chain));
        // Fails only at the end, when the next start does it.
        let _ = self
            .wake
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(());
    }

    fn read_bytes(&self, layer: &ChainLayer) -> Option<u64> {
        self.layers.read_bytes(&layer.tree)
    }

    fn root_owner(&self, chain: &[ChainLayer]) -> (u32, u32) {
        self.layers.root_owner(&layers(chain)).unwrap_or((0, 0))
    }
}

fn layers(chain: &[ChainLayer]) -> Vec<layerfs::ChainLayer> {
    chain
        .iter()
        .map(|layer| layerfs::ChainLayer {
            layer: layer.layer,
            tree: layer.tree.clone(),
            source: layer.source.clone(),
            reference: reference(layer.reference.as_deref()),
            annotations: layer.annotations.clone(),
        })
        .collect()
}

fn image_layer(layer: &snapshotter::ImageLayer) -> layerfs::ImageLayer {
    layerfs::ImageLayer {
        digest: layer.digest,
        annotations: layer.annotations.clone(),
    }
}

/// A name that is none costs the registry as a source, nothing else.
fn reference(text: Option<&str>) -> Option<Reference> {
    let text = text?;
    text.parse()
        .inspect_err(|error| tracing::warn!(image = text, %error, "no registry can be asked"))
        .ok()
}

fn refusal(error: layerfs::Refusal, request: &layerfs::LayerRequest) -> Refusal {
    match error {
        layerfs::Refusal::NotFound { .. } => Refusal::NotFound,
        layerfs::Refusal::DiffIdMismatch { stated, .. } => Refusal::DiffIdMismatch {
            stated,
            snapshot_ref: request.chain_id.to_string(),
        },
        layerfs::Refusal::Source(error) => match &error {
            SourceError::Unavailable { .. } => Refusal::Unavailable(error.to_string()),
            SourceError::Corrupt { .. } => Refusal::Corrupt(error.to_string()),
            SourceError::ClaimedOwnership { .. } => Refusal::ClaimedOwnership,
            SourceError::Changed { .. } | SourceError::Tree { .. } => {
                Refusal::Unsupported(error.to_string())
            }
            SourceError::NoTocDigest { .. } => Refusal::NoTocDigest(error.to_string()),
            SourceError::OwnMount { .. } => Refusal::Unsupported(error.to_string()),
        },
    }
}

fn attach_error(error: &layerfs::AttachError) -> AttachError {
    let text = error.to_string();
    match error {
        layerfs::AttachError::Layer { .. }
        | layerfs::AttachError::Deadline { .. }
        | layerfs::AttachError::Disk { .. }
        | layerfs::AttachError::UnknownSource { .. } => AttachError::Unavailable(text),
        layerfs::AttachError::Republished { .. }
        | layerfs::AttachError::TreeFile { .. }
        | layerfs::AttachError::Merge(_) => AttachError::Lost(text),
        layerfs::AttachError::Mount(_) => AttachError::Mount(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshotter::{Claim, Kind, Parent};

    fn snapshot(id: i64, parent: Option<i64>, kind: Kind, tree: Option<&str>) -> Snapshot {
        let layer = |tree: &str| ChainLayer {
            layer: Digest::of(tree.as_bytes()),
            tree: tree.to_owned(),
            source: "empty".to_owned(),
            diff_id: None,
            reference: None,
            annotations: [].into(),
        };
        Snapshot {
            id,
            name: format!("snapshot {id}"),
            kind,
            parent: parent.map(|id| Parent {
                id,
                name: format!("snapshot {id}"),
            }),
            created: 0,
            updated: 0,
            labels: [].into(),
            usage: None,
            reason: None,
            claim: tree.map(|tree| Claim {
                layer: layer(tree),
                private: false,
                namespace: String::new(),
            }),
            chain: (kind != Kind::Committed).then(|| "chain".to_owned()),
        }
    }

    #[test]
    fn records_name_the_trees_of_claims_and_the_chains_of_users() {
        let snapshots = [
            snapshot(1, None, Kind::Committed, Some("a")),
            snapshot(2, Some(1), Kind::Committed, Some("b")),
            snapshot(3, Some(2), Kind::Committed, None),
            snapshot(4, Some(3), Kind::Active, None),
            snapshot(5, Some(1), Kind::View, None),
            snapshot(6, Some(2), Kind::Committed, Some("c")),
        ];
        let named = named(&snapshots);
        assert_eq!(named.trees, ["a", "b", "c"].map(str::to_owned).into());
        assert_eq!(
            named.chains,
            [vec!["a".to_owned(), "b".to_owned()], vec!["a".to_owned()]]
        );
    }

    #[test]
    fn records_that_go_around_in_a_circle_end() {
        let snapshots = [
            snapshot(1, Some(2), Kind::Committed, Some("a")),
            snapshot(2, Some(1), Kind::View, Some("b")),
        ];
        assert_eq!(named(&snapshots).chains.len(), 1);
    }
}
