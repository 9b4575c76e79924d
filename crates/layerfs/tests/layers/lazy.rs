//! A registry with lazy layers beside the repository, and what a node makes of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use image::estargz::{Format, Options, Written, write, write_prioritized};
use layerfs::{
    ChainLayer, Claimed, Config, Fetching, FromRegistry, ImageLayer, LayerRequest, Layers, Refusal,
    Source,
};
use testkit::{BlobStore, Entry, Layer, LayerBlob, Registry, Running, ServerBuilder, Storage};

use crate::world::{World, requests};

/// Repository of the images in the registry.
pub(crate) const NAME: &str = "team/app";

/// A layer as a registry has it.
#[derive(Clone)]
pub(crate) struct Lazy {
    pub(crate) blob: LayerBlob,
    pub(crate) written: Written,
}

/// How a layer is written.
#[derive(Clone)]
pub(crate) struct Style {
    pub(crate) format: Format,
    pub(crate) chunk_size: u64,
    pub(crate) min_chunk_size: u64,
    pub(crate) early: Vec<String>,
}

impl Style {
    pub(crate) fn new(format: Format) -> Self {
        Self {
            format,
            chunk_size: 64 << 10,
            min_chunk_size: 0,
            early: Vec::new(),
        }
    }
}

impl Lazy {
    pub(crate) fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        Self::styled(entries, &Style::new(Format::Estargz))
    }

    pub(crate) fn styled(entries: impl IntoIterator<Item = Entry>, style: &Style) -> Self {
        let layer = Layer::new(entries);
        let tar = layer.tar().unwrap();
        let mut blob = Vec::new();
        let options = Options {
            chunk_size: style.chunk_size,
            min_chunk_size: style.min_chunk_size,
            level: 1,
            ..Options::new(style.format)
        };
        let written = if style.early.is_empty() {
            write(&tar[..], &mut blob, &options).unwrap()
        } else {
            let tar = std::io::Cursor::new(&tar);
            write_prioritized(tar, &mut blob, &options, &style.early).unwrap()
        };
        Self {
            blob: LayerBlob {
                layer,
                tar,
                digest: written.digest.to_string(),
                diff_id: written.diff_id.to_string(),
                blob,
            },
            written,
        }
    }

    pub(crate) fn described(&self) -> ImageLayer {
        ImageLayer {
            digest: self.written.digest,
            annotations: self.written.annotations.clone(),
        }
    }
}

/// A node that knows a registry, a repository, or both.
pub(crate) struct LazyWorld {
    pub(crate) world: World,
    pub(crate) registry: Option<Running<Registry>>,
    pub(crate) fetching: Fetching,
    pub(crate) trusted: bool,
    address: String,
}

impl LazyWorld {
    pub(crate) fn new() -> Self {
        Self {
            world: World::new(),
            registry: None,
            fetching: Fetching {
                prefetch: false,
                background: false,
            },
            trusted: false,
            address: String::new(),
        }
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.world.path("images")
    }

    /// Puts a blob where the registry has it.
    pub(crate) fn push(&self, digest: &str, blob: &[u8]) {
        let blobs = self.images().join("blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join(digest), blob).unwrap();
    }

    /// A registry with these layers.
    pub(crate) fn with_registry(layers: &[Lazy]) -> Self {
        let mut lazy = Self::new();
        lazy.push_all(layers);
        lazy.serve(|server| server);
        lazy
    }

    pub(crate) fn push_all(&self, layers: &[Lazy]) {
        for layer in layers {
            self.push(&layer.blob.digest, &layer.blob.blob);
        }
    }

    pub(crate) fn serve(
        &mut self,
        with: impl FnOnce(ServerBuilder<Registry>) -> ServerBuilder<Registry>,
    ) {
        std::fs::create_dir_all(self.images()).unwrap();
        let server = with(Registry::serving(&self.images())).start().unwrap();
        self.address = server.address().to_string();
        self.registry = Some(server);
    }

    pub(crate) fn server(&self) -> &Running<Registry> {
        self.registry.as_ref().unwrap()
    }

    pub(crate) fn store(&self) -> BlobStore {
        BlobStore::new(&self.images())
    }

    /// Puts blobs into the repository, in objects of 100 000 bytes, and serves it.
    pub(crate) fn publish(&mut self, layers: &[Lazy], unpacked: &[LayerBlob]) {
        for layer in layers {
            let hex = layer.written.digest.hex();
            let path = format!("/stargz/blobs/sha256/{}/{hex}/data", &hex[..2]);
            let file = Entry::file(path.trim_start_matches('/'), &layer.blob.blob);
            self.world
                .repository
                .add(file.storage(Storage::PlainChunked(100_000)));
        }
        for layer in unpacked {
            self.world.add(layer);
        }
        self.world.publish();
        self.world.start(1);
    }

    pub(crate) fn reference(&self) -> image::Reference {
        format!("{}/{NAME}:v1", self.address).parse().unwrap()
    }

    pub(crate) fn client(&self) -> registry::Client {
        let mut config = registry::Config::default();
        config.timeouts.connect = Duration::from_secs(2);
        config.timeouts.answer = Duration::from_secs(2);
        config.timeouts.stall = Duration::from_secs(2);
        config.timeouts.operation = Duration::from_secs(10);
        config.retries.count = 1;
        config.retries.backoff_initial = Duration::from_millis(5);
        config.retries.avoid = Duration::from_millis(100);
        config.credentials.given = vec![(
            self.address.clone(),
            registry::Credential::Password {
                username: "user".to_owned(),
                password: registry::Secret::new("pass"),
            },
        )];
        registry::Client::new(config, registry::Metrics::default(), self.world.handle())
    }

    /// All sources that are served.
    pub(crate) fn node(&self) -> Layers {
        let mut sources = Vec::new();
        if !self.world.servers.is_empty() {
            sources.push(self.world.source(false));
        }
        if !self.address.is_empty() {
            sources.push(Source::Registry(FromRegistry {
                client: self.client(),
                trust_without_diff_id: self.trusted,
            }));
        }
        self.node_of(sources)
    }

    pub(crate) fn node_of(&self, sources: Vec<Source>) -> Layers {
        let config = Config {
            fetching: self.fetching,
            ..self.world.config()
        };
        Layers::open(config, sources).unwrap()
    }

    /// The requests for an image's layers, as a client that knows all annotations makes them.
    pub(crate) fn requests(&self, layers: &[Lazy]) -> Vec<LayerRequest> {
        let blobs: Vec<LayerBlob> = layers.iter().map(|layer| layer.blob.clone()).collect();
        let mut requests = requests(&blobs);
        for (number, request) in requests.iter_mut().enumerate() {
            request.annotations = layers[number].written.annotations.clone();
            request.reference = (!self.address.is_empty()).then(|| self.reference());
            request.image_layers = layers[number..].iter().map(Lazy::described).collect();
        }
        requests
    }

    pub(crate) fn attach(&self, node: &Layers, layers: &[Lazy]) -> (Vec<ChainLayer>, PathBuf) {
        let chain = self.claim(node, layers).unwrap();
        let path = node.attach(&chain).unwrap();
        (chain, path)
    }

    pub(crate) fn claim(&self, node: &Layers, layers: &[Lazy]) -> Result<Vec<ChainLayer>, Refusal> {
        let requests = self.requests(layers);
        let claims = requests.iter();
        claims
            .map(|request| Ok(link(request, &node.claim(request)?)))
            .collect()
    }

    /// Requests for blobs that the registry got, without those for whole sizes.
    pub(crate) fn asked(&self) -> usize {
        self.server().blob_requests().len()
    }
}

/// The link of a chain that a claim makes.
pub(crate) fn link(request: &LayerRequest, claimed: &Claimed) -> ChainLayer {
    ChainLayer {
        layer: request.layer,
        tree: claimed.tree.clone(),
        source: claimed.source.clone(),
        reference: request.reference.clone(),
        annotations: request.annotations.clone(),
    }
}

/// What plain `tar` makes of a layer.
pub(crate) fn by_tar(layer: &LayerBlob, directory: &Path) -> testkit::Truth {
    unpacked(layer, directory, &["--xattrs", "--xattrs-include=*"])
}

/// The same without extended attributes, which the kernel may refuse, and without members above the
/// root, which `tar` refuses.
pub(crate) fn by_tar_without_xattrs(layer: &LayerBlob, directory: &Path) -> testkit::Truth {
    unpacked(layer, directory, &[])
}

fn unpacked(layer: &LayerBlob, directory: &Path, options: &[&str]) -> testkit::Truth {
    std::fs::create_dir_all(directory).unwrap();
    let archive = directory.with_extension("tar");
    std::fs::write(&archive, &layer.tar).unwrap();
    let status = std::process::Command::new("tar")
        .args(options)
        .args(["--numeric-owner", "-xpf"])
        .arg(&archive)
        .arg("-C")
        .arg(directory)
        .status()
        .unwrap();
    assert!(status.success() || options.is_empty());
    let mut truth = testkit::walk(directory).unwrap();
    for row in truth.rows.values_mut() {
        if row.get(testkit::Field::Kind) == "d" {
            row.set(testkit::Field::Size, "0");
        }
    }
    truth
}

/// Bytes that do not compress, the same for one seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A layer with everything that a layer may hold.
pub(crate) fn everything() -> Vec<Entry> {
    vec![
        Entry::directory("").mode(0o711).mtime(1_600_000_000, 0),
        Entry::directory("bin").mode(0o750).owner(3, 4),
        Entry::file("bin/tool", "#!/bin/sh\n").mode(0o4755),
        Entry::hardlink("bin/alias", "bin/tool"),
        Entry::symlink("bin/link", "../etc/$(X)/é"),
        Entry::file("empty", ""),
        Entry::file("small", "small").mtime(-5, 0),
        Entry::file("exact", noise(1, 128 << 10)),
        Entry::file("large", noise(2, 300_001)).owner(1000, 1001),
        Entry::directory("deep"),
        Entry::directory("deep/er").mode(0o700),
        Entry::directory("deep/er/and"),
        Entry::file("deep/er/and/deeper", "x").mode(0o600),
        Entry::file("attributes", "a")
            .xattr("user.binary", [0, 255, 10, 61])
            .xattr("security.capability", CAPABILITY),
        Entry::directory("devices"),
        Entry::new("devices/null", testkit::EntryKind::CharDevice(1, 3)),
        Entry::new("devices/loop", testkit::EntryKind::BlockDevice(7, 300)),
        Entry::new("devices/pipe", testkit::EntryKind::Fifo),
    ]
}

/// `cap_net_raw=ep`
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
