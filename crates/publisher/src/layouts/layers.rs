//! DUCC's `.layers`, and what lies beside `layerfs`.

use std::collections::BTreeSet;

use image::Digest;
use image::repository_layout::{
    self, EscapedPath, LayerNotes, LayerStatement, LowerHardlink, MAX_LAYER_NOTES, MAX_LAYERS_JSON,
};
use serde::{Deserialize, Serialize};

use super::{Changes, Layout};
use crate::entry::Entry;
use crate::error::Error;
use crate::layer::Unpacked;

/// A layer's origins: a digest each.
const MAX_ORIGIN: u64 = 16 << 20;

/// As containers/storage writes it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Statement {
    id: String,
    created: String,
    compressed_diff_digest: Digest,
    diff_digest: Digest,
    diff_size: u64,
}

/// The images, by the digests of their configurations, that brought a layer.
#[derive(Default, Serialize, Deserialize)]
struct Origin {
    #[serde(default)]
    origin: Vec<String>,
}

/// How DUCC indents.
fn pretty(value: &impl Serialize) -> Vec<u8> {
    let mut json = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut json, formatter);
    // Texts, numbers and lists in memory can always be written.
    let written = value.serialize(&mut serializer);
    debug_assert!(written.is_ok());
    json
}

fn statement(layer: &Digest, unpacked: &Unpacked, now: jiff::Timestamp) -> Vec<u8> {
    pretty(&[Statement {
        id: unpacked.diff_id.hex(),
        created: now.to_string(),
        compressed_diff_digest: *layer,
        diff_digest: unpacked.diff_id,
        diff_size: unpacked.uncompressed,
    }])
}

fn notes(unpacked: &Unpacked, implicit: &[Vec<u8>]) -> Vec<u8> {
    let notes = LayerNotes {
        version: LayerNotes::VERSION,
        implicit_directories: implicit.iter().cloned().map(EscapedPath).collect(),
        hardlinks: unpacked
            .lower_links
            .iter()
            .map(|link| LowerHardlink {
                path: EscapedPath(link.path.clone()),
                target: EscapedPath(link.target.clone()),
            })
            .collect(),
    };
    pretty(&notes)
}

/// Writes what lies beside `layerfs`.
pub(crate) fn describe<C: Changes>(
    changes: &mut C,
    layer: &Digest,
    unpacked: &Unpacked,
    implicit: &[Vec<u8>],
    now: jiff::Timestamp,
) -> Result<(), Error> {
    let json = notes(unpacked, implicit);
    if json.len() > MAX_LAYER_NOTES {
        return Err(Error::Refused {
            what: layer.to_string(),
            reason: "it has too many implicit directories and hardlinks to lower layers".to_owned(),
        });
    }
    let file = || Entry::file(0o644, now.as_second());
    let directory = repository_layout::layer_directory(layer);
    changes.file(
        &format!("{directory}/.metadata/layers.json"),
        file(),
        &statement(layer, unpacked, now),
    )?;
    changes.file(&repository_layout::layer_notes(layer), file(), &json)
}

/// Adds the images to those that brought the layer.
pub(crate) fn add_origins<C: Changes>(
    changes: &mut C,
    layer: &Digest,
    configurations: &BTreeSet<Digest>,
    now: jiff::Timestamp,
) -> Result<(), Error> {
    let directory = repository_layout::layer_directory(layer);
    let path = format!("{directory}/.metadata/origin.json");
    // What somebody else made of the file is no reason to fail: it is a remark.
    let known = changes.read(&path, MAX_ORIGIN)?;
    let mut origin: Origin = known
        .as_deref()
        .and_then(|json| serde_json::from_slice(json).ok())
        .unwrap_or_default();
    let before = origin.origin.len();
    for configuration in configurations {
        let text = configuration.to_string();
        if !origin.origin.contains(&text) {
            origin.origin.push(text);
        }
    }
    if origin.origin.len() == before && known.is_some() {
        return Ok(());
    }
    let json = serde_json::to_vec(&origin).unwrap_or_default();
    changes.file(&path, Entry::file(0o644, now.as_second()), &json)
}

/// What a repository has of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Nothing, or something incomplete.
    Absent,
    /// All of it, as DUCC or an earlier publish left it.
    Present,
    /// Something under this name that states another diffID.
    Contradiction(Digest),
}

/// Whether an unpacked layer is there: its catalog is stored, and beside it the expected diffID is stated.
pub(crate) fn presence<C: Changes>(
    changes: &mut C,
    layout: Layout,
    layer: &Digest,
    diff_id: &Digest,
    has_catalog: &dyn Fn(&cvmfs::ContentHash) -> Result<bool, Error>,
) -> Result<Presence, Error> {
    let Some(found) = changes.lookup(&layout.place(layer))? else {
        return Ok(Presence::Absent);
    };
    let stored = match &found.catalog {
        Some(catalog) => has_catalog(catalog)?,
        None => false,
    };
    if !stored {
        return Ok(Presence::Absent);
    }
    if layout != Layout::Layers {
        return Ok(Presence::Present);
    }
    let directory = repository_layout::layer_directory(layer);
    let path = format!("{directory}/.metadata/layers.json");
    let Some(json) = changes.read(&path, MAX_LAYERS_JSON as u64)? else {
        return Ok(Presence::Absent);
    };
    Ok(match LayerStatement::parse(&json, layer) {
        Ok(stated) if stated.diff_id == *diff_id => Presence::Present,
        Ok(stated) => Presence::Contradiction(stated.diff_id),
        Err(_) => Presence::Absent,
    })
}
