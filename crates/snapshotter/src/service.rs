//! The gRPC service: decodes, calls one method of [`Snapshotter`] on a thread that may block, answers.
//!
//! A call that the client cancels runs to its end: the result is what the next call finds.

use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::api::diff::diff_server::DiffServer;
use crate::api::snapshots::snapshots_server::{Snapshots, SnapshotsServer};
use crate::api::snapshots::{
    CleanupRequest, CommitSnapshotRequest, Info, Kind as WireKind, ListSnapshotsRequest,
    ListSnapshotsResponse, MountsRequest, MountsResponse, PrepareSnapshotRequest,
    PrepareSnapshotResponse, RemoveSnapshotRequest, StatSnapshotRequest, StatSnapshotResponse,
    UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest, UsageResponse,
    ViewSnapshotRequest, ViewSnapshotResponse,
};
use crate::diff::DiffService;
use crate::filters::Filters;
use crate::labels;
use crate::layers::LazyLayers;
use crate::metrics::Call;
use crate::snapshotter::{NewRequest, Snapshotter};
use crate::status::{code, status};
use crate::store::{Cursor, Kind, Snapshot};
use crate::{Config, Error};

/// containerd's own limit.
const MESSAGE_BYTES: usize = 16 << 20;
/// Blocks of a list that wait for a slow client.
const BLOCKS_AHEAD: usize = 2;

/// Binds the socket at `path`, for root alone. A socket left by a dead process is replaced.
///
/// # Errors
/// Whatever bind says; a file that is no socket stays.
pub fn listen(path: &Path) -> Result<UnixListener, Error> {
    use std::os::unix::fs::FileTypeExt as _;
    if path
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.file_type().is_socket())
    {
        std::fs::remove_file(path).map_err(Error::io("remove old socket", path))?;
    }
    let listener = UnixListener::bind(path).map_err(Error::io("bind socket", path))?;
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, mode).map_err(Error::io("set mode of", path))?;
    Ok(listener)
}

/// Opens the state directory and serves containerd on `listener` until `shutdown`.
///
/// # Errors
/// The state directory cannot be opened, or the listener fails.
pub async fn serve(
    config: Config,
    layers: Arc<dyn LazyLayers>,
    listener: UnixListener,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let runtime = tokio::runtime::Handle::current();
    let opened =
        tokio::task::spawn_blocking(move || Snapshotter::open(config, layers, runtime)).await;
    let snapshotter = opened.map_err(|error| Error::Serve(error.to_string()))??;
    serve_opened(snapshotter, listener, shutdown).await
}

/// Serves an opened snapshotter on `listener` until `shutdown`; calls in progress then have the configured grace.
///
/// # Errors
/// The listener fails.
pub async fn serve_opened(
    snapshotter: Arc<Snapshotter>,
    listener: UnixListener,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Serve(error.to_string());
    listener
        .set_nonblocking(true)
        .map_err(|error| failed(&error))?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(|error| failed(&error))?;
    if snapshotter.config.restore_at_start {
        let restoring = Arc::clone(&snapshotter);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = restoring.restore() {
                tracing::warn!(%error, "chains in use are attached when containerd asks for them");
            }
        });
    }
    let grace = snapshotter.config.shutdown_grace;
    let differ = differ(&snapshotter);
    let service = SnapshotsServer::new(Service { snapshotter })
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let signal = async {
        shutdown.await;
        // The receiver is gone only if serving has ended already.
        let _ = stopping.send(());
    };
    let serving = Server::builder()
        .add_service(service)
        .add_optional_service(differ)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), signal);
    let deadline = async {
        match stopped.await {
            Ok(()) => tokio::time::sleep(grace).await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        result = serving => result.map_err(|error| failed(&error)),
        () = deadline => Ok(()),
    }
}

/// Layers of containers' changes go into containerd's content store: without a way to it there is no diff service.
fn differ(snapshotter: &Arc<Snapshotter>) -> Option<DiffServer<DiffService>> {
    let socket = snapshotter.config.containerd_socket.clone()?;
    let channel = crate::content::channel(socket);
    let service = DiffService::new(Arc::clone(snapshotter), channel);
    Some(DiffServer::new(service).max_decoding_message_size(MESSAGE_BYTES))
}

struct Service {
    snapshotter: Arc<Snapshotter>,
}

impl Service {
    async fn run<T: Send + 'static>(
        &self,
        method: &'static str,
        work: impl FnOnce(&Arc<Snapshotter>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Status> {
        let snapshotter = Arc::clone(&self.snapshotter);
        let blocking = tokio::task::spawn_blocking(move || {
            let result = work(&snapshotter);
            observe(&snapshotter, method, &result);
            result.map_err(|error| status(&error))
        });
        // Only a panic, a bug of ours, ends a blocking task early.
        blocking
            .await
            .unwrap_or_else(|_| Err(Status::unknown(format!("{method} panicked"))))
    }
}

fn observe<T>(snapshotter: &Snapshotter, method: &'static str, result: &Result<T, Error>) {
    let code = result.as_ref().err().map_or(tonic::Code::Ok, code);
    if let (tonic::Code::Unknown, Err(error)) = (code, result) {
        tracing::error!(method, %error, "call failed");
    }
    let call = Call {
        method,
        code: format!("{code:?}"),
    };
    snapshotter.metrics().calls.get_or_create(&call).inc();
}

#[tonic::async_trait]
impl Snapshots for Service {
    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Result<Response<PrepareSnapshotResponse>, Status> {
        let PrepareSnapshotRequest {
            key,
            parent,
            labels,
            ..
        } = request.into_inner();
        let new = NewRequest {
            key,
            parent,
            labels: labels.into_iter().collect(),
        };
        let mounts = self
            .run("Prepare", move |snapshotter| snapshotter.prepare(new))
            .await?;
        Ok(Response::new(PrepareSnapshotResponse { mounts }))
    }

    async fn view(
        &self,
        request: Request<ViewSnapshotRequest>,
    ) -> Result<Response<ViewSnapshotResponse>, Status> {
        let ViewSnapshotRequest {
            key,
            parent,
            labels,
            ..
        } = request.into_inner();
        let new = NewRequest {
            key,
            parent,
            labels: labels.into_iter().collect(),
        };
        let mounts = self
            .run("View", move |snapshotter| snapshotter.view(new))
            .await?;
        Ok(Response::new(ViewSnapshotResponse { mounts }))
    }

    async fn mounts(
        &self,
        request: Request<MountsRequest>,
    ) -> Result<Response<MountsResponse>, Status> {
        let key = request.into_inner().key;
        let mounts = self
            .run("Mounts", move |snapshotter| snapshotter.mounts(&key))
            .await?;
        Ok(Response::new(MountsResponse { mounts }))
    }

    async fn commit(
        &self,
        request: Request<CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let CommitSnapshotRequest {
            name,
            key,
            labels,
            parent,
            ..
        } = request.into_inner();
        let labels = labels.into_iter().collect();
        self.run("Commit", move |snapshotter| {
            snapshotter.commit(&name, &key, labels, &parent)
        })
        .await?;
        Ok(Response::new(()))
    }

    async fn remove(
        &self,
        request: Request<RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let key = request.into_inner().key;
        self.run("Remove", move |snapshotter| snapshotter.remove(&key))
            .await?;
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<StatSnapshotRequest>,
    ) -> Result<Response<StatSnapshotResponse>, Status> {
        let key = request.into_inner().key;
        let stat = move |snapshotter: &Arc<Snapshotter>| {
            let snapshot = snapshotter.stat(&key)?;
            let claim = snapshot.claim.as_ref();
            let read = claim.and_then(|claim| snapshotter.layers.read_bytes(&claim.layer));
            Ok((snapshot, read))
        };
        let (snapshot, read) = self.run("Stat", stat).await?;
        let mut info = info(snapshot);
        if let Some(read) = read {
            info.labels
                .insert(labels::READ.to_owned(), read.to_string());
        }
        Ok(Response::new(StatSnapshotResponse { info: Some(info) }))
    }

    async fn update(
        &self,
        request: Request<UpdateSnapshotRequest>,
    ) -> Result<Response<UpdateSnapshotResponse>, Status> {
        let UpdateSnapshotRequest {
            info: new,
            update_mask,
            ..
        } = request.into_inner();
        let paths = update_mask.unwrap_or_default().paths;
        let updated = self.run("Update", move |snapshotter| {
            let new = new.ok_or_else(|| Error::Invalid("an update needs an info".to_owned()))?;
            snapshotter.update(&new.name, new.labels.into_iter().collect(), &paths)
        });
        Ok(Response::new(UpdateSnapshotResponse {
            info: Some(info(updated.await?)),
        }))
    }

    type ListStream = ReceiverStream<Result<ListSnapshotsResponse, Status>>;

    async fn list(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filters = request.into_inner().filters;
        let filters = self
            .run("List", move |_| Ok(Arc::new(Filters::parse(&filters)?)))
            .await?;
        let (blocks, stream) = tokio::sync::mpsc::channel(BLOCKS_AHEAD);
        let service = Self {
            snapshotter: Arc::clone(&self.snapshotter),
        };
        tokio::spawn(async move {
            if let Err(failure) = service.send_blocks(&filters, &blocks).await {
                // A client that has gone needs no answer.
                let _ = blocks.send(Err(failure)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn usage(
        &self,
        request: Request<UsageRequest>,
    ) -> Result<Response<UsageResponse>, Status> {
        let key = request.into_inner().key;
        let usage = self
            .run("Usage", move |snapshotter| snapshotter.usage(&key))
            .await?;
        let signed = |number| i64::try_from(number).unwrap_or(i64::MAX);
        Ok(Response::new(UsageResponse {
            size: signed(usage.size),
            inodes: signed(usage.inodes),
        }))
    }

    async fn cleanup(&self, _request: Request<CleanupRequest>) -> Result<Response<()>, Status> {
        let work = |snapshotter: &Arc<Snapshotter>| {
            snapshotter.cleanup();
            Ok(())
        };
        self.run("Cleanup", work).await?;
        Ok(Response::new(()))
    }
}

type Blocks = tokio::sync::mpsc::Sender<Result<ListSnapshotsResponse, Status>>;

impl Service {
    /// Sends block after block; between two of them nothing is held, so a client may call Stat as it reads.
    async fn send_blocks(&self, filters: &Arc<Filters>, blocks: &Blocks) -> Result<(), Status> {
        let mut after = Cursor::default();
        loop {
            let filters = Arc::clone(filters);
            let Some((page, next)) = self
                .run("ListBlock", move |core| core.list(&filters, after))
                .await?
            else {
                return Ok(());
            };
            after = next;
            if page.is_empty() {
                continue;
            }
            let block = ListSnapshotsResponse {
                info: page.into_iter().map(info).collect(),
            };
            if blocks.send(Ok(block)).await.is_err() {
                return Ok(());
            }
        }
    }
}

fn info(snapshot: Snapshot) -> Info {
    let kind = match snapshot.kind {
        Kind::View => WireKind::View,
        Kind::Active => WireKind::Active,
        Kind::Committed => WireKind::Committed,
    };
    Info {
        labels: snapshot.shown_labels().into_iter().collect(),
        parent: snapshot.parent_name().to_owned(),
        kind: kind.into(),
        created_at: Some(timestamp(snapshot.created)),
        updated_at: Some(timestamp(snapshot.updated)),
        name: snapshot.name,
    }
}

fn timestamp(nanoseconds: i64) -> prost_types::Timestamp {
    const SECOND: i64 = 1_000_000_000;
    let nanos = i32::try_from(nanoseconds.rem_euclid(SECOND)).unwrap_or_default();
    prost_types::Timestamp {
        seconds: nanoseconds.div_euclid(SECOND),
        nanos,
    }
}
