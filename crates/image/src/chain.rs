use crate::Digest;

/// The diffID of the empty layer: a tar of 1024 zero bytes.
///
/// `docker build` and BuildKit write it for instructions that change no file. It needs no source: its tree is known.
pub const EMPTY_LAYER: Digest = Digest::from_bytes([
    0x5f, 0x70, 0xbf, 0x18, 0xa0, 0x86, 0x00, 0x70, 0x16, 0xe9, 0x48, 0xb0, 0x4a, 0xed, 0x3b,
    0x82, //
    0x10, 0x3a, 0x36, 0xbe, 0xa4, 0x17, 0x55, 0xb6, 0xcd, 0xdf, 0xaf, 0x10, 0xac, 0xe3, 0xc6, 0xef,
]);

/// The digest of the gzip blob in which docker ships the [`EMPTY_LAYER`]. Other compressors give other blobs.
pub const EMPTY_LAYER_GZIP: Digest = Digest::from_bytes([
    0xa3, 0xed, 0x95, 0xca, 0xeb, 0x02, 0xff, 0xe6, 0x8c, 0xdd, 0x9f, 0xd8, 0x44, 0x06, 0x68,
    0x0a, //
    0xe9, 0x3d, 0x63, 0x3c, 0xb1, 0x64, 0x22, 0xd0, 0x0e, 0x8a, 0x7c, 0x22, 0x95, 0x5b, 0x46, 0xd4,
]);

/// The chainID of a layer with `diff_id` on top of the chain `parent`.
///
/// OCI image specification, "Layer ChainID": the diffID for the lowest layer, else the digest of
/// `<parent's chainID> <diffID>`.
#[must_use]
pub fn chain_id(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
    match parent {
        None => *diff_id,
        Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
    }
}

/// The chainIDs of all layers, bottom to top, in the order of `diff_ids`.
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut parent = None;
    diff_ids
        .iter()
        .map(|diff_id| {
            let chain = chain_id(parent.as_ref(), diff_id);
            parent = Some(chain);
            chain
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_layer_is_1024_zero_bytes() {
        assert!(EMPTY_LAYER.verify(&[0; 1024]));
        assert_eq!(
            EMPTY_LAYER.to_string(),
            "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
        );
    }

    #[test]
    fn empty_layer_blob_is_the_one_docker_ships() {
        // The 32 bytes that docker's registry has always held for an empty layer.
        let blob = [
            31, 139, 8, 0, 0, 9, 110, 136, 0, 255, 98, 24, 5, 163, 96, 20, 140, 88, 0, 8, 0, 0,
            255, 255, 46, 175, 181, 239, 0, 4, 0, 0,
        ];
        assert!(EMPTY_LAYER_GZIP.verify(&blob));
    }

    #[test]
    fn chains_follow_the_specification() {
        let [a, b, c] = [Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c")];
        let ab = Digest::of(format!("{a} {b}").as_bytes());
        let abc = Digest::of(format!("{ab} {c}").as_bytes());
        assert_eq!(chain_ids(&[a, b, c]), [a, ab, abc]);
        assert_eq!(chain_ids(&[]), []);
        assert_ne!(chain_ids(&[b, a])[1], ab, "order matters");
    }
}
