//! What happened to the disk while we did not look: served bytes are right or fetched anew.
#![allow(clippy::unwrap_used, reason = "a test")]

mod fixture;

use std::fs::{self, FileTimes, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use cache::{Cache, LAYOUT};
use fixture::{BOOT, bytes, config, content, key, object_path, on_disk, open, put};

const QUOTA: u64 = 1 << 30;
const LEN: usize = 10_000;
const OBJECTS: u64 = 4;

/// A cache that held objects 0 to 3 and was closed.
fn filled() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), QUOTA);
    for number in 0..OBJECTS {
        put(&cache, number, LEN).unwrap();
    }
    directory
}

/// Verifications and damage since the cache was opened.
fn counted(cache: &Cache) -> (u64, u64) {
    (
        cache.metrics().verifications.get(),
        cache.metrics().damaged.get(),
    )
}

fn resize(path: &Path, len: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
}

fn flip_byte(path: &Path) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5_000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 5_000).unwrap();
    file.set_times(FileTimes::new().set_modified(modified))
        .unwrap();
}

#[test]
fn damaged_objects_are_removed_counted_and_fetched_anew() {
    type Damage = fn(&Path);
    let table: &[(&str, u64, Damage)] = &[
        ("truncated", 0, |path| {
            resize(path, 9_999);
        }),
        ("longer", 0, |path| {
            resize(path, 10_001);
        }),
        ("flipped byte, time of modification restored", 1, flip_byte),
        ("other content of the same length", 1, |path| {
            fs::write(path, content(9, LEN)).unwrap();
        }),
        ("removed", 0, |path| fs::remove_file(path).unwrap()),
        ("a link to something", 0, |path| {
            fs::rename(path, path.with_extension("away")).unwrap();
            symlink(path.with_extension("away"), path).unwrap();
        }),
    ];
    for (name, verifications, damage) in table {
        let directory = filled();
        let cache = open(directory.path(), QUOTA);
        damage(&object_path(directory.path(), 1));
        assert_eq!(bytes(&cache, 1), None, "{name}");
        assert_eq!(counted(&cache), (*verifications, 1), "{name}");
        assert_eq!(
            put(&cache, 1, LEN).unwrap().read_all().unwrap(),
            content(1, LEN),
            "{name}"
        );
        for number in 0..OBJECTS {
            assert!(bytes(&cache, number).is_some(), "{name}");
        }
        assert_eq!(counted(&cache), (*verifications, 1), "{name}");
        drop(cache);
        // Also found when the cache was closed meanwhile, and by the fetching call.
        damage(&object_path(directory.path(), 2));
        let cache = open(directory.path(), QUOTA);
        assert_eq!(
            put(&cache, 2, LEN).unwrap().read_all().unwrap(),
            content(2, LEN),
            "{name}"
        );
        assert_eq!(cache.used_bytes(), on_disk(directory.path()), "{name}");
    }
}

#[test]
fn a_touched_but_intact_file_is_verified_once() {
    let directory = filled();
    let path = object_path(directory.path(), 1);
    fs::write(&path, content(1, LEN)).unwrap();
    for expected in [(1, 0), (0, 0)] {
        let cache = open(directory.path(), QUOTA);
        for _ in 0..3 {
            assert!(bytes(&cache, 1).is_some());
        }
        assert_eq!(counted(&cache), expected);
    }
}

#[test]
fn objects_are_verified_once_after_another_boot_and_always_without_one() {
    let directory = filled();
    let runs = [
        (BOOT, 0),
        ("next boot", OBJECTS),
        ("next boot", 0),
        ("", OBJECTS),
        ("", OBJECTS),
    ];
    for (boot, verifications) in runs {
        let cache = Cache::open(config(directory.path(), QUOTA, boot)).unwrap();
        for number in (0..OBJECTS).chain(0..OBJECTS) {
            assert!(bytes(&cache, number).is_some());
        }
        assert_eq!(counted(&cache), (verifications, 0), "boot {boot:?}");
    }
}

#[test]
fn damage_that_a_crash_left_is_found_after_the_next_boot() {
    let directory = filled();
    // What delayed allocation leaves after a power failure: the right length, zeros.
    fs::write(object_path(directory.path(), 2), vec![0; LEN]).unwrap();
    let cache = Cache::open(config(directory.path(), QUOTA, "next boot")).unwrap();
    assert_eq!(bytes(&cache, 2), None);
    assert_eq!(counted(&cache), (1, 1));
}

/// Changes the index of a filled cache; returns which objects are left.
fn after_index_damage(damage: impl FnOnce(&Path)) -> Vec<u64> {
    let directory = filled();
    damage(&directory.path().join(LAYOUT).join("index"));
    let mut left = Vec::new();
    for _ in 0..2 {
        let cache = open(directory.path(), QUOTA);
        left = (0..OBJECTS)
            .filter(|number| bytes(&cache, *number).is_some())
            .collect();
        assert_eq!(counted(&cache), (0, 0));
        assert_eq!(cache.used_bytes(), on_disk(directory.path()));
    }
    let cache = open(directory.path(), QUOTA);
    for number in 0..OBJECTS {
        put(&cache, number, LEN).unwrap();
        assert!(bytes(&cache, number).is_some());
    }
    left
}

#[test]
fn an_index_gives_what_is_good_of_it() {
    fn edit(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(path).unwrap();
        edit(&mut bytes);
        fs::write(path, bytes).unwrap();
    }
    let record = 96;
    let header = 32;
    let none: Vec<u64> = Vec::new();
    assert_eq!(after_index_damage(|_| {}), [0, 1, 2, 3]);
    let torn = after_index_damage(|path| edit(path, |bytes| bytes.truncate(bytes.len() - 7)));
    assert_eq!(torn, [0, 1, 2]);
    let missing =
        after_index_damage(|path| edit(path, |bytes| drop(bytes.drain(header..header + record))));
    assert_eq!(missing, [1, 2, 3]);
    let flipped = after_index_damage(|path| edit(path, |bytes| bytes[header + record + 40] ^= 1));
    assert_eq!(flipped, [0, 2, 3]);
    let tail = after_index_damage(|path| edit(path, |bytes| bytes.extend([0xa5; 1_000])));
    assert_eq!(tail, [0, 1, 2, 3]);
    // Byte 8 is the version's lowest; its checksum is wrong then, as any unknown header is.
    assert_eq!(
        after_index_damage(|path| edit(path, |bytes| bytes[8] += 1)),
        none
    );
    assert_eq!(
        after_index_damage(|path| fs::write(path, content(5, 5_000)).unwrap()),
        none
    );
    assert_eq!(
        after_index_damage(|path| fs::write(path, "").unwrap()),
        none
    );
    assert_eq!(
        after_index_damage(|path| fs::remove_file(path).unwrap()),
        none
    );
}

#[test]
fn opening_removes_what_nobody_vouches_for_and_nothing_outside() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("precious"), "data").unwrap();
    let directory = filled();
    let root = directory.path().join(LAYOUT);
    let orphan = object_path(directory.path(), 77);
    fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    let strangers = [
        orphan.clone(),
        root.join("objects/stray"),
        root.join("objects/zz"),
        orphan.with_file_name("no key!"),
        root.join("incoming/0"),
        root.join("incoming/link"),
    ];
    for path in &strangers {
        match path.file_name().unwrap().to_str().unwrap() {
            "zz" | "link" => symlink(outside.path(), path).unwrap(),
            _ => fs::write(path, "x").unwrap(),
        }
    }
    let cache = open(directory.path(), QUOTA);
    for path in &strangers {
        assert!(
            path.symlink_metadata().is_err(),
            "{} is still there",
            path.display()
        );
    }
    assert_eq!(fs::read(outside.path().join("precious")).unwrap(), b"data");
    assert!((0..OBJECTS).all(|number| bytes(&cache, number).is_some()));
    assert!(!cache.contains(&key(77)));
}
