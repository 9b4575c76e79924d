//! A repository of our own, made for the demo.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use e2e::outcrop::{Repository, binary};

use super::mode::image_name;
use super::servers::Servers;
use crate::commands::quiet;

const FQRN: &str = "unpacked.demo.test";

/// A repository's directory, as any web server could serve it, and its keys.
#[derive(Debug)]
pub(super) struct Publication {
    directory: PathBuf,
    keys: PathBuf,
}

impl Publication {
    /// `outcrop repository init`
    pub(super) fn create(folder: &Path) -> Result<Self> {
        let publication = Self {
            directory: folder.join("repository"),
            keys: folder.join("keys"),
        };
        let mut command = Command::new(binary("outcrop")?);
        command.args(["repository", "init", FQRN]);
        quiet(publication.with_place(&mut command))?;
        Ok(publication)
    }

    /// `outcrop publish`; seconds that it took.
    pub(super) fn publish(&self, layout: &Path, form: &str) -> Result<f64> {
        let started = Instant::now();
        let mut command = Command::new(binary("outcrop")?);
        command.arg("publish");
        command.arg(format!("oci-layout:{}", layout.display()));
        command.args(["--layout", form, "--name", &image_name()]);
        quiet(self.with_place(&mut command))?;
        Ok(started.elapsed().as_secs_f64())
    }

    fn with_place<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let command = command.arg("--repository").arg(&self.directory);
        command.arg("--keys").arg(&self.keys)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// As the daemon's configuration names it.
    pub(super) fn served_by(&self, servers: &Servers) -> Repository {
        let urls = vec![servers.repository_url().to_owned()];
        Repository::embedded(FQRN, urls, &self.keys.join(format!("{FQRN}.pub")))
    }
}
