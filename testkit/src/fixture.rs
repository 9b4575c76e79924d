use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::Truth;

/// The repository's name.
pub const FIXTURE_FQRN: &str = "unpacked.test.local";

const ARCHIVE: &[u8] = include_bytes!("../fixtures/small.tar.zst");
const TRUTH: &[u8] = include_bytes!("../fixtures/small.truth.tsv.zst");
const TRUTH_V1: &[u8] = include_bytes!("../fixtures/small.truth.v1.tsv.zst");

/// The unpacked fixture: a repository that the real CVMFS server made, with keys, and the image that DUCC unpacked into
/// it. Removed when dropped.
#[derive(Debug)]
pub struct Fixture {
    directory: TempDir,
}

/// Unpacks the fixture into a directory of its own.
///
/// # Panics
/// If the temporary directory cannot be written.
#[must_use]
pub fn fixture() -> Fixture {
    let directory = TempDir::new().expect("a temporary directory");
    unpack_fixture(directory.path()).expect("the fixture unpacks");
    Fixture { directory }
}

/// Unpacks the fixture as `directory/fixture-small/…`.
///
/// # Errors
/// If the directory cannot be written.
pub fn unpack_fixture(directory: &Path) -> Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let mut archive = tar::Archive::new(zstd::stream::Decoder::new(ARCHIVE)?);
    archive.set_preserve_mtime(false);
    archive
        .unpack(directory)
        .with_context(|| format!("cannot unpack into {}", directory.display()))?;
    Ok(directory.join("fixture-small"))
}

/// One file of the fixture, by the end of its path, without unpacking the rest.
pub(crate) fn fixture_file(path_end: &str) -> Result<Vec<u8>> {
    let mut archive = tar::Archive::new(zstd::stream::Decoder::new(ARCHIVE)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.path_bytes().ends_with(path_end.as_bytes()) {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            return Ok(content);
        }
    }
    anyhow::bail!("the fixture has no {path_end}")
}

/// The statically linked busybox (amd64) of the fixture's image.
///
/// # Errors
/// Never: it is compiled in.
pub fn busybox() -> Result<Vec<u8>> {
    let layer =
        fixture_file("sha256:b96067f2d3b4e055e370b9351d701652bd2f93f3eea0499b5f43bcb99e023b23")?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer.as_slice()));
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() && entry.path_bytes().ends_with(b"bin/busybox") {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            return Ok(content);
        }
    }
    anyhow::bail!("the fixture's image has no bin/busybox")
}

fn decoded(truth: &[u8]) -> Truth {
    let text = zstd::stream::decode_all(truth).expect("the fixture's truth is sound");
    Truth::parse(&text).expect("the fixture's truth parses")
}

/// What the real client showed of the fixture's trunk.
///
/// # Panics
/// Never: the file is compiled in, and a test parses it.
#[must_use]
pub fn truth() -> Truth {
    decoded(TRUTH)
}

/// What the real client showed of the fixture's tag `v1`.
///
/// # Panics
/// Never, as [`truth`].
#[must_use]
pub fn truth_v1() -> Truth {
    decoded(TRUTH_V1)
}

impl Fixture {
    /// `fixture-small/`
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("fixture-small")
    }

    /// The repository, for [`crate::Stratum1::serving`].
    #[must_use]
    pub fn repository(&self) -> PathBuf {
        self.root().join("srv").join(FIXTURE_FQRN)
    }

    /// Content of external files, for `.external(…)`.
    #[must_use]
    pub fn external(&self) -> PathBuf {
        self.root().join("external")
    }

    /// The master's public key.
    #[must_use]
    pub fn public_key(&self) -> PathBuf {
        self.root().join("keys").join(format!("{FIXTURE_FQRN}.pub"))
    }

    /// The image `library/mini:1.0`, for [`crate::Registry::serving`].
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.root().join("image")
    }

    /// A validly signed whitelist that expires that many days after the fixture was made: −5, 0 or 30.
    #[must_use]
    pub fn whitelist_expiring(&self, days: i32) -> PathBuf {
        self.root()
            .join("negative")
            .join(format!("cvmfswhitelist.days_{days}"))
    }
}
