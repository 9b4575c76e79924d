//! What an image's manifest says of its layers.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// An image in a registry's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// Digests of the layers as they are fetched.
    pub(super) layers: Vec<String>,
    /// Their sizes together.
    pub(super) bytes: u64,
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
}

impl Image {
    /// Reads `name:tag` of the directory of a test registry.
    pub(super) fn read(images: &Path, name: &str, tag: &str) -> Result<Self> {
        let name = format!("{}:{tag}", name.replace('/', "_"));
        let file = images.join("manifests").join(name);
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no manifest", file.display()))
    }

    fn parse(manifest: &[u8]) -> Result<Self> {
        let manifest: Manifest = serde_json::from_slice(manifest)?;
        Ok(Self {
            bytes: manifest.layers.iter().map(|layer| layer.size).sum(),
            layers: manifest
                .layers
                .into_iter()
                .map(|layer| layer.digest)
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_no_layer() {
        let manifest = br#"{"schemaVersion":2,"config":{"digest":"sha256:cc","size":7},
            "layers":[{"digest":"sha256:aa","size":20},{"digest":"sha256:bb","size":300}]}"#;
        let image = Image::parse(manifest).unwrap();
        assert_eq!(image.layers, ["sha256:aa", "sha256:bb"]);
        assert_eq!(image.bytes, 320);
        assert!(Image::parse(br#"{"manifests":[]}"#).is_err());
    }
}
