//! The directories of ordinary snapshots.

use std::collections::HashSet;
use std::fs::{DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};

use super::Kind;
use crate::Error;

/// Owner of a directory.
pub(crate) type Owner = (u32, u32);

/// `snapshots/` and `trash/` below the root, and the next number.
#[derive(Debug)]
pub(crate) struct Directories {
    snapshots: PathBuf,
    trash: PathBuf,
    next: AtomicI64,
}

/// Modes as containerd's overlay snapshotter has them.
const PRIVATE: u32 = 0o700;
const FS: u32 = 0o755;
const WORK: u32 = 0o711;

impl Directories {
    /// Makes what is missing below `root`. `last_recorded` is the highest number ever given out.
    pub(crate) fn open(root: &Path, last_recorded: i64) -> Result<Self, Error> {
        check_root(root)?;
        let (snapshots, trash) = (root.join("snapshots"), root.join("trash"));
        for directory in [root, &snapshots, &trash] {
            make(directory, PRIVATE)?;
        }
        // A crash may have left directories that were never recorded; their numbers are used up, too.
        let last_present = numbers(&snapshots)?
            .into_iter()
            .chain(numbers(&trash)?)
            .max()
            .unwrap_or(0);
        let next = AtomicI64::new(last_recorded.max(last_present) + 1);
        Ok(Self {
            snapshots,
            trash,
            next,
        })
    }

    /// A number that no snapshot ever had.
    pub(crate) fn next_id(&self) -> i64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn of(&self, id: i64) -> PathBuf {
        self.snapshots.join(id.to_string())
    }

    /// Content or upperdir of a snapshot.
    pub(crate) fn fs(&self, id: i64) -> PathBuf {
        self.of(id).join("fs")
    }

    /// Workdir of an active snapshot.
    pub(crate) fn work(&self, id: i64) -> PathBuf {
        self.of(id).join("work")
    }

    /// Owner of the root directory of a snapshot.
    pub(crate) fn owner(&self, id: i64) -> Result<Owner, Error> {
        let fs = self.fs(id);
        let metadata = fs.symlink_metadata().map_err(Error::io("look at", &fs))?;
        Ok((metadata.uid(), metadata.gid()))
    }

    /// Makes a snapshot's directories; those that exist stay as they are.
    pub(crate) fn make(&self, id: i64, kind: Kind, owner: Owner) -> Result<(), Error> {
        make(&self.of(id), PRIVATE)?;
        let fs = self.fs(id);
        if make(&fs, FS)? && owner != (0, 0) {
            std::os::unix::fs::lchown(&fs, Some(owner.0), Some(owner.1))
                .map_err(Error::io("give to its owner", &fs))?;
        }
        if kind == Kind::Active {
            make(&self.work(id), WORK)?;
        }
        Ok(())
    }

    /// Takes a snapshot's directory out of the way; [`Self::empty_trash`] deletes it.
    pub(crate) fn discard(&self, id: i64) -> Result<(), Error> {
        let from = self.of(id);
        match std::fs::rename(&from, self.trash.join(id.to_string())) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::io("move to trash", &from)(error))
            }
            _ => Ok(()),
        }
    }

    /// Discards directories that no record names; returns how many.
    pub(crate) fn discard_unknown(&self, known: &HashSet<i64>) -> Result<usize, Error> {
        let orphans: Vec<i64> = numbers(&self.snapshots)?
            .into_iter()
            .filter(|id| !known.contains(id))
            .collect();
        orphans.iter().try_for_each(|id| self.discard(*id))?;
        Ok(orphans.len())
    }

    /// Whether there are directories of snapshots.
    pub(crate) fn any(&self) -> Result<bool, Error> {
        Ok(!numbers(&self.snapshots)?.is_empty())
    }

    /// Deletes what was discarded. All is tried; the first failure is returned.
    pub(crate) fn empty_trash(&self) -> Result<usize, Error> {
        let mut first_failure = None;
        let mut deleted = 0;
        for id in numbers(&self.trash)? {
            let path = self.trash.join(id.to_string());
            match std::fs::remove_dir_all(&path) {
                Ok(()) => deleted += 1,
                // Another Cleanup was faster.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    first_failure.get_or_insert(Error::io("delete", &path)(error));
                }
            }
        }
        first_failure.map_or(Ok(deleted), Err)
    }
}

/// Overlay's options are separated by `,`, its lower directories by `:`.
fn check_root(root: &Path) -> Result<(), Error> {
    let bad = |problem: &str| Error::State {
        path: root.to_owned(),
        problem: problem.to_owned(),
    };
    let text = root.to_str().ok_or_else(|| bad("must be UTF-8"))?;
    if !root.is_absolute() {
        return Err(bad("must be an absolute path"));
    }
    if text.contains([',', ':', '\\']) {
        return Err(bad(
            "must not contain a comma, colon or backslash: overlay options could not name it",
        ));
    }
    Ok(())
}

/// Makes one directory with exactly that mode; false if it exists.
fn make(path: &Path, mode: u32) -> Result<bool, Error> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {
            // The process' umask took bits away.
            std::fs::set_permissions(path, Permissions::from_mode(mode))
                .map_err(Error::io("set mode of", path))?;
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(Error::io("create directory", path)(error)),
    }
}

/// Entries whose names are numbers; what else lies there is not ours to touch.
fn numbers(directory: &Path) -> Result<Vec<i64>, Error> {
    let entries = std::fs::read_dir(directory).map_err(Error::io("list", directory))?;
    let names = entries
        .map_while(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names
        .filter_map(|name| name.parse().ok().filter(|id| *id > 0))
        .collect())
}
