//! Where an unpacked layer lies in a CVMFS repository, and what the repository states about it.
//!
//! Two layouts are in use (DUCC of 2020 and later; the one of 2019 that it replaced):
//!
//! ```text
//! /.layers/<xx>/<hex>/layerfs/…                 files of the layer, whiteouts verbatim, own nested catalog
//! /.layers/<xx>/<hex>/.metadata/layers.json     its diffID and uncompressed size
//! /unpacked/<xx>/<hex>/…                        2019: files only; no diffID is stated
//! ```
//! `<hex>` = SHA-256 of the *compressed* blob, `<xx>` = its first two digits. All paths here are absolute within the
//! repository, as catalogs have them: `format!("{mountpoint}{path}")`, never `Path::join`.

use serde::Deserialize;

use crate::{Digest, Reference};

/// One layer is about 350 bytes; nothing sane comes near this.
pub const MAX_LAYERS_JSON: usize = 64 << 10;

/// A marker file that DUCC's ingestion leaves at the root of each layer. It is no part of the layer.
pub const STRAY_CATALOG_MARKER: &str = ".cvmfscatalog";

/// How layers are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `/.layers/<xx>/<hex>/layerfs`
    Ducc,
    /// `/unpacked/<xx>/<hex>`, of 2019
    Unpacked,
}

impl Layout {
    /// All layouts, the likelier first.
    pub const ALL: [Self; 2] = [Self::Ducc, Self::Unpacked];

    /// The directory whose content is the layer's.
    #[must_use]
    pub fn files(self, layer: &Digest) -> String {
        match self {
            Self::Ducc => format!("{}/layerfs", ducc_directory(layer)),
            Self::Unpacked => format!("/unpacked/{}", sharded(layer)),
        }
    }

    /// The file that states the layer's diffID, if the layout has one.
    #[must_use]
    pub fn layers_json(self, layer: &Digest) -> Option<String> {
        match self {
            Self::Ducc => Some(format!("{}/.metadata/layers.json", ducc_directory(layer))),
            Self::Unpacked => None,
        }
    }
}

/// The image manifest that DUCC keeps, re-serialised: its digest is not the registry's. None without a tag.
#[must_use]
pub fn image_manifest(image: &Reference) -> Option<String> {
    let tag = image.tag()?;
    Some(format!(
        "/.metadata/{}/{}:{tag}/manifest.json",
        image.registry(),
        image.repository()
    ))
}

fn ducc_directory(layer: &Digest) -> String {
    format!("/.layers/{}", sharded(layer))
}

fn sharded(layer: &Digest) -> String {
    let hex = layer.hex();
    format!("{}/{hex}", &hex[..2])
}

/// What a repository states about a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerStatement {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Bytes of the uncompressed tar; 0 if not stated.
    pub diff_size: u64,
}

/// Why a `layers.json` states nothing about the layer.
#[derive(Debug, thiserror::Error)]
pub enum LayersJsonError {
    /// Longer than [`MAX_LAYERS_JSON`].
    #[error("layers.json of {0} bytes exceeds the limit of {MAX_LAYERS_JSON}")]
    TooLong(usize),
    /// Not JSON, or not a list of layers.
    #[error("malformed layers.json: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It speaks of other layers only.
    #[error("layers.json does not mention layer {0}")]
    OtherLayer(Digest),
    /// It gives two diffIDs for one layer.
    #[error("layers.json contradicts itself about layer {0}")]
    Contradiction(Digest),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    compressed_diff_digest: Option<Digest>,
    diff_digest: Option<Digest>,
    #[serde(default)]
    diff_size: u64,
}

impl LayerStatement {
    /// Reads what `layers_json` (containers/storage's format, a list) states about `layer`.
    ///
    /// # Errors
    /// See [`LayersJsonError`]; an entry for another compressed digest is never taken for this layer's.
    pub fn parse(layers_json: &[u8], layer: &Digest) -> Result<Self, LayersJsonError> {
        if layers_json.len() > MAX_LAYERS_JSON {
            return Err(LayersJsonError::TooLong(layers_json.len()));
        }
        let entries: Vec<Entry> = serde_json::from_slice(layers_json)?;
        let mut found = entries
            .into_iter()
            .filter(|entry| entry.compressed_diff_digest.as_ref() == Some(layer))
            .filter_map(|entry| {
                Some(Self {
                    diff_id: entry.diff_digest?,
                    diff_size: entry.diff_size,
                })
            });
        let first = found.next().ok_or(LayersJsonError::OtherLayer(*layer))?;
        if found.any(|other| other.diff_id != first.diff_id) {
            return Err(LayersJsonError::Contradiction(*layer));
        }
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LAYER: &str = "sha256:b96067f2d3b4e055e370b9351d701652bd2f93f3eea0499b5f43bcb99e023b23";
    const DIFF: &str = "sha256:8b7c8e9d119d89557f9c67cbd14b67d8f710a84fe51e730ab5b9378abb35523c";
    /// As cvmfs_ducc wrote it.
    const REAL: &[u8] = br#"[
 {
  "id": "8b7c8e9d119d89557f9c67cbd14b67d8f710a84fe51e730ab5b9378abb35523c",
  "created": "2026-11-24T04:34:57.239894152Z",
  "compressed-diff-digest": "sha256:b96067f2d3b4e055e370b9351d701652bd2f93f3eea0499b5f43bcb99e023b23",
  "diff-digest": "sha256:8b7c8e9d119d89557f9c67cbd14b67d8f710a84fe51e730ab5b9378abb35523c",
  "diff-size": 2406400
 }
]"#;

    fn layer() -> Digest {
        LAYER.parse().unwrap()
    }

    #[test]
    fn paths_of_both_layouts() {
        let hex = layer().hex();
        assert_eq!(
            Layout::Ducc.files(&layer()),
            format!("/.layers/b9/{hex}/layerfs")
        );
        assert_eq!(
            Layout::Ducc.layers_json(&layer()),
            Some(format!("/.layers/b9/{hex}/.metadata/layers.json"))
        );
        assert_eq!(
            Layout::Unpacked.files(&layer()),
            format!("/unpacked/b9/{hex}")
        );
        assert_eq!(Layout::Unpacked.layers_json(&layer()), None);
    }

    #[test]
    fn manifest_of_an_image() {
        let image = |text: &str| image_manifest(&text.parse().unwrap());
        assert_eq!(
            image("registry.test/library/mini:1.0").as_deref(),
            Some("/.metadata/registry.test/library/mini:1.0/manifest.json")
        );
        assert_eq!(image(&format!("a.b/c@{LAYER}")), None);
    }

    #[test]
    fn the_real_statement() {
        let statement = LayerStatement::parse(REAL, &layer()).unwrap();
        assert_eq!(
            statement,
            LayerStatement {
                diff_id: DIFF.parse().unwrap(),
                diff_size: 2_406_400
            }
        );
    }

    #[test]
    fn statements_about_something_else() {
        let other = Digest::of(b"other");
        assert!(matches!(
            LayerStatement::parse(REAL, &other),
            Err(LayersJsonError::OtherLayer(_))
        ));
        assert!(matches!(
            LayerStatement::parse(b"[]", &other),
            Err(LayersJsonError::OtherLayer(_))
        ));
        let without = format!(r#"[{{"compressed-diff-digest":"{LAYER}"}}]"#);
        assert!(matches!(
            LayerStatement::parse(without.as_bytes(), &layer()),
            Err(LayersJsonError::OtherLayer(_))
        ));
        let twice = format!(
            r#"[{{"compressed-diff-digest":"{LAYER}","diff-digest":"{DIFF}"}},{{"compressed-diff-digest":"{LAYER}","diff-digest":"{other}"}}]"#
        );
        assert!(matches!(
            LayerStatement::parse(twice.as_bytes(), &layer()),
            Err(LayersJsonError::Contradiction(_))
        ));
        let same = twice.replace(&other.to_string(), DIFF);
        assert!(LayerStatement::parse(same.as_bytes(), &layer()).is_ok());
    }

    #[test]
    fn malformed_statements() {
        for text in [
            "",
            "{}",
            "null",
            "[1]",
            r#"[{"diff-digest":"md5:1"}]"#,
            r#"[{"diff-size":-1}]"#,
        ] {
            let error = LayerStatement::parse(text.as_bytes(), &layer()).unwrap_err();
            assert!(
                matches!(error, LayersJsonError::Malformed(_)),
                "{text}: {error}"
            );
        }
        let long = vec![b' '; MAX_LAYERS_JSON + 1];
        assert!(matches!(
            LayerStatement::parse(&long, &layer()),
            Err(LayersJsonError::TooLong(_))
        ));
    }

    proptest! {
        #[test]
        fn damage_never_panics_nor_changes_the_layer(position in 0..REAL.len(), byte in any::<u8>()) {
            let mut text = REAL.to_vec();
            text[position] = byte;
            if let Ok(statement) = LayerStatement::parse(&text, &layer()) {
                prop_assert!(statement.diff_id.to_string().len() == DIFF.len());
            }
        }
    }
}
