//! Where an unpacked layer lies in a CVMFS repository, and what the repository states about it.
//!
//! Two layouts are in use (DUCC of 2020 and later; the one of 2019 that it replaced):
//!
//! ```text
//! /.layers/<xx>/<hex>/layerfs/…                 files of the layer, whiteouts verbatim, own nested catalog
//! /.layers/<xx>/<hex>/.metadata/layers.json     its diffID and uncompressed size
//! /unpacked/<xx>/<hex>/…                        2019: files only; no diffID is stated
//! ```
//! Layers that are read piece by piece (eStargz and its kin) may lie there as blobs, too:
//!
//! ```text
//! /stargz/blobs/sha256/<xx>/<hex>/data          the blob, byte for byte
//! ```
//! What our publisher adds, all of it where no reader of DUCC's tree looks:
//!
//! ```text
//! /.layers/<xx>/<hex>/.metadata/outcrop.json    what `layerfs` cannot hold: see [`LayerNotes`]
//! /.outcrop/diffs/<xx>/<hex of the diffID>      -> ../../../.layers/<xx>/<hex>
//! /.outcrop/chains/<xx>/<hex of the chainID>    -> ../../../.layers/<xx>/<hex> of the chain's uppermost layer
//! /.metadata/<image>/{index,config}.json        beside DUCC's manifest.json; all three byte for byte as they came
//! /.metadata/<image>/platforms/<hex of the manifest>/{manifest,config}.json    of each platform of an index
//! ```
//! `<hex>` = SHA-256 of the *compressed* blob, `<xx>` = its first two digits. All paths here are absolute within the
//! repository, as catalogs have them: `format!("{mountpoint}{path}")`, never `Path::join`.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

/// The symlink from a diffID to the directory of a layer that has it.
#[must_use]
pub fn diff_pointer(diff_id: &Digest) -> String {
    format!("/.outcrop/diffs/{}", sharded(diff_id))
}

/// The symlink from a chainID to the directory of its uppermost layer.
#[must_use]
pub fn chain_pointer(chain_id: &Digest) -> String {
    format!("/.outcrop/chains/{}", sharded(chain_id))
}

/// What the pointers to a layer contain.
#[must_use]
pub fn pointer_target(layer: &Digest) -> String {
    format!("../../..{}", ducc_directory(layer))
}

/// The layer that a pointer points to; `None` for anything but what [`pointer_target`] gives.
#[must_use]
pub fn pointed_layer(target: &[u8]) -> Option<Digest> {
    let hex = std::str::from_utf8(target).ok()?.rsplit('/').next()?;
    let layer = Digest::from_hex(hex).ok()?;
    (pointer_target(&layer).as_bytes() == target).then_some(layer)
}

/// The file that holds a layer's blob as it is, for readers that take parts of it.
#[must_use]
pub fn stargz_blob(layer: &Digest) -> String {
    format!("/stargz/blobs/sha256/{}/data", sharded(layer))
}

/// The file with a layer's [`LayerNotes`]: only our publisher's layers have it.
#[must_use]
pub fn layer_notes(layer: &Digest) -> String {
    format!("{}/.metadata/outcrop.json", ducc_directory(layer))
}

/// The directory of a layer in DUCC's layout, with `layerfs` and `.metadata`.
#[must_use]
pub fn layer_directory(layer: &Digest) -> String {
    ducc_directory(layer)
}

fn ducc_directory(layer: &Digest) -> String {
    format!("/.layers/{}", sharded(layer))
}

fn sharded(layer: &Digest) -> String {
    let hex = layer.hex();
    format!("{}/{hex}", &hex[..2])
}

/// Longest [`LayerNotes`] file: a layer may have very many implicit directories.
pub const MAX_LAYER_NOTES: usize = 64 << 20;

/// What a layer's tar says and a directory tree cannot. Paths are relative to the layer's root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LayerNotes {
    /// Of this format: 1.
    pub version: u32,
    /// Directories that no entry of the tar names: their attributes are those of lower layers.
    #[serde(default)]
    pub implicit_directories: Vec<EscapedPath>,
    /// Hardlinks to files of lower layers: they are missing in `layerfs`.
    #[serde(default)]
    pub hardlinks: Vec<LowerHardlink>,
}

/// A hardlink to a file of a lower layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LowerHardlink {
    /// The link.
    pub path: EscapedPath,
    /// The file that it links to.
    pub target: EscapedPath,
}

/// A path in JSON: `%` and all that is not printable ASCII as `%XX`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EscapedPath(pub Vec<u8>);

impl Serialize for EscapedPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(self.0.len());
        for byte in &self.0 {
            match byte {
                b'%' => text.push_str("%25"),
                b' '..=b'~' => text.push(char::from(*byte)),
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for EscapedPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        unescaped(text.as_bytes())
            .map(Self)
            .ok_or_else(|| D::Error::custom("malformed escape in a path"))
    }
}

fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut path = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let digits = [*bytes.next()?, *bytes.next()?];
                let upper = |digit: &u8| matches!(digit, b'0'..=b'9' | b'A'..=b'F');
                let digits = std::str::from_utf8(&digits).ok()?;
                if !digits.as_bytes().iter().all(upper) {
                    return None;
                }
                u8::from_str_radix(digits, 16).ok()?
            }
            byte => *byte,
        };
        path.push(byte);
    }
    Some(path)
}

/// Why a [`LayerNotes`] file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum LayerNotesError {
    /// Longer than [`MAX_LAYER_NOTES`].
    #[error("outcrop.json of {0} bytes exceeds the limit of {MAX_LAYER_NOTES}")]
    TooLong(usize),
    /// Not what it should be.
    #[error("malformed outcrop.json: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Of a format that is not known.
    #[error("outcrop.json has version {0}, known is {VERSION}", VERSION = LayerNotes::VERSION)]
    Version(u32),
}

impl LayerNotes {
    /// The version that is written.
    pub const VERSION: u32 = 1;

    /// Reads a file.
    ///
    /// # Errors
    /// See [`LayerNotesError`].
    pub fn parse(json: &[u8]) -> Result<Self, LayerNotesError> {
        if json.len() > MAX_LAYER_NOTES {
            return Err(LayerNotesError::TooLong(json.len()));
        }
        let notes: Self = serde_json::from_slice(json)?;
        match notes.version {
            Self::VERSION => Ok(notes),
            other => Err(LayerNotesError::Version(other)),
        }
    }
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
    fn pointers_lead_back_to_the_layer() {
        let hex = layer().hex();
        assert_eq!(diff_pointer(&layer()), format!("/.outcrop/diffs/b9/{hex}"));
        assert_eq!(
            chain_pointer(&layer()),
            format!("/.outcrop/chains/b9/{hex}")
        );
        let target = pointer_target(&layer());
        assert_eq!(target, format!("../../../.layers/b9/{hex}"));
        assert_eq!(pointed_layer(target.as_bytes()), Some(layer()));
        for other in [
            format!("../../../.layers/b8/{hex}"),
            format!("../../.layers/b9/{hex}"),
            format!("/.layers/b9/{hex}"),
            format!("../../../.layers/b9/{}", &hex[1..]),
            String::new(),
        ] {
            assert_eq!(pointed_layer(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn notes_of_another_kind_are_refused() {
        for (text, version) in [
            (r#"{"version":2}"#, true),
            (r#"{"version":1,"implicit-directories":["%4"]}"#, false),
            (r#"{"version":1,"implicit-directories":["%zz"]}"#, false),
            ("{}", false),
        ] {
            let error = LayerNotes::parse(text.as_bytes()).unwrap_err();
            assert_eq!(
                matches!(error, LayerNotesError::Version(2)),
                version,
                "{error}"
            );
        }
        assert_eq!(
            LayerNotes::parse(br#"{"version":1}"#).unwrap().hardlinks,
            []
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
        fn notes_survive_any_path(path in prop::collection::vec(any::<u8>(), 0..40), target in prop::collection::vec(any::<u8>(), 0..40)) {
            let notes = LayerNotes {
                version: LayerNotes::VERSION,
                implicit_directories: vec![EscapedPath(path.clone())],
                hardlinks: vec![LowerHardlink { path: EscapedPath(path), target: EscapedPath(target) }],
            };
            let json = serde_json::to_vec(&notes).unwrap();
            prop_assert_eq!(LayerNotes::parse(&json).unwrap(), notes);
        }

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
