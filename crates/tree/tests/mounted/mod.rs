//! Images mounted by the kernel, and checked by Debian's erofs-utils where they are installed.

use std::ffi::{CString, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A mount that goes with its value, below a temporary directory of its own.
pub(crate) struct Mounted {
    directory: tempfile::TempDir,
    image: Option<tempfile::NamedTempFile>,
}

impl Mounted {
    /// Mounts an image.
    pub(crate) fn new(image: &[u8]) -> Self {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(image).unwrap();
        let mut mounted = Self::of_file(file.path());
        mounted.image = Some(file);
        mounted
    }

    /// Mounts an image that is in a file, by a loop device.
    pub(crate) fn of_file(image: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let output = Command::new("mount")
            .args(["-t", "erofs", "-o", "loop,ro"])
            .arg(image)
            .arg(directory.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        Self {
            directory,
            image: None,
        }
    }

    /// Mounts an overlay of directories, the top one first, as a container engine does.
    pub(crate) fn overlay(lowers: &[&Path]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let lowers: Vec<&str> = lowers.iter().map(|it| it.to_str().unwrap()).collect();
        let options = CString::new(format!("lowerdir={}", lowers.join(":"))).unwrap();
        let flags = MountFlags::RDONLY;
        mount("overlay", directory.path(), "overlay", flags, &*options).unwrap();
        Self {
            directory,
            image: None,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(self.directory.path(), UnmountFlags::DETACH).ok();
    }
}

/// Why nothing can be mounted here, if it cannot.
pub(crate) fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.contains("\terofs\n") {
        return Some("the kernel knows no erofs".to_owned());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("no loop devices".to_owned());
    }
    None
}

/// Has `fsck.erofs` read an image whole, if there is one: in `EROFS_UTILS`, or installed.
pub(crate) fn fsck(image: &[u8]) {
    static PROGRAM: OnceLock<Option<OsString>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let program = match std::env::var_os("EROFS_UTILS") {
            Some(directory) => PathBuf::from(directory).join("fsck.erofs").into_os_string(),
            None => OsString::from("fsck.erofs"),
        };
        let found = Command::new(&program).arg("--version").output().is_ok();
        if !found {
            println!(
                "fsck.erofs is not asked: {} is not there",
                program.display()
            );
        }
        found.then_some(program)
    });
    let Some(program) = program else {
        return;
    };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(image).unwrap();
    let output = Command::new(program)
        .arg("--extract")
        .arg(file.path())
        .output()
        .unwrap();
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("<E>"), "{said}");
}
