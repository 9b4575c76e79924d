//! What the kernel can do, found out by doing it: versions lie, and containers take things away.

use super::child;
use super::facts::Kernel;
use crate::scratch::Scratch;
use fuse::{
    Attr, DirReply, Entry, Errno, FileSystem, Inode, MountOptions, ReadReply, Session, StatFs,
};
use rustix::mount::{FsOpenFlags, MountFlags};
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// For a read of a few bytes through a trial mount.
const DEADLINE: Duration = Duration::from_secs(5);

/// Name and content of the one file of the trial mount.
const NAME: &str = "probe";
const CONTENT: &[u8] = b"outcrop trial mount\n";
const FILE: Inode = Inode(2);

/// Tries everything, with trial mounts below `parent`. `reader` is a program that prints the file `<reader> probe-read FILE`:
/// reads through our own mounts are done by a child, which may be given up.
pub fn probe(parent: &Path, reader: &Path) -> Kernel {
    let fuse_device = match std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
    {
        Ok(_) => Ok("/dev/fuse opens".to_owned()),
        Err(error) => Err(format!("/dev/fuse: {error}")),
    };
    let (fuse_protocol, overlayfs) = match &fuse_device {
        Ok(_) => trial(parent, reader),
        Err(_) => (
            Err("not tried without the device".to_owned()),
            Err("not tried without FUSE".to_owned()),
        ),
    };
    Kernel {
        fuse_device,
        fuse_protocol,
        overlayfs,
        erofs: erofs(),
    }
}

type Tried = Result<String, String>;

fn trial(parent: &Path, reader: &Path) -> (Tried, Tried) {
    let scratch = match Scratch::new(parent, "check") {
        Ok(scratch) => scratch,
        Err(error) => {
            let reason = format!(
                "no directory for a trial mount below {}: {error}",
                parent.display()
            );
            return (Err(reason.clone()), Err(reason));
        }
    };
    let session = scratch
        .directory("fuse")
        .map_err(|error| error.to_string())
        .and_then(|directory| {
            let options = MountOptions {
                workers: 1,
                ..MountOptions::default()
            };
            Session::mount(Arc::new(Trial), &directory, options).map_err(|error| error.to_string())
        });
    let session = match session {
        Ok(session) => session,
        Err(reason) => return (Err(reason), Err("not tried without FUSE".to_owned())),
    };
    let fuse = read_back(reader, &session.directory().join(NAME))
        .map(|()| "a trial mount was read".to_owned());
    let overlay = if fuse.is_ok() {
        overlay(&scratch, session.directory(), reader)
    } else {
        Err("not tried without FUSE".into())
    };
    if let Err(error) = session.detach() {
        tracing::warn!(%error, "cannot unmount the trial mount");
    }
    (fuse, overlay)
}

fn overlay(scratch: &Scratch, lower: &Path, reader: &Path) -> Tried {
    let directory = |name: &str| scratch.directory(name).map_err(|error| error.to_string());
    let (upper, work, merged) = (
        directory("upper")?,
        directory("work")?,
        directory("merged")?,
    );
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    let options = CString::new(options).map_err(|error| error.to_string())?;
    rustix::mount::mount(
        "overlay",
        &merged,
        "overlay",
        MountFlags::empty(),
        Some(options.as_c_str()),
    )
    .map_err(|error| format!("a trial overlay cannot be mounted: {error}"))?;
    let read = read_back(reader, &merged.join(NAME));
    fuse::detach_path(&merged)
        .map_err(|error| format!("the trial overlay cannot be unmounted: {error}"))?;
    read.map(|()| "an overlay over the trial mount was read".to_owned())
}

fn read_back(reader: &Path, file: &Path) -> Result<(), String> {
    let bytes = child::output(Command::new(reader).arg("probe-read").arg(file), DEADLINE)
        .map_err(|error| format!("a read through the trial mount failed: {error}"))?;
    if bytes == CONTENT {
        Ok(())
    } else {
        Err("the trial mount shows other bytes than were put there".to_owned())
    }
}

/// Opening a file system's context loads its module, and mounts nothing.
fn erofs() -> Tried {
    match rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => Ok("the kernel has it".to_owned()),
        Err(rustix::io::Errno::NODEV) => Err("the kernel does not have it".to_owned()),
        Err(error) => Err(format!("cannot be tried: {error}")),
    }
}

/// This program, for [`probe`].
///
/// # Errors
/// What /proc says.
pub fn this_program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

/// One directory with one file.
struct Trial;

impl Trial {
    fn attr(inode: Inode) -> Result<Attr, Errno> {
        let (mode, nlink, size) = match inode {
            Inode::ROOT => (0o040_755, 2, 0),
            FILE => (0o100_644, 1, CONTENT.len() as u64),
            _ => return Err(Errno::ENOENT),
        };
        Ok(Attr {
            ino: inode,
            size,
            mode,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            mtime: 0,
            mtime_nanos: 0,
        })
    }

    fn entry() -> Result<Entry, Errno> {
        Ok(Entry {
            inode: FILE,
            attr: Self::attr(FILE)?,
            entry_valid: Duration::MAX,
            attr_valid: Duration::MAX,
        })
    }
}

impl FileSystem for Trial {
    fn lookup(&self, parent: Inode, name: &[u8]) -> Result<Option<Entry>, Errno> {
        if parent == Inode::ROOT && name == NAME.as_bytes() {
            Self::entry().map(Some)
        } else {
            Ok(None)
        }
    }

    fn negative_valid(&self) -> Duration {
        Duration::MAX
    }

    fn getattr(&self, inode: Inode) -> Result<(Attr, Duration), Errno> {
        Ok((Self::attr(inode)?, Duration::MAX))
    }

    fn readlink(&self, _: Inode) -> Result<Vec<u8>, Errno> {
        Err(Errno::EINVAL)
    }

    fn read(&self, inode: Inode, offset: u64, out: &mut ReadReply<'_>) -> Result<(), Errno> {
        if inode != FILE {
            return Err(Errno::EISDIR);
        }
        let start =
            usize::try_from(offset).map_or(CONTENT.len(), |offset| offset.min(CONTENT.len()));
        out.push(&CONTENT[start..]);
        Ok(())
    }

    fn readdir(&self, inode: Inode, offset: u64, out: &mut DirReply<'_>) -> Result<(), Errno> {
        if inode != Inode::ROOT {
            return Err(Errno::ENOTDIR);
        }
        if offset == 0 {
            out.add(NAME.as_bytes(), 1, &Self::entry()?);
        }
        Ok(())
    }

    fn has_xattrs(&self) -> bool {
        false
    }

    fn statfs(&self) -> StatFs {
        StatFs {
            content_bytes: CONTENT.len() as u64,
            inodes: 2,
        }
    }
}
