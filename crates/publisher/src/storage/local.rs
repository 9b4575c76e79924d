//! A directory that any web server may serve.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};

use super::{HeldLock, Listed, Locking, Storage, StorageError, check_path};

/// Files being written, the lock and the journal. `cvmfs_server` puts its own there too; nothing refers to it.
const SCRATCH: &str = "data/txn";
const LOCK: &str = "data/txn/publisher.lock";
/// What a lock's holder may say about itself.
const MAX_HOLDER_BYTES: u64 = 1 << 10;

/// A repository in a directory.
#[derive(Debug)]
pub struct LocalStorage {
    root: PathBuf,
    location: String,
    /// Makes names of files being written distinct within this process.
    counter: AtomicU64,
}

impl LocalStorage {
    /// The directory need not exist yet: the first file makes it.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            location: root.display().to_string(),
            counter: AtomicU64::new(0),
        }
    }

    fn path(&self, path: &str) -> Result<PathBuf, StorageError> {
        check_path(path)?;
        Ok(self.root.join(path))
    }

    fn error(&self, path: &str) -> impl FnOnce(io::Error) -> StorageError {
        move |source| StorageError::from_io(&self.location, path, source)
    }

    /// Runs `write` on a new file and moves it to its place. Directories are made when they turn out to be missing.
    fn write_with(
        &self,
        path: &str,
        write: &mut dyn FnMut(&mut File) -> io::Result<()>,
    ) -> Result<(), StorageError> {
        let target = self.path(path)?;
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        // The process's number keeps two publishers' leftovers apart.
        let name = format!("{SCRATCH}/{}.{number}.tmp", std::process::id());
        let temporary = self.root.join(&name);
        let attempt = || -> io::Result<()> {
            let mut file = create(&temporary)?;
            write(&mut file)?;
            if !path.starts_with("data/") {
                file.sync_all()?;
            }
            rename(&temporary, &target)?;
            match target.parent() {
                Some(parent) if !path.starts_with("data/") => File::open(parent)?.sync_all(),
                _ => Ok(()),
            }
        };
        let mut attempt = attempt;
        attempt().map_err(|source| {
            let _ = fs::remove_file(&temporary);
            StorageError::from_io(&self.location, path, source)
        })
    }
}

fn create(path: &Path) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
    };
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            open()
        }
        result => result,
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(to.parent().unwrap_or(Path::new("/")))?;
            fs::rename(from, to)
        }
        result => result,
    }
}

/// `Ok(None)` where there is no file.
fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Storage for LocalStorage {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(file) = optional(File::open(self.path(path)?)).map_err(self.error(path))? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        content.reserve(usize::try_from(length.min(limit)).unwrap_or(0));
        file.take(limit.saturating_add(1))
            .read_to_end(&mut content)
            .map_err(self.error(path))?;
        if content.len() as u64 > limit {
            return Err(StorageError::TooLarge {
                location: self.location.clone(),
                path: path.to_owned(),
                limit,
            });
        }
        Ok(Some(content))
    }

    fn reader(&self, path: &str) -> Result<Option<Box<dyn Read + Send>>, StorageError> {
        let file = optional(File::open(self.path(path)?)).map_err(self.error(path))?;
        Ok(file.map(|file| Box::new(file) as Box<dyn Read + Send>))
    }

    fn size(&self, path: &str) -> Result<Option<u64>, StorageError> {
        let metadata = optional(fs::metadata(self.path(path)?)).map_err(self.error(path))?;
        Ok(metadata
            .filter(fs::Metadata::is_file)
            .map(|metadata| metadata.len()))
    }

    fn put(&self, path: &str, content: &[u8]) -> Result<(), StorageError> {
        self.write_with(path, &mut |file| file.write_all(content))
    }

    fn put_file(&self, path: &str, source: &mut File, length: u64) -> Result<(), StorageError> {
        let start = source.stream_position().map_err(self.error(path))?;
        self.write_with(path, &mut |file| {
            source.seek(SeekFrom::Start(start))?;
            let copied = io::copy(&mut source.take(length), file)?;
            if copied == length {
                Ok(())
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        })
    }

    fn flush(&self) -> Result<(), StorageError> {
        let root = File::open(&self.root).map_err(self.error(""))?;
        rustix::fs::syncfs(&root).map_err(|error| self.error("")(error.into()))
    }

    fn delete(&self, paths: &[String]) -> Result<(), StorageError> {
        for path in paths {
            optional(fs::remove_file(self.path(path)?)).map_err(self.error(path))?;
        }
        Ok(())
    }

    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(&Listed<'_>) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        // Directories are read as a whole; only those that can hold such paths are entered.
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut pending = vec![folder.to_owned()];
        while let Some(folder) = pending.pop() {
            let directory = self.root.join(&folder);
            let Some(entries) = optional(fs::read_dir(directory)).map_err(self.error(&folder))?
            else {
                continue;
            };
            for entry in entries {
                let entry = entry.map_err(self.error(&folder))?;
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                let path = if folder.is_empty() {
                    name
                } else {
                    format!("{folder}/{name}")
                };
                if !path.starts_with(prefix) && !prefix.starts_with(&format!("{path}/")) {
                    continue;
                }
                // Files may vanish meanwhile.
                let Some(metadata) = optional(entry.metadata()).map_err(self.error(&path))? else {
                    continue;
                };
                if metadata.is_dir() {
                    pending.push(path);
                } else if metadata.is_file() {
                    each(&Listed {
                        path: &path,
                        size: metadata.len(),
                        modified: metadata.mtime(),
                    })?;
                }
            }
        }
        Ok(())
    }

    fn try_lock(&self, holder: &str) -> Result<Locking, StorageError> {
        let path = self.path(LOCK)?;
        let inner = || -> io::Result<Locking> {
            let mut file = open_lock(&path)?;
            // The kernel releases it when the process dies, however it dies.
            if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
                if error != rustix::io::Errno::WOULDBLOCK {
                    return Err(error.into());
                }
                let mut text = String::new();
                file.take(MAX_HOLDER_BYTES).read_to_string(&mut text)?;
                return Ok(Locking::Busy(text));
            }
            file.set_len(0)?;
            file.write_all(holder.as_bytes())?;
            Ok(Locking::Held(Box::new(LocalLock { _file: file })))
        };
        inner().map_err(self.error(LOCK))
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
    };
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            open()
        }
        result => result,
    }
}

/// An advisory lock of the file; closing it releases the lock.
struct LocalLock {
    _file: File,
}

impl HeldLock for LocalLock {
    fn check(&self) -> Result<(), StorageError> {
        Ok(())
    }
}
