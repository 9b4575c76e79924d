//! Foreign things in the places of our files: nothing is followed, waited for or kept, and the cache goes on.
#![allow(clippy::unwrap_used, reason = "a test")]

mod fixture;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cache::LAYOUT;
use fixture::{bytes, content, footprint, key, object_path, on_disk, open, put};
use rustix::fs::{CWD, FileType, Mode};

const QUOTA: u64 = 1 << 30;
const LEN: usize = 5000;

type Plant = fn(&Path);

fn fifo(path: &Path) {
    let mode = Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(CWD, path, FileType::Fifo, mode, 0).unwrap();
}

fn empty_directory(path: &Path) {
    fs::create_dir(path).unwrap();
}

fn full_directory(path: &Path) {
    fs::create_dir_all(path.join("a/b")).unwrap();
    fs::write(path.join("a/b/file"), "foreign").unwrap();
}

fn dangling_link(path: &Path) {
    symlink("nowhere", path).unwrap();
}

fn looping_link(path: &Path) {
    symlink(path, path).unwrap();
}

const PLANTS: [(&str, Plant); 5] = [
    ("fifo", fifo),
    ("empty directory", empty_directory),
    ("full directory", full_directory),
    ("dangling link", dangling_link),
    ("looping link", looping_link),
];

fn layout(directory: &Path, name: &str) -> PathBuf {
    directory.join(LAYOUT).join(name)
}

#[test]
fn in_place_of_an_object_it_is_removed_and_the_object_fetched_anew() {
    for (what, plant) in PLANTS {
        let directory = tempfile::tempdir().unwrap();
        drop(put(&open(directory.path(), QUOTA), 1, LEN).unwrap());
        let path = object_path(directory.path(), 1);
        fs::remove_file(&path).unwrap();
        let cache = open(directory.path(), QUOTA);
        // After the directory was swept.
        plant(&path);
        assert_eq!(bytes(&cache, 1), None, "{what}");
        assert_eq!(cache.used_bytes(), 0, "{what}");
        put(&cache, 1, LEN).unwrap();
        drop(cache);
        let cache = open(directory.path(), QUOTA);
        assert_eq!(bytes(&cache, 1), Some(content(1, LEN)), "{what}");
        assert_eq!(cache.used_bytes(), on_disk(directory.path()), "{what}");
    }
}

#[test]
fn where_an_object_is_to_come_it_does_not_hinder_it() {
    for (what, plant) in PLANTS {
        let directory = tempfile::tempdir().unwrap();
        let cache = open(directory.path(), QUOTA);
        let path = object_path(directory.path(), 1);
        fs::create_dir(path.parent().unwrap()).unwrap();
        plant(&path);
        let object = put(&cache, 1, LEN).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(object.read_all().unwrap(), content(1, LEN), "{what}");
        assert_eq!(fs::read(&path).unwrap(), content(1, LEN), "{what}");
    }
}

#[test]
fn a_file_in_place_of_a_directory_of_objects_costs_these_objects() {
    let directory = tempfile::tempdir().unwrap();
    drop(put(&open(directory.path(), QUOTA), 1, LEN).unwrap());
    let fan_out = object_path(directory.path(), 1);
    let fan_out = fan_out.parent().unwrap();
    let cache = open(directory.path(), QUOTA);
    fs::remove_dir_all(fan_out).unwrap();
    fs::write(fan_out, "foreign").unwrap();
    assert_eq!(bytes(&cache, 1), None);
    put(&cache, 1, LEN).unwrap();
    assert_eq!(cache.used_bytes(), footprint(LEN));
    assert_eq!(
        fs::read(fan_out.join(object_path(directory.path(), 1).file_name().unwrap())).unwrap(),
        content(1, LEN)
    );
}

#[test]
fn opening_removes_directories_that_are_none_of_ours() {
    let directory = tempfile::tempdir().unwrap();
    drop(put(&open(directory.path(), QUOTA), 1, LEN).unwrap());
    let path = object_path(directory.path(), 2);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    full_directory(&path);
    full_directory(&layout(directory.path(), "incoming/7"));
    let cache = open(directory.path(), QUOTA);
    assert!(!path.exists());
    assert!(fixture::files(directory.path(), "incoming").is_empty());
    assert_eq!(bytes(&cache, 1), Some(content(1, LEN)));
}

#[test]
fn in_place_of_the_index_it_costs_the_objects_but_not_the_start() {
    for (what, plant) in PLANTS {
        for name in ["index", "index.new"] {
            let directory = tempfile::tempdir().unwrap();
            drop(put(&open(directory.path(), QUOTA), 1, LEN).unwrap());
            // A new index is written at the start.
            fs::remove_file(layout(directory.path(), "index")).unwrap();
            plant(&layout(directory.path(), name));
            let cache = open(directory.path(), QUOTA);
            assert_eq!(on_disk(directory.path()), 0, "{what} as {name}");
            put(&cache, 1, LEN).unwrap();
            drop(cache);
            let cache = open(directory.path(), QUOTA);
            assert!(cache.contains(&key(1)), "{what} as {name}");
            let index = layout(directory.path(), "index");
            assert!(fs::symlink_metadata(index).unwrap().is_file());
        }
    }
}
