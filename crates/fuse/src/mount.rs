//! Mounting and unmounting: `/dev/fuse`, mount(2), umount2(2), and the read-ahead that sysfs sets.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use thiserror::Error;

use crate::init::MAX_READ;
use crate::metrics::Metrics;

const DEVICE: &str = "/dev/fuse";
/// Measured: reads of 1 MiB are the fastest, and more is never asked for.
const READ_AHEAD_KIB: u32 = 1024;
/// Enough to wait for a dozen slow downloads at a time; they are started only when they are needed.
const WORKERS: usize = 16;

/// How a file system is mounted and served.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Shown as the mount's source.
    pub source: String,
    /// Shown behind `fuse.` as the mount's type; letters, digits, `.`, `_` and `-`.
    pub subtype: String,
    /// Let users other than root in. Containers need it.
    pub allow_other: bool,
    /// Let the kernel check modes and owners. Without, whoever gets in may read everything.
    pub default_permissions: bool,
    /// How far the kernel reads ahead, in KiB; at most 1024 are read at a time.
    pub read_ahead_kib: u32,
    /// Most threads that serve this mount; an idle mount has two.
    pub workers: usize,
    /// Honour set-user-id bits and file capabilities.
    pub suid: bool,
    /// Let device nodes be opened.
    pub dev: bool,
    /// Where this mount counts; clones share their counters.
    pub metrics: Metrics,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            source: "outcrop".into(),
            subtype: "outcrop".into(),
            allow_other: true,
            default_permissions: true,
            read_ahead_kib: READ_AHEAD_KIB,
            workers: WORKERS,
            suid: false,
            dev: false,
            metrics: Metrics::default(),
        }
    }
}

/// Why a mount could not be made or removed.
#[derive(Debug, Error)]
pub enum MountError {
    /// The kernel has no FUSE, or this container no device for it.
    #[error(
        "{DEVICE} is missing; load the module with `modprobe fuse`, or give the container the device"
    )]
    DeviceMissing(#[source] io::Error),
    /// The device may not be opened.
    #[error(
        "{DEVICE} may not be opened; run as root, and allow the device 10:229 in the container's device rules"
    )]
    DeviceForbidden(#[source] io::Error),
    /// Mounting needs CAP_SYS_ADMIN.
    #[error("mounting on {} is not permitted; run as root with CAP_SYS_ADMIN", path.display())]
    NotPermitted {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The mount point is no directory that could be resolved.
    #[error("{} cannot be mounted on; create the directory first", path.display())]
    MountPoint {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something else is mounted at the path, or on top of the mount.
    #[error("{} is not the mount that was to be detached; see /proc/self/mountinfo", path.display())]
    NotOurs {
        /// Where.
        path: PathBuf,
    },
    /// Source or subtype contain what the kernel's option string cannot carry.
    #[error("mount option {option:?} contains characters that options cannot have")]
    InvalidOption {
        /// The offending text.
        option: String,
    },
    /// Threads, descriptors, memory or another call.
    #[error("mounting on {} failed while trying to {action}", path.display())]
    Failed {
        /// Where.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Opens a new, unmounted connection.
///
/// The descriptor must not leak into children, or the connection would outlive everybody who could serve it.
pub(crate) fn open_device() -> Result<OwnedFd, MountError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(|errno| match errno {
        rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => {
            MountError::DeviceForbidden(errno.into())
        }
        _ => MountError::DeviceMissing(errno.into()),
    })
}

/// Absolute path without links. The last component is not touched: an old, dead mount may lie there.
pub(crate) fn resolve(dir: &Path) -> Result<PathBuf, MountError> {
    let resolved = match (dir.parent(), dir.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            parent.canonicalize().map(|parent| parent.join(name))
        }
        _ => dir.canonicalize(),
    };
    resolved.map_err(|source| MountError::MountPoint {
        path: dir.to_owned(),
        source,
    })
}

/// Mounts the connection on `dir`. INIT then waits to be read.
pub(crate) fn mount(
    device: &OwnedFd,
    dir: &Path,
    options: &MountOptions,
) -> Result<(), MountError> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if options.subtype.is_empty() || !options.subtype.chars().all(valid) {
        return Err(MountError::InvalidOption {
            option: options.subtype.clone(),
        });
    }
    if options.source.contains('\0') {
        return Err(MountError::InvalidOption {
            option: options.source.clone(),
        });
    }
    let kind = format!("fuse.{}", options.subtype);
    rustix::mount::mount(
        options.source.as_str(),
        dir,
        kind.as_str(),
        flags(options),
        data(device, options).as_deref(),
    )
    .map_err(|errno| {
        let (path, source) = (dir.to_owned(), errno.into());
        match errno {
            rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => {
                MountError::NotPermitted { path, source }
            }
            rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP => {
                MountError::MountPoint { path, source }
            }
            rustix::io::Errno::NODEV => MountError::DeviceMissing(source),
            _ => MountError::Failed {
                path,
                action: "mount",
                source,
            },
        }
    })
}

fn flags(options: &MountOptions) -> MountFlags {
    let mut flags = MountFlags::RDONLY;
    flags.set(MountFlags::NOSUID, !options.suid);
    flags.set(MountFlags::NODEV, !options.dev);
    flags
}

/// The options that the FUSE file system itself reads.
fn data(device: &OwnedFd, options: &MountOptions) -> Option<CString> {
    let mut data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,max_read={MAX_READ}",
        device.as_raw_fd()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    if options.default_permissions {
        data.push_str(",default_permissions");
    }
    // The text above has no zero byte.
    CString::new(data).ok()
}

/// Takes a mount away from its path (`MNT_DETACH`); whoever uses it still may go on. Links are not followed.
///
/// # Errors
/// What umount2(2) says; `InvalidInput` when nothing is mounted there.
pub fn detach_path(path: &Path) -> io::Result<()> {
    rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    Ok(())
}

/// Raises the read-ahead of a mounted device. INIT can only lower it.
///
/// # Errors
/// sysfs is absent or read-only: reading goes on with the kernel's 128 KiB.
pub(crate) fn set_read_ahead(device: (u32, u32), kib: u32) -> io::Result<()> {
    let (major, minor) = device;
    std::fs::write(
        format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"),
        kib.to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_reach_the_kernels_string() {
        let device = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut options = MountOptions::default();
        let text = |options: &MountOptions| data(&device, options).unwrap().into_string().unwrap();
        assert!(text(&options).starts_with(&format!(
            "fd={},rootmode=40000,user_id=0,",
            device.as_raw_fd()
        )));
        assert!(text(&options).ends_with(",max_read=1048576,allow_other,default_permissions"));
        options.allow_other = false;
        options.default_permissions = false;
        assert!(text(&options).ends_with(",max_read=1048576"));
    }

    #[test]
    fn mounts_are_read_only_and_without_suid_and_devices_unless_asked() {
        let strict = flags(&MountOptions::default());
        assert_eq!(
            strict,
            MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV
        );
        let image = flags(&MountOptions {
            suid: true,
            dev: true,
            ..MountOptions::default()
        });
        assert_eq!(image, MountFlags::RDONLY);
    }

    #[test]
    fn options_that_cannot_be_said_are_refused() {
        let device = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        for (source, subtype) in [("a\0b", "x"), ("a", ""), ("a", "x,suid"), ("a", "x y")] {
            let options = MountOptions {
                source: source.into(),
                subtype: subtype.into(),
                ..MountOptions::default()
            };
            let error = mount(&device, Path::new("/nonexistent"), &options).unwrap_err();
            assert!(matches!(error, MountError::InvalidOption { .. }), "{error}");
        }
    }

    #[test]
    fn paths_are_resolved_but_for_their_last_part() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("a")).unwrap();
        std::os::unix::fs::symlink("a", real.join("link")).unwrap();
        assert_eq!(resolve(&real.join("link/x")).unwrap(), real.join("a/x"));
        assert_eq!(resolve(&real.join("link")).unwrap(), real.join("link"));
        assert!(matches!(
            resolve(&real.join("absent/x")),
            Err(MountError::MountPoint { .. })
        ));
        assert_eq!(resolve(Path::new("/")).unwrap(), Path::new("/"));
    }

    #[test]
    fn nothing_mounted_is_nothing_to_detach() {
        let directory = tempfile::tempdir().unwrap();
        let error = detach_path(directory.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
