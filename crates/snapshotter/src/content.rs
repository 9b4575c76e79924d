//! Which blob is the layer with a given chainID? Asked of containerd's content store where no label tells.
//!
//! containerd sends `snapshot.ref` with every Prepare of a pull, but the layer's digest only if it is configured to.
//! The image's manifest and configuration lie in its content store by then: the configuration's diffIDs give the
//! chainIDs, the manifest's layers the blobs.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use image::{Digest, ImageConfig, Manifest};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};

use crate::api::content::content_client::ContentClient;
use crate::api::content::{Info, ListContentRequest, ReadContentRequest, ReadContentResponse};
use crate::claim::Candidate;
use crate::labels::lazy_annotations;
use crate::layers::ImageLayer;

/// A blob with this label (or one that it begins) is a manifest whose configuration containerd has fetched or will.
const CONFIG_LABEL: &str = "containerd.io/gc.ref.content.config";
/// A blob's label `containerd.io/distribution.source.<registry>` lists the repositories that it came from.
const SOURCE_LABEL: &str = "containerd.io/distribution.source.";
/// containerd's metadata header.
pub(crate) const NAMESPACE_HEADER: &str = "containerd-namespace";
/// Manifests looked at in one lookup, newest first.
const MANIFESTS: usize = 4096;
/// Manifests remembered over all namespaces; then all is forgotten and read again.
const MEMORY: usize = 16_384;
/// One blob may take this part of the deadline: a stalled one does not hide the others.
const BLOB_SHARE: u32 = 4;

/// Why the content store did not help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentError {
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    #[error("{0}")]
    Rpc(#[from] Box<tonic::Status>),
    #[error("blob {digest} is longer than {limit} bytes")]
    TooLong { digest: String, limit: usize },
    #[error(transparent)]
    Document(#[from] image::DocumentError),
    #[error("blob {0} is no digest")]
    BadDigest(String),
    #[error("namespace {0:?} cannot be a header")]
    BadNamespace(String),
    #[error("manifest has {layers} layers, its configuration {diff_ids}")]
    Uneven { layers: usize, diff_ids: usize },
}

impl From<tonic::Status> for ContentError {
    fn from(status: tonic::Status) -> Self {
        Self::Rpc(Box::new(status))
    }
}

/// A client of containerd's content service.
pub(crate) struct ContentStore {
    client: ContentClient<Channel>,
    runtime: Handle,
    deadline: Duration,
    memory: Mutex<Memory>,
}

/// Digest of a manifest, and a repository that it came from.
type Manifested = (String, Option<String>);

/// Images are immutable, so nothing here grows old.
#[derive(Default)]
struct Memory {
    manifests: HashSet<(String, String)>,
    layers: HashMap<(String, Digest), Vec<Candidate>>,
}

impl ContentStore {
    /// Connects at the first use, and again whenever containerd was restarted.
    pub(crate) fn new(socket: PathBuf, deadline: Duration, runtime: Handle) -> Self {
        let _context = runtime.enter();
        Self {
            client: ContentClient::new(channel(socket)),
            runtime,
            deadline,
            memory: Mutex::default(),
        }
    }

    /// Blobs for `chain_id` in a namespace, and whether there can be no others (the store was asked just now).
    /// Blocks; not to be called on a runtime's thread.
    pub(crate) fn lookup(
        &self,
        namespace: &str,
        chain_id: &Digest,
    ) -> Result<(Vec<Candidate>, bool), ContentError> {
        let known = self.recall(namespace, chain_id);
        if known.is_empty() {
            Ok((self.lookup_again(namespace, chain_id)?, true))
        } else {
            Ok((known, false))
        }
    }

    /// As [`Self::lookup`], but asks in any case.
    pub(crate) fn lookup_again(
        &self,
        namespace: &str,
        chain_id: &Digest,
    ) -> Result<Vec<Candidate>, ContentError> {
        let learned = self.runtime.block_on(async {
            tokio::time::timeout(self.deadline, self.learn(namespace))
                .await
                .unwrap_or(Err(ContentError::Deadline(self.deadline)))
        });
        // What was learned before a failure counts.
        let known = self.recall(namespace, chain_id);
        if known.is_empty() {
            learned.map(|()| known)
        } else {
            Ok(known)
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recall(&self, namespace: &str, chain_id: &Digest) -> Vec<Candidate> {
        self.memory()
            .layers
            .get(&(namespace.to_owned(), *chain_id))
            .cloned()
            .unwrap_or_default()
    }

    /// Reads all manifests of the namespace that are not known yet.
    async fn learn(&self, namespace: &str) -> Result<(), ContentError> {
        let mut first_failure = None;
        for (digest, source) in self.manifests(namespace).await? {
            let share = self.deadline / BLOB_SHARE;
            let image = self.image(namespace, &digest, source);
            let read = tokio::time::timeout(share, image)
                .await
                .unwrap_or(Err(ContentError::Deadline(share)));
            match read {
                Ok(layers) => self.memory().remember(namespace, digest, layers),
                Err(error) => {
                    tracing::debug!(namespace, digest, %error, "manifest is of no use");
                    first_failure.get_or_insert(error);
                }
            }
        }
        // Of a stalled store one says so; a foreign blob that is no image is no failure.
        match first_failure {
            Some(error @ (ContentError::Deadline(_) | ContentError::Rpc(_))) => Err(error),
            _ => Ok(()),
        }
    }

    /// The unknown manifests, newest first.
    async fn manifests(&self, namespace: &str) -> Result<Vec<Manifested>, ContentError> {
        let filter = format!("labels.{CONFIG_LABEL:?}");
        let request = in_namespace(
            namespace,
            ListContentRequest {
                filters: vec![filter],
            },
        )?;
        let mut stream = self.client.clone().list(request).await?.into_inner();
        let mut found = Vec::new();
        while let Some(block) = stream.message().await? {
            found.extend(
                block
                    .info
                    .into_iter()
                    .filter(is_manifest)
                    .map(|info| (created(&info), (info.digest.clone(), source(&info)))),
            );
            if found.len() > 2 * MANIFESTS {
                keep_newest(&mut found);
            }
        }
        keep_newest(&mut found);
        let memory = self.memory();
        let unknown = found.into_iter().map(|(_, manifest)| manifest);
        Ok(unknown
            .filter(|(digest, _)| {
                !memory
                    .manifests
                    .contains(&(namespace.to_owned(), digest.clone()))
            })
            .collect())
    }

    /// The layers of one image with their chainIDs.
    async fn image(
        &self,
        namespace: &str,
        manifest: &str,
        reference: Option<String>,
    ) -> Result<Vec<(Digest, Candidate)>, ContentError> {
        let digest: Digest = manifest
            .parse()
            .map_err(|_| ContentError::BadDigest(manifest.to_owned()))?;
        let raw = self.read(namespace, &digest).await?;
        let manifest = Manifest::parse(&raw)?.verified(&digest)?;
        let raw = self.read(namespace, &manifest.config.digest).await?;
        let config = ImageConfig::parse(&raw)?.verified(&manifest.config.digest)?;
        let chain_ids = config.chain_ids();
        if chain_ids.len() != manifest.layers.len() {
            return Err(ContentError::Uneven {
                layers: manifest.layers.len(),
                diff_ids: chain_ids.len(),
            });
        }
        let blobs: Arc<[ImageLayer]> = manifest
            .layers
            .iter()
            .map(|layer| ImageLayer {
                digest: layer.digest,
                annotations: lazy_annotations(&layer.annotations),
            })
            .collect();
        let layers = chain_ids.into_iter().zip(&manifest.layers).enumerate();
        Ok(layers
            .filter(|(_, (_, layer))| layer.media_type.layer_compression().is_some())
            .map(|(index, (chain, layer))| {
                (
                    chain,
                    Candidate {
                        layer: layer.digest,
                        image: Arc::clone(&blobs),
                        index,
                        reference: reference.clone(),
                    },
                )
            })
            .collect())
    }

    async fn read(&self, namespace: &str, digest: &Digest) -> Result<Vec<u8>, ContentError> {
        let request = in_namespace(namespace, document_request(digest))?;
        let mut parts = self.client.clone().read(request).await?.into_inner();
        document(&mut parts, digest).await
    }
}

/// Asks for the whole of a blob.
pub(crate) fn document_request(digest: &Digest) -> ReadContentRequest {
    ReadContentRequest {
        digest: digest.to_string(),
        offset: 0,
        size: 0,
    }
}

/// What comes of [`document_request`], bounded: manifests and configurations are short.
pub(crate) async fn document(
    parts: &mut Streaming<ReadContentResponse>,
    digest: &Digest,
) -> Result<Vec<u8>, ContentError> {
    let mut bytes = Vec::new();
    while let Some(part) = parts.message().await? {
        if bytes.len() + part.data.len() > image::MAX_DOCUMENT_BYTES {
            return Err(ContentError::TooLong {
                digest: digest.to_string(),
                limit: image::MAX_DOCUMENT_BYTES,
            });
        }
        bytes.extend_from_slice(&part.data);
    }
    Ok(bytes)
}

/// A connection to containerd, made at the first use. To be called within a runtime.
pub(crate) fn channel(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The address is never resolved: the connector knows the socket.
    Endpoint::from_static("http://containerd.invalid").connect_with_connector_lazy(connector)
}

impl Memory {
    fn remember(&mut self, namespace: &str, manifest: String, layers: Vec<(Digest, Candidate)>) {
        if self.manifests.len() >= MEMORY {
            *self = Self::default();
        }
        if !self.manifests.insert((namespace.to_owned(), manifest)) {
            return;
        }
        for (chain, candidate) in layers {
            let known = self
                .layers
                .entry((namespace.to_owned(), chain))
                .or_default();
            if !known.iter().any(|one| one.layer == candidate.layer) {
                known.push(candidate);
            }
        }
    }
}

fn in_namespace<T>(namespace: &str, message: T) -> Result<Request<T>, ContentError> {
    let mut request = Request::new(message);
    let value = namespace
        .parse()
        .map_err(|_| ContentError::BadNamespace(namespace.to_owned()))?;
    request.metadata_mut().insert(NAMESPACE_HEADER, value);
    Ok(request)
}

/// The server was asked for these only; an old one may ignore filters.
fn is_manifest(info: &Info) -> bool {
    let size = usize::try_from(info.size).unwrap_or(usize::MAX);
    size <= image::MAX_DOCUMENT_BYTES && info.labels.keys().any(|key| key.starts_with(CONFIG_LABEL))
}

fn created(info: &Info) -> (i64, i32) {
    info.created_at
        .map_or((0, 0), |time| (time.seconds, time.nanos))
}

/// A repository that the blob came from.
fn source(info: &Info) -> Option<String> {
    let mut sources: Vec<String> = info
        .labels
        .iter()
        .filter_map(|(key, repositories)| {
            let registry = key.strip_prefix(SOURCE_LABEL)?;
            let repository = repositories.split(',').next()?;
            Some(format!("{registry}/{repository}"))
        })
        .collect();
    sources.sort_unstable();
    sources.into_iter().next()
}

fn keep_newest(found: &mut Vec<((i64, i32), Manifested)>) {
    found.sort_unstable_by(|one, other| other.cmp(one));
    found.truncate(MANIFESTS);
}
