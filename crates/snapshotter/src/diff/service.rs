//! The gRPC side of [`super`].

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::DiffError;
use super::changed::changed_directory;
use super::ingest::{Ingest, Store, hex};
use super::layer;
use crate::api::diff::diff_server::Diff;
use crate::api::diff::{ApplyRequest, ApplyResponse, DiffRequest, DiffResponse};
use crate::api::types::Descriptor;
use crate::content::NAMESPACE_HEADER;
use crate::labels;
use crate::metrics::Call;
use crate::snapshotter::Snapshotter;

/// What keeps content until something names it.
const LEASE_HEADER: &str = "containerd-lease";
/// Some versions of containerd do not say under which lease they ask: one of our own keeps the layer so long.
const LEASE: Duration = Duration::from_secs(3600);
/// The digest of a blob's content without compression.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// Answers containerd's `Diff` for snapshots of ours.
pub(crate) struct DiffService {
    snapshotter: Arc<Snapshotter>,
    channel: Channel,
    uploads: AtomicU64,
}

impl DiffService {
    /// `channel` leads to containerd.
    pub(crate) fn new(snapshotter: Arc<Snapshotter>, channel: Channel) -> Self {
        Self {
            snapshotter,
            channel,
            uploads: AtomicU64::new(0),
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
        let calls = &self.snapshotter.metrics().calls;
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
        let lease = request.metadata().get(LEASE_HEADER).cloned();
        let request = request.into_inner();
        let work = Work {
            snapshotter: Arc::clone(&self.snapshotter),
            channel: self.channel.clone(),
            reference: self.reference(&request.r#ref),
            lease,
        };
        let work = move || work.difference(&request);
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

/// One request.
struct Work {
    snapshotter: Arc<Snapshotter>,
    channel: Channel,
    reference: String,
    lease: Option<MetadataValue<Ascii>>,
}

impl Work {
    fn difference(&self, request: &DiffRequest) -> Result<Descriptor, DiffError> {
        let media_type = match request.media_type.as_str() {
            "" => TAR_GZIP,
            known @ (TAR | TAR_GZIP | TAR_ZSTD) => known,
            other => return Err(DiffError::Declined(format!("media type {other}"))),
        };
        let root = &self.snapshotter.config.root;
        let changed = changed_directory(root, &request.left, &request.right)?;
        let store = self.store(changed.snapshot)?;
        // Of an earlier try.
        store.abort(&self.reference)?;
        let layer = Layer {
            directory: &changed.directory,
            latest: request.source_date_epoch.as_ref().map(|time| time.seconds),
            media_type,
            labels: &request.labels,
        };
        let written = layer.upload(&store, &self.reference);
        let (digest, diff_id) = written.inspect_err(|_| {
            // It is the failure that counts; containerd forgets old uploads by itself.
            let _ = store.abort(&self.reference);
        })?;
        described(&store, media_type, &digest, &diff_id)
    }

    /// containerd's content store, in the namespace of the snapshot: not every version says whose request it is.
    fn store(&self, snapshot: i64) -> Result<Store, DiffError> {
        let declined = |reason: &str| DiffError::Declined(reason.to_owned());
        let found = self.snapshotter.records.with_id(snapshot);
        let found = found.map_err(|error| DiffError::Declined(error.to_string()))?;
        let namespace = found
            .as_ref()
            .and_then(|record| labels::namespace_of(&record.name));
        let namespace = namespace
            .and_then(|namespace| namespace.parse().ok())
            .ok_or_else(|| declined("the snapshot is in no namespace"))?;
        let mut headers = MetadataMap::new();
        headers.insert(NAMESPACE_HEADER, namespace);
        let mut store = Store {
            channel: self.channel.clone(),
            headers,
            runtime: tokio::runtime::Handle::current(),
        };
        let lease = match &self.lease {
            Some(lease) => lease.clone(),
            None => self.own_lease(&store)?,
        };
        store.headers.insert(LEASE_HEADER, lease);
        Ok(store)
    }

    fn own_lease(&self, store: &Store) -> Result<MetadataValue<Ascii>, DiffError> {
        let now = u64::try_from(self.snapshotter.now()).unwrap_or_default();
        let expiry = Duration::from_nanos(now) + LEASE;
        let lease = store.lease(&format!("{}-{now}", self.reference), expiry)?;
        lease
            .parse()
            .map_err(|_| Status::internal("a lease that cannot be a header").into())
    }
}

/// The layer to be.
struct Layer<'a> {
    directory: &'a Path,
    /// No time is later.
    latest: Option<i64>,
    media_type: &'a str,
    labels: &'a HashMap<String, String>,
}

impl Layer<'_> {
    /// Digests of the blob and of the tar in it.
    fn upload(&self, store: &Store, reference: &str) -> Result<(String, String), DiffError> {
        let blob = Compressed::new(self.media_type, store.write(reference));
        let mut tar = Hashed {
            inner: blob.map_err(DiffError::of_writing)?,
            hasher: Sha256::new(),
        };
        layer::write(self.directory, self.latest, &mut tar)?;
        let diff_id = format!("sha256:{}", hex(&tar.hasher.finalize()));
        let blob = tar.inner.finish().map_err(DiffError::of_writing)?;
        let mut labels = self.labels.clone();
        if self.media_type != TAR {
            labels.insert(UNCOMPRESSED.to_owned(), diff_id.clone());
        }
        Ok((blob.commit(labels)?, diff_id))
    }
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
