//! The directory: names, permissions and the lock. Every path is relative to one descriptor.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::{Error, Key, LAYOUT};

const OBJECTS: &str = "objects";
const INCOMING: &str = "incoming";
/// Only we read and write here: access rights of contents are decided above us.
const DIRECTORY_MODE: u32 = 0o700;
/// As for directories.
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);

/// The open and locked directory `<directory>/v1`.
pub(crate) struct Store {
    /// Holds the lock, too.
    root: OwnedFd,
    directory: PathBuf,
    next_incoming: AtomicU64,
}

/// An unfinished file below `incoming/`.
pub(crate) struct Incoming {
    pub(crate) file: File,
    name: String,
}

impl Store {
    /// Makes the directory where it is missing, locks it and empties `incoming/`.
    pub(crate) fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(LAYOUT);
        let failed = |operation, path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::io(source, operation, path, directory)
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(DIRECTORY_MODE);
        builder.create(&path).map_err(failed("create", &path))?;
        std::fs::set_permissions(&path, Permissions::from_mode(DIRECTORY_MODE))
            .map_err(failed("set the mode of", &path))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|errno| failed("open", &path)(errno.into()))?;
        rustix::fs::flock(&root, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            match errno {
                Errno::WOULDBLOCK => Error::InUse {
                    directory: directory.to_path_buf(),
                },
                errno => failed("lock", &path)(errno.into()),
            }
        })?;
        for name in [OBJECTS, INCOMING] {
            let path = path.join(name);
            builder.create(&path).map_err(failed("create", &path))?;
        }
        let store = Self {
            root,
            directory: directory.to_path_buf(),
            next_incoming: AtomicU64::new(0),
        };
        store.empty_incoming()?;
        Ok(store)
    }

    /// The configured directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Sorts an error about a file of ours.
    pub(crate) fn failed(&self, operation: &'static str, name: &str, source: io::Error) -> Error {
        Error::io(source, operation, self.path(name), &self.directory)
    }

    /// An absolute path, for messages and for what `std` must open.
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(LAYOUT).join(name)
    }

    /// Creates a new file under `name`, in place of whatever is there.
    pub(crate) fn create(&self, name: &str) -> Result<File, Error> {
        // EXCL: to open what is there could mean to follow a link or to wait at a FIFO.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(&self.root, name, flags, FILE_MODE);
        let created = match create() {
            Err(Errno::EXIST) => {
                self.remove(name);
                create()
            }
            other => other,
        };
        created
            .map(File::from)
            .map_err(|errno| self.failed("create", name, errno.into()))
    }

    /// Opens the file `name` to read and write it.
    pub(crate) fn open_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(rustix::fs::openat(&self.root, name, flags, Mode::empty())?.into())
    }

    /// Renames within the directory, over whatever is there.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.root, from, &self.root, to)?)
    }

    /// A new file in `incoming/`.
    pub(crate) fn create_incoming(&self) -> Result<Incoming, Error> {
        let number = self.next_incoming.fetch_add(1, Ordering::Relaxed);
        let name = format!("{INCOMING}/{number}");
        Ok(Incoming {
            file: self.create(&name)?,
            name,
        })
    }

    /// Removes an unfinished file.
    pub(crate) fn abandon(&self, incoming: &Incoming) {
        self.remove(&incoming.name);
    }

    /// The error of a write to an unfinished file.
    pub(crate) fn write_failed(&self, incoming: &Incoming, source: io::Error) -> Error {
        self.failed("write", &incoming.name, source)
    }

    /// Gives a finished file its name below `objects/`.
    pub(crate) fn publish(&self, incoming: &Incoming, key: &Key) -> Result<(), Error> {
        let to = object_name(key);
        let renamed = match self.rename(&incoming.name, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self
                .create_fan_out(key)
                .and_then(|()| self.rename(&incoming.name, &to)),
            // Something that is not ours has the name, or that of its directory.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                self.remove(&to);
                self.rename(&incoming.name, &to)
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                self.remove(&fan_out_name(key));
                self.create_fan_out(key)
                    .and_then(|()| self.rename(&incoming.name, &to))
            }
            other => other,
        };
        renamed.map_err(|source| self.failed("rename a finished file to", &to, source))
    }

    fn create_fan_out(&self, key: &Key) -> io::Result<()> {
        let mode = Mode::from_raw_mode(DIRECTORY_MODE);
        match rustix::fs::mkdirat(&self.root, fan_out_name(key), mode) {
            // Another thread was first.
            Err(Errno::EXIST) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Opens an object for reading.
    pub(crate) fn open_object(&self, key: &Key) -> io::Result<File> {
        // NONBLOCK: a FIFO that somebody planted must not make us wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(rustix::fs::openat(&self.root, object_name(key), flags, Mode::empty())?.into())
    }

    /// The error of an operation on an object.
    pub(crate) fn object_failed(
        &self,
        operation: &'static str,
        key: &Key,
        source: io::Error,
    ) -> Error {
        self.failed(operation, &object_name(key), source)
    }

    /// Removes an object. A failure is logged: at the next start it is an object without a row.
    pub(crate) fn remove_object(&self, key: &Key) {
        self.remove(&object_name(key));
    }

    /// Removes whatever has the name. Nobody but us makes directories here, and ours have other names.
    pub(crate) fn remove(&self, name: &str) {
        let path = self.path(name);
        let removed = match rustix::fs::unlinkat(&self.root, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(Errno::ISDIR) => std::fs::remove_dir_all(&path),
            Err(errno) => Err(errno.into()),
        };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "cannot remove a file");
        }
    }

    /// Calls `keep` for every object; removes those for which it says no, and whatever is none.
    pub(crate) fn sweep(&self, mut keep: impl FnMut(Key) -> bool) -> Result<(), Error> {
        for (directory, is_directory) in self.names(OBJECTS)? {
            let name = format!("{OBJECTS}/{directory}");
            if !is_directory {
                self.remove(&name);
                continue;
            }
            for (file, is_directory) in self.names(&name)? {
                let key = Key::new(&format!("{directory}{file}")).ok();
                // What does not split into these two names again would not be found by its key.
                let key = key.filter(|key| key.directory() == directory);
                if is_directory || !key.is_some_and(&mut keep) {
                    self.remove(&format!("{name}/{file}"));
                }
            }
        }
        Ok(())
    }

    fn empty_incoming(&self) -> Result<(), Error> {
        for (name, _) in self.names(INCOMING)? {
            self.remove(&format!("{INCOMING}/{name}"));
        }
        Ok(())
    }

    /// Names in a directory, each with whether it is a directory itself.
    ///
    /// Names that are not UTF-8 are nobody's: left out, and left alone.
    fn names(&self, name: &str) -> Result<Vec<(String, bool)>, Error> {
        let failed = |source| self.failed("list", name, source);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.path(name)).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let is_directory = entry.file_type().map_err(failed)?.is_dir();
            names.extend(
                entry
                    .file_name()
                    .into_string()
                    .ok()
                    .map(|name| (name, is_directory)),
            );
        }
        Ok(names)
    }
}

/// Whether it is a file with content, not something planted that only has its name.
pub(crate) fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// `fstat`.
pub(crate) fn stat(file: &File) -> io::Result<Stat> {
    Ok(rustix::fs::fstat(file)?)
}

fn fan_out_name(key: &Key) -> String {
    [OBJECTS, "/", key.directory()].concat()
}

fn object_name(key: &Key) -> String {
    [OBJECTS, "/", key.directory(), "/", key.file()].concat()
}
