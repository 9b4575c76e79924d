use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::Layer;

/// `sha256:<hex>` of `bytes`.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// One layer of a built image.
#[derive(Clone, Debug)]
pub struct LayerBlob {
    /// What went in.
    pub layer: Layer,
    /// The uncompressed tar.
    pub tar: Vec<u8>,
    /// The blob as a registry holds it.
    pub blob: Vec<u8>,
    /// `sha256:…` of the blob.
    pub digest: String,
    /// `sha256:…` of the tar.
    pub diff_id: String,
}

impl LayerBlob {
    /// Packs a layer as tar and gzip.
    ///
    /// # Errors
    /// See [`Layer::tar`].
    pub fn new(layer: Layer) -> Result<Self> {
        let tar = layer.tar()?;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&tar)?;
        let blob = encoder.finish()?;
        Ok(Self {
            digest: digest(&blob),
            diff_id: digest(&tar),
            layer,
            tar,
            blob,
        })
    }
}

/// A manifest with its configuration and layers.
#[derive(Clone, Debug)]
pub struct Image {
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// `sha256:…` of the manifest.
    pub digest: String,
    /// The configuration's bytes.
    pub config: Vec<u8>,
    /// bottom to top
    pub layers: Vec<LayerBlob>,
    /// media type of the manifest
    pub media_type: &'static str,
}

/// Whose media types a built image has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `application/vnd.oci.…`
    #[default]
    Oci,
    /// `application/vnd.docker.…`
    Docker,
}

impl Format {
    fn media_types(self) -> [&'static str; 3] {
        match self {
            Self::Oci => [
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            ],
            Self::Docker => [
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ],
        }
    }
}

/// Builds an image from layers.
#[derive(Clone, Debug, Default)]
pub struct ImageBuilder {
    layers: Vec<Layer>,
    format: Format,
    stated_diff_ids: Option<Vec<String>>,
    entrypoint: Vec<String>,
    environment: Vec<String>,
    user: String,
}

impl ImageBuilder {
    /// An image without layers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a layer on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Chooses the media types.
    #[must_use]
    pub fn format(self, format: Format) -> Self {
        Self { format, ..self }
    }

    /// States other diffIDs than the layers have, as a hostile image does.
    #[must_use]
    pub fn stated_diff_ids(self, diff_ids: impl IntoIterator<Item = String>) -> Self {
        Self {
            stated_diff_ids: Some(diff_ids.into_iter().collect()),
            ..self
        }
    }

    /// Sets the command that a container runs.
    #[must_use]
    pub fn entrypoint(self, words: &[&str]) -> Self {
        Self {
            entrypoint: words.iter().map(|word| (*word).to_owned()).collect(),
            ..self
        }
    }

    /// Adds `NAME=value`.
    #[must_use]
    pub fn environment(mut self, assignment: &str) -> Self {
        self.environment.push(assignment.to_owned());
        self
    }

    /// Sets the user, for instance `1000:1000`.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        Self {
            user: user.to_owned(),
            ..self
        }
    }

    /// Packs everything. The same input gives the same digests.
    ///
    /// # Errors
    /// See [`Layer::tar`].
    pub fn build(self) -> Result<Image> {
        let layers: Vec<LayerBlob> = self
            .layers
            .into_iter()
            .map(LayerBlob::new)
            .collect::<Result<_>>()?;
        let diff_ids = self
            .stated_diff_ids
            .unwrap_or_else(|| layers.iter().map(|layer| layer.diff_id.clone()).collect());
        let config = serde_json::to_vec(&json!({
            "architecture": machine(), "os": "linux", "created": "2023-11-14T22:13:20Z",
            "config": {"Entrypoint": self.entrypoint, "Env": self.environment, "User": self.user},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }))?;
        let [media_type, config_type, layer_type] = self.format.media_types();
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| json!({"mediaType": layer_type, "digest": layer.digest, "size": layer.blob.len()}))
            .collect();
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": media_type,
            "config": {"mediaType": config_type, "digest": digest(&config), "size": config.len()},
            "layers": descriptors,
        }))?;
        Ok(Image {
            digest: digest(&manifest),
            manifest,
            config,
            layers,
            media_type,
        })
    }
}

/// Go's name of this machine's architecture, or runtimes refuse the image.
fn machine() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

impl Image {
    /// Adds the image to a directory that [`crate::Registry`] serves: `blobs/sha256:<hex>` and
    /// `manifests/<name with / replaced by _>:<tag>`.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn write_to(&self, directory: &Path, name: &str, tag: &str) -> Result<()> {
        let blobs = directory.join("blobs");
        let manifests = directory.join("manifests");
        for folder in [&blobs, &manifests] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fs::write(blobs.join(digest(&self.config)), &self.config)?;
        for layer in &self.layers {
            fs::write(blobs.join(&layer.digest), &layer.blob)?;
        }
        fs::write(
            manifests.join(format!("{}:{tag}", name.replace('/', "_"))),
            &self.manifest,
        )?;
        Ok(())
    }

    /// An OCI image layout as a tar, as `ctr images import` and `docker load` take it, named `reference`.
    ///
    /// # Errors
    /// Only if memory runs out.
    pub fn oci_archive(&self, reference: &str) -> Result<Vec<u8>> {
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": self.media_type, "digest": self.digest, "size": self.manifest.len(),
            "annotations": {
                "io.containerd.image.name": reference,
                "org.opencontainers.image.ref.name": reference.rsplit(':').next().unwrap_or(reference),
            },
        }]});
        let mut files = vec![
            (
                "oci-layout".to_owned(),
                br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
            ),
            ("index.json".to_owned(), serde_json::to_vec(&index)?),
        ];
        let blobs = [&self.config, &self.manifest]
            .into_iter()
            .chain(self.layers.iter().map(|layer| &layer.blob));
        files.extend(blobs.map(|blob| {
            (
                format!("blobs/{}", digest(blob).replace(':', "/")),
                blob.clone(),
            )
        }));
        Layer::new(
            files
                .into_iter()
                .map(|(path, content)| crate::Entry::file(path, content)),
        )
        .tar()
    }
}
