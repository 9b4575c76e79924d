use anyhow::Result;
use serde_json::json;

use crate::image::LayerBlob;
use crate::layer::{Entry, EntryKind};
use crate::repository::{RepositoryBuilder, below};

/// How `cvmfs_ducc` (CVMFS.md §8), or somebody better or worse, puts a layer into a repository.
#[derive(Clone, Debug, Default)]
pub struct DuccOptions {
    /// where
    pub placement: Placement,
    /// DUCC loses them.
    pub keep_xattrs: bool,
    /// DUCC makes files of their own of them. Links to lower layers are left out either way.
    pub keep_hardlinks: bool,
    /// Leaves out `.metadata/layers.json`.
    pub without_statement: bool,
    /// States this diffID instead of the true one.
    pub stated_diff_id: Option<String>,
}

/// Which layout of directories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// `/.layers/<xx>/<hex>/layerfs`
    #[default]
    Layers,
    /// `/unpacked/<xx>/<hex>`, of 2019; states no diffID
    Unpacked,
}

impl RepositoryBuilder {
    /// Unpacks a layer as DUCC does, nested catalogs and stray markers included; the path of its files.
    ///
    /// # Errors
    /// If its statement cannot be written as JSON.
    pub fn add_layer(&mut self, layer: &LayerBlob, options: &DuccOptions) -> Result<String> {
        let hex = layer.digest.trim_start_matches("sha256:");
        let shard = &hex[..2];
        let files = match options.placement {
            Placement::Layers => format!("/.layers/{shard}/{hex}/layerfs"),
            Placement::Unpacked => format!("/unpacked/{shard}/{hex}"),
        };
        if options.placement == Placement::Layers {
            self.add_nested_catalog("/.layers")
                .add_nested_catalog(&format!("/.layers/{shard}"));
            if !options.without_statement {
                self.add_statement(&format!("/.layers/{shard}/{hex}/.metadata"), layer, options)?;
            }
        }
        self.add_nested_catalog(&files);
        for entry in &layer.layer.entries {
            if let Some(entry) = self.ingested(entry, &files, options) {
                self.add(entry);
            }
        }
        Ok(files)
    }

    fn add_statement(
        &mut self,
        directory: &str,
        layer: &LayerBlob,
        options: &DuccOptions,
    ) -> Result<()> {
        let diff_id = options.stated_diff_id.as_ref().unwrap_or(&layer.diff_id);
        let statement = serde_json::to_vec_pretty(&json!([{
            "id": diff_id.trim_start_matches("sha256:"),
            "created": "2026-11-24T04:34:57.239894152Z",
            "compressed-diff-digest": layer.digest,
            "diff-digest": diff_id,
            "diff-size": layer.tar.len(),
        }]))?;
        self.add(Entry::file(format!("{directory}/layers.json"), statement));
        self.add(Entry::file(
            format!("{directory}/origin.json"),
            br#"{"origin":[]}"#,
        ));
        Ok(())
    }

    fn ingested(&self, entry: &Entry, files: &str, options: &DuccOptions) -> Option<Entry> {
        let mut entry = entry.clone();
        entry.path = below(files, &entry.path);
        if let EntryKind::Hardlink(target) = &mut entry.kind {
            *target = below(files, target);
            // A link to a lower layer's file makes the real ingestion fail.
            let original = self.entry(target)?;
            if !options.keep_hardlinks {
                entry = Entry {
                    path: entry.path,
                    ..original.clone()
                };
            }
        }
        if !options.keep_xattrs {
            entry.xattrs.clear();
        }
        Some(entry)
    }
}
