//! An overlay's upper directory as a layer.
//!
//! The container may be running and is not trusted: no name is followed twice, no symbolic link ever.

use std::collections::HashMap;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tar::{Builder, EntryType};

use super::DiffError;
use super::tar_entry::TarEntry;

/// Each level holds a descriptor.
const MAX_DEPTH: usize = 512;
/// The kernel's limits.
const MAX_XATTR_NAMES: usize = 64 << 10;
const MAX_XATTR_VALUE: usize = 64 << 10;

const FOLLOW_NOTHING: OFlags = OFlags::NOFOLLOW
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

/// Writes the layer, names in ascending order of their bytes. Times are whole seconds, none later than `latest`.
pub(super) fn write(
    directory: &Path,
    latest: Option<i64>,
    out: impl Write,
) -> Result<(), DiffError> {
    let root = rustix::fs::open(directory, OFlags::DIRECTORY | FOLLOW_NOTHING, Mode::empty())
        .map_err(|error| read_error(directory.as_os_str().as_bytes(), error.into()))?;
    let mut walk = Walk {
        tar: Builder::new(out),
        latest,
        links: HashMap::new(),
    };
    if opaque(root.as_fd())? {
        return Err(DiffError::Declined("the root itself is opaque".to_owned()));
    }
    let mut open = vec![Level::new(root, Vec::new())?];
    while let Some(level) = open.last_mut() {
        let Some(name) = level.names.pop() else {
            open.pop();
            continue;
        };
        let path = level.path_of(&name);
        if let Some(inner) = walk.entry(level, &name, &path)? {
            if open.len() >= MAX_DEPTH {
                let deep = io::Error::other("directories nested too deep");
                return Err(read_error(&path, deep));
            }
            open.push(Level::new(inner, path)?);
        }
    }
    let mut out = walk.tar.into_inner().map_err(DiffError::of_writing)?;
    out.flush().map_err(DiffError::of_writing)
}

/// A directory on the way.
struct Level {
    directory: OwnedFd,
    path: Vec<u8>,
    /// Still to come, last first.
    names: Vec<OsString>,
}

impl Level {
    fn new(directory: OwnedFd, path: Vec<u8>) -> Result<Self, DiffError> {
        let read = || -> Result<Vec<OsString>, Errno> {
            let mut names = Vec::new();
            for entry in rustix::fs::Dir::read_from(&directory)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.push(OsString::from_vec(name.to_owned()));
                }
            }
            Ok(names)
        };
        let mut names = read().map_err(|error| read_error(&path, error.into()))?;
        names.sort_unstable_by(|one, other| other.cmp(one));
        Ok(Self {
            directory,
            path,
            names,
        })
    }

    fn path_of(&self, name: &OsString) -> Vec<u8> {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        path
    }
}

struct Walk<W: Write> {
    tar: Builder<W>,
    latest: Option<i64>,
    /// By inode: the first name of a file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Walk<W> {
    /// Writes an entry; a directory is given back, to be entered.
    fn entry(
        &mut self,
        level: &Level,
        name: &OsString,
        path: &[u8],
    ) -> Result<Option<OwnedFd>, DiffError> {
        let failed = |error: Errno| read_error(path, error.into());
        let directory = level.directory.as_fd();
        let stat =
            rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner = rustix::fs::openat(
                    directory,
                    name,
                    OFlags::DIRECTORY | FOLLOW_NOTHING,
                    Mode::empty(),
                )
                .map_err(failed)?;
                self.directory(&inner, path)?;
                return Ok(Some(inner));
            }
            FileType::RegularFile => {
                let file = rustix::fs::openat(directory, name, FOLLOW_NOTHING, Mode::empty())
                    .map_err(failed)?;
                self.file(File::from(file), path)?;
            }
            FileType::CharacterDevice if stat.st_rdev == 0 => self.whiteout(path)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new()).map_err(failed)?;
                self.named(&stat, path, EntryType::Symlink, target.as_bytes())?;
            }
            FileType::CharacterDevice => self.named(&stat, path, EntryType::Char, b"")?,
            FileType::BlockDevice => self.named(&stat, path, EntryType::Block, b"")?,
            FileType::Fifo => self.named(&stat, path, EntryType::Fifo, b"")?,
            // Of a process that runs now; no layer holds any.
            _ => {}
        }
        Ok(None)
    }

    fn directory(&mut self, directory: &OwnedFd, path: &[u8]) -> Result<(), DiffError> {
        let failed = |error: Errno| read_error(path, error.into());
        let stat = rustix::fs::fstat(directory).map_err(failed)?;
        let xattrs = Xattrs::read(directory.as_fd(), path)?;
        let name = [path, b"/"].concat();
        let kept = xattrs.kept();
        let entry = self.described(&stat, &name, EntryType::Directory, &kept);
        entry
            .write(&mut self.tar, io::empty())
            .map_err(DiffError::of_writing)?;
        if xattrs.opaque() {
            let opaque = [path, b"/.wh..wh..opq"].concat();
            self.mark(&opaque)?;
        }
        Ok(())
    }

    fn file(&mut self, file: File, path: &[u8]) -> Result<(), DiffError> {
        let failed = |error: Errno| read_error(path, error.into());
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            let changed = io::Error::other("another file took its place");
            return Err(read_error(path, changed));
        }
        let inode = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&inode) {
                let first = first.clone();
                return self.named(&stat, path, EntryType::Link, &first);
            }
            self.links.insert(inode, path.to_owned());
        }
        let xattrs = Xattrs::read(file.as_fd(), path)?;
        if xattrs.whiteout() {
            return self.whiteout(path);
        }
        let kept = xattrs.kept();
        let entry = TarEntry {
            size: stat.st_size.try_into().unwrap_or_default(),
            ..self.described(&stat, path, EntryType::Regular, &kept)
        };
        let mut content = Counted {
            inner: file.take(entry.size),
            left: entry.size,
            failed: None,
        };
        let written = entry.write(&mut self.tar, &mut content);
        if let Some(error) = content.failed {
            return Err(read_error(path, error));
        }
        written.map_err(DiffError::of_writing)?;
        match content.left {
            0 => Ok(()),
            _ => Err(read_error(
                path,
                io::Error::new(io::ErrorKind::UnexpectedEof, "it shrank while it was read"),
            )),
        }
    }

    /// What has no content and no descriptor of its own.
    fn named(
        &mut self,
        stat: &Stat,
        path: &[u8],
        kind: EntryType,
        link: &[u8],
    ) -> Result<(), DiffError> {
        let device = matches!(kind, EntryType::Char | EntryType::Block).then(|| {
            let device = stat.st_rdev;
            (rustix::fs::major(device), rustix::fs::minor(device))
        });
        let entry = TarEntry {
            link,
            device,
            ..self.described(stat, path, kind, &[])
        };
        entry
            .write(&mut self.tar, io::empty())
            .map_err(DiffError::of_writing)
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<(), DiffError> {
        let at = path
            .iter()
            .rposition(|&byte| byte == b'/')
            .map_or(0, |slash| slash + 1);
        let (parent, name) = path.split_at(at);
        self.mark(&[parent, b".wh.", name].concat())
    }

    /// An empty file whose name says something.
    fn mark(&mut self, path: &[u8]) -> Result<(), DiffError> {
        let entry = TarEntry {
            path,
            kind: EntryType::Regular,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            device: None,
            link: b"",
            xattrs: &[],
        };
        entry
            .write(&mut self.tar, io::empty())
            .map_err(DiffError::of_writing)
    }

    fn described<'a>(
        &self,
        stat: &Stat,
        path: &'a [u8],
        kind: EntryType,
        xattrs: &'a [(String, Vec<u8>)],
    ) -> TarEntry<'a> {
        let mtime = stat.st_mtime;
        TarEntry {
            path,
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: 0,
            mtime: self.latest.map_or(mtime, |latest| mtime.min(latest)),
            device: None,
            link: b"",
            xattrs,
        }
    }
}

/// Knows afterwards whether all was read, and tells failures of reading from those of writing.
struct Counted<R> {
    inner: R,
    left: u64,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(length) => {
                self.left -= length as u64;
                Ok(length)
            }
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}

/// A file's extended attributes, those of overlayfs apart.
struct Xattrs {
    all: Vec<(String, Vec<u8>)>,
}

impl Xattrs {
    fn read(file: impl AsFd + Copy, path: &[u8]) -> Result<Self, DiffError> {
        let failed = |error: Errno| read_error(path, error.into());
        let mut names = vec![0; MAX_XATTR_NAMES];
        let length = match rustix::fs::flistxattr(file, &mut names[..]) {
            Ok(length) => length,
            Err(Errno::NOTSUP) => 0,
            Err(error) => return Err(failed(error)),
        };
        names.truncate(length);
        let mut all = Vec::new();
        for name in names
            .split(|&byte| byte == 0)
            .filter(|name| !name.is_empty())
        {
            // PAX keys are text; what is not is nothing that layers carry.
            let (Ok(text), Ok(name)) = (std::str::from_utf8(name), CString::new(name)) else {
                continue;
            };
            let mut value = vec![0; MAX_XATTR_VALUE];
            match rustix::fs::fgetxattr(file, &name, &mut value[..]) {
                Ok(length) => value.truncate(length),
                Err(Errno::NODATA) => continue,
                Err(error) => return Err(failed(error)),
            }
            all.push((text.to_owned(), value));
        }
        all.sort_unstable();
        let xattrs = Self { all };
        xattrs.check()?;
        Ok(xattrs)
    }

    fn overlay(&self, name: &str) -> Option<&[u8]> {
        let ours = |key: &String| {
            ["trusted.overlay.", "user.overlay."]
                .iter()
                .any(|prefix| key.strip_prefix(prefix) == Some(name))
        };
        let found = self.all.iter().find(|(key, _)| ours(key));
        found.map(|(_, value)| value.as_slice())
    }

    /// Files whose name or content lies below, by reference.
    fn check(&self) -> Result<(), DiffError> {
        let reference = ["redirect", "metacopy"]
            .into_iter()
            .find(|name| self.overlay(name).is_some());
        match reference {
            Some(name) => Err(DiffError::Declined(format!("overlay attribute {name}"))),
            None => Ok(()),
        }
    }

    fn opaque(&self) -> bool {
        self.overlay("opaque") == Some(b"y")
    }

    /// How overlayfs marks whiteouts where it cannot make devices.
    fn whiteout(&self) -> bool {
        self.overlay("whiteout").is_some()
    }

    /// What layers carry; labels of this host's security modules are not for others.
    fn kept(&self) -> Vec<(String, Vec<u8>)> {
        let kept = |name: &str| {
            name == "security.capability"
                || (name.starts_with("user.") && !name.starts_with("user.overlay."))
        };
        let all = self.all.iter();
        all.filter(|(name, _)| kept(name)).cloned().collect()
    }
}

fn opaque(directory: impl AsFd + Copy) -> Result<bool, DiffError> {
    Ok(Xattrs::read(directory, b"/")?.opaque())
}

fn read_error(path: &[u8], source: io::Error) -> DiffError {
    DiffError::Read {
        path: String::from_utf8_lossy(path).into_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
