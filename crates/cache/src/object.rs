//! Content that can be read.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Verified content, open for reading. Survives its eviction; cloning costs a reference count.
#[derive(Debug, Clone)]
pub struct Object {
    file: Arc<File>,
    len: u64,
}

impl Object {
    pub(crate) fn new(file: Arc<File>, len: u64) -> Self {
        Self { file, len }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the content is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The open file, read-only.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads from `offset` until `buffer` is full or the content ends; returns the bytes read.
    ///
    /// # Errors
    /// What `pread` says, and `UnexpectedEof` if the file became shorter than its content.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.len.saturating_sub(offset);
        let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        self.file.read_exact_at(&mut buffer[..wanted], offset)?;
        Ok(wanted)
    }

    /// The whole content.
    ///
    /// # Errors
    /// As [`Object::read_at`].
    pub fn read_all(&self) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut content = vec![0; len];
        self.file.read_exact_at(&mut content, 0)?;
        Ok(content)
    }

    /// A path of the content, `/proc/self/fd/N`, good in this process while the object lives.
    ///
    /// A library that resolves links itself before opening (SQLite does) gets the file's real
    /// path, which eviction removes: [`crate::Cache::pin`] such objects first.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}
