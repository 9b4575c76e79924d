//! Two publishers at once, and one that was killed.

use std::fs;
use std::time::Duration;

use publisher::Error;

use crate::support::{assert_clean, at, files, lock, new_repository, publish, store};

#[test]
fn a_second_publisher_waits_or_is_told() {
    let new = new_repository();
    let other = new.reopened();
    let held = lock(&new.repository);
    let refused = other.lock(Duration::from_millis(50), at(0)).unwrap_err();
    let Error::Locked { holder, .. } = &refused else {
        panic!("{refused}");
    };
    assert!(holder.contains("process"), "{holder}");
    let waiting = std::thread::spawn(move || {
        let lock = other.lock(Duration::from_secs(60), at(0)).unwrap();
        // It sees what was published while it waited.
        assert_eq!(other.head().revision, 2);
        let commit = store(&other, &files("theirs"), 20);
        other.commit(&lock, commit).unwrap()
    });
    let commit = store(&new.repository, &files("ours"), 10);
    new.repository.commit(&held, commit).unwrap();
    drop(held);
    assert_eq!(waiting.join().unwrap().revision, 3);
    assert_clean(&new.reopened());
}

/// Stores a revision's objects and dies. What is written then is what a kill at that moment leaves: the kernel gives the lock back.
fn killed_after_objects(new: &crate::support::New) {
    let lock = lock(&new.repository);
    let commit = store(&new.repository, &files("never published"), 50);
    assert!(!commit.catalogs.is_empty());
    fs::write(new.path().join("data/txn/unfinished.tmp"), "half").unwrap();
    drop(lock);
}

#[test]
fn the_next_publisher_cleans_up_after_a_killed_one() {
    let new = new_repository();
    publish(&new.repository, Some("one"), &files("one"), 10);
    let (manifest, before) = (
        fs::read(new.path().join(".cvmfspublished")).unwrap(),
        new.objects(),
    );
    killed_after_objects(&new);
    assert!(new.objects().len() > before.len());
    assert_eq!(
        fs::read(new.path().join(".cvmfspublished")).unwrap(),
        manifest
    );
    let next = new.reopened();
    assert_clean(&next);
    let lock = lock(&next);
    assert_eq!(new.objects(), before);
    assert!(!new.path().join("data/txn/unfinished.tmp").exists());
    let commit = store(&next, &files("two"), 60);
    next.commit(&lock, commit).unwrap();
    drop(lock);
    assert!(!new.path().join("data/txn/journal").exists());
    assert_clean(&next);
}

#[test]
fn killed_between_reflog_and_manifest() {
    let new = new_repository();
    publish(&new.repository, None, &files("one"), 10);
    let manifest = fs::read(new.path().join(".cvmfspublished")).unwrap();
    let (objects, root) = (new.objects(), new.repository.head().root_catalog);
    {
        let lock = lock(&new.repository);
        let commit = store(&new.repository, &files("two"), 20);
        new.repository.commit(&lock, commit).unwrap();
    }
    // As if the last step had not come: the old manifest, journal and note about the reflog as they were.
    let head = new.repository.head();
    let added = [head.root_catalog, head.history.unwrap()];
    let reflog = fs::read(new.path().join(".cvmfsreflog")).unwrap();
    let hash = cvmfs::Algorithm::Sha1.digest(&reflog).to_string();
    fs::write(new.path().join(".cvmfspublished"), &manifest).unwrap();
    let journal = new.path().join("data/txn/journal");
    fs::write(&journal, "2\n").unwrap();
    let file = fs::File::options().write(true).open(&journal).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1))
        .unwrap();
    // Without the note it would be a damaged reflog.
    let next = new.reopened();
    assert_eq!(next.check(Default::default()).unwrap().findings.len(), 1);
    let note = format!("{hash}\n{}\n{}\n", added[0], added[1]);
    fs::write(new.path().join("data/txn/reflog"), note).unwrap();
    assert_clean(&next);
    assert_eq!(next.head().root_catalog, root);
    let unused = lock(&next);
    assert_eq!(new.objects(), objects);
    assert_clean(&next);
    unused.release_unused().unwrap();
    assert_clean(&next);
    publish(&next, None, &files("three"), 30);
    assert_clean(&next);
    assert_eq!(next.revisions().unwrap().len(), 3);
}

#[test]
fn killed_after_the_manifest_nothing_is_lost() {
    let new = new_repository();
    publish(&new.repository, None, &files("one"), 10);
    let objects = new.objects();
    let journal = new.path().join("data/txn/journal");
    fs::write(&journal, "1\n").unwrap();
    let file = fs::File::options().write(true).open(&journal).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1))
        .unwrap();
    let next = new.reopened();
    drop(lock(&next));
    assert_eq!(new.objects(), objects);
    assert_clean(&next);
}

#[test]
fn a_lock_file_of_a_dead_process_holds_nobody_up() {
    let new = new_repository();
    fs::write(
        new.path().join("data/txn/publisher.lock"),
        "process 1, long dead",
    )
    .unwrap();
    lock(&new.repository).check().unwrap();
    assert!(
        new.storage()
            .size("data/txn/publisher.lock")
            .unwrap()
            .is_some()
    );
}
