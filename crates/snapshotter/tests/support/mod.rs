//! A snapshotter behind a real socket with fake lazy layers below it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use image::Digest;
use snapshotter::api::snapshots::snapshots_client::SnapshotsClient;
use snapshotter::api::snapshots::*;
use snapshotter::api::types::Mount;
use snapshotter::{AttachError, ChainLayer, ClaimRequest, Claimed, Config, LazyLayers, Refusal};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

pub const REF: &str = "containerd.io/snapshot.ref";
pub const LAYER: &str = "containerd.io/snapshot/cri.layer-digest";
pub const LAYERS: &str = "containerd.io/snapshot/cri.image-layers";
pub const REASON: &str = "containerd.io/snapshot/outcrop.reason";
pub const SOURCE: &str = "containerd.io/snapshot/outcrop.source";
pub const TREE: &str = "containerd.io/snapshot/outcrop.tree";

/// Longest wait for something that happens in the background.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the fake answers for a blob.
#[derive(Clone)]
pub enum Answer {
    Layer {
        diff_id: Option<Digest>,
        source: &'static str,
    },
    Refuse(Refusal),
    Panic,
}

/// Lazy layers that are directories, with a fault script. Strict: attach and detach of one chain never overlap.
pub struct FakeLayers {
    root: PathBuf,
    pub answers: Mutex<HashMap<Digest, Answer>>,
    pub claims: Mutex<Vec<ClaimRequest>>,
    pub attached: Mutex<BTreeSet<PathBuf>>,
    pub detaches: Mutex<Vec<PathBuf>>,
    pub attach_fails: AtomicBool,
    busy: Mutex<BTreeSet<PathBuf>>,
    /// Claims wait here while it is closed.
    gate: (Mutex<bool>, Condvar),
}

impl FakeLayers {
    pub fn new(root: &Path) -> Arc<Self> {
        Arc::new(Self {
            root: root.to_owned(),
            answers: Mutex::default(),
            claims: Mutex::default(),
            attached: Mutex::default(),
            detaches: Mutex::default(),
            attach_fails: AtomicBool::new(false),
            busy: Mutex::default(),
            gate: (Mutex::new(true), Condvar::new()),
        })
    }

    /// Knows every layer of `image`, with proof.
    pub fn know(&self, image: &Image) {
        for layer in &image.layers {
            self.answer(
                layer.blob,
                Answer::Layer {
                    diff_id: Some(layer.diff_id),
                    source: "cvmfs:fake",
                },
            );
        }
    }

    pub fn answer(&self, blob: Digest, answer: Answer) {
        self.answers.lock().unwrap().insert(blob, answer);
    }

    pub fn claim_count(&self) -> usize {
        self.claims.lock().unwrap().len()
    }

    pub fn open_gate(&self, open: bool) {
        *self.gate.0.lock().unwrap() = open;
        self.gate.1.notify_all();
    }

    fn pass_gate(&self) {
        let open = self.gate.0.lock().unwrap();
        let _open = self
            .gate
            .1
            .wait_timeout_while(open, PATIENCE, |open| !*open)
            .unwrap();
    }

    pub fn path(&self, chain: &[ChainLayer]) -> PathBuf {
        let keys: Vec<_> = chain.iter().map(|layer| layer.tree.as_str()).collect();
        self.root
            .join("chains")
            .join(&Digest::of(keys.join("\n").as_bytes()).hex()[..16])
            .join("fs")
    }

    fn exclusively(&self, path: &Path, work: impl FnOnce()) {
        assert!(
            self.busy.lock().unwrap().insert(path.to_owned()),
            "two calls for one chain that must not overlap"
        );
        work();
        self.busy.lock().unwrap().remove(path);
    }
}

impl LazyLayers for FakeLayers {
    fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Refusal> {
        self.claims.lock().unwrap().push(request.clone());
        self.pass_gate();
        let answer = self.answers.lock().unwrap().get(&request.layer).cloned();
        match answer {
            None => Err(Refusal::NotFound),
            Some(Answer::Refuse(refusal)) => Err(refusal),
            Some(Answer::Panic) => panic!("a bug in a source (expected by the test)"),
            Some(Answer::Layer { diff_id, source }) => Ok(Claimed {
                source: source.to_owned(),
                tree: format!("tree-{}", &request.layer.hex()[..12]),
                diff_id,
                size: 4096,
                inodes: 7,
            }),
        }
    }

    fn attach(&self, chain: &[ChainLayer]) -> Result<PathBuf, AttachError> {
        if self.attach_fails.load(Ordering::SeqCst) {
            return Err(AttachError::Unavailable(
                "all proxies of fake are down".to_owned(),
            ));
        }
        let path = self.path(chain);
        assert!(
            !self.busy.lock().unwrap().contains(&path),
            "attach while the chain is being detached"
        );
        std::fs::create_dir_all(&path).unwrap();
        for layer in chain {
            std::fs::write(path.join(&layer.tree), layer.tree.as_bytes()).unwrap();
        }
        self.attached.lock().unwrap().insert(path.clone());
        Ok(path)
    }

    fn detach(&self, chain: &[ChainLayer]) {
        let path = self.path(chain);
        self.exclusively(&path, || {
            self.attached.lock().unwrap().remove(&path);
            self.detaches.lock().unwrap().push(path.clone());
        });
    }

    fn root_owner(&self, _chain: &[ChainLayer]) -> (u32, u32) {
        (0, 0)
    }
}

/// An image of made-up layers.
#[derive(Clone)]
pub struct Image {
    pub layers: Vec<ImageLayer>,
}

#[derive(Clone)]
pub struct ImageLayer {
    pub blob: Digest,
    pub diff_id: Digest,
    pub chain: Digest,
}

impl Image {
    pub fn new(name: &str, layers: usize) -> Self {
        let diff_ids: Vec<_> = (0..layers)
            .map(|n| Digest::of(format!("{name} diff {n}").as_bytes()))
            .collect();
        let chains = image::chain_ids(&diff_ids);
        let layers = diff_ids.into_iter().zip(chains).enumerate();
        let made = |(n, (diff_id, chain))| ImageLayer {
            blob: Digest::of(format!("{name} blob {n}").as_bytes()),
            diff_id,
            chain,
        };
        Self {
            layers: layers.map(made).collect(),
        }
    }

    pub fn chain(&self, index: usize) -> String {
        self.layers[index].chain.to_string()
    }

    /// Labels as CRI sends them.
    pub fn labels(&self, index: usize) -> HashMap<String, String> {
        let list: Vec<_> = self.layers[index..]
            .iter()
            .map(|layer| layer.blob.to_string())
            .collect();
        labels(&[
            (REF, &self.chain(index)),
            (LAYER, &self.layers[index].blob.to_string()),
            (LAYERS, &list.join(",")),
        ])
    }
}

pub fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// The running server.
pub struct Harness {
    pub directory: tempfile::TempDir,
    pub layers: Arc<FakeLayers>,
    pub client: SnapshotsClient<Channel>,
    pub metrics: snapshotter::Metrics,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    server: tokio::task::JoinHandle<Result<(), snapshotter::Error>>,
}

impl Harness {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layers = FakeLayers::new(&directory.path().join("state"));
        Self::start_in(directory, layers, change).await
    }

    async fn start_in(
        directory: tempfile::TempDir,
        layers: Arc<FakeLayers>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config::new(directory.path().join("state"), Arc::new(SystemTime::now));
        change(&mut config);
        let metrics = config.metrics.clone();
        let socket = directory.path().join("socket");
        let listener = snapshotter::listen(&socket).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let serving = snapshotter::serve(config, layers.clone(), listener, async {
            let _ = stopped.await;
        });
        let server = tokio::spawn(serving);
        let client = connect(&socket);
        Self {
            directory,
            layers,
            client,
            metrics,
            stop: Some(stop),
            server,
        }
    }

    /// Ends the server and starts another one in the same directory; the layers forget what was attached.
    pub async fn restart(mut self, between: impl FnOnce(&Path)) -> Self {
        drop(self.client);
        self.stop.take();
        self.server.await.unwrap().unwrap();
        between(&self.directory.path().join("state"));
        self.layers.attached.lock().unwrap().clear();
        Self::start_in(self.directory, self.layers, |config| {
            config.restore_at_start = false;
        })
        .await
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub async fn prepare(
        &self,
        key: &str,
        parent: &str,
        labels: HashMap<String, String>,
    ) -> Result<Vec<Mount>, Status> {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let request = PrepareSnapshotRequest {
            key,
            parent,
            labels,
            ..Default::default()
        };
        Ok(self
            .client
            .clone()
            .prepare(request)
            .await?
            .into_inner()
            .mounts)
    }

    pub async fn view(&self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        let request = ViewSnapshotRequest {
            key: key.to_owned(),
            parent: parent.to_owned(),
            ..Default::default()
        };
        Ok(self.client.clone().view(request).await?.into_inner().mounts)
    }

    pub async fn mounts(&self, key: &str) -> Result<Vec<Mount>, Status> {
        let request = MountsRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        Ok(self
            .client
            .clone()
            .mounts(request)
            .await?
            .into_inner()
            .mounts)
    }

    pub async fn commit(&self, name: &str, key: &str) -> Result<(), Status> {
        self.commit_with(name, key, HashMap::new(), "").await
    }

    pub async fn commit_with(
        &self,
        name: &str,
        key: &str,
        labels: HashMap<String, String>,
        parent: &str,
    ) -> Result<(), Status> {
        let (name, key, parent) = (name.to_owned(), key.to_owned(), parent.to_owned());
        let request = CommitSnapshotRequest {
            name,
            key,
            labels,
            parent,
            ..Default::default()
        };
        self.client.clone().commit(request).await.map(|_| ())
    }

    pub async fn remove(&self, key: &str) -> Result<(), Status> {
        let request = RemoveSnapshotRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        self.client.clone().remove(request).await.map(|_| ())
    }

    pub async fn stat(&self, key: &str) -> Result<Info, Status> {
        let request = StatSnapshotRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        Ok(self
            .client
            .clone()
            .stat(request)
            .await?
            .into_inner()
            .info
            .unwrap())
    }

    pub async fn usage(&self, key: &str) -> Result<UsageResponse, Status> {
        let request = UsageRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        Ok(self.client.clone().usage(request).await?.into_inner())
    }

    pub async fn update(
        &self,
        name: &str,
        labels: HashMap<String, String>,
        paths: &[&str],
    ) -> Result<Info, Status> {
        let info = Info {
            name: name.to_owned(),
            parent: "ignored".to_owned(),
            labels,
            ..Default::default()
        };
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let update_mask = Some(prost_types::FieldMask { paths });
        let request = UpdateSnapshotRequest {
            info: Some(info),
            update_mask,
            ..Default::default()
        };
        Ok(self
            .client
            .clone()
            .update(request)
            .await?
            .into_inner()
            .info
            .unwrap())
    }

    /// All blocks of a list.
    pub async fn list(&self, filters: &[&str]) -> Result<Vec<Vec<Info>>, Status> {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let request = ListSnapshotsRequest {
            filters,
            ..Default::default()
        };
        let mut stream = self.client.clone().list(request).await?.into_inner();
        let mut blocks = Vec::new();
        while let Some(block) = stream.message().await? {
            blocks.push(block.info);
        }
        Ok(blocks)
    }

    pub async fn cleanup(&self) {
        self.client
            .clone()
            .cleanup(CleanupRequest::default())
            .await
            .unwrap();
    }

    /// What containerd's metadata store does after ALREADY_EXISTS to a Prepare with a ref: the backend's name.
    pub async fn find_target(&self, snapshot_ref: &str, parent: &str) -> Option<String> {
        let filter = format!("labels.{REF:?}=={snapshot_ref},parent=={parent:?}");
        let found: Vec<Info> = self.list(&[&filter]).await.unwrap().concat();
        let wanted = |info: &&Info| {
            info.kind() == Kind::Committed
                && info.labels.get(REF).map(String::as_str) == Some(snapshot_ref)
                && info.parent == parent
        };
        found.iter().find(wanted).map(|info| info.name.clone())
    }

    /// Prepares a layer as containerd does; its backend name if it need not be fetched.
    pub async fn pull_layer(
        &self,
        key: &str,
        parent: &str,
        labels: HashMap<String, String>,
    ) -> Option<String> {
        let snapshot_ref = labels[REF].clone();
        match self.prepare(key, parent, labels).await {
            Ok(_) => None,
            Err(status) => {
                assert_eq!(status.code(), Code::AlreadyExists, "{status}");
                let target = self.find_target(&snapshot_ref, parent).await;
                Some(target.expect("containerd would say: target snapshot not found in backend"))
            }
        }
    }

    /// Pulls all layers lazily in a namespace; the topmost snapshot's name.
    pub async fn pull(&self, namespace: &str, image: &Image) -> String {
        let mut parent = String::new();
        for index in 0..image.layers.len() {
            let key = format!("{namespace}/{index}/extract-1-ab {}", image.chain(index));
            let pulled = self.pull_layer(&key, &parent, image.labels(index)).await;
            parent = pulled.expect("every layer is known");
        }
        parent
    }

    pub fn attached(&self) -> usize {
        self.layers.attached.lock().unwrap().len()
    }
}

pub fn connect(socket: &Path) -> SnapshotsClient<Channel> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move {
            tokio::net::UnixStream::connect(socket)
                .await
                .map(TokioIo::new)
        }
    });
    SnapshotsClient::new(
        Endpoint::from_static("http://snapshotter.invalid").connect_with_connector_lazy(connector),
    )
}

/// Waits for something that happens in the background.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("{what}: did not happen"));
}

pub fn code<T>(result: Result<T, Status>) -> Code {
    result.err().map_or(Code::Ok, |status| status.code())
}
