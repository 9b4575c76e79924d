//! Where each layer of an image or container comes from, asked of containerd as any client would.
//!
//! ```text
//! client    containerd's images, containers, content and snapshots, with deadlines
//! (here)    from a name to the layers' snapshots, and what their labels say
//! ```

mod client;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use image::{Digest, Document, ImageConfig, Index, Manifest, ManifestOrIndex, Platform};
use tokio::runtime::Handle;
use tonic::Code;

use client::Client;

use crate::labels::{self, Labels};

/// More layers than any runtime mounts.
const MAX_LAYERS: usize = 4096;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An image of containerd's.
    Image,
    /// A container.
    Container,
}

/// An image's or container's layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What the name names.
    pub subject: Subject,
    /// Its full name.
    pub name: String,
    /// The image; empty for a container without one.
    pub image: String,
    /// Who keeps the snapshots.
    pub snapshotter: String,
    /// Bottom first.
    pub layers: Vec<ExplainedLayer>,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedLayer {
    /// Name of its snapshot: the chainID.
    pub snapshot: String,
    /// Digest of the blob, where the manifest is still there or a label tells.
    pub layer: Option<String>,
    /// Bytes of the blob, where the manifest is still there.
    pub blob_bytes: Option<u64>,
    /// Where it is read from; none for a layer that was pulled.
    pub source: Option<String>,
    /// Why it is not lazy, if it was tried.
    pub reason: Option<String>,
    /// There is a snapshot: of an image that was pulled for another snapshotter there is none.
    pub present: bool,
    /// Bytes of its files, for a lazy layer.
    pub held_bytes: Option<u64>,
    /// Bytes of its files that were read since the daemon's start, whole objects or chunks; for a lazy layer.
    pub read_bytes: Option<u64>,
}

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// containerd does not answer, or refuses.
    #[error("containerd: {0}")]
    Containerd(#[source] Box<tonic::Status>),
    /// Neither image nor container.
    #[error("namespace {namespace} has neither an image nor a container {name}")]
    NotFound {
        /// What was asked for.
        name: String,
        /// Where.
        namespace: String,
    },
    /// The namespace cannot be one.
    #[error("{0:?} is no namespace")]
    BadNamespace(String),
    /// The image's documents are not what they should be.
    #[error("{digest}: {source}")]
    Document {
        /// Which one.
        digest: String,
        /// Why.
        source: image::DocumentError,
    },
    /// The image has nothing for this machine.
    #[error("{0} has no manifest for this platform")]
    NoPlatform(String),
}

impl From<tonic::Status> for ExplainError {
    fn from(status: tonic::Status) -> Self {
        Self::Containerd(Box::new(status))
    }
}

/// Whom to ask.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// containerd's socket.
    pub socket: &'a Path,
    /// containerd's namespace.
    pub namespace: &'a str,
    /// An image's or container's name, or the beginning of a container's.
    pub name: &'a str,
    /// Name of the snapshotter, for images.
    pub snapshotter: &'a str,
    /// For each answer of containerd.
    pub deadline: Duration,
    /// The platform of images with several.
    pub platform: &'a Platform,
}

/// Asks. Blocks; not to be called on a runtime's thread.
///
/// # Errors
/// [`ExplainError`].
pub fn explain(question: &Question<'_>, runtime: &Handle) -> Result<Explanation, ExplainError> {
    let client = Client::new(question, runtime)?;
    if let Some(image) = found(client.image(question.name))? {
        return explain_image(question, &client, &image);
    }
    let Some(container) = client.container(question.name)? else {
        return Err(ExplainError::NotFound {
            name: question.name.to_owned(),
            namespace: question.namespace.to_owned(),
        });
    };
    let image = match container.image.as_str() {
        "" => None,
        // A container may outlive its image.
        name => found(client.image(name))?,
    };
    let blobs = match &image {
        Some(image) => blobs(question, &client, image).unwrap_or_default(),
        None => Vec::new(),
    };
    let top = found(client.snapshot(&container.snapshotter, &container.snapshot_key))?;
    let parent = top.map(|info| info.parent).unwrap_or_default();
    let mut layers = lineage(&client, &container.snapshotter, parent)?;
    for (layer, blob) in layers.iter_mut().zip(&blobs) {
        name_blob(layer, blob);
    }
    Ok(Explanation {
        subject: Subject::Container,
        name: container.id,
        image: container.image,
        snapshotter: container.snapshotter,
        layers,
    })
}

/// Not found is no error.
fn found<T>(answer: Result<T, ExplainError>) -> Result<Option<T>, ExplainError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(ExplainError::Containerd(status)) if status.code() == Code::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A layer as manifest and configuration have it.
#[derive(Clone, Debug)]
struct Blob {
    chain_id: Digest,
    layer: Digest,
    bytes: u64,
}

fn name_blob(layer: &mut ExplainedLayer, blob: &Blob) {
    // A snapshot may have a name that only begins with the chainID; another beginning is another image's.
    if layer.snapshot.starts_with(&blob.chain_id.to_string()) {
        layer.layer = Some(blob.layer.to_string());
        layer.blob_bytes = Some(blob.bytes);
    }
}

fn explain_image(
    question: &Question<'_>,
    client: &Client,
    image: &client::Image,
) -> Result<Explanation, ExplainError> {
    let mut layers = Vec::new();
    for blob in blobs(question, client, image)? {
        let name = blob.chain_id.to_string();
        let snapshot = found(client.snapshot(question.snapshotter, &name))?;
        let mut layer = match snapshot {
            Some(info) => explained(name, &info.labels),
            None => ExplainedLayer {
                present: false,
                ..explained(name, &BTreeMap::new())
            },
        };
        name_blob(&mut layer, &blob);
        layers.push(layer);
    }
    Ok(Explanation {
        subject: Subject::Image,
        name: image.name.clone(),
        image: image.name.clone(),
        snapshotter: question.snapshotter.to_owned(),
        layers,
    })
}

/// The snapshots from `top` down, bottom first.
fn lineage(
    client: &Client,
    snapshotter: &str,
    top: String,
) -> Result<Vec<ExplainedLayer>, ExplainError> {
    let mut layers = Vec::new();
    let mut next = top;
    while !next.is_empty() && layers.len() < MAX_LAYERS {
        let info = client.snapshot(snapshotter, &next)?;
        layers.push(explained(next, &info.labels));
        next = info.parent;
    }
    layers.reverse();
    Ok(layers)
}

/// What a snapshot's labels say.
fn explained(snapshot: String, labels: &Labels) -> ExplainedLayer {
    let text = |name: &str| labels.get(name).cloned();
    let number = |name: &str| labels.get(name)?.parse().ok();
    ExplainedLayer {
        snapshot,
        layer: text(labels::LAYER).or_else(|| text(labels::CRI_LAYER_DIGEST)),
        blob_bytes: None,
        source: text(labels::SOURCE),
        reason: text(labels::REASON),
        present: true,
        held_bytes: number(labels::HELD),
        read_bytes: number(labels::READ),
    }
}

fn blobs(
    question: &Question<'_>,
    client: &Client,
    image: &client::Image,
) -> Result<Vec<Blob>, ExplainError> {
    let manifest = manifest(question, client, image)?;
    let digest = manifest.config.digest;
    let config = ImageConfig::parse(&client.read(&digest)?)
        .and_then(|config| config.verified(&digest))
        .map_err(document(&digest))?;
    let layers = config.chain_ids().into_iter().zip(&manifest.layers);
    Ok(layers
        .map(|(chain_id, layer)| Blob {
            chain_id,
            layer: layer.digest,
            bytes: layer.size,
        })
        .collect())
}

/// The manifest for this machine; an index may list indexes.
fn manifest(
    question: &Question<'_>,
    client: &Client,
    image: &client::Image,
) -> Result<Document<Manifest>, ExplainError> {
    let mut digest = image.target;
    for _ in 0..3 {
        let raw = client.read(&digest)?;
        let index: Document<Index> = match ManifestOrIndex::parse(&raw)
            .map_err(document(&digest))?
        {
            ManifestOrIndex::Manifest(manifest) => {
                return manifest.verified(&digest).map_err(document(&digest));
            }
            ManifestOrIndex::Index(index) => index.verified(&digest).map_err(document(&digest))?,
        };
        digest = index
            .select(question.platform)
            .ok_or_else(|| ExplainError::NoPlatform(image.name.clone()))?
            .digest;
    }
    Err(ExplainError::NoPlatform(image.name.clone()))
}

fn document(digest: &Digest) -> impl Fn(image::DocumentError) -> ExplainError {
    let digest = digest.to_string();
    move |source| ExplainError::Document {
        digest: digest.clone(),
        source,
    }
}
