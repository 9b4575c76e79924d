//! Labels that mean something to a snapshotter, and the ones we add.

use std::collections::BTreeMap;
use std::sync::Arc;

use image::Digest;

use crate::layers::{Annotations, ImageLayer};

/// Labels of a snapshot.
pub type Labels = BTreeMap<String, String>;

/// chainID of the layer that a Prepare is for.
pub const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";
/// Uncompressed digest (containerd ≥ 2.3).
pub const DIFF_ID: &str = "containerd.io/snapshot/diff-id";
/// Reference as pulled.
pub const CRI_IMAGE_REF: &str = "containerd.io/snapshot/cri.image-ref";
/// Digest of the layer's blob.
pub const CRI_LAYER_DIGEST: &str = "containerd.io/snapshot/cri.layer-digest";
/// Comma list of this and the following layers.
pub const CRI_IMAGE_LAYERS: &str = "containerd.io/snapshot/cri.image-layers";
/// The same three from stargz's own client (`ctr-remote`, nerdctl).
pub const STARGZ_REFERENCE: &str = "containerd.io/snapshot/remote/stargz.reference";
/// See [`STARGZ_REFERENCE`].
pub const STARGZ_DIGEST: &str = "containerd.io/snapshot/remote/stargz.digest";
/// See [`STARGZ_REFERENCE`].
pub const STARGZ_LAYERS: &str = "containerd.io/snapshot/remote/stargz.layers";

/// Beginnings of annotations that say how a layer can be read piece by piece. containerd hands on those that begin with
/// `containerd.io/snapshot/`; the others stand in the manifest only.
const LAZY: [&str; 4] = [
    "containerd.io/snapshot/stargz/",
    "io.containers.estargz.",
    "io.github.containers.zstd-chunked.",
    "io.containers.zstd-chunked.",
];
/// Longer values are none of these annotations'.
const LAZY_LIMIT: usize = 1024;

/// Ours: why the snapshot is an ordinary one.
pub const REASON: &str = "containerd.io/snapshot/outcrop.reason";
/// Ours: where the layer comes from.
pub const SOURCE: &str = "containerd.io/snapshot/outcrop.source";
/// Ours: the layer's tree.
pub const TREE: &str = "containerd.io/snapshot/outcrop.tree";
/// Ours: digest of a lazy layer's blob.
pub const LAYER: &str = "containerd.io/snapshot/outcrop.layer";
/// Ours: bytes of a lazy layer, as its source states them: of its files, or (DUCC) of its tar.
pub const HELD: &str = "containerd.io/snapshot/outcrop.held-bytes";
/// Ours: bytes of them that were read since the daemon's start, whole objects or chunks.
pub const READ: &str = "containerd.io/snapshot/outcrop.read-bytes";
/// Nobody else may set labels below this: a manifest's annotations reach us as labels.
pub const OURS: &str = "containerd.io/snapshot/outcrop.";

/// More digests than this in one label are ignored; 4096 bytes hold about 55.
const LAYERS_LIMIT: usize = 512;

/// Labels as they are stored: empty values dropped (as containerd's own store does), none that are ours.
pub fn clean(labels: impl IntoIterator<Item = (String, String)>) -> Labels {
    labels
        .into_iter()
        .filter(|(key, value)| !value.is_empty() && !key.starts_with(OURS))
        .collect()
}

/// Those annotations among labels or annotations that say how a layer can be read piece by piece.
pub fn lazy_annotations(all: &BTreeMap<String, String>) -> Annotations {
    all.iter()
        .filter(|(key, value)| {
            value.len() <= LAZY_LIMIT && LAZY.iter().any(|begin| key.starts_with(begin))
        })
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Which layer a Prepare is for, as far as its labels tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerHint {
    /// The blob's digest.
    pub layer: Option<Digest>,
    /// The uncompressed digest, unchecked.
    pub diff_id: Option<Digest>,
    /// This and the following layers.
    pub image_layers: Vec<Digest>,
    /// Reference as pulled.
    pub image_reference: Option<String>,
    /// How the layer can be read piece by piece.
    pub annotations: Annotations,
}

impl LayerHint {
    /// The layers of the image as far as labels tell, from this one on.
    pub(crate) fn image(&self) -> Arc<[ImageLayer]> {
        let mut image: Vec<ImageLayer> = self.image_layers.iter().map(|&one| one.into()).collect();
        if let Some(own) = image.first_mut()
            && Some(own.digest) == self.layer
        {
            own.annotations = self.annotations.clone();
        }
        image.into()
    }

    /// Reads the labels of CRI, of containerd's unpacker and of stargz's client; what does not parse counts as absent.
    pub fn read(labels: &Labels) -> Self {
        let digest = |keys: &[&str]| {
            keys.iter()
                .find_map(|key| labels.get(*key)?.parse::<Digest>().ok())
        };
        let image_layers = [CRI_IMAGE_LAYERS, STARGZ_LAYERS]
            .iter()
            .find_map(|key| labels.get(*key))
            .map(|list| {
                list.split(',')
                    .take(LAYERS_LIMIT)
                    .map_while(|one| one.trim().parse().ok())
                    .collect()
            })
            .unwrap_or_default();
        Self {
            layer: digest(&[CRI_LAYER_DIGEST, STARGZ_DIGEST]),
            diff_id: digest(&[DIFF_ID]),
            image_layers,
            image_reference: [CRI_IMAGE_REF, STARGZ_REFERENCE]
                .iter()
                .find_map(|key| labels.get(*key))
                .cloned(),
            annotations: lazy_annotations(labels),
        }
    }
}

/// containerd's namespace, from a backend key `<namespace>/<sequence>/<client's key>`.
///
/// Never from metadata headers: `ctr` 1.7 sends none, and a client could send anything.
pub fn namespace_of(key: &str) -> Option<&str> {
    let mut parts = key.splitn(3, '/');
    let (namespace, sequence, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let numeric = !sequence.is_empty() && sequence.bytes().all(|byte| byte.is_ascii_digit());
    (numeric && !namespace.is_empty() && !rest.is_empty()).then_some(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn digest(byte: &str) -> String {
        format!("sha256:{}", byte.repeat(32))
    }

    #[test]
    fn namespaces_come_from_the_backend_key() {
        let table = [
            ("k8s.io/12/sha256:3f", Some("k8s.io")),
            ("k8s.io/13/extract-123456-AbCd sha256:3f", Some("k8s.io")),
            ("default/1/a/b", Some("default")),
            ("sha256:3f", None),
            ("a/b", None),
            ("a/b/c", None),
            ("/1/c", None),
            ("a/1/", None),
            ("a//c", None),
            ("", None),
        ];
        for (key, expected) in table {
            assert_eq!(namespace_of(key), expected, "{key}");
        }
    }

    #[test]
    fn hints_of_every_client_are_read() {
        let (a, b) = (digest("aa"), digest("bb"));
        let cri = LayerHint::read(&labels(&[
            (CRI_LAYER_DIGEST, &a),
            (CRI_IMAGE_LAYERS, &format!("{a},{b}")),
            (CRI_IMAGE_REF, "r/x:1"),
            (DIFF_ID, &b),
        ]));
        assert_eq!(cri.layer.as_ref().map(ToString::to_string), Some(a));
        assert_eq!(
            cri.diff_id.as_ref().map(ToString::to_string),
            Some(b.clone())
        );
        assert_eq!(cri.image_layers.len(), 2);
        assert_eq!(cri.image_reference.as_deref(), Some("r/x:1"));

        let stargz = LayerHint::read(&labels(&[
            (STARGZ_DIGEST, &b),
            (STARGZ_LAYERS, &b),
            (STARGZ_REFERENCE, "r/y"),
        ]));
        assert_eq!(
            stargz.layer.as_ref().map(ToString::to_string),
            Some(b.clone())
        );
        assert_eq!(stargz.image_layers.len(), 1);
        assert_eq!(stargz.image_reference.as_deref(), Some("r/y"));

        let bad = LayerHint::read(&labels(&[
            (CRI_LAYER_DIGEST, "sha256:xyz"),
            (CRI_IMAGE_LAYERS, ",,,"),
            (DIFF_ID, ""),
        ]));
        assert_eq!(bad, LayerHint::default());
        let fallback = LayerHint::read(&labels(&[
            (CRI_LAYER_DIGEST, "nonsense"),
            (STARGZ_DIGEST, &b),
        ]));
        assert!(
            fallback.layer.is_some(),
            "a bad label does not hide a good one"
        );
    }

    #[test]
    fn cleaning_drops_empty_and_forged_labels_and_keeps_unknown_ones() {
        let cleaned = clean([
            (
                "containerd.io/snapshot/strange".to_owned(),
                "kept".to_owned(),
            ),
            ("empty".to_owned(), String::new()),
            (TREE.to_owned(), "forged".to_owned()),
        ]);
        assert_eq!(
            cleaned,
            labels(&[("containerd.io/snapshot/strange", "kept")])
        );
    }
}
