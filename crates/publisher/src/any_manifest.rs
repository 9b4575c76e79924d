//! Manifests below `/.metadata`, whoever wrote them.

use image::Digest;
use serde::Deserialize;

/// An image's manifest. DUCC writes it anew with capital letters.
#[derive(Deserialize)]
pub(crate) struct AnyManifest {
    #[serde(alias = "Config")]
    pub(crate) config: Named,
    #[serde(alias = "Layers")]
    pub(crate) layers: Vec<Named>,
}

/// What a manifest lists.
#[derive(Deserialize)]
pub(crate) struct Named {
    #[serde(alias = "Digest")]
    pub(crate) digest: Digest,
    /// 0 where nobody states it.
    #[serde(alias = "Size", default)]
    pub(crate) size: u64,
}
