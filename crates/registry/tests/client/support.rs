use std::path::Path;
use std::time::Duration;

use image::{Descriptor, Digest, MediaType, Reference};
use registry::{Client, Config, Credential, Credentials, Metrics, Retries, Secret, Timeouts};
use tempfile::TempDir;
use testkit::{Entry, Image, ImageBuilder, Layer, Registry, Running, ServerBuilder};
use tokio::runtime::Runtime;

pub(crate) const NAME: &str = "group/app";

/// An image in a directory, and what a client needs.
pub(crate) struct World {
    pub(crate) directory: TempDir,
    pub(crate) image: Image,
    pub(crate) runtime: Runtime,
}

impl World {
    pub(crate) fn new() -> Self {
        // Does not compress: blobs of several pieces.
        let noise: Vec<u8> = (0..300_000_u64)
            .map(|at| {
                let mixed = (at ^ 0x55).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as u8
            })
            .collect();
        let image = ImageBuilder::new()
            .layer(Layer::new([Entry::file("a", noise)]))
            .layer(Layer::new([Entry::file("b", "small")]))
            .build()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        image.write_to(directory.path(), NAME, "1").unwrap();
        let runtime = Runtime::new().unwrap();
        Self {
            directory,
            image,
            runtime,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn registry(&self) -> ServerBuilder<Registry> {
        Registry::serving(self.path())
    }

    pub(crate) fn client(&self, config: Config) -> Client {
        Client::new(config, Metrics::default(), self.runtime.handle().clone())
    }

    pub(crate) fn blob(&self, layer: usize) -> &[u8] {
        &self.image.layers[layer].blob
    }

    pub(crate) fn descriptor(&self, layer: usize) -> Descriptor {
        described(self.blob(layer))
    }

    pub(crate) fn digest(&self, layer: usize) -> Digest {
        self.image.layers[layer].digest.parse().unwrap()
    }
}

pub(crate) fn described(bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: MediaType::parse("application/vnd.oci.image.layer.v1.tar+gzip"),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        annotations: std::collections::BTreeMap::new(),
        platform: None,
    }
}

pub(crate) fn reference(server: &Running<Registry>) -> Reference {
    server.reference(NAME, "1").parse().unwrap()
}

/// Pauses that tests can afford.
pub(crate) fn quick() -> Config {
    Config {
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(20),
            stall: Duration::from_secs(20),
            operation: Duration::from_secs(60),
        },
        retries: Retries {
            count: 2,
            backoff_initial: Duration::from_millis(5),
            backoff_max: Duration::from_secs(3),
            avoid: Duration::from_secs(30),
        },
        ..Config::default()
    }
}

pub(crate) fn login(server: &Running<Registry>, credential: Credential) -> Config {
    Config {
        credentials: Credentials {
            given: vec![(server.address().to_string(), credential)],
            ..Credentials::default()
        },
        ..quick()
    }
}

pub(crate) fn password(name: &str, text: &str) -> Credential {
    Credential::Password {
        username: name.to_owned(),
        password: Secret::new(text),
    }
}
