use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::document::{Document, DocumentError, bounded, from_json};
use crate::{Digest, MediaType};

/// A reference to a blob or document by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: MediaType,
    /// Of the stored (for layers: compressed) bytes.
    pub digest: Digest,
    /// Length of the stored bytes.
    pub size: u64,
    /// Free text, for instance the eStargz TOC digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// In an index: what the manifest is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// A machine and operating system that an image is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Go's name, for instance `amd64`
    pub architecture: String,
    /// Go's name, for instance `linux`
    pub os: String,
    /// for instance `v8`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// An image for one platform: its configuration and its layers, bottom to top.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// always 2
    pub schema_version: u64,
    /// Optional in OCI manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// The image configuration.
    pub config: Descriptor,
    /// The layers, bottom to top.
    pub layers: Vec<Descriptor>,
    /// Free text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Manifests for several platforms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// always 2
    pub schema_version: u64,
    /// Optional in OCI indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// One manifest a platform, and attestations for platform `unknown`.
    pub manifests: Vec<Descriptor>,
}

/// What a registry answers for a tag.
#[derive(Clone, Debug)]
pub enum ManifestOrIndex {
    /// an image for one platform
    Manifest(Document<Manifest>),
    /// images for several platforms
    Index(Document<Index>),
}

impl Manifest {
    /// Parses an image manifest of either kind.
    ///
    /// # Errors
    /// If it is too long, not JSON, not schema 2, an index, or lists too many layers.
    pub fn parse(raw: &[u8]) -> Result<Document<Self>, DocumentError> {
        check_header(raw, MediaType::is_manifest)?;
        let document = Document::<Self>::decode(raw, "manifest")?;
        bounded(document.layers.len(), "layers")?;
        Ok(document)
    }
}

impl Index {
    /// Parses an index or a docker manifest list.
    ///
    /// # Errors
    /// If it is too long, not JSON, not schema 2, an image manifest, or lists too many manifests.
    pub fn parse(raw: &[u8]) -> Result<Document<Self>, DocumentError> {
        check_header(raw, MediaType::is_index)?;
        let document = Document::<Self>::decode(raw, "index")?;
        bounded(document.manifests.len(), "manifests")?;
        Ok(document)
    }

    /// The first manifest for `wanted`; without a variant there, any variant will do.
    #[must_use]
    pub fn select(&self, wanted: &Platform) -> Option<&Descriptor> {
        self.manifests.iter().find(|descriptor| {
            descriptor.platform.as_ref().is_some_and(|offered| {
                offered.os == wanted.os
                    && offered.architecture == wanted.architecture
                    && (wanted.variant.is_none() || offered.variant == wanted.variant)
            })
        })
    }
}

impl ManifestOrIndex {
    /// Parses whichever it is: by its own `mediaType`, else by whether it lists `manifests`.
    ///
    /// The document decides, not an HTTP header: the header is not covered by the digest.
    ///
    /// # Errors
    /// As [`Manifest::parse`] and [`Index::parse`].
    pub fn parse(raw: &[u8]) -> Result<Self, DocumentError> {
        let header: Header = from_json(raw, "manifest")?;
        let index = header
            .media_type
            .as_ref()
            .map_or(header.manifests.is_some(), MediaType::is_index);
        if index {
            Index::parse(raw).map(Self::Index)
        } else {
            Manifest::parse(raw).map(Self::Manifest)
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    schema_version: u64,
    media_type: Option<MediaType>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

fn check_header(raw: &[u8], wanted: impl Fn(&MediaType) -> bool) -> Result<(), DocumentError> {
    let header: Header = from_json(raw, "manifest")?;
    if header.schema_version != 2 {
        return Err(DocumentError::SchemaVersion(header.schema_version));
    }
    // A document that is both is an attack on readers that disagree about it (CVE-2021-41190).
    if header.manifests.is_some() && header.layers.is_some() {
        return Err(DocumentError::MediaType(
            "both manifests and layers".to_owned(),
        ));
    }
    match header.media_type {
        Some(found) if !wanted(&found) => Err(DocumentError::MediaType(found.to_string())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DOCKER: &[u8] = br#"{"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 521,
            "digest": "sha256:4e785ef693db54aedf782972fa64d30bc26cb9283ccb5a73e0301baaacb2d3bd"},
        "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": 1081847,
            "digest": "sha256:b96067f2d3b4e055e370b9351d701652bd2f93f3eea0499b5f43bcb99e023b23"}]}"#;

    fn descriptor(media_type: MediaType, platform: Option<Platform>) -> Descriptor {
        Descriptor {
            media_type,
            digest: Digest::of(b"x"),
            size: 1,
            annotations: BTreeMap::new(),
            platform,
        }
    }

    fn platform(architecture: &str, variant: Option<&str>) -> Platform {
        Platform {
            architecture: architecture.into(),
            os: "linux".into(),
            variant: variant.map(Into::into),
        }
    }

    #[test]
    fn a_docker_manifest() {
        let manifest = Manifest::parse(DOCKER).unwrap();
        assert_eq!(manifest.raw(), DOCKER);
        assert_eq!(manifest.layers[0].size, 1_081_847);
        assert!(manifest.config.media_type.is_config());
        assert!(matches!(
            ManifestOrIndex::parse(DOCKER),
            Ok(ManifestOrIndex::Manifest(_))
        ));
        assert!(matches!(
            Index::parse(DOCKER),
            Err(DocumentError::MediaType(_))
        ));
        assert!(manifest.clone().verified(&Digest::of(DOCKER)).is_ok());
        assert!(matches!(
            manifest.verified(&Digest::of(b"")),
            Err(DocumentError::DigestMismatch { .. })
        ));
    }

    #[test]
    fn an_index_selects_by_platform() {
        let manifests = vec![
            descriptor(MediaType::OciManifest, None),
            descriptor(MediaType::OciManifest, Some(platform("arm64", Some("v8")))),
            descriptor(MediaType::OciManifest, Some(platform("amd64", None))),
        ];
        let raw = serde_json::to_vec(&Index {
            schema_version: 2,
            media_type: None,
            manifests,
        })
        .unwrap();
        let Ok(ManifestOrIndex::Index(index)) = ManifestOrIndex::parse(&raw) else {
            panic!("not an index")
        };
        let found = |wanted| {
            index
                .select(&wanted)
                .and_then(|found| found.platform.clone())
        };
        assert_eq!(
            found(platform("amd64", None)),
            Some(platform("amd64", None))
        );
        assert_eq!(
            found(platform("arm64", None)),
            Some(platform("arm64", Some("v8")))
        );
        assert_eq!(found(platform("arm64", Some("v7"))), None);
        assert_eq!(found(platform("riscv64", None)), None);
    }

    #[test]
    fn what_is_refused() {
        let schema1 = br#"{"schemaVersion":1,"fsLayers":[]}"#;
        assert!(matches!(
            ManifestOrIndex::parse(schema1),
            Err(DocumentError::SchemaVersion(1))
        ));
        let both = br#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#;
        assert!(matches!(
            ManifestOrIndex::parse(both),
            Err(DocumentError::MediaType(_))
        ));
        assert!(matches!(
            ManifestOrIndex::parse(b"\x1f\x8b"),
            Err(DocumentError::Malformed(..))
        ));
        let deep = [b'['; 100_000];
        assert!(matches!(
            Manifest::parse(&deep),
            Err(DocumentError::Malformed(..))
        ));
        let long = vec![b' '; crate::MAX_DOCUMENT_BYTES + 1];
        assert!(matches!(
            Manifest::parse(&long),
            Err(DocumentError::TooLong(_))
        ));
        let text = String::from_utf8(DOCKER.to_vec())
            .unwrap()
            .replace("1081847", "-1");
        assert!(matches!(
            Manifest::parse(text.as_bytes()),
            Err(DocumentError::Malformed(..))
        ));
    }

    #[test]
    fn too_many_layers() {
        let mut manifest = Manifest::parse(DOCKER).unwrap().into_value();
        manifest.layers = vec![manifest.layers[0].clone(); crate::MAX_ENTRIES + 1];
        let raw = serde_json::to_vec(&manifest).unwrap();
        assert!(matches!(
            Manifest::parse(&raw),
            Err(DocumentError::TooMany(..))
        ));
    }

    proptest! {
        #[test]
        fn written_manifests_come_back(sizes in prop::collection::vec(any::<u64>(), 0..8), text in ".{0,20}") {
            let layers = sizes.iter().map(|size| Descriptor {
                size: *size,
                annotations: BTreeMap::from([("k".to_owned(), text.clone())]),
                ..descriptor(MediaType::parse("application/vnd.oci.image.layer.v1.tar+gzip"), None)
            });
            let manifest = Manifest {
                schema_version: 2,
                media_type: Some(MediaType::OciManifest),
                config: descriptor(MediaType::OciConfig, None),
                layers: layers.collect(),
                annotations: BTreeMap::new(),
            };
            let raw = serde_json::to_vec(&manifest).unwrap();
            prop_assert_eq!(Manifest::parse(&raw).unwrap().into_value(), manifest);
        }

        #[test]
        fn damaged_documents_never_panic(position in 0..DOCKER.len(), byte in any::<u8>()) {
            let mut raw = DOCKER.to_vec();
            raw[position] = byte;
            let _ = ManifestOrIndex::parse(&raw);
        }
    }
}
