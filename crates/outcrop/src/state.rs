//! The state directory: what it must be, and the lock that one daemon holds on it.

use crate::error::{Error, Kind};
use std::fs::{DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// Ours alone: snapshots hold other people's files with their modes.
const MODE: u32 = 0o700;

/// Magic numbers of statfs(2) of file systems that cannot hold overlay uppers or forget everything at boot.
const UNFIT: [(i64, &str, &str); 7] = [
    (
        0x0102_1994,
        "tmpfs",
        "it is empty after a boot, and containerd's records are not",
    ),
    (
        0x8584_58f6,
        "ramfs",
        "it is empty after a boot, and containerd's records are not",
    ),
    (
        0x794c_7630,
        "overlayfs",
        "an overlay cannot be the upper of another",
    ),
    (0x6573_5546, "FUSE", "it cannot hold an overlay's upper"),
    (0x6969, "NFS", "it cannot hold an overlay's upper"),
    (0xff53_4d42, "CIFS", "it cannot hold an overlay's upper"),
    (0x0102_1997, "9p", "it cannot hold an overlay's upper"),
];

/// A state directory that one daemon has to itself while this lives.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock lasts as long as the descriptor")] File);

/// Makes `root` if it is missing, checks it, and locks it.
///
/// # Errors
/// [`Kind::Config`] if it cannot be what it must be, [`Kind::Unavailable`] if another daemon has it.
pub fn prepare(root: &Path) -> Result<Lock, Error> {
    make_private(root)?;
    check(root)?;
    let path = root.join("lock");
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path);
    let file = file.map_err(|error| cannot_use(root).because(error))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::new(
            Kind::Unavailable,
            format!("another outcrop serves from {}", root.display()),
        )
        .hint("stop it first, or give this one another root")),
        Err(error) => Err(cannot_use(root).because(error)),
    }
}

/// Whether `root` is, or could become, a state directory; changes nothing. Returns what it is.
///
/// # Errors
/// As [`prepare`], without the lock.
pub fn check(root: &Path) -> Result<String, Error> {
    let existing = root
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let status = rustix::fs::statfs(existing).map_err(|error| cannot_use(root).because(error))?;
    let kind = status.f_type as i64 & 0xffff_ffff;
    if let Some((_, name, why)) = UNFIT.iter().find(|(magic, ..)| *magic == kind) {
        return Err(Error::new(
            Kind::Config,
            format!("{} lies on {name}: {why}", root.display()),
        )
        .hint("set root to a directory on a disk (ext4, xfs, btrfs)"));
    }
    if existing != root {
        return Ok(format!("{} will be made", root.display()));
    }
    let metadata = root
        .metadata()
        .map_err(|error| cannot_use(root).because(error))?;
    if !metadata.is_dir() {
        return Err(
            cannot_use(root).because(std::io::Error::from(std::io::ErrorKind::NotADirectory))
        );
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 && !is_empty(root) {
        return Err(Error::new(
            Kind::Config,
            format!("{} has mode {mode:04o}, open to others", root.display()),
        )
        .hint(format!(
            "chmod 0700 {}, if nothing else lives there",
            root.display()
        )));
    }
    Ok(root.display().to_string())
}

/// Makes a directory of mode 0700. An empty one is tightened; one with content might be somebody else's and is left to
/// [`check`].
fn make_private(root: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(MODE).create(root);
    made.map_err(|error| cannot_use(root).because(error))?;
    if is_empty(root) {
        std::fs::set_permissions(root, Permissions::from_mode(MODE))
            .map_err(|error| cannot_use(root).because(error))?;
    }
    Ok(())
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

fn cannot_use(root: &Path) -> Error {
    Error::new(
        Kind::Config,
        format!("cannot use the state directory {}", root.display()),
    )
    .hint("run as root, or set root to a directory on a disk that is ours alone")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn a_missing_directory_is_made_for_us_alone() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("a/b");
        assert!(check(&root).unwrap().ends_with("will be made"));
        prepare(&root).unwrap();
        assert_eq!(mode(&root), MODE);
    }

    #[test]
    fn an_empty_directory_is_tightened_and_a_full_one_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let path = parent.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
            path
        };
        let (empty, full) = (open("empty"), open("full"));
        std::fs::write(full.join("somebody's"), "").unwrap();
        prepare(&empty).unwrap();
        assert_eq!(mode(&empty), MODE);
        let error = prepare(&full).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(
            error.to_string().contains("has mode 0755, open to others"),
            "{error}"
        );
        assert_eq!(mode(&full), 0o755, "nothing of others is changed");
    }

    #[test]
    fn two_daemons_do_not_share() {
        let root = tempfile::tempdir().unwrap();
        let lock = prepare(root.path()).unwrap();
        let error = prepare(root.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        drop(lock);
        prepare(root.path()).unwrap();
    }

    #[test]
    fn memory_is_no_disk() {
        let shm = Path::new("/dev/shm");
        if !shm.is_dir() {
            eprintln!("skipped: no /dev/shm here");
            return;
        }
        let error = check(&shm.join("outcrop")).unwrap_err();
        assert!(error.to_string().contains("lies on tmpfs"), "{error}");
    }
}
