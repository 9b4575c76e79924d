use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a blob or document is, by the name that OCI or docker gave it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum MediaType {
    /// `application/vnd.oci.image.manifest.v1+json`
    OciManifest,
    /// `application/vnd.docker.distribution.manifest.v2+json`
    DockerManifest,
    /// `application/vnd.oci.image.index.v1+json`
    OciIndex,
    /// `application/vnd.docker.distribution.manifest.list.v2+json`
    DockerManifestList,
    /// `application/vnd.oci.image.config.v1+json`
    OciConfig,
    /// `application/vnd.docker.container.image.v1+json`
    DockerConfig,
    /// `application/vnd.oci.image.layer.v1.tar` and, by compression, `…+gzip` and `…+zstd`
    OciLayer(LayerCompression),
    /// `application/vnd.docker.image.rootfs.diff.tar`, `….gzip` and `….zstd`
    DockerLayer(LayerCompression),
    /// A layer that registries do not hold (`…nondistributable…`, `…foreign…`), with its full name
    ForeignLayer(String),
    /// Anything else, for instance an attestation
    Other(String),
}

/// How a layer's tar is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LayerCompression {
    /// plain tar
    None,
    /// gzip, also when it is an eStargz blob
    Gzip,
    /// Zstandard, also when it is zstd:chunked
    Zstd,
}

const NAMES: [(MediaType, &str); 12] = [
    (
        MediaType::OciManifest,
        "application/vnd.oci.image.manifest.v1+json",
    ),
    (
        MediaType::DockerManifest,
        "application/vnd.docker.distribution.manifest.v2+json",
    ),
    (
        MediaType::OciIndex,
        "application/vnd.oci.image.index.v1+json",
    ),
    (
        MediaType::DockerManifestList,
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ),
    (
        MediaType::OciConfig,
        "application/vnd.oci.image.config.v1+json",
    ),
    (
        MediaType::DockerConfig,
        "application/vnd.docker.container.image.v1+json",
    ),
    (
        MediaType::OciLayer(LayerCompression::None),
        "application/vnd.oci.image.layer.v1.tar",
    ),
    (
        MediaType::OciLayer(LayerCompression::Gzip),
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ),
    (
        MediaType::OciLayer(LayerCompression::Zstd),
        "application/vnd.oci.image.layer.v1.tar+zstd",
    ),
    (
        MediaType::DockerLayer(LayerCompression::None),
        "application/vnd.docker.image.rootfs.diff.tar",
    ),
    (
        MediaType::DockerLayer(LayerCompression::Gzip),
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
    (
        MediaType::DockerLayer(LayerCompression::Zstd),
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ),
];

impl MediaType {
    /// The type named `text`; parameters after `;` (as in an HTTP header) are dropped. Every text is some type.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let text = text.split(';').next().unwrap_or_default().trim();
        if let Some((known, _)) = NAMES.iter().find(|(_, name)| *name == text) {
            return known.clone();
        }
        let foreign = text.starts_with("application/vnd.oci.image.layer.nondistributable.v1.tar")
            || text.starts_with("application/vnd.docker.image.rootfs.foreign.diff.tar");
        if foreign {
            Self::ForeignLayer(text.to_owned())
        } else {
            Self::Other(text.to_owned())
        }
    }

    /// The name as it stands in documents and HTTP headers.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::ForeignLayer(name) | Self::Other(name) => name,
            known => NAMES
                .iter()
                .find(|(one, _)| one == known)
                .map_or("", |(_, name)| name),
        }
    }

    /// Whether it is an image manifest of either kind.
    #[must_use]
    pub fn is_manifest(&self) -> bool {
        matches!(self, Self::OciManifest | Self::DockerManifest)
    }

    /// Whether it is an index (manifest list) of either kind.
    #[must_use]
    pub fn is_index(&self) -> bool {
        matches!(self, Self::OciIndex | Self::DockerManifestList)
    }

    /// Whether it is an image configuration of either kind.
    #[must_use]
    pub fn is_config(&self) -> bool {
        matches!(self, Self::OciConfig | Self::DockerConfig)
    }

    /// The compression if it is a layer that a registry holds.
    #[must_use]
    pub fn layer_compression(&self) -> Option<LayerCompression> {
        match self {
            Self::OciLayer(compression) | Self::DockerLayer(compression) => Some(*compression),
            _ => None,
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl Serialize for MediaType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::parse(&std::borrow::Cow::<str>::deserialize(
            deserializer,
        )?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_differ() {
        for (index, (kind, name)) in NAMES.iter().enumerate() {
            assert_eq!(&MediaType::parse(name), kind);
            assert_eq!(kind.as_str(), *name);
            assert!(
                NAMES[..index]
                    .iter()
                    .all(|(other, text)| other != kind && text != name)
            );
        }
    }

    #[test]
    fn parameters_are_dropped() {
        let parsed = MediaType::parse("application/vnd.oci.image.index.v1+json; charset=utf-8");
        assert_eq!(parsed, MediaType::OciIndex);
    }

    #[test]
    fn kinds() {
        let foreign = MediaType::parse("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        assert!(matches!(foreign, MediaType::ForeignLayer(_)));
        assert_eq!(foreign.layer_compression(), None);
        let other = MediaType::parse("application/vnd.in-toto+json");
        assert_eq!(other.as_str(), "application/vnd.in-toto+json");
        assert!(!other.is_manifest() && !other.is_index() && !other.is_config());
        let zstd = MediaType::parse("application/vnd.oci.image.layer.v1.tar+zstd");
        assert_eq!(zstd.layer_compression(), Some(LayerCompression::Zstd));
        assert!(
            MediaType::DockerManifestList.is_index() && MediaType::DockerManifest.is_manifest()
        );
    }
}
