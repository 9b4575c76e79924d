//! Finding a layer's digest through containerd's content service, which here is a fake with a fault script.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use image::Digest;
use snapshotter::api::content::content_server::{Content, ContentServer};
use snapshotter::api::content::*;
use support::{Answer, Harness, Image, REASON, REF, labels};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[derive(Clone, Default)]
struct Blob {
    bytes: Vec<u8>,
    labels: HashMap<String, String>,
    namespace: String,
    created: i64,
    fault: Option<Fault>,
}

#[derive(Clone, Copy)]
enum Fault {
    Stall,
    Endless,
}

#[derive(Default)]
struct State {
    blobs: Mutex<HashMap<String, Blob>>,
    lists: Mutex<Vec<String>>,
    reads: Mutex<Vec<String>>,
    stall_list: Mutex<bool>,
}

#[derive(Clone, Default)]
struct FakeContent(Arc<State>);

fn namespace<T>(request: &Request<T>) -> String {
    request
        .metadata()
        .get("containerd-namespace")
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

/// Sends `items`, then ends, or keeps the stream open for ever.
fn stream<T: Send + 'static>(items: Vec<T>, stalls: bool) -> Answers<T> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for item in items {
            if sender.send(Ok(item)).await.is_err() {
                return;
            }
        }
        if stalls {
            sender.closed().await;
        }
    });
    ReceiverStream::new(receiver)
}

#[tonic::async_trait]
impl Content for FakeContent {
    async fn list(
        &self,
        request: Request<ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let wanted = namespace(&request);
        let filters = request.into_inner().filters;
        assert_eq!(filters, [r#"labels."containerd.io/gc.ref.content.config""#]);
        self.0.lists.lock().unwrap().push(wanted.clone());
        let blobs = self.0.blobs.lock().unwrap();
        let infos = blobs
            .iter()
            .filter(|(_, blob)| blob.namespace == wanted)
            .map(|(digest, blob)| Info {
                digest: digest.clone(),
                size: blob.bytes.len() as i64,
                labels: blob.labels.clone(),
                created_at: Some(prost_types::Timestamp {
                    seconds: blob.created,
                    nanos: 0,
                }),
                ..Default::default()
            });
        let blocks = infos
            .map(|info| ListContentResponse { info: vec![info] })
            .collect();
        Ok(Response::new(stream(
            blocks,
            *self.0.stall_list.lock().unwrap(),
        )))
    }

    async fn read(
        &self,
        request: Request<ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let wanted = namespace(&request);
        let digest = request.into_inner().digest;
        self.0.reads.lock().unwrap().push(digest.clone());
        let blob = self.0.blobs.lock().unwrap().get(&digest).cloned();
        let blob = blob
            .filter(|blob| blob.namespace == wanted)
            .ok_or_else(|| Status::not_found(digest))?;
        let part = |data: &[u8]| ReadContentResponse {
            offset: 0,
            data: data.to_vec(),
        };
        Ok(Response::new(match blob.fault {
            None => stream(blob.bytes.chunks(64 << 10).map(part).collect(), false),
            Some(Fault::Stall) => stream(vec![part(b"{")], true),
            Some(Fault::Endless) => stream(vec![part(&vec![b' '; 1 << 20]); 64], true),
        }))
    }

    type ListStream = Answers<ListContentResponse>;
    type ReadStream = Answers<ReadContentResponse>;
    type WriteStream = Answers<WriteContentResponse>;

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }
    async fn update(&self, _: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        Err(Status::unimplemented("never"))
    }
    async fn delete(&self, _: Request<DeleteContentRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("never"))
    }
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Err(Status::unimplemented("never"))
    }
    async fn list_statuses(
        &self,
        _: Request<ListStatusesRequest>,
    ) -> Result<Response<ListStatusesResponse>, Status> {
        Err(Status::unimplemented("never"))
    }
    async fn write(
        &self,
        _: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        Err(Status::unimplemented("never"))
    }
    async fn abort(&self, _: Request<AbortRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("never"))
    }
}

#[derive(Clone, Copy)]
enum Types {
    Oci,
    Docker,
}

impl FakeContent {
    fn put(
        &self,
        namespace: &str,
        bytes: Vec<u8>,
        labels: &[(&str, &str)],
        created: i64,
    ) -> String {
        let digest = Digest::of(&bytes).to_string();
        let blob = Blob {
            bytes,
            labels: support::labels(labels),
            namespace: namespace.to_owned(),
            created,
            fault: None,
        };
        self.0.blobs.lock().unwrap().insert(digest.clone(), blob);
        digest
    }

    /// Stores manifest and configuration; the manifest's digest.
    fn store(&self, namespace: &str, image: &Image, types: Types, created: i64) -> String {
        self.store_with(namespace, image, types, created, &serde_json::json!({}))
    }

    /// As [`store`](Self::store), each layer with annotations.
    fn store_with(
        &self,
        namespace: &str,
        image: &Image,
        types: Types,
        created: i64,
        annotations: &serde_json::Value,
    ) -> String {
        let (manifest_type, config_type, layer_type) = match types {
            Types::Oci => (
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            ),
            Types::Docker => (
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ),
        };
        let diff_ids: Vec<_> = image
            .layers
            .iter()
            .map(|layer| layer.diff_id.to_string())
            .collect();
        let config = serde_json::json!({"os": "linux", "n": created, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = self.put(namespace, config.to_string().into_bytes(), &[], created);
        let layer = |digest: String| serde_json::json!({"mediaType": layer_type, "digest": digest, "size": 1, "annotations": annotations});
        let layers: Vec<_> = image
            .layers
            .iter()
            .map(|one| layer(one.blob.to_string()))
            .collect();
        let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": manifest_type, "layers": layers,
            "config": {"mediaType": config_type, "digest": config, "size": 1}});
        let labels = [
            ("containerd.io/gc.ref.content.config", config.as_str()),
            (
                "containerd.io/distribution.source.registry.example",
                "a/b,c/d",
            ),
        ];
        self.put(
            namespace,
            manifest.to_string().into_bytes(),
            &labels,
            created,
        )
    }

    fn fault(&self, digest: &str, fault: Fault) {
        self.0.blobs.lock().unwrap().get_mut(digest).unwrap().fault = Some(fault);
    }

    fn list_count(&self) -> usize {
        self.0.lists.lock().unwrap().len()
    }

    async fn start(&self, deadline: Duration) -> (Harness, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("containerd.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let server =
            tonic::transport::Server::builder().add_service(ContentServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        let harness = Harness::start_with(|config| {
            config.containerd_socket = Some(socket);
            config.content_deadline = deadline;
        });
        (harness.await, directory)
    }
}

/// Long enough not to matter on a slow machine.
const AMPLE: Duration = Duration::from_secs(60);

/// Labels of a containerd that sends the chainID only.
fn only_ref(image: &Image, index: usize) -> HashMap<String, String> {
    labels(&[(REF, &image.chain(index))])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_id_alone_is_enough() {
    let content = FakeContent::default();
    let (oci, docker) = (Image::new("oci", 3), Image::new("docker", 2));
    content.store("k8s.io", &oci, Types::Oci, 1);
    content.store("k8s.io", &docker, Types::Docker, 2);
    content.put(
        "k8s.io",
        b"no image".to_vec(),
        &[("containerd.io/gc.ref.content.config", "x")],
        3,
    );
    let (h, _socket) = content.start(AMPLE).await;
    for image in [&oci, &docker] {
        h.layers.know(image);
        let mut parent = String::new();
        for index in 0..image.layers.len() {
            let name = h
                .pull_layer(
                    &format!("k8s.io/{index}/x"),
                    &parent,
                    only_ref(image, index),
                )
                .await;
            parent = name.expect("found through the content store");
            let request = h.layers.claims.lock().unwrap().last().cloned().unwrap();
            assert_eq!(request.layer, image.layers[index].blob);
            assert_eq!(request.image_layers.len(), image.layers.len() - index);
        }
    }
    assert_eq!(
        content.list_count(),
        1,
        "images are immutable: one look is remembered"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_do_not_see_each_other() {
    let content = FakeContent::default();
    let image = Image::new("a", 1);
    content.store("one", &image, Types::Oci, 1);
    let (h, _socket) = content.start(AMPLE).await;
    h.layers.know(&image);
    assert_eq!(h.pull_layer("two/1/x", "", only_ref(&image, 0)).await, None);
    assert_eq!(
        h.stat("two/1/x").await.unwrap().labels[REASON],
        "unknown-layer"
    );
    assert_eq!(
        h.pull_layer("one/2/x", "", only_ref(&image, 0)).await,
        Some(image.chain(0))
    );
    assert_eq!(*content.0.lists.lock().unwrap(), ["two", "one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_candidates_are_tried_also_those_that_came_later() {
    let content = FakeContent::default();
    let image = Image::new("a", 1);
    let compressed = |name: &str| {
        let mut other = image.clone();
        other.layers[0].blob = Digest::of(name.as_bytes());
        other
    };
    let (gzip, zstd, late) = (compressed("gzip"), compressed("zstd"), compressed("late"));
    content.store("ns", &gzip, Types::Oci, 1);
    content.store("ns", &zstd, Types::Docker, 2);
    let (h, _socket) = content.start(AMPLE).await;
    let knows = |blob| {
        h.layers.answer(
            blob,
            Answer::Layer {
                diff_id: Some(image.layers[0].diff_id),
                source: "s",
            },
        );
    };
    assert_eq!(h.pull_layer("ns/1/x", "", only_ref(&image, 0)).await, None);
    assert_eq!(h.layers.claim_count(), 2, "both were tried");
    content.store("ns", &late, Types::Oci, 3);
    knows(late.layers[0].blob);
    assert_eq!(
        h.pull_layer("ns/2/x", "", only_ref(&image, 0)).await,
        Some(image.chain(0))
    );
    assert_eq!(
        h.layers.claims.lock().unwrap().last().unwrap().layer,
        late.layers[0].blob
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_blobs_hide_nothing() {
    let content = FakeContent::default();
    let image = Image::new("a", 1);
    content.store("ns", &image, Types::Oci, 1);
    let endless = content.store("ns", &Image::new("endless", 1), Types::Oci, 9);
    content.fault(&endless, Fault::Endless);
    let config = [("containerd.io/gc.ref.content.config", "x")];
    content.put("ns", vec![b'['; 100_000], &config, 8);
    content.put("ns", vec![b' '; image::MAX_DOCUMENT_BYTES + 1], &config, 7);
    let uneven = br#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":1},"layers":[]}"#;
    content.put("ns", uneven.to_vec(), &config, 6);
    // Says of itself that it is another blob.
    let forged = content.store("ns", &Image::new("forged", 1), Types::Oci, 5);
    content
        .0
        .blobs
        .lock()
        .unwrap()
        .get_mut(&forged)
        .unwrap()
        .bytes
        .push(b' ');
    let (h, _socket) = content.start(AMPLE).await;
    h.layers.know(&image);
    assert_eq!(
        h.pull_layer("ns/1/x", "", only_ref(&image, 0)).await,
        Some(image.chain(0))
    );
    assert_eq!(
        h.pull_layer("ns/2/x", "", only_ref(&Image::new("forged", 1), 0))
            .await,
        None
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_store_costs_laziness_not_the_pull() {
    let content = FakeContent::default();
    let image = Image::new("a", 1);
    content.store("ns", &image, Types::Oci, 1);
    let (h, _socket) = content.start(Duration::from_millis(400)).await;
    h.layers.know(&image);
    *content.0.stall_list.lock().unwrap() = true;
    assert_eq!(h.pull_layer("ns/1/x", "", only_ref(&image, 0)).await, None);
    assert_eq!(
        h.stat("ns/1/x").await.unwrap().labels[REASON],
        "content-store"
    );
    *content.0.stall_list.lock().unwrap() = false;
    assert_eq!(
        h.pull_layer("ns/2/x", "", only_ref(&image, 0)).await,
        Some(image.chain(0)),
        "and recovers"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_blob_does_not_hide_the_others() {
    let content = FakeContent::default();
    let image = Image::new("a", 1);
    content.store("ns", &image, Types::Oci, 1);
    let stalled = content.store("ns", &Image::new("stalled", 1), Types::Oci, 2);
    content.fault(&stalled, Fault::Stall);
    let (h, _socket) = content.start(Duration::from_secs(4)).await;
    h.layers.know(&image);
    assert_eq!(
        h.pull_layer("ns/1/x", "", only_ref(&image, 0)).await,
        Some(image.chain(0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_containerd_is_no_failed_pull() {
    let image = Image::new("a", 1);
    let h = Harness::start_with(|config| {
        config.containerd_socket = Some("/nonexistent/containerd.sock".into());
    })
    .await;
    h.layers.know(&image);
    assert_eq!(h.pull_layer("ns/1/x", "", only_ref(&image, 0)).await, None);
    assert_eq!(
        h.stat("ns/1/x").await.unwrap().labels[REASON],
        "content-store"
    );
    assert_eq!(
        h.pull_layer("ns/2/x", "", image.labels(0)).await,
        Some(image.chain(0)),
        "a label is enough"
    );
}

/// Labels carry annotations of one kind only, and of one layer; the manifest has them all.
#[tokio::test(flavor = "multi_thread")]
async fn what_labels_do_not_tell_the_manifest_does() {
    let content = FakeContent::default();
    let image = Image::new("chunked", 2);
    let checksum = "io.github.containers.zstd-chunked.manifest-checksum";
    let annotations = serde_json::json!({checksum: "sha256:x", "other": "y"});
    content.store_with("ns", &image, Types::Oci, 1, &annotations);
    let (h, _socket) = content.start(AMPLE).await;
    let refused = Answer::Refuse(snapshotter::Refusal::NoTocDigest("x".into()));
    h.layers.answer(image.layers[0].blob, refused);
    assert_eq!(h.pull_layer("ns/1/x", "", image.labels(0)).await, None);
    assert_eq!(
        h.stat("ns/1/x").await.unwrap().labels[REASON],
        "no-toc-digest"
    );
    let claims = h.layers.claims.lock().unwrap().clone();
    let [first, second] = &claims[..] else {
        panic!("{claims:?}")
    };
    assert!(first.annotations.is_empty() && !first.complete);
    assert!(second.complete);
    assert_eq!(second.annotations.len(), 1);
    assert_eq!(second.annotations[checksum], "sha256:x");
    assert_eq!(second.image_layers.len(), 2);
    assert_eq!(second.image_layers[1].annotations[checksum], "sha256:x");
    assert_eq!(
        second.image_reference.as_deref(),
        Some("registry.example/a/b")
    );
}

/// The second pull tells no more by its labels than the first, and gets the same snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_manifest_states_is_compared_with_it() {
    let content = FakeContent::default();
    let image = Image::new("chunked", 1);
    let annotations =
        serde_json::json!({"io.github.containers.zstd-chunked.manifest-checksum": "sha256:x"});
    content.store_with("ns", &image, Types::Oci, 1, &annotations);
    let (h, _socket) = content.start(AMPLE).await;
    h.layers.answer(
        image.layers[0].blob,
        Answer::Layer {
            diff_id: None,
            source: "estargz:registry:registry.example/a/b",
        },
    );
    // As if it had been refused first: the labels are asked for what they tell.
    let mut labelled = image.labels(0);
    labelled.insert(
        "io.github.containers.zstd-chunked.manifest-checksum".to_owned(),
        "sha256:x".to_owned(),
    );
    let first = h.pull_layer("ns/1/x", "", labelled).await;
    assert!(first.is_some());
    assert_eq!(h.pull_layer("ns/2/x", "", image.labels(0)).await, first);
    assert_eq!(h.layers.claim_count(), 1);
}
