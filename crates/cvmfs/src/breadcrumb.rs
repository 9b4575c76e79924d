//! The breadcrumb `cvmfschecksum.<fqrn>`: the last state seen. It guards against servers that go back in time, and lets a reader start offline.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::hash::ContentHash;

/// The longest breadcrumb CVMFS writes.
const MAX_BYTES: u64 = 164;

/// The last state seen: `<root hash>T<time>R<revision>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breadcrumb {
    /// Root catalog.
    pub root_catalog: ContentHash,
    /// Publication, seconds since the epoch; positive.
    pub timestamp: i64,
    /// Revision; 0 in files of old clients.
    pub revision: u64,
}

impl Breadcrumb {
    /// Reads the text; `None` if it is not valid.
    pub fn parse(text: &str) -> Option<Self> {
        let (hash, rest) = text.trim_end().split_once('T')?;
        let (timestamp, revision) = rest.split_once('R').unwrap_or((rest, "0"));
        let breadcrumb = Self {
            root_catalog: ContentHash::parse(hash).ok()?,
            timestamp: timestamp.parse().ok()?,
            revision: revision.parse().ok()?,
        };
        (!breadcrumb.root_catalog.is_null() && breadcrumb.timestamp > 0).then_some(breadcrumb)
    }

    /// File of a repository's breadcrumb.
    pub fn path(directory: &Path, fqrn: &str) -> PathBuf {
        directory.join(format!("cvmfschecksum.{fqrn}"))
    }

    /// The breadcrumb in a file; an absent or invalid one counts as none.
    pub(crate) fn load(path: &Path) -> Result<Option<Self>, Error> {
        let read = |path: &Path| -> io::Result<String> {
            let mut text = String::new();
            fs::File::open(path)?
                .take(MAX_BYTES)
                .read_to_string(&mut text)?;
            Ok(text)
        };
        match read(path) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
            Err(source) => Err(Error::State {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Replaces the file at once.
    pub(crate) fn store(&self, path: &Path) -> Result<(), Error> {
        let write = || -> io::Result<()> {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            let mut new = path.as_os_str().to_owned();
            new.push(".new");
            let mut file = fs::File::create(&new)?;
            write!(file, "{self}")?;
            file.sync_all()?;
            fs::rename(&new, path)
        };
        write().map_err(|source| Error::State {
            path: path.to_owned(),
            source,
        })
    }
}

impl fmt::Display for Breadcrumb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}T{}R{}",
            self.root_catalog, self.timestamp, self.revision
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "97d75c3603f669cf9e6df409b48c5d67499b3ce5";

    #[test]
    fn texts() {
        let new = Breadcrumb::parse(&format!("{HASH}T17R5\n")).unwrap();
        assert_eq!((new.timestamp, new.revision), (17, 5));
        assert_eq!(Breadcrumb::parse(&new.to_string()), Some(new));
        assert_eq!(
            Breadcrumb::parse(&format!("{HASH}T17")).unwrap().revision,
            0
        );
        for bad in [
            "",
            HASH,
            &format!("{HASH}T0R1"),
            &format!("{HASH}T-3"),
            &format!("{HASH}TxR1"),
            &format!("{}T1R1", "0".repeat(40)),
        ] {
            assert_eq!(Breadcrumb::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn files() {
        let directory = tempfile::tempdir().unwrap();
        let path = Breadcrumb::path(&directory.path().join("new"), "a.b");
        assert_eq!(Breadcrumb::load(&path).unwrap(), None);
        let breadcrumb = Breadcrumb::parse(&format!("{HASH}T17R5")).unwrap();
        breadcrumb.store(&path).unwrap();
        assert_eq!(Breadcrumb::load(&path).unwrap(), Some(breadcrumb));
    }
}
