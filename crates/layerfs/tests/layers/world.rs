//! A repository with its servers, and the state directory of a node that uses it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use cvmfs::{Jitter, Repository, RepositoryConfig, Retries, Timeouts};
use image::{Digest, chain_id};
use layerfs::{ChainLayer, Claimed, Config, Embedded, LayerRequest, Layers, Refusal, Source};
use testkit::{DuccOptions, LayerBlob, Placement, Published, RepositoryBuilder, Running, Stratum1};

pub(crate) const FQRN: &str = "layers.test.local";
/// Time of the publications, within the certificate's validity.
pub(crate) const NOW: i64 = 1_795_500_000;
/// Time of directories that no entry of a layer names: later than all entries, as with DUCC.
pub(crate) const IMPLICIT: i64 = 1_790_000_000;

/// One node and the repository that it uses.
pub(crate) struct World {
    directory: Option<tempfile::TempDir>,
    pub(crate) repository: RepositoryBuilder,
    pub(crate) servers: Vec<Running<Stratum1>>,
    /// URLs of the hosts for the repository and for external files; they stay when a host goes.
    urls: Vec<(String, String)>,
    fqrn: String,
    runtime: tokio::runtime::Runtime,
    cache: Mutex<Weak<cache::Cache>>,
    pub(crate) options: DuccOptions,
    published: Option<Published>,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut repository = RepositoryBuilder::new(&directory.path().join("repository"), FQRN);
        repository.implicit_mtime(IMPLICIT);
        let key = testkit::Keys::fixture().public_key().unwrap();
        std::fs::write(directory.path().join("key.pub"), key).unwrap();
        Self {
            directory: Some(directory),
            repository,
            servers: Vec::new(),
            urls: Vec::new(),
            fqrn: FQRN.to_owned(),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            cache: Mutex::default(),
            options: DuccOptions {
                keep_xattrs: true,
                keep_hardlinks: true,
                ..DuccOptions::default()
            },
            published: None,
        }
    }

    /// Serves the fixture, which the real publisher made, instead of a repository of its own.
    pub(crate) fn of_fixture(fixture: &testkit::Fixture) -> Self {
        let mut world = Self::new();
        world.fqrn = testkit::FIXTURE_FQRN.to_owned();
        let server = Stratum1::serving(&fixture.repository()).external(&fixture.external());
        let server = server.start().unwrap();
        let url = server.repository_url(&world.fqrn);
        world.urls.push((url, server.external_url()));
        world.servers.push(server);
        world
    }

    /// Publishes layers as they are, served by so many hosts.
    pub(crate) fn serving(layers: &[LayerBlob], hosts: usize) -> Self {
        let mut world = Self::new();
        for layer in layers {
            world.add(layer);
        }
        world.publish();
        world.start(hosts);
        world
    }

    pub(crate) fn add(&mut self, layer: &LayerBlob) {
        let options = self.options.clone();
        self.repository.add_layer(layer, &options).unwrap();
    }

    pub(crate) fn publish(&mut self) {
        self.published = Some(self.repository.publish(NOW).unwrap());
    }

    /// Hash of a nested catalog of the last publication.
    pub(crate) fn catalog(&self, mountpoint: &str) -> String {
        self.published.as_ref().unwrap().catalogs[mountpoint].clone()
    }

    /// Where a layer's files are in the repository.
    pub(crate) fn files(&self, layer: &LayerBlob) -> String {
        let hex = &layer.digest[7..];
        match self.options.placement {
            Placement::Layers => format!("/.layers/{}/{hex}/layerfs", &hex[..2]),
            Placement::Unpacked => format!("/unpacked/{}/{hex}", &hex[..2]),
        }
    }

    pub(crate) fn revision(&self) -> &Published {
        self.published.as_ref().unwrap()
    }

    pub(crate) fn start(&mut self, hosts: usize) {
        for _ in 0..hosts {
            let server = Stratum1::serving(self.repository.directory())
                .external(self.repository.external_directory())
                .strict();
            let server = server.start().unwrap();
            self.urls
                .push((server.repository_url(FQRN), server.external_url()));
            self.servers.push(server);
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let directory = self.directory.as_ref().unwrap().path();
        directory.canonicalize().unwrap().join(name)
    }

    /// The node's state directory.
    pub(crate) fn root(&self) -> PathBuf {
        self.path("state")
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            root: self.root(),
            build_deadline: Duration::from_secs(30),
            build_threads: 2,
            workers: 2,
            read_ahead_kib: 128,
            tree_grace: Duration::ZERO,
            mounted_deadline: Duration::from_secs(30),
            cache: Some(self.cache()),
            fetching: layerfs::Fetching {
                prefetch: false,
                background: false,
            },
            unpack: layerfs::Unpack::Never,
        }
    }

    /// The repository as an embedded source. Looks for a new revision at each claim.
    pub(crate) fn source(&self, trust_without_diff_id: bool) -> Source {
        let (servers, external_servers) = self.urls.iter().cloned().unzip();
        let mut config = RepositoryConfig::new(&self.fqrn, servers, self.path("client"));
        config.external_servers = external_servers;
        config.public_keys = vec![self.path("key.pub")];
        config.timeouts = Timeouts {
            connect: Duration::from_secs(2),
            stall: Duration::from_secs(2),
            total: Duration::from_secs(60),
        };
        config.retries = Retries {
            count: 1,
            backoff_initial: Duration::from_millis(5),
            backoff_max: Duration::from_millis(10),
        };
        config.jitter = Jitter::new(|| 0.0);
        config.max_time_to_live = Some(Duration::ZERO);
        let (cache, runtime) = (self.cache(), self.runtime.handle().clone());
        let now = jiff::Timestamp::from_second(NOW).unwrap();
        Source::Embedded(Embedded {
            fqrn: self.fqrn.clone(),
            open: Box::new(move || {
                Repository::open(
                    config.clone(),
                    Arc::clone(&cache),
                    runtime.clone(),
                    move || now,
                )
            }),
            trust_without_diff_id,
        })
    }

    pub(crate) fn handle(&self) -> tokio::runtime::Handle {
        self.runtime.handle().clone()
    }

    pub(crate) fn cache(&self) -> Arc<cache::Cache> {
        let mut known = self.cache.lock().unwrap();
        if let Some(cache) = known.upgrade() {
            return cache;
        }
        let mut opened = None;
        // A child that is being started holds the last life's lock until its exec.
        eventually("the cache is free", || {
            let config = cache::Config {
                directory: self.path("cache"),
                quota: 1 << 30,
                boot_id: "boot".to_owned(),
            };
            match cache::Cache::open(config) {
                Ok(cache) => opened = Some(cache),
                Err(cache::Error::InUse { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            opened.is_some()
        });
        let cache = Arc::new(opened.unwrap());
        *known = Arc::downgrade(&cache);
        cache
    }

    pub(crate) fn layers(&self) -> Layers {
        Layers::open(self.config(), vec![self.source(false)]).unwrap()
    }

    /// Ends a daemon's life as a crash does not: all that it held is let go.
    pub(crate) fn stop(&self, layers: Layers) {
        layers.release().unwrap();
        drop(layers);
        eventually("everything is let go", || {
            self.cache.lock().unwrap().strong_count() == 0
        });
    }

    /// Where a layer's or chain's files are: `trees/v…/<key>` and `chains/<key>/tree`.
    pub(crate) fn tree_files(&self) -> Vec<PathBuf> {
        let formats = std::fs::read_dir(self.root().join("trees")).unwrap();
        let trees = formats.flat_map(|format| std::fs::read_dir(format.unwrap().path()).unwrap());
        trees.map(|tree| tree.unwrap().path()).collect()
    }

    pub(crate) fn chain_file(&self, mount: &Path) -> PathBuf {
        mount.parent().unwrap().join("tree")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let below = self.path("");
        let left = fuse::mounts_below(&below).unwrap_or_default();
        let detached = left
            .iter()
            .rev()
            .all(|mount| fuse::detach_path(&mount.mount_point).is_ok());
        if !detached {
            // Removing the directory would walk through the mount.
            std::mem::forget(self.directory.take());
        }
    }
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn parsed(digest: &str) -> Digest {
    digest.parse().unwrap()
}

/// The requests for an image's layers, bottom to top.
pub(crate) fn requests(layers: &[LayerBlob]) -> Vec<LayerRequest> {
    let image_layers: Vec<_> = layers.iter().map(|layer| parsed(&layer.digest)).collect();
    let mut parent = None;
    let mut requests = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let chain = chain_id(parent.as_ref(), &parsed(&layer.diff_id));
        requests.push(LayerRequest {
            layer: image_layers[number],
            chain_id: chain,
            parent_chain_id: parent,
            diff_id: Some(parsed(&layer.diff_id)),
            annotations: [].into(),
            reference: None,
            complete: false,
            image_layers: image_layers[number..]
                .iter()
                .map(|&digest| digest.into())
                .collect(),
        });
        parent = Some(chain);
    }
    requests
}

pub(crate) fn link(layer: &LayerBlob, claimed: &Claimed) -> ChainLayer {
    ChainLayer {
        layer: parsed(&layer.digest),
        tree: claimed.tree.clone(),
        source: claimed.source.clone(),
        reference: None,
        annotations: [].into(),
    }
}

/// Claims a whole image.
pub(crate) fn claim(layers: &Layers, blobs: &[LayerBlob]) -> Result<Vec<ChainLayer>, Refusal> {
    let requests = requests(blobs);
    let claims = requests.iter().zip(blobs);
    claims
        .map(|(request, blob)| Ok(link(blob, &layers.claim(request)?)))
        .collect()
}

/// Claims and attaches a whole image; the chain and its path.
pub(crate) fn attach(layers: &Layers, blobs: &[LayerBlob]) -> (Vec<ChainLayer>, PathBuf) {
    let chain = claim(layers, blobs).unwrap();
    let path = layers.attach(&chain).unwrap();
    (chain, path)
}

pub(crate) fn blob(entries: impl IntoIterator<Item = testkit::Entry>) -> LayerBlob {
    LayerBlob::new(testkit::Layer::new(entries)).unwrap()
}

/// Whether mounts can be made here; says why not.
pub(crate) fn mounts_possible() -> bool {
    let possible = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !possible {
        println!("skipped: mounting needs root and /dev/fuse");
    }
    possible
}
