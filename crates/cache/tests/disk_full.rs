//! A real full disk: a tiny tmpfs in a mount namespace of the test's own.
#![allow(clippy::unwrap_used, reason = "a test")]

mod fixture;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use cache::{Error, LAYOUT};
use fixture::{bytes, files, key, on_disk, open, put};

const DIRECTORY: &str = "CACHE_TEST_DIRECTORY";
const QUOTA: u64 = 1 << 30;
const LEN: usize = 100_000;
/// Printed by the inner test, so that one that did nothing is no success.
const DONE: &str = "the disk was full";

/// Runs inside the namespace.
#[test]
#[ignore = "started by the test below in a process of its own"]
fn inside() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let directory = Path::new(&directory);
    let mut cache = open(directory, QUOTA);
    let mut kept = 0;
    // Pinned: eviction cannot help.
    let error = loop {
        cache.pin(&key(kept));
        match put(&cache, kept, LEN) {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(kept > 5, "{error}");
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    let message = error.to_string();
    assert!(
        message.contains(directory.to_str().unwrap()) && message.contains("quota"),
        "{message}"
    );
    for _ in 0..2 {
        assert!(files(directory, "incoming").is_empty());
        assert_eq!(cache.used_bytes(), on_disk(directory));
        assert!((0..kept).all(|number| bytes(&cache, number).is_some()));
        assert!(!cache.contains(&key(kept)));
        drop(cache);
        cache = open(directory, QUOTA);
    }
    // Nothing is pinned any more: older objects make place, and what is stored is whole.
    for number in kept..3 * kept {
        put(&cache, number, LEN).unwrap();
        assert!(bytes(&cache, number).is_some());
    }
    assert!(cache.metrics().evictions.get() > 0 && cache.metrics().disk_full.get() > 0);
    assert_eq!(cache.metrics().damaged.get(), 0);
    assert_eq!(cache.used_bytes(), on_disk(directory));
    println!("{DONE}");
}

/// As [`inside`], with a log that has to be written anew on a disk that has no room for it.
#[test]
#[ignore = "started by a test below in a process of its own"]
fn inside_with_a_torn_index() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let directory = Path::new(&directory);
    let cache = open(directory, QUOTA);
    for number in 0..16 {
        put(&cache, number, LEN).unwrap();
    }
    drop(cache);
    // Half a record: every object has its row all the same.
    let index = directory.join(LAYOUT).join("index");
    let mut index = File::options().append(true).open(index).unwrap();
    index.write_all(&[7; 48]).unwrap();
    fill(directory);
    let cache = open(directory, QUOTA);
    let kept = (0..16).filter(|number| bytes(&cache, *number).is_some());
    assert_eq!(kept.collect::<Vec<_>>(), (1..16).collect::<Vec<_>>());
    assert_eq!(cache.used_bytes(), on_disk(directory));
    println!("{DONE}");
}

/// As [`inside`], with a disk that others filled: the log cannot grow, but contents come and go.
#[test]
#[ignore = "started by a test below in a process of its own"]
fn inside_with_an_index_that_cannot_grow() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let directory = Path::new(&directory);
    let cache = open(directory, QUOTA);
    put(&cache, 1, 1).unwrap();
    fill(directory);
    // Each takes the place of the one before; the log's block is full after some forty records.
    for number in 2..100 {
        let object = put(&cache, number, 1).unwrap();
        assert_eq!(object.read_all().unwrap(), fixture::content(number, 1));
    }
    assert!(cache.metrics().index_errors.get() > 0);
    drop(cache);
    let cache = open(directory, QUOTA);
    assert!(
        (1..100)
            .filter(|number| bytes(&cache, *number).is_some())
            .count()
            <= 1
    );
    assert_eq!(cache.used_bytes(), on_disk(directory));
    println!("{DONE}");
}

/// Takes all the space that is left.
fn fill(directory: &Path) {
    let mut file = File::create(directory.join("of somebody else")).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
}

#[test]
fn a_full_disk_is_an_error_of_its_own_and_eviction_the_remedy() {
    run_on_tiny_disk("inside");
}

#[test]
fn a_start_with_a_torn_index_makes_room_for_a_new_one() {
    run_on_tiny_disk("inside_with_a_torn_index");
}

#[test]
fn an_index_that_cannot_grow_costs_no_content() {
    run_on_tiny_disk("inside_with_an_index_that_cannot_grow");
}

fn run_on_tiny_disk(inner: &str) {
    let mount = Command::new("unshare").args(["-m", "true"]).status();
    if !mount.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no mount namespace of our own (needs root)");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=2m tmpfs "$CACHE_TEST_DIRECTORY" && exec "$0" "$@""#;
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", inner, "--ignored", "--nocapture"])
        .env(DIRECTORY, directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains(DONE),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
