//! How an image lies in a repository. Each layout says which paths an image and its layers take, what lies there, and when it is there
//! already; [`crate::publish`] brings it there.
//!
//! A new layout is a module with these three, a variant of [`Layout`], and an arm in [`Layout::place`].

mod backend;
pub mod erofs;
pub(crate) mod flat;
pub(crate) mod layers;
pub(crate) mod metadata;
pub(crate) mod registry;
mod singularity;
pub(crate) mod stargz;

use image::Digest;
use image::repository_layout;
use serde::Serialize;

pub use backend::{Backend, Changes, Found};

use crate::entry::Entry;
use crate::error::Error;
use crate::layer::Sink;
use crate::objects::How;

/// A way to lay out images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// DUCC's `/.layers/<xx>/<hex>/layerfs`, with what DUCC loses beside it.
    Layers,
    /// `/unpacked/<xx>/<hex>`, of 2019.
    Unpacked,
    /// `/stargz/blobs/sha256/<xx>/<hex>/data`: the blob as it is.
    Stargz,
    /// `/docker/registry/v2`: storage of a stock registry.
    Registry,
    /// `/erofs`: images that containerd 2.4 mounts.
    Erofs,
    /// `/.flat/<xx>/<hex>`: the whole image in one, for Apptainer. Its digest is the configuration's.
    Flat,
}

impl Layout {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Layers,
        Self::Unpacked,
        Self::Stargz,
        Self::Registry,
        Self::Erofs,
        Self::Flat,
    ];

    /// The name that a user gives.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Layers => "layers",
            Self::Unpacked => "unpacked",
            Self::Stargz => "stargz",
            Self::Registry => "registry",
            Self::Erofs => "erofs",
            Self::Flat => "flat",
        }
    }

    /// By name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layout| layout.name() == name)
    }

    /// Whether layers are unpacked.
    #[must_use]
    pub fn unpacks(self) -> bool {
        matches!(self, Self::Layers | Self::Unpacked)
    }

    /// Whether layers are stored as they are.
    #[must_use]
    pub fn stores_blobs(self) -> bool {
        matches!(self, Self::Stargz | Self::Registry)
    }

    /// The directory that a layer's subtree becomes.
    #[must_use]
    pub fn place(self, layer: &Digest) -> String {
        match self {
            Self::Layers => repository_layout::Layout::Ducc.files(layer),
            Self::Unpacked => repository_layout::Layout::Unpacked.files(layer),
            Self::Stargz => format!("/stargz/blobs/sha256/{}", sharded(layer)),
            Self::Registry => format!("{}/blobs/sha256/{}", registry::ROOT, sharded(layer)),
            Self::Erofs => format!("{}/images/{}", erofs::ROOT, sharded(layer)),
            Self::Flat => format!("/.flat/{}", sharded(layer)),
        }
    }

    /// Directories above a layer's subtree that are catalogs of their own, the uppermost first.
    pub(crate) fn catalogs(self, layer: &Digest) -> Vec<String> {
        let hex = layer.hex();
        let shard = &hex[..2];
        let roots = match self {
            Self::Layers => vec!["/.layers"],
            Self::Unpacked => vec!["/unpacked"],
            Self::Stargz => vec!["/stargz", "/stargz/blobs/sha256"],
            Self::Registry => vec![registry::ROOT, registry::BLOBS],
            Self::Erofs => vec![erofs::ROOT, "/erofs/images"],
            Self::Flat => vec!["/.flat"],
        };
        let last = roots.last().map(|root| format!("{root}/{shard}"));
        roots.into_iter().map(str::to_owned).chain(last).collect()
    }
}

/// The file by which `cvmfs_server` knows the root of a catalog, with the time of publishing, by which readers know implicit directories.
pub(crate) fn mark(sink: &mut dyn Sink, mtime: i64) -> Result<(), Error> {
    let path = repository_layout::STRAY_CATALOG_MARKER.as_bytes();
    let entry = Entry::file(0o644, mtime);
    sink.file(path, entry, &mut std::io::empty(), 0, How::DEFLATED)
}

/// `<xx>/<hex>`
pub(crate) fn sharded(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{}/{hex}", &hex[..2])
}
