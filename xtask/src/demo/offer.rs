//! The image as a mode wants it: in a registry's directory, in a repository, or both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use e2e::outcrop::binary;
use serde::Deserialize;

use super::interrupt::Interrupt;
use super::mode::Mode;
use super::publication::Publication;
use crate::commands::quiet;
use crate::workload::{Workload, for_registry};

/// What the servers of a row serve.
#[derive(Debug)]
pub(super) struct Offer {
    /// Has the image only if the mode reads it from there.
    pub(super) publication: Publication,
    /// The registry's directory.
    pub(super) images: PathBuf,
    /// All that was done to the image beyond putting it into a registry as it was built.
    pub(super) seconds: f64,
}

/// The image in both its forms.
#[derive(Debug)]
pub(super) struct Forms<'a> {
    workload: &'a Workload,
    folder: PathBuf,
    /// Seconds that the conversion took, once it is done.
    converted: Option<f64>,
}

impl<'a> Forms<'a> {
    /// The other form, and repositories, go below `folder`.
    pub(super) fn new(workload: &'a Workload, folder: &Path) -> Self {
        Self {
            workload,
            folder: folder.to_owned(),
            converted: None,
        }
    }

    /// Makes what `mode` needs.
    pub(super) fn offer(&mut self, mode: Mode, interrupt: &Interrupt) -> Result<Offer> {
        interrupt.check()?;
        let (layout, images, mut seconds) = match mode.is_converted() {
            false => (self.workload.layout(), self.workload.registry(), 0.0),
            true => self.converted()?,
        };
        interrupt.check()?;
        let publication = Publication::create(&self.folder.join(mode.name()))?;
        if let Some(form) = mode.layout() {
            println!("publishing for {mode}: outcrop publish --layout {form}");
            let took = publication.publish(&layout, form)?;
            println!("  {took:>8.3} s  published");
            seconds += took;
        }
        Ok(Offer {
            publication,
            images,
            seconds,
        })
    }

    /// Layout, registry's directory, seconds.
    fn converted(&mut self) -> Result<(PathBuf, PathBuf, f64)> {
        let layout = self.folder.join("converted");
        let images = self.folder.join("images");
        let seconds = match self.converted {
            Some(seconds) => seconds,
            None => {
                println!("outcrop convert --format estargz");
                let seconds = convert(&self.workload.layout(), &layout)?;
                println!("  {seconds:>8.3} s  converted");
                let index = fs::read(layout.join("index.json"))?;
                for_registry(&layout, &images, &only_image(&index)?)?;
                seconds
            }
        };
        self.converted = Some(seconds);
        Ok((layout, images, seconds))
    }
}

fn convert(from: &Path, to: &Path) -> Result<f64> {
    let started = Instant::now();
    let mut command = Command::new(binary("outcrop")?);
    // As the image was packed: the default costs minutes and saves little.
    command.args(["convert", "--format", "estargz", "--level", "6"]);
    command.arg(format!("oci-layout:{}", from.display()));
    command.arg(format!("oci-layout:{}", to.display()));
    quiet(&mut command)?;
    Ok(started.elapsed().as_secs_f64())
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
}

/// Digest of the image of a layout that has one.
fn only_image(index: &[u8]) -> Result<String> {
    let index: Index = serde_json::from_slice(index)?;
    let only = <[Entry; 1]>::try_from(index.manifests).ok();
    Ok(only
        .context("not one image in the layout")?
        .map(|entry| entry.digest)
        .concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_has_one_image_here() {
        let one = br#"{"schemaVersion":2,"manifests":[{"digest":"sha256:aa","size":1}]}"#;
        assert_eq!(only_image(one).unwrap(), "sha256:aa");
        let two = br#"{"manifests":[{"digest":"sha256:aa"},{"digest":"sha256:bb"}]}"#;
        for index in [&two[..], br#"{"manifests":[]}"#, b"{}"] {
            assert!(only_image(index).is_err());
        }
    }
}
