//! The pieces of work that are timed, each in a process of its own.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

/// Small files that are opened, as many as in the published figures.
pub(crate) const SMALL_FILES: usize = 1_000;

/// A piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// `find` over a directory of many files, attributes included.
    Find,
    /// `tar c | cat > /dev/null`: every byte passes through a pipe.
    Tar,
    /// One large incompressible file, front to back.
    Read,
    /// A thousand small files opened, read and closed.
    Opens,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Find, Self::Tar, Self::Read, Self::Opens];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Find => "find",
            Self::Tar => "tar",
            Self::Read => "read-256MiB",
            Self::Opens => "open-1000",
        }
    }
}

/// Does the work in this process, or in children of it.
pub(crate) fn run(kind: Kind, tree: &Path) -> Result<()> {
    match kind {
        Kind::Find => find(&tree.join("flat")),
        Kind::Tar => tar(&tree.join("flat")),
        Kind::Read => read(&tree.join("big/random")),
        Kind::Opens => open_small(&tree.join("small")),
    }
}

fn find(tree: &Path) -> Result<()> {
    let output = Command::new("find")
        .arg(tree)
        .args(["-printf", "%s %m %p\\n"])
        .stdout(Stdio::null())
        .status()
        .context("cannot run find")?;
    ensure!(output.success(), "find failed");
    Ok(())
}

fn tar(tree: &Path) -> Result<()> {
    let mut tar = Command::new("tar")
        .arg("-C")
        .arg(tree)
        .args(["-cf", "-", "."])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run tar")?;
    let out = tar.stdout.take().context("tar has no output")?;
    let cat = Command::new("cat")
        .stdin(out)
        .stdout(Stdio::null())
        .status()?;
    ensure!(tar.wait()?.success() && cat.success(), "tar failed");
    Ok(())
}

fn read(path: &Path) -> Result<()> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut buffer = vec![0; 1 << 20];
    let mut sink = io::sink();
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            length => sink.write_all(&buffer[..length])?,
        }
    }
}

fn open_small(directory: &Path) -> Result<()> {
    let mut bytes = Vec::new();
    for number in 0..SMALL_FILES {
        bytes.clear();
        let path = small_file(directory, number);
        let length = File::open(&path)?.read_to_end(&mut bytes)?;
        ensure!(length > 0, "{} is empty", path.display());
    }
    Ok(())
}

/// Name of a small file; some to a directory, as in a package tree.
pub(crate) fn small_file(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("{:02}/{number:04}", number % 20))
}

/// Seconds that the work takes in a child process of its own.
pub(crate) fn timed(kind: Kind, tree: &Path) -> Result<f64> {
    let program = std::env::current_exe()?;
    let started = Instant::now();
    let status = Command::new(program)
        .args([
            "work",
            kind.to_possible_value().context("no name")?.get_name(),
        ])
        .arg(tree)
        .status()?;
    let seconds = started.elapsed().as_secs_f64();
    ensure!(
        status.success(),
        "{} on {} failed",
        kind.name(),
        tree.display()
    );
    Ok(seconds)
}

/// Empties the kernel's caches, so that the next work starts cold or, with a full cache of ours, warm.
pub(crate) fn drop_kernel_caches() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("dropping caches needs root")
}
