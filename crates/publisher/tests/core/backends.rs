//! Backends that fail: nothing changes and the error says why.

use std::fs::{self, File};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use publisher::storage::{Listed, LocalStorage, Locking};
use publisher::{Error, Kind, Repository, Storage, StorageError};

use crate::support::{assert_clean, at, files, keys, new_repository, publish, store};

/// A disk that is full after so many more bytes.
struct Small {
    inner: LocalStorage,
    left: AtomicI64,
}

impl Small {
    fn take(&self, path: &str, length: u64) -> Result<(), StorageError> {
        let length = i64::try_from(length).unwrap();
        if self.left.fetch_sub(length, Ordering::SeqCst) >= length {
            return Ok(());
        }
        self.left.fetch_add(length, Ordering::SeqCst);
        Err(StorageError::Full {
            location: self.location(),
            path: path.to_owned(),
        })
    }
}

impl Storage for Small {
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
        self.take(path, content.len() as u64)?;
        self.inner.put(path, content)
    }
    fn put_file(&self, path: &str, file: &mut File, length: u64) -> Result<(), StorageError> {
        self.take(path, length)?;
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

#[test]
fn a_disk_that_becomes_full_at_any_step_leaves_the_old_revision() {
    let new = new_repository();
    publish(&new.repository, Some("one"), &files("one"), 10);
    let small = Arc::new(Small {
        inner: LocalStorage::new(new.path()),
        left: AtomicI64::new(i64::MAX),
    });
    let repository = Repository::open(small.clone(), Some(keys()), at(0)).unwrap();
    let (mut room, mut failures) = (0, 0);
    let head = loop {
        let manifest = fs::read(new.path().join(".cvmfspublished")).unwrap();
        small.left.store(i64::MAX, Ordering::SeqCst);
        let lock = repository.lock(Duration::ZERO, at(0)).unwrap();
        let commit = store(&repository, &files("two"), 20);
        small.left.store(room, Ordering::SeqCst);
        match repository.commit(&lock, commit) {
            Ok(head) => break head,
            Err(error) => {
                assert_eq!(error.kind(), Kind::Unavailable, "{error}");
                assert!(error.hint().unwrap().contains("room"), "{error}");
            }
        }
        failures += 1;
        room += 700;
        assert_eq!(
            fs::read(new.path().join(".cvmfspublished")).unwrap(),
            manifest
        );
        drop(lock);
        assert_clean(&new.reopened());
    };
    assert!(failures > 10, "{failures}");
    assert_eq!(head.revision, 3);
    assert_clean(&new.reopened());
}

#[test]
fn a_real_disk_that_is_full_is_said_to_be() {
    // /dev/full answers every write with ENOSPC; a symbolic link leads an unfinished file there.
    let new = new_repository();
    let storage = LocalStorage::new(new.path());
    fs::create_dir_all(new.path().join("data/txn")).unwrap();
    // The only file system that is full for sure without being root.
    std::os::unix::fs::symlink(
        "/dev/full",
        new.path().join("data/txn").join(first_unfinished(&storage)),
    )
    .unwrap();
    let error = storage.put("data/aa/bb", b"content").unwrap_err();
    assert!(matches!(error, StorageError::Full { .. }), "{error}");
    assert!(!new.path().join("data/aa/bb").exists());
}

/// The name under which a new storage writes its first file.
fn first_unfinished(_: &LocalStorage) -> String {
    format!("{}.0.tmp", std::process::id())
}

#[test]
fn a_read_only_backend_can_be_read_and_says_why_it_cannot_be_written() {
    // proc is read only for everybody, root included.
    let storage = LocalStorage::new(std::path::Path::new("/proc/self"));
    assert!(storage.read("status", 1 << 20).unwrap().is_some());
    let error = storage.put("data/aa/bb", b"content").unwrap_err();
    let named = matches!(
        error,
        StorageError::ReadOnly { .. } | StorageError::Io { .. }
    );
    assert!(named && error.to_string().contains("/proc/self"), "{error}");
}

#[test]
fn files_arrive_whole() {
    let directory = tempfile::TempDir::new().unwrap();
    let storage = LocalStorage::new(directory.path());
    assert_eq!(storage.read("data/aa/bb", 10).unwrap(), None);
    assert_eq!(storage.size("data/aa/bb").unwrap(), None);
    storage.delete(&["data/aa/bb".to_owned()]).unwrap();
    storage.put("data/aa/bb", b"0123456789").unwrap();
    assert_eq!(storage.size("data/aa/bb").unwrap(), Some(10));
    assert!(matches!(
        storage.read("data/aa/bb", 9),
        Err(StorageError::TooLarge { limit: 9, .. })
    ));
    let path = directory.path().join("source");
    fs::write(&path, "skip content more").unwrap();
    let mut file = File::open(&path).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(5)).unwrap();
    storage.put_file("data/cc/dd", &mut file, 7).unwrap();
    assert_eq!(storage.read("data/cc/dd", 99).unwrap().unwrap(), b"content");
    let short = storage.put_file("data/ee/ff", &mut file, 700).unwrap_err();
    assert!(matches!(short, StorageError::Io { .. }), "{short}");
    assert_eq!(storage.size("data/ee/ff").unwrap(), None);
    let mut listed = Vec::new();
    let mut each = |file: &Listed<'_>| {
        listed.push((file.path.to_owned(), file.size));
        Ok(())
    };
    storage.list("data/c", &mut each).unwrap();
    assert_eq!(listed, [("data/cc/dd".to_owned(), 7)]);
    let refused: Result<_, Error> = storage.put("../escape", b"").map_err(Error::from);
    assert_eq!(refused.unwrap_err().kind(), Kind::Internal);
}
