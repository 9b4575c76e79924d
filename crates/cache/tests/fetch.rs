//! One fetch for a key at a time; only verified content is kept.
#![allow(clippy::unwrap_used, reason = "a test")]

mod fixture;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use cache::{Cache, Error, FetchError, LAYOUT};
use fixture::{BLOCK, bytes, content, footprint, key, object_path, open, put};

const QUOTA: u64 = 1 << 30;
const DIGEST: &[u8] = b"digest";

#[derive(Debug, PartialEq)]
struct SourceDown;

#[test]
fn a_hundred_callers_cause_one_fetch_for_each_key() {
    const CALLERS: usize = 100;
    const KEYS: u64 = 5;
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), QUOTA);
    let fetches = AtomicUsize::new(0);
    let start = Barrier::new(CALLERS);
    thread::scope(|scope| {
        for caller in 0..CALLERS as u64 {
            let (cache, fetches, start) = (&cache, &fetches, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..KEYS {
                    let number = (caller + round) % KEYS;
                    let object = cache.get_or_fetch::<SourceDown>(&key(number), |mut entry| {
                        fetches.fetch_add(1, Ordering::SeqCst);
                        assert!(
                            cache.get(&key(number)).unwrap().is_none(),
                            "visible while written"
                        );
                        entry.append(&content(number, 5_000))?;
                        Ok(entry.finish(DIGEST, DIGEST)?)
                    });
                    assert_eq!(object.unwrap().read_all().unwrap(), content(number, 5_000));
                }
            });
        }
    });
    assert_eq!(fetches.into_inner() as u64, KEYS);
    assert_eq!(cache.metrics().commits.get(), KEYS);
}

#[test]
fn when_leaders_fail_or_panic_the_next_caller_fetches() {
    const CALLERS: usize = 12;
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), QUOTA);
    let attempts = AtomicUsize::new(0);
    let start = Barrier::new(CALLERS);
    let outcomes: Vec<_> = thread::scope(|scope| {
        let caller = || {
            start.wait();
            catch_unwind(AssertUnwindSafe(|| {
                cache.get_or_fetch(&key(1), |mut entry| {
                    entry.append(&content(1, 100_000))?;
                    match attempts.fetch_add(1, Ordering::SeqCst) {
                        0 | 2 => Err(FetchError::Fetch(SourceDown)),
                        1 => panic!("as planned"),
                        _ => Ok(entry.finish(DIGEST, DIGEST)?),
                    }
                })
            }))
        };
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(caller)).collect();
        callers
            .into_iter()
            .map(|caller| caller.join().unwrap())
            .collect()
    });
    let count = |wanted: fn(&Result<Result<_, FetchError<SourceDown>>, _>) -> bool| {
        outcomes.iter().filter(|outcome| wanted(outcome)).count()
    };
    assert_eq!(count(Result::is_err), 1);
    assert_eq!(
        count(|outcome| matches!(outcome, Ok(Err(FetchError::Fetch(SourceDown))))),
        2
    );
    assert_eq!(count(|outcome| matches!(outcome, Ok(Ok(_)))), CALLERS - 3);
    assert_eq!(attempts.into_inner(), 4);
    assert!(fixture::files(directory.path(), "incoming").is_empty());
    assert_eq!(cache.used_bytes(), footprint(100_000));
}

#[test]
fn content_with_a_wrong_digest_leaves_no_trace() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), QUOTA);
    for (computed, expected) in [(&b"one"[..], &b"two"[..]), (b"one", b"on"), (b"", b"")] {
        let refused = cache.get_or_fetch::<SourceDown>(&key(1), |mut entry| {
            entry.append(&content(1, 200_000))?;
            Ok(entry.finish(computed, expected)?)
        });
        assert!(matches!(
            refused,
            Err(FetchError::Cache(Error::Mismatch { .. }))
        ));
    }
    assert!(cache.get(&key(1)).unwrap().is_none());
    assert_eq!(
        (cache.used_bytes(), cache.metrics().mismatches.get()),
        (0, 3)
    );
    for part in ["incoming", "objects"] {
        assert!(fixture::files(directory.path(), part).is_empty());
    }
}

#[test]
fn the_entry_of_another_key_or_cache_is_refused() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (here, there) = (open(here.path(), QUOTA), open(there.path(), QUOTA));
    for (other, number) in [(&here, 2), (&there, 1)] {
        let refused = here.get_or_fetch::<SourceDown>(&key(1), |_entry| {
            let mut smuggled = None;
            let inner = other.get_or_fetch(&key(number), |entry| {
                smuggled = Some(entry.finish(DIGEST, DIGEST)?);
                Err(FetchError::Fetch(SourceDown))
            });
            assert!(inner.is_err());
            Ok(smuggled.unwrap())
        });
        assert!(matches!(
            refused,
            Err(FetchError::Cache(Error::WrongEntry { .. }))
        ));
        assert!(!here.contains(&key(1)));
    }
}

#[test]
fn contents_of_all_lengths_and_pieces_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), QUOTA);
    let buffer = 64 << 10;
    let lens = [
        0,
        1,
        4096,
        buffer - 1,
        buffer,
        buffer + 1,
        3 * buffer,
        1_000_003,
    ];
    let pieces = [1_000, buffer - 1, buffer, buffer + 1, usize::MAX];
    let mut number = 0;
    for len in lens {
        for piece in pieces {
            number += 1;
            let content = content(number, len);
            let stored = cache.get_or_fetch::<SourceDown>(&key(number), |mut entry| {
                for piece in content.chunks(piece.min(len.max(1))) {
                    entry.write_all(piece).unwrap();
                }
                assert_eq!(entry.written(), len as u64);
                Ok(entry.finish(DIGEST, DIGEST)?)
            });
            let stored = stored.unwrap();
            assert_eq!((stored.len(), stored.is_empty()), (len as u64, len == 0));
            assert_eq!(stored.read_all().unwrap(), content);
            let mut tail = [0; 10];
            let offset = len.saturating_sub(4);
            let count = stored.read_at(&mut tail, offset as u64).unwrap();
            assert_eq!(tail[..count], content[offset..]);
            assert_eq!(stored.read_at(&mut tail, len as u64 + 1).unwrap(), 0);
        }
    }
    drop(cache);
    // Digests computed in pieces must be those of the whole files.
    let cache = Cache::open(fixture::config(directory.path(), QUOTA, "another boot")).unwrap();
    for number in 1..=number {
        bytes(&cache, number).unwrap();
    }
    assert_eq!(
        (
            cache.metrics().verifications.get(),
            cache.metrics().damaged.get()
        ),
        (number, 0)
    );
}

#[test]
fn a_hit_on_an_open_object_asks_nothing_of_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), QUOTA);
    put(&cache, 1, 1_000).unwrap();
    fs::remove_dir_all(directory.path().join(LAYOUT).join("objects")).unwrap();
    assert_eq!(bytes(&cache, 1).unwrap().len(), 1_000);
    assert_eq!(put(&cache, 1, 1_000).unwrap().len(), 1_000);
    assert_eq!(
        (cache.metrics().hits.get(), cache.metrics().commits.get()),
        (2, 1)
    );
}

#[test]
fn few_objects_stay_open_and_all_are_found() {
    const OBJECTS: u64 = 1_500;
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), QUOTA);
    for number in 0..OBJECTS {
        put(&cache, number, 10).unwrap();
    }
    for number in 0..OBJECTS {
        bytes(&cache, number).unwrap();
    }
    let objects = directory.path().join(LAYOUT).join("objects");
    let links = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|link| link.unwrap().path());
    let open = links
        .filter_map(|link| fs::read_link(link).ok())
        .filter(|to| to.starts_with(&objects));
    let open = open.count();
    assert!((1..=1024).contains(&open), "{open} open");
    assert_eq!(cache.used_bytes(), OBJECTS * BLOCK);
}

#[test]
fn one_process_at_a_time_and_nobody_else_may_look() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), QUOTA);
    put(&cache, 1, 100).unwrap();
    let second = Cache::open(fixture::config(directory.path(), QUOTA, ""));
    let message = second.map(|_| ()).unwrap_err().to_string();
    assert!(
        message.contains(directory.path().to_str().unwrap()),
        "{message}"
    );
    assert!(message.contains("another process"), "{message}");

    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let root = directory.path().join(LAYOUT);
    let object = object_path(directory.path(), 1);
    for path in [
        &root,
        &root.join("objects"),
        &root.join("incoming"),
        object.parent().unwrap(),
    ] {
        assert_eq!(mode(path), 0o700, "{}", path.display());
    }
    assert_eq!((mode(&object), mode(&root.join("index"))), (0o600, 0o600));

    // The lock ends with the cache.
    drop(cache);
    open(directory.path(), QUOTA);
}

#[test]
fn what_a_scraper_reads() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), QUOTA);
    put(&cache, 1, 100).unwrap();
    put(&cache, 1, 100).unwrap();
    let mut registry = prometheus_client::registry::Registry::default();
    cache.metrics().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let values = [
        "cache_hits_total 1",
        "cache_misses_total 1",
        "cache_committed_bytes_total 100",
        "cache_used_bytes 4096",
        "cache_quota_bytes 1073741824",
        "cache_objects 1",
    ];
    for value in values {
        assert!(text.lines().any(|line| line == value), "{value} in\n{text}");
    }
}
