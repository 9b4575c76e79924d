//! What a run of `outcrop publish` did: for people, for programs, and as one error.

use crate::error::{Error, Kind};
use crate::publishing::table::{Align, bytes, render, short};
use publisher::publish::{ImageSummary, LayerState, LayerSummary};
use publisher::removal::RemovalSummary;
use serde_json::{Value, json};

/// What became of an image.
#[derive(Debug)]
pub enum Became {
    /// It is in the repository, published now or before.
    Done(ImageSummary),
    /// It is what it was the last time; nothing but its digest was asked for.
    Unchanged,
    /// Nothing of it is published.
    Failed(Error),
}

/// An image, or an entry of a list that led to none.
#[derive(Debug)]
pub struct Outcome {
    /// As it was named.
    pub image: String,
    /// What became of it.
    pub became: Became,
}

/// One run.
#[derive(Debug, Default)]
pub struct Run {
    /// Full name of the repository.
    pub repository: String,
    /// Nothing was written.
    pub dry_run: bool,
    /// Each image, in order.
    pub outcomes: Vec<Outcome>,
    /// The last failure ended it: what follows was not tried.
    pub ended: bool,
    /// Images that a list names no longer.
    pub removed: RemovalSummary,
    /// Why nothing was pruned although it was asked for.
    pub not_pruned: Option<String>,
    /// The newest revision afterwards.
    pub revision: u64,
    /// Bytes of objects written.
    pub stored_bytes: u64,
    /// From beginning to end.
    pub seconds: f64,
}

/// Sums over the layers of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Layers stored.
    pub published: u64,
    /// Layers that were there.
    pub present: u64,
    /// Layers that a dry run would store.
    pub missing: u64,
    /// Layers that are none.
    pub skipped: u64,
    /// Bytes of the blobs of stored layers.
    pub read: u64,
    /// Bytes of what was in them.
    pub content: u64,
    /// Files and directories in them.
    pub entries: u64,
    /// Extended attributes that could not be kept.
    pub dropped_xattrs: u64,
    /// Hardlinks to files of lower layers.
    pub lower_hardlinks: u64,
}

impl Sums {
    /// Of one image.
    pub fn of(summary: &ImageSummary) -> Self {
        let mut sums = Self::default();
        for layer in &summary.layers {
            match layer.state {
                LayerState::Published => {
                    sums.published += 1;
                    sums.read += layer.compressed;
                    sums.content += layer.uncompressed.unwrap_or(layer.compressed);
                }
                LayerState::Present => sums.present += 1,
                LayerState::Missing => {
                    sums.missing += 1;
                    sums.read += layer.compressed;
                }
                LayerState::Skipped => sums.skipped += 1,
            }
            sums.entries += layer.entries.unwrap_or_default();
            sums.dropped_xattrs += layer.dropped_xattrs;
            sums.lower_hardlinks += layer.lower_hardlinks as u64;
        }
        sums
    }
}

impl Run {
    /// Summaries of the images that are in the repository.
    pub fn summaries(&self) -> impl Iterator<Item = &ImageSummary> {
        self.outcomes
            .iter()
            .filter_map(|outcome| match &outcome.became {
                Became::Done(summary) => Some(summary),
                _ => None,
            })
    }

    /// What failed.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &Error)> {
        self.outcomes
            .iter()
            .filter_map(|outcome| match &outcome.became {
                Became::Failed(error) => Some((outcome.image.as_str(), error)),
                _ => None,
            })
    }

    /// Something is new, gone or wrong.
    pub fn is_eventful(&self) -> bool {
        let new = self.summaries().any(|summary| summary.revision.is_some());
        new || !self.removed.images.is_empty() || self.failures().next().is_some()
    }

    /// One object with everything.
    pub fn json(&self) -> Value {
        let failed = self.failures().map(|(image, error)| {
            json!({"image": image, "error": error.summary(), "hint": error.next_step()})
        });
        let unchanged = self.outcomes.iter().filter_map(|outcome| {
            matches!(outcome.became, Became::Unchanged).then_some(&outcome.image)
        });
        json!({
            "repository": self.repository,
            "revision": self.revision,
            "dry_run": self.dry_run,
            "images": self.summaries().collect::<Vec<_>>(),
            "unchanged": unchanged.collect::<Vec<_>>(),
            "failed": failed.collect::<Vec<_>>(),
            "removed": self.removed,
            "not_pruned": self.not_pruned,
            "stored_bytes": self.stored_bytes,
            "seconds": self.seconds,
        })
    }

    /// A table, and what is worth a line below it.
    pub fn text(&self) -> String {
        let mut parts = Vec::new();
        let named = self.outcomes.iter().filter(|outcome| !is_failure(outcome));
        if named.count() > 0 {
            parts.push(self.table());
        }
        if self.dry_run {
            parts.extend(self.layers_to_store());
        }
        parts.extend(self.summaries().filter_map(losses));
        let verb = if self.dry_run {
            "would remove"
        } else {
            "removed"
        };
        let removed = &self.removed.images;
        parts.extend(removed.iter().map(|image| format!("{verb} {image}")));
        if let Some(reason) = &self.not_pruned {
            parts.push(format!("nothing is pruned: {reason}"));
        }
        parts.join("\n")
    }

    fn table(&self) -> String {
        let stored = if self.dry_run {
            "TO STORE"
        } else {
            "PUBLISHED"
        };
        let header = [
            ("IMAGE", Align::Left),
            (stored, Align::Right),
            ("PRESENT", Align::Right),
            ("SKIPPED", Align::Right),
            ("READ", Align::Right),
            ("ENTRIES", Align::Right),
            ("SECONDS", Align::Right),
            ("MB/S", Align::Right),
            ("REVISION", Align::Left),
        ];
        render(
            &header,
            self.outcomes.iter().filter_map(|outcome| self.row(outcome)),
        )
    }

    fn row(&self, outcome: &Outcome) -> Option<Vec<String>> {
        let summary = match &outcome.became {
            Became::Done(summary) => summary,
            Became::Unchanged => {
                let mut row = vec!["-".to_owned(); 9];
                row[0].clone_from(&outcome.image);
                "unchanged".clone_into(&mut row[8]);
                return Some(row);
            }
            Became::Failed(_) => return None,
        };
        let sums = Sums::of(summary);
        let revision = match summary.revision {
            Some(revision) => revision.to_string(),
            None if self.dry_run => "-".to_owned(),
            None => "nothing to do".to_owned(),
        };
        let rate = match sums.content {
            0 => "-".to_owned(),
            content => format!("{:.1}", content as f64 / 1e6 / summary.seconds.max(1e-3)),
        };
        Some(vec![
            summary.image.clone(),
            (sums.published + sums.missing).to_string(),
            sums.present.to_string(),
            sums.skipped.to_string(),
            bytes(sums.read),
            sums.entries.to_string(),
            format!("{:.1}", summary.seconds),
            rate,
            revision,
        ])
    }

    fn layers_to_store(&self) -> Option<String> {
        let missing = |layer: &&LayerSummary| layer.state == LayerState::Missing;
        let header = [
            ("LAYER TO STORE", Align::Left),
            ("SIZE", Align::Right),
            ("LAYOUTS", Align::Left),
            ("OF IMAGE", Align::Left),
        ];
        let rows: Vec<_> = self
            .summaries()
            .flat_map(|image| {
                image
                    .layers
                    .iter()
                    .filter(missing)
                    .map(move |layer| (image, layer))
            })
            .map(|(image, layer)| {
                let layouts: Vec<_> = layer.layouts.iter().map(|layout| layout.name()).collect();
                vec![
                    short(&layer.digest),
                    bytes(layer.compressed),
                    layouts.join(","),
                    image.image.clone(),
                ]
            })
            .collect();
        (!rows.is_empty()).then(|| format!("\n{}", render(&header, rows)))
    }

    /// What ended it, else one error for all that failed.
    pub fn into_failure(mut self) -> Option<Error> {
        if !self.ended {
            return self.failure();
        }
        match self.outcomes.pop().map(|last| last.became) {
            Some(Became::Failed(error)) => Some(error),
            _ => None,
        }
    }

    /// One error for all that failed: the exit code is that of the first.
    pub fn failure(&self) -> Option<Error> {
        let failed: Vec<_> = self.failures().collect();
        let (_, first) = failed.first()?;
        let message = format!(
            "{} of {} images or entries could not be published",
            failed.len(),
            self.outcomes.len()
        );
        Some(Error::new(first.kind(), message).hint("each is named above; the others are done"))
    }
}

fn is_failure(outcome: &Outcome) -> bool {
    matches!(outcome.became, Became::Failed(_))
}

fn losses(summary: &ImageSummary) -> Option<String> {
    let sums = Sums::of(summary);
    let mut losses = Vec::new();
    if sums.dropped_xattrs > 0 {
        losses.push(format!(
            "{} extended attributes do not fit into a catalog (255 bytes at most) and were dropped",
            sums.dropped_xattrs
        ));
    }
    if sums.lower_hardlinks > 0 {
        losses.push(format!(
            "{} hardlinks to files of lower layers are kept beside the layer's files",
            sums.lower_hardlinks
        ));
    }
    (!losses.is_empty()).then(|| format!("{}: {}", summary.image, losses.join("; ")))
}

/// A signal ended a publication.
pub fn interrupted(image: &str, signal: &str, revision: u64) -> Error {
    let message = format!(
        "{signal}: {image} is not published; the repository is at revision {revision}, as before"
    );
    Error::new(Kind::Interrupted, message)
        .hint("publish it again; what was stored in vain is removed then")
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Digest;
    use publisher::layouts::Layout;

    fn layer(state: LayerState, compressed: u64) -> LayerSummary {
        LayerSummary {
            digest: Digest::of(&compressed.to_le_bytes()),
            diff_id: None,
            state,
            layouts: vec![Layout::Layers, Layout::Erofs],
            compressed,
            uncompressed: (state == LayerState::Published).then_some(compressed * 3),
            entries: (state == LayerState::Published).then_some(7),
            lower_hardlinks: usize::from(state == LayerState::Published),
            dropped_xattrs: 2 * u64::from(state == LayerState::Published),
            seconds: 1.0,
        }
    }

    fn run(dry_run: bool) -> Run {
        let stored = if dry_run {
            LayerState::Missing
        } else {
            LayerState::Published
        };
        let done = ImageSummary {
            image: "r.example.org/a:1".to_owned(),
            digest: Digest::of(b"a"),
            platforms: 1,
            revision: (!dry_run).then_some(4),
            layers: vec![
                layer(stored, 1_000_000),
                layer(LayerState::Present, 10),
                layer(LayerState::Skipped, 20),
            ],
            seconds: 1.5,
        };
        let outcome = |image: &str, became| Outcome {
            image: image.to_owned(),
            became,
        };
        Run {
            repository: "a.example.org".to_owned(),
            dry_run,
            outcomes: vec![
                outcome("r.example.org/a:1", Became::Done(done)),
                outcome("r.example.org/b:1", Became::Unchanged),
                outcome(
                    "line 7: ftp://x",
                    Became::Failed(Error::new(Kind::Config, "no such scheme")),
                ),
            ],
            ended: false,
            removed: RemovalSummary {
                images: vec!["r.example.org/old:1".to_owned()],
                ..RemovalSummary::default()
            },
            not_pruned: None,
            revision: 4,
            stored_bytes: 123,
            seconds: 2.0,
        }
    }

    #[test]
    fn a_run_is_a_table() {
        insta::assert_snapshot!(run(false).text(), @r"
        IMAGE              PUBLISHED  PRESENT  SKIPPED       READ  ENTRIES  SECONDS  MB/S  REVISION
        r.example.org/a:1          1        1        1  976.6 KiB        7      1.5   2.0  4
        r.example.org/b:1          -        -        -          -        -        -     -  unchanged
        r.example.org/a:1: 2 extended attributes do not fit into a catalog (255 bytes at most) and were dropped; 1 hardlinks to files of lower layers are kept beside the layer's files
        removed r.example.org/old:1
        ");
    }

    #[test]
    fn a_dry_run_names_the_layers() {
        insta::assert_snapshot!(run(true).text(), @r"
        IMAGE              TO STORE  PRESENT  SKIPPED       READ  ENTRIES  SECONDS  MB/S  REVISION
        r.example.org/a:1         1        1        1  976.6 KiB        0      1.5     -  -
        r.example.org/b:1         -        -        -          -        -        -     -  unchanged

        LAYER TO STORE            SIZE  LAYOUTS       OF IMAGE
        sha256:4f973621fe84  976.6 KiB  layers,erofs  r.example.org/a:1
        would remove r.example.org/old:1
        ");
    }

    #[test]
    fn what_failed_is_one_error_with_the_first_kind() {
        let error = run(false).failure().unwrap();
        assert_eq!(error.kind(), Kind::Config);
        assert_eq!(
            error.message(),
            "1 of 3 images or entries could not be published"
        );
        let json = run(false).json();
        assert_eq!(json["failed"][0]["error"], "no such scheme");
        assert_eq!(json["unchanged"][0], "r.example.org/b:1");
        assert_eq!(json["images"][0]["revision"], 4);
        let ended = Run {
            ended: true,
            ..run(false)
        };
        assert_eq!(ended.into_failure().unwrap().message(), "no such scheme");
        let good = Run::default();
        assert!(good.failure().is_none() && !good.is_eventful());
    }
}
