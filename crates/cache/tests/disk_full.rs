//! A real full disk: a tiny tmpfs in a mount namespace of the test's own.
#![allow(clippy::unwrap_used, reason = "a test")]

mod fixture;

use std::path::Path;
use std::process::Command;

use cache::Error;
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

#[test]
fn a_full_disk_is_an_error_of_its_own_and_eviction_the_remedy() {
    let mount = Command::new("unshare").args(["-m", "true"]).status();
    if !mount.is_ok_and(|status| status.success()) {
        println!("skipped: no mount namespace of our own (needs root)");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=2m tmpfs "$CACHE_TEST_DIRECTORY" && exec "$0" "$@""#;
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--ignored", "--nocapture"])
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
