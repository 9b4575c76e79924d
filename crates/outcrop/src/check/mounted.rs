//! A repository that another client keeps mounted: whether it can be read, and whether it shows owners as published.
//! All reads are a child's: a mount whose client hangs, hangs whoever looks.

use super::child;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A client that has to fetch a few catalogs over a slow line needs some seconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// Entries of one layer that are looked at.
const SAMPLE: usize = 64;

/// What a look at a mounted repository gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It can be read.
    Readable,
    /// Nothing is in it: the mount point of something that is not mounted.
    Empty,
    /// Everything belongs to this user, the client's: the owners that the layers have are hidden.
    ClaimedOwnership(u32),
}

/// Looks at `directory` through a child of `program`, this one.
///
/// # Errors
/// It cannot be read, or not in time.
pub fn look(program: &Path, directory: &Path) -> io::Result<Found> {
    let printed = child::output(
        Command::new(program).arg("probe-owners").arg(directory),
        DEADLINE,
    )?;
    Ok(judge(&String::from_utf8_lossy(&printed)))
}

/// Prints one owner a line: of the repository's root, and of one layer's root and what lies in it, if there is a layer.
///
/// # Errors
/// The directory cannot be listed.
pub fn owners(directory: &Path) -> io::Result<String> {
    if fs::read_dir(directory)?.next().transpose()?.is_none() {
        return Ok(String::new());
    }
    let mut paths = vec![directory.to_owned()];
    if let Some(layer) = a_layer(directory) {
        let entries = fs::read_dir(&layer)?
            .take(SAMPLE)
            .flatten()
            .map(|entry| entry.path());
        paths.extend(entries);
        paths.push(layer);
    }
    let owners = paths
        .iter()
        .filter_map(|path| fs::symlink_metadata(path).ok());
    Ok(owners
        .map(|metadata| format!("{}\n", metadata.uid()))
        .collect())
}

/// Files of the first layer that comes: `.layers/<xx>/<digest>/layerfs`.
fn a_layer(directory: &Path) -> Option<PathBuf> {
    let below = |directory: PathBuf| {
        fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    let mut layers = below(directory.join(".layers"))
        .flat_map(below)
        .map(|layer| layer.join("layerfs"));
    layers.find(|layer| layer.is_dir())
}

/// One owner for all, who is not root, means that the client puts its own in place of theirs; with fewer than three entries
/// it may be chance.
fn judge(owners: &str) -> Found {
    let owners: Vec<u32> = owners
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    match owners.first() {
        None => Found::Empty,
        Some(&first)
            if first != 0 && owners.len() > 2 && owners.iter().all(|&owner| owner == first) =>
        {
            Found::ClaimedOwnership(first)
        }
        Some(_) => Found::Readable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_tell_whether_the_client_claims_them() {
        for (owners, found) in [
            ("", Found::Empty),
            ("0\n0\n0\n", Found::Readable),
            ("998\n0\n0\n7\n", Found::Readable),
            ("998\n998\n998\n", Found::ClaimedOwnership(998)),
            ("998\n", Found::Readable),
        ] {
            assert_eq!(judge(owners), found, "{owners:?}");
        }
    }

    #[test]
    fn a_layer_s_files_are_looked_at() {
        let repository = tempfile::tempdir().unwrap();
        assert_eq!(owners(repository.path()).unwrap(), "");
        let layer = repository.path().join(".layers/ab/abcd/layerfs");
        fs::create_dir_all(&layer).unwrap();
        fs::write(layer.join("file"), "").unwrap();
        assert_eq!(owners(repository.path()).unwrap().lines().count(), 3);
        assert!(owners(Path::new("/no/such/directory")).is_err());
    }
}
