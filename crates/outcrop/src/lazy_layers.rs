//! Joins containerd's side (`snapshotter`) with the layers' side (`layerfs`): neither knows the other.

use std::path::PathBuf;
use std::sync::Arc;

use image::Digest;
use layerfs::{Layers, SourceError};
use snapshotter::{AttachError, ChainLayer, ClaimRequest, Claimed, LazyLayers, Refusal};

/// [`Layers`] in the snapshotter's words.
pub struct NodeLayers(pub Arc<Layers>);

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
            image_layers: request.image_layers.clone(),
        };
        let claimed = self
            .0
            .claim(&request)
            .map_err(|error| refusal(error, &request))?;
        Ok(Claimed {
            source: claimed.source,
            tree: claimed.tree,
            diff_id: claimed.diff_id,
            size: claimed.size,
            inodes: 0,
        })
    }

    fn attach(&self, chain: &[ChainLayer]) -> Result<PathBuf, AttachError> {
        self.0
            .attach(&layers(chain))
            .map_err(|error| attach_error(&error))
    }

    fn detach(&self, chain: &[ChainLayer]) {
        self.0.detach(&layers(chain));
    }

    fn root_owner(&self, chain: &[ChainLayer]) -> (u32, u32) {
        self.0.root_owner(&layers(chain)).unwrap_or((0, 0))
    }
}

fn layers(chain: &[ChainLayer]) -> Vec<layerfs::ChainLayer> {
    chain
        .iter()
        .map(|layer| layerfs::ChainLayer {
            layer: layer.layer,
            tree: layer.tree.clone(),
            source: layer.source.clone(),
        })
        .collect()
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
