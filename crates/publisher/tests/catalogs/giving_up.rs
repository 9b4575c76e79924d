//! What still goes on when storing has failed: nothing.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cvmfs::Algorithm;
use publisher::storage::{Listed, LocalStorage, Locking};
use publisher::{Error, How, ObjectStore, Storage, StorageError};
use tempfile::TempDir;

use crate::support::{noise, options};

/// Takes its time for each object, and refuses all but the first few.
struct Failing {
    inner: LocalStorage,
    puts: AtomicUsize,
    active: AtomicUsize,
}

const ACCEPTED: usize = 3;

impl Storage for Failing {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, StorageError> {
        self.inner.read(path, limit)
    }
    fn reader(&self, path: &str) -> Result<Option<Box<dyn Read + Send>>, StorageError> {
        self.inner.reader(path)
    }
    fn size(&self, path: &str) -> Result<Option<u64>, StorageError> {
        self.inner.size(path)
    }
    fn put(&self, path: &str, content: &[u8]) -> Result<(), StorageError> {
        self.active.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(20));
        let put = match self.puts.fetch_add(1, Ordering::SeqCst) {
            earlier if earlier < ACCEPTED => self.inner.put(path, content),
            _ => Err(StorageError::Full {
                location: self.location(),
                path: path.to_owned(),
            }),
        };
        self.active.fetch_sub(1, Ordering::SeqCst);
        put
    }
    fn put_file(&self, path: &str, file: &mut File, length: u64) -> Result<(), StorageError> {
        self.inner.put_file(path, file, length)
    }
    fn flush(&self) -> Result<(), StorageError> {
        self.inner.flush()
    }
    fn delete(&self, paths: &[String]) -> Result<(), StorageError> {
        self.inner.delete(paths)
    }
    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(&Listed<'_>) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        self.inner.list(prefix, each)
    }
    fn try_lock(&self, holder: &str) -> Result<Locking, StorageError> {
        self.inner.try_lock(holder)
    }
}

/// With threads that only write, and without.
#[test]
fn after_a_failure_nothing_is_written_any_more() {
    for upload_threads in [0, 2] {
        let directory = TempDir::new().unwrap();
        let storage = Arc::new(Failing {
            inner: LocalStorage::new(directory.path()),
            puts: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
        });
        let mut options = options(&directory);
        options.upload_threads = upload_threads;
        let objects = ObjectStore::new(storage.clone(), Algorithm::Sha1, options).unwrap();
        // Cut into many pieces, all of them handed over before the first has failed.
        let content = noise(4 << 20, 7);
        let boundaries: Vec<u64> = (1..1024).map(|number| number << 12).collect();
        let how = How {
            boundaries: Some(&boundaries),
            ..How::PLAIN
        };
        let error = objects
            .store(&mut &content[..], content.len() as u64, how)
            .unwrap_err();
        assert!(matches!(error, Error::Storage(_)), "{error}");
        assert_eq!(storage.active.load(Ordering::SeqCst), 0);
        let puts = storage.puts.load(Ordering::SeqCst);
        // Whatever was still queued would come before this.
        let _ = objects.store(&mut &b"next"[..], 4, How::PLAIN);
        assert_eq!(storage.puts.load(Ordering::SeqCst), puts + 1);
        assert!(puts < 1024, "{puts}");
    }
}
