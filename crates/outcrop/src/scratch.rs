//! A directory for a moment: made for us alone, gone at the end.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Removed with everything in it when dropped. Whoever mounts inside unmounts first: a busy directory stays.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes `<parent>/outcrop-<purpose>-<process>`; `parent` must exist.
    ///
    /// # Errors
    /// What mkdir says; a directory that is already there is another process's and an error.
    pub fn new(parent: &Path, purpose: &str) -> io::Result<Self> {
        let path = parent.join(format!("outcrop-{purpose}-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// A directory inside, made now.
    ///
    /// # Errors
    /// What mkdir says.
    pub fn directory(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.0.join(name);
        std::fs::create_dir(&path)?;
        Ok(path)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, directory = %self.0.display(), "cannot remove a scratch directory");
        }
    }
}
