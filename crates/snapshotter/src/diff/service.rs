//! The gRPC side of [`super`].

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::write::GzEncoder;
use prometheus_client::metrics::family::Family;
use sha2::{Digest as _, Sha256};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::DiffError;
use super::changed::changed_directory;
use super::ingest::{Ingest, Store, hex};
use super::layer;
use crate::api::content::content_client::ContentClient;
use crate::api::diff::diff_server::Diff;
use crate::api::diff::{ApplyRequest, ApplyResponse, DiffRequest, DiffResponse};
use crate::api::types::Descriptor;
use crate::metrics::{Call, Metrics};

/// Where the caller's content goes and stays.
const FORWARDED: [&str; 2] = ["containerd-namespace", "containerd-lease"];
/// The digest of a blob's content without compression.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// Answers containerd's `Diff` for snapshots of ours.
pub(crate) struct DiffService {
    root: PathBuf,
    client: ContentClient<Channel>,
    metrics: Metrics,
    uploads: AtomicU64,
}

impl DiffService {
    /// For snapshots below `root`; `channel` leads to containerd.
    pub(crate) fn new(root: PathBuf, channel: Channel, metrics: Metrics) -> Self {
        Self {
            root,
            client: ContentClient::new(channel),
            metrics,
            uploads: AtomicU64::new(0),
        }
    }

    fn store(&self, headers: &MetadataMap) -> Store {
        let mut forwarded = MetadataMap::new();
        for name in FORWARDED {
            if let Some(value) = headers.get(name) {
                forwarded.insert(name, value.clone());
            }
        }
        Store {
            client: self.client.clone(),
            headers: forwarded,
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// The caller's reference, or one of our own.
    fn reference(&self, given: &str) -> String {
        if !given.is_empty() {
            return given.to_owned();
        }
        let number = self.uploads.fetch_add(1, Ordering::Relaxed);
        format!("outcrop-diff-{}-{number}", std::process::id())
    }

    fn observe(&self, method: &'static str, code: tonic::Code) {
        let calls: &Family<_, _> = &self.metrics.calls;
        let code = format!("{code:?}");
        calls.get_or_create(&Call { method, code }).inc();
    }
}

#[tonic::async_trait]
impl Diff for DiffService {
    /// Layers are unpacked by containerd's own differ.
    async fn apply(
        &self,
        _request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        Err(Status::unimplemented("outcrop unpacks no layers"))
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Result<Response<DiffResponse>, Status> {
        let store = self.store(request.metadata());
        let request = request.into_inner();
        let reference = self.reference(&request.r#ref);
        let root = self.root.clone();
        let work = move || difference(&root, &store, &reference, &request);
        let result = tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|_| Err(Status::unknown("Diff panicked").into()));
        let result = result.map_err(|error| {
            match &error {
                DiffError::Declined(reason) => {
                    tracing::debug!(reason, "left to containerd's next differ");
                }
                error => tracing::error!(%error, "Diff failed"),
            }
            Status::from(error)
        });
        let code = result.as_ref().err().map_or(tonic::Code::Ok, Status::code);
        self.observe("Diff", code);
        result.map(|diff| Response::new(DiffResponse { diff: Some(diff) }))
    }
}

fn difference(
    root: &Path,
    store: &Store,
    reference: &str,
    request: &DiffRequest,
) -> Result<Descriptor, DiffError> {
    let media_type = match request.media_type.as_str() {
        "" => TAR_GZIP,
        known @ (TAR | TAR_GZIP | TAR_ZSTD) => known,
        other => return Err(DiffError::Declined(format!("media type {other}"))),
    };
    let directory = changed_directory(root, &request.left, &request.right)?;
    let latest = request.source_date_epoch.as_ref().map(|time| time.seconds);
    // Of an earlier try.
    store.abort(reference)?;
    let written = upload(
        store,
        reference,
        media_type,
        &directory,
        latest,
        &request.labels,
    );
    let (digest, diff_id) = written.inspect_err(|_| {
        // It is the failure that counts; containerd forgets old uploads by itself.
        let _ = store.abort(reference);
    })?;
    described(store, media_type, &digest, &diff_id)
}

/// Digests of the blob and of the tar in it.
fn upload(
    store: &Store,
    reference: &str,
    media_type: &str,
    directory: &Path,
    latest: Option<i64>,
    labels: &HashMap<String, String>,
) -> Result<(String, String), DiffError> {
    let blob = Compressed::new(media_type, store.write(reference));
    let mut tar = Hashed {
        inner: blob.map_err(DiffError::of_writing)?,
        hasher: Sha256::new(),
    };
    layer::write(directory, latest, &mut tar)?;
    let diff_id = format!("sha256:{}", hex(&tar.hasher.finalize()));
    let blob = tar.inner.finish().map_err(DiffError::of_writing)?;
    let mut labels = labels.clone();
    if media_type != TAR {
        labels.insert(UNCOMPRESSED.to_owned(), diff_id.clone());
    }
    Ok((blob.commit(labels)?, diff_id))
}

/// The descriptor; the blob is labelled with its diffID even if somebody else had written it before.
fn described(
    store: &Store,
    media_type: &str,
    digest: &str,
    diff_id: &str,
) -> Result<Descriptor, DiffError> {
    let info = store.info(digest)?;
    if media_type != TAR && !info.labels.contains_key(UNCOMPRESSED) {
        store.set_label(&info, UNCOMPRESSED, diff_id)?;
    }
    Ok(Descriptor {
        media_type: media_type.to_owned(),
        digest: info.digest,
        size: info.size,
        ..Descriptor::default()
    })
}

/// A blob in one of the three forms.
enum Compressed {
    Plain(Ingest),
    Gzip(GzEncoder<Ingest>),
    Zstd(zstd::Encoder<'static, Ingest>),
}

impl Compressed {
    fn new(media_type: &str, blob: Ingest) -> io::Result<Self> {
        Ok(match media_type {
            TAR => Self::Plain(blob),
            TAR_ZSTD => Self::Zstd(zstd::Encoder::new(blob, zstd::DEFAULT_COMPRESSION_LEVEL)?),
            _ => Self::Gzip(GzEncoder::new(blob, flate2::Compression::default())),
        })
    }

    fn finish(self) -> io::Result<Ingest> {
        match self {
            Self::Plain(blob) => Ok(blob),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl Write for Compressed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(blob) => blob.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    /// Nothing is to be cut short before the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Hashed<W> {
    inner: W,
    hasher: Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
