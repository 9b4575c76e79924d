//! From content to stored objects: cut, deflated and hashed on all processors, with a bounded number of bytes in memory.
//!
//! The caller's thread reads (and, before it, inflates and unpacks) while others deflate. Objects that exist are not written again;
//! content that this run has stored before is not even deflated again.

mod budget;
mod collector;
mod content;
mod known;

use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cvmfs::{Algorithm, Compression, ContentHash, ObjectRef, Suffix};

pub use content::{StoredChunk, StoredContent};

pub(crate) use collector::Collector;

use crate::chunking::Chunking;
use crate::deflate;
use crate::error::Error;
use crate::storage::Storage;
use budget::Budget;
use known::Known;

/// How content is stored and what that may take.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that deflate; as many as there are processors.
    pub threads: usize,
    /// Threads that write objects, for backends that answer slowly; 0: those that deflate do it.
    pub upload_threads: usize,
    /// Bytes of content in memory; at least twice the longest chunk is sensible.
    pub memory_limit: u64,
    /// Where large files are cut.
    pub chunking: Chunking,
    /// Directory for temporary files: catalogs being written, and their compressed form.
    pub scratch: PathBuf,
}

impl Options {
    /// 256 MiB in memory, chunks as `cvmfs_server` cuts them, temporary files in `scratch`.
    pub fn new(threads: usize, scratch: impl Into<PathBuf>) -> Self {
        Self {
            threads,
            upload_threads: 0,
            memory_limit: 256 << 20,
            chunking: Chunking::default(),
            scratch: scratch.into(),
        }
    }
}

/// How one file is stored.
#[derive(Clone, Copy, Debug)]
pub struct How<'a> {
    /// Encoding of its objects.
    pub compression: Compression,
    /// Offsets at which it is cut, ascending, without 0 and its length; `None`: by its content. Pieces longer than the longest chunk
    /// are cut further.
    pub boundaries: Option<&'a [u64]>,
}

impl How<'_> {
    /// Deflated, cut by content: as `cvmfs_server` stores files.
    pub const DEFLATED: Self = Self {
        compression: Compression::Zlib,
        boundaries: None,
    };
    /// As it is, cut by content.
    pub const PLAIN: Self = Self {
        compression: Compression::None,
        boundaries: None,
    };
}

/// What has been stored so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes of content that went in.
    pub content_bytes: u64,
    /// Pieces of content that were known from earlier in this run, and their bytes.
    pub repeated: u64,
    /// Bytes of those.
    pub repeated_bytes: u64,
    /// Objects that the backend had already.
    pub existing: u64,
    /// Objects written.
    pub written: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

#[derive(Debug, Default)]
struct Counts {
    content_bytes: AtomicU64,
    repeated: AtomicU64,
    repeated_bytes: AtomicU64,
    existing: AtomicU64,
    written: AtomicU64,
    written_bytes: AtomicU64,
}

fn count(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

/// Stores content in one repository. Clones share threads, memory and what is known.
#[derive(Clone)]
pub struct ObjectStore {
    inner: Arc<Inner>,
}

struct Inner {
    storage: Arc<dyn Storage>,
    algorithm: Algorithm,
    options: Options,
    budget: Arc<Budget>,
    known: Known,
    counts: Counts,
    deflaters: rayon::ThreadPool,
    uploaders: Option<rayon::ThreadPool>,
}

impl ObjectStore {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`Error::Scratch`] if that fails.
    pub fn new(
        storage: Arc<dyn Storage>,
        algorithm: Algorithm,
        options: Options,
    ) -> Result<Self, Error> {
        let pool = |threads: usize, name: &'static str| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .thread_name(move |index| format!("{name}-{index}"))
                .build()
                .map_err(|error| Error::Scratch(std::io::Error::other(error)))
        };
        let deflaters = pool(options.threads.max(1), "deflate")?;
        let uploaders = match options.upload_threads {
            0 => None,
            threads => Some(pool(threads, "upload")?),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                storage,
                algorithm,
                budget: Budget::new(options.memory_limit),
                options,
                known: Known::default(),
                counts: Counts::default(),
                deflaters,
                uploaders,
            }),
        })
    }

    /// The algorithm that names objects.
    pub fn algorithm(&self) -> Algorithm {
        self.inner.algorithm
    }

    /// What was stored before may be gone: taking the lock removes what a failed publish has left.
    pub(crate) fn forget(&self) {
        self.inner.known.forget();
    }

    /// The options given.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// What has been stored so far.
    pub fn statistics(&self) -> Statistics {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.inner.counts;
        Statistics {
            content_bytes: get(&counts.content_bytes),
            repeated: get(&counts.repeated),
            repeated_bytes: get(&counts.repeated_bytes),
            existing: get(&counts.existing),
            written: get(&counts.written),
            written_bytes: get(&counts.written_bytes),
        }
    }

    /// Stores one file of exactly `length` bytes and waits until that is done.
    ///
    /// # Errors
    /// [`Error::Input`] if the reader fails or ends early; those of the backend.
    pub fn store(
        &self,
        reader: &mut dyn Read,
        length: u64,
        how: How<'_>,
    ) -> Result<StoredContent, Error> {
        let mut collector = Collector::new(self.clone());
        collector.submit(0, reader, length, how)?;
        match collector.wait()? {
            Some((_, content)) => Ok(content),
            None => Ok(StoredContent::Empty),
        }
    }

    /// Stores a small file from memory, deflated, on this thread.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn store_bytes(&self, bytes: &[u8]) -> Result<StoredContent, Error> {
        if bytes.len() as u64 > self.inner.options.chunking.min {
            return self.store(&mut &bytes[..], bytes.len() as u64, How::DEFLATED);
        }
        let compression = Compression::Zlib;
        let hash = self.inner.store_piece(bytes, Suffix::Bulk, compression)?;
        Ok(match bytes {
            [] => StoredContent::Empty,
            _ => StoredContent::Whole { hash, compression },
        })
    }

    /// The object that stands for no bytes; stored.
    pub(crate) fn empty(&self) -> Result<ContentHash, Error> {
        self.inner.store_piece(b"", Suffix::Bulk, Compression::Zlib)
    }

    /// Stores a database, deflated; its name.
    pub(crate) fn store_file(&self, file: &mut File, suffix: Suffix) -> Result<ContentHash, Error> {
        file.rewind().map_err(Error::Scratch)?;
        let mut stored =
            tempfile::tempfile_in(&self.inner.options.scratch).map_err(Error::Scratch)?;
        let (hash, _, length) = deflate::deflate_stream(file, &mut stored, self.inner.algorithm)
            .map_err(Error::Scratch)?;
        let path = ObjectRef::zlib(hash, suffix).url_path();
        let counts = &self.inner.counts;
        if self.inner.storage.size(&path)?.is_some() {
            count(&counts.existing, 1);
            return Ok(hash);
        }
        stored.rewind().map_err(Error::Scratch)?;
        self.inner.storage.put_file(&path, &mut stored, length)?;
        count(&counts.written, 1);
        count(&counts.written_bytes, length);
        Ok(hash)
    }
}

impl Inner {
    /// Encodes and writes one object, all on this thread.
    fn store_piece(
        &self,
        plain: &[u8],
        suffix: Suffix,
        compression: Compression,
    ) -> Result<ContentHash, Error> {
        match self.encode(plain, suffix, compression)? {
            Encoded::Known(hash) => Ok(hash),
            Encoded::New {
                key,
                stored,
                object,
            } => {
                self.write(object, stored.as_deref().unwrap_or(plain))?;
                self.known.insert(key, object.hash);
                Ok(object.hash)
            }
        }
    }

    fn encode(
        &self,
        plain: &[u8],
        suffix: Suffix,
        compression: Compression,
    ) -> Result<Encoded, Error> {
        count(&self.counts.content_bytes, plain.len() as u64);
        let key = known::Key::of(plain, suffix, compression);
        if let Some(hash) = self.known.get(&key) {
            count(&self.counts.repeated, 1);
            count(&self.counts.repeated_bytes, plain.len() as u64);
            return Ok(Encoded::Known(hash));
        }
        let stored = match compression {
            Compression::Zlib => Some(deflate::deflate(plain).map_err(Error::Scratch)?),
            Compression::None => None,
        };
        let object = ObjectRef {
            hash: self.algorithm.digest(stored.as_deref().unwrap_or(plain)),
            suffix,
            compression,
        };
        Ok(Encoded::New {
            key,
            stored,
            object,
        })
    }

    fn write(&self, object: ObjectRef, stored: &[u8]) -> Result<(), Error> {
        let path = object.url_path();
        if self.storage.size(&path)?.is_some() {
            count(&self.counts.existing, 1);
            return Ok(());
        }
        self.storage.put(&path, stored)?;
        count(&self.counts.written, 1);
        count(&self.counts.written_bytes, stored.len() as u64);
        Ok(())
    }
}

/// One object's bytes before they are written.
enum Encoded {
    /// It was written before.
    Known(ContentHash),
    New {
        key: known::Key,
        /// None: as they are
        stored: Option<Vec<u8>>,
        object: ObjectRef,
    },
}
