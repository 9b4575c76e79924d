//! Everything at once: what the table says, the disk has and the log remembers.
#![allow(clippy::unwrap_used, reason = "a test")]

mod fixture;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use cache::{Cache, FetchError, LAYOUT};
use fixture::{BLOCK, bytes, content, key, object_path, on_disk, open, put};

fn present(cache: &Cache, numbers: u64) -> Vec<u64> {
    (0..numbers)
        .filter(|number| cache.contains(&key(*number)))
        .collect()
}

/// The same objects are there for the next process, and none needs to be read through.
fn assert_reopens_the_same(cache: Cache, directory: &Path, numbers: u64) {
    let before = present(&cache, numbers);
    let (used, quota) = (cache.used_bytes(), cache.quota());
    assert_eq!(used, on_disk(directory));
    assert!(fixture::files(directory, "incoming").is_empty());
    drop(cache);
    let cache = open(directory, quota);
    assert_eq!(present(&cache, numbers), before);
    assert_eq!(cache.used_bytes(), used);
    for number in before {
        assert!(bytes(&cache, number).is_some());
    }
    assert_eq!(cache.metrics().verifications.get(), 0);
    assert_eq!(cache.metrics().damaged.get(), 0);
}

/// Few keys and little room: most fetches evict what another thread is about to fetch again.
#[test]
fn evictions_removals_and_fetches_of_the_same_keys_do_not_harm_each_other() {
    const NUMBERS: u64 = 24;
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), 30 * BLOCK);
    thread::scope(|scope| {
        for worker in 0..6_u64 {
            let (cache, directory) = (&cache, directory.path());
            scope.spawn(move || {
                let mut state = worker;
                for _ in 0..300 {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695);
                    let number = (state >> 33) % NUMBERS;
                    let len = (number * 599) as usize;
                    if (state >> 40) % 16 == 0 && number > 2 {
                        cache.remove(&key(number)).unwrap();
                    }
                    // Few enough to be pinned by all at once.
                    let pinned = number <= 2;
                    if pinned {
                        cache.pin(&key(number));
                    }
                    let object = put(cache, number, len).unwrap();
                    assert_eq!(object.read_all().unwrap(), content(number, len));
                    if pinned {
                        assert!(
                            object_path(directory, number).exists(),
                            "pinned, but removed"
                        );
                        cache.unpin(&key(number));
                    }
                }
            });
        }
    });
    assert!(cache.metrics().evictions.get() > 0);
    assert_eq!(cache.metrics().damaged.get(), 0);
    assert_reopens_the_same(cache, directory.path(), NUMBERS);
}

#[test]
fn compaction_of_the_index_during_commits_and_removals_loses_no_object() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 896;
    const KEPT_EVERY: u64 = 16;
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), 1 << 30);
    thread::scope(|scope| {
        for worker in 0..THREADS {
            let cache = &cache;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let number = round * THREADS + worker;
                    put(cache, number, 1).unwrap();
                    if round % KEPT_EVERY != 0 {
                        assert!(cache.remove(&key(number)).unwrap());
                    }
                }
            });
        }
    });
    let kept = THREADS * ROUNDS / KEPT_EVERY;
    let records = THREADS * ROUNDS * 2 - kept;
    let index = fs::metadata(directory.path().join(LAYOUT).join("index")).unwrap();
    assert!(index.len() < records * 96, "never compacted");
    assert_eq!(cache.metrics().index_errors.get(), 0);
    assert_eq!(present(&cache, THREADS * ROUNDS).len() as u64, kept);
    assert_reopens_the_same(cache, directory.path(), THREADS * ROUNDS);
}

/// What others were promised counts: else each pinned object in turn would be the one that may go over.
#[test]
fn only_one_object_exceeds_the_quota_however_much_is_promised() {
    const QUOTA: u64 = 10 * BLOCK;
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), QUOTA);
    (0..10).for_each(|number| cache.pin(&key(number)));
    let most = AtomicU64::new(0);
    let store = |number: u64, blocks: u64| {
        cache.get_or_fetch::<()>(&key(number), |mut entry| {
            entry.reserve(blocks * BLOCK)?;
            most.fetch_max(cache.used_bytes(), Ordering::Relaxed);
            entry.append(&content(number, (blocks * BLOCK) as usize))?;
            Ok(entry.finish(b"same", b"same")?)
        })
    };
    let (promised, wait_for_promise) = mpsc::channel();
    let (give_up, wait_to_give_up) = mpsc::channel::<()>();
    let (stored, wait_for_stored) = mpsc::channel();
    thread::scope(|scope| {
        let cache = &cache;
        scope.spawn(move || {
            let failed = cache.get_or_fetch::<&str>(&key(99), |mut entry| {
                entry.reserve(8 * BLOCK)?;
                promised.send(()).unwrap();
                wait_to_give_up.recv().unwrap();
                Err(FetchError::Fetch("given up"))
            });
            assert!(failed.is_err());
        });
        wait_for_promise.recv().unwrap();
        let store = &store;
        scope.spawn(move || {
            let outcomes: Vec<_> = (1..=3).map(|number| store(number, 4).is_ok()).collect();
            stored.send(outcomes).unwrap();
        });
        // Only a cache that promises too much is done before the first one gives up.
        let early = wait_for_stored.recv_timeout(Duration::from_millis(300));
        give_up.send(()).unwrap();
        let outcomes = early.or_else(|_| wait_for_stored.recv()).unwrap();
        assert_eq!(outcomes, [true; 3]);
    });
    let most = most.into_inner() / BLOCK;
    assert!(most <= 10 + 4, "{most} blocks of 10");
}
