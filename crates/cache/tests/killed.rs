//! A process that is killed at any moment leaves a cache that serves right bytes only.
#![allow(clippy::unwrap_used, reason = "a test")]

mod fixture;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use cache::Cache;
use fixture::{BLOCK, bytes, files, key, on_disk, open, put};

/// The file that says that the working directory is a victim's; holds its seed.
const SEED: &str = "seed";
const QUOTA: u64 = 200 * BLOCK;
const OBJECTS: u64 = 300;
const ROUNDS: u64 = 36;
const THREADS: u64 = 3;
/// One in so many victims is killed before it has opened its cache, or while it does.
const EARLY: u64 = 6;

fn len(number: u64) -> usize {
    // Mostly small, some of several writes.
    let odd = (number * 2_654_435_761) as usize;
    if number.is_multiple_of(17) {
        odd % 150_000
    } else {
        odd % 9_000
    }
}

/// The victim: fetches, gets and removes until it is killed.
#[test]
#[ignore = "started by the test below in a process of its own"]
fn victim() {
    let Ok(seed) = fs::read_to_string(SEED) else {
        return;
    };
    let seed: u64 = seed.parse().unwrap();
    let cache = open(Path::new("."), QUOTA);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let cache = &cache;
            scope.spawn(move || work(cache, seed * THREADS + thread));
        }
    });
}

fn work(cache: &Cache, seed: u64) {
    let mut state = seed | 1 << 40;
    for round in 0..u64::MAX {
        // Whose directory is gone is an orphan.
        if round % 64 == 0 && !Path::new(SEED).exists() {
            return;
        }
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let number = (state >> 33) % OBJECTS;
        let stored = put(cache, number, len(number)).unwrap().read_all().unwrap();
        assert_eq!(stored, fixture::content(number, len(number)));
        if round % 13 == 0 {
            cache.remove(&key(number)).unwrap();
            cache.write_uses();
        }
        if round == 20 {
            let mut out = std::io::stdout();
            writeln!(out, "working").and_then(|()| out.flush()).unwrap();
        }
    }
}

/// Lets a victim work for some time and kills it.
fn run_and_kill(directory: &Path, round: u64) {
    fs::write(directory.join(SEED), round.to_string()).unwrap();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--ignored", "--nocapture"])
        .current_dir(directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Open until the end: the victim must die by us, not of a broken pipe.
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let mut lines_read = lines.by_ref().map_while(Result::ok);
    let early = round.is_multiple_of(EARLY);
    let working = early || lines_read.any(|line| line.ends_with("working"));
    thread::sleep(Duration::from_micros(round * 7_919 % 60_000));
    victim.kill().unwrap();
    let end = victim.wait().unwrap();
    assert_eq!(end.signal(), Some(9), "the victim ended by itself: {end}");
    drop(lines);
    assert!(working, "the victim came to nothing");
}

#[test]
fn whatever_moment_a_process_is_killed_at_only_right_bytes_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let mut found = 0;
    for round in 0..ROUNDS {
        run_and_kill(directory.path(), round);
        let cache = open(directory.path(), QUOTA);
        assert!(files(directory.path(), "incoming").is_empty());
        let present: Vec<_> = (0..OBJECTS)
            .filter(|number| cache.contains(&key(*number)))
            .collect();
        for number in &present {
            // `bytes` compares the content with the right one.
            assert_eq!(
                bytes(&cache, *number).map(|bytes| bytes.len()),
                Some(len(*number))
            );
        }
        found += present.len();
        // The rows that were written vouch for their files. Only what each thread had just published,
        // over an older row, and not yet noted has to be read through.
        assert!(cache.metrics().verifications.get() <= THREADS);
        assert_eq!(cache.metrics().damaged.get(), 0);
        assert_eq!(cache.used_bytes(), on_disk(directory.path()));
        assert!(cache.used_bytes() <= QUOTA);
    }
    assert!(found > 0);
}
