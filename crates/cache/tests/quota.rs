//! Quota, LRU and pins against a simple model, and under concurrency.
#![allow(clippy::unwrap_used, reason = "a test")]

mod fixture;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cache::{Cache, Error};
use fixture::{BLOCK, bytes, footprint, key, on_disk, open, put};
use proptest::prelude::*;

const OBJECTS: u64 = 12;

#[derive(Debug, Clone, Copy)]
enum Operation {
    Put(u64),
    Get(u64),
    Pin(u64),
    Unpin(u64),
    Remove(u64),
    Reopen,
}

/// What the cache should be: a list in the order of use, and one in the order of the log.
struct Model {
    quota: u64,
    lens: Vec<usize>,
    by_use: Vec<u64>,
    log: Vec<u64>,
    touched: Vec<u64>,
    pins: HashMap<u64, u32>,
}

impl Model {
    fn footprint(&self, number: u64) -> u64 {
        footprint(self.lens[number as usize])
    }

    fn used(&self) -> u64 {
        self.by_use
            .iter()
            .map(|number| self.footprint(*number))
            .sum()
    }

    fn remove(&mut self, number: u64) {
        for list in [&mut self.by_use, &mut self.log, &mut self.touched] {
            list.retain(|other| *other != number);
        }
    }

    fn touch(&mut self, number: u64) {
        for list in [&mut self.by_use, &mut self.touched] {
            list.retain(|other| *other != number);
            list.push(number);
        }
    }

    /// Evicts at least `wanted`; whether there was anything.
    fn evict(&mut self, wanted: u64) -> bool {
        let mut freed = 0;
        let unpinned: Vec<_> = self
            .by_use
            .iter()
            .copied()
            .filter(|number| !self.pins.contains_key(number))
            .collect();
        for number in unpinned {
            if freed >= wanted {
                break;
            }
            freed += self.footprint(number);
            self.remove(number);
        }
        freed > 0
    }

    /// "" or the kind of error.
    fn put(&mut self, number: u64) -> &'static str {
        if self.by_use.contains(&number) {
            self.touch(number);
            return "";
        }
        let more = self.footprint(number);
        if more > self.quota {
            return "too large";
        }
        while self.used() + more > self.quota {
            let excess = self.used() + more - self.quota;
            if !self.evict(excess + self.quota / 128) {
                if self.used() > self.quota {
                    return "no room";
                }
                break;
            }
        }
        self.by_use.push(number);
        self.log.push(number);
        ""
    }

    fn reopen(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        self.log.retain(|number| !touched.contains(number));
        self.log.extend(touched);
        self.by_use = self.log.clone();
        self.pins.clear();
        let excess = self.used().saturating_sub(self.quota);
        self.evict(excess);
    }
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::TooLarge { .. } => "too large",
        Error::NoRoom { .. } => "no room",
        other => panic!("{other}"),
    }
}

fn any_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => (0..OBJECTS).prop_map(Operation::Put),
        4 => (0..OBJECTS).prop_map(Operation::Get),
        2 => (0..OBJECTS).prop_map(Operation::Pin),
        2 => (0..OBJECTS).prop_map(Operation::Unpin),
        1 => (0..OBJECTS).prop_map(Operation::Remove),
        1 => Just(Operation::Reopen),
    ]
}

fn run(cache: &Cache, model: &mut Model, operation: Operation) {
    match operation {
        Operation::Put(number) => {
            let len = model.lens[number as usize];
            let outcome = put(cache, number, len)
                .err()
                .map_or("", |error| kind(&error));
            assert_eq!(outcome, model.put(number));
        }
        Operation::Get(number) => {
            let present = model.by_use.contains(&number);
            let expected = present.then_some(model.lens[number as usize]);
            assert_eq!(bytes(cache, number).map(|bytes| bytes.len()), expected);
            if present {
                model.touch(number);
            }
        }
        Operation::Pin(number) => {
            cache.pin(&key(number));
            *model.pins.entry(number).or_default() += 1;
        }
        Operation::Unpin(number) => {
            cache.unpin(&key(number));
            if let Some(pins) = model.pins.get_mut(&number) {
                *pins -= 1;
            }
            model.pins.retain(|_, pins| *pins > 0);
        }
        Operation::Remove(number) => {
            assert_eq!(
                cache.remove(&key(number)).unwrap(),
                model.by_use.contains(&number)
            );
            model.remove(number);
        }
        Operation::Reopen => unreachable!("by the caller"),
    }
}

proptest! {
    // Every case syncs the first index of a directory.
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn quota_order_of_use_and_pins_agree_with_the_model(
        blocks in 4_u64..300,
        lens in prop::collection::vec(
            prop_oneof![3 => 0_usize..20_000, 1 => 0_usize..300_000], OBJECTS as usize),
        operations in prop::collection::vec(any_operation(), 1..80),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let quota = blocks * BLOCK;
        let largest = lens.iter().map(|len| footprint(*len)).max().unwrap();
        let mut cache = Some(open(directory.path(), quota));
        let mut model = Model {
            quota, lens, by_use: Vec::new(), log: Vec::new(), touched: Vec::new(), pins: HashMap::new(),
        };
        for operation in operations {
            if let Operation::Reopen = operation {
                drop(cache.take());
                model.reopen();
            }
            let cache = cache.get_or_insert_with(|| open(directory.path(), quota));
            if !matches!(operation, Operation::Reopen) {
                run(cache, &mut model, operation);
            }
            for number in 0..OBJECTS {
                prop_assert_eq!(cache.contains(&key(number)), model.by_use.contains(&number), "{} after {:?}", number, operation);
            }
            prop_assert_eq!(cache.used_bytes(), model.used());
            prop_assert_eq!(on_disk(directory.path()), model.used());
            prop_assert!(cache.used_bytes() <= quota + largest);
        }
    }
}

#[test]
fn many_writers_stay_within_the_quota_and_one_object() {
    const QUOTA: u64 = 40 * BLOCK;
    const LARGEST: usize = 9 * BLOCK as usize;
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), QUOTA);
    let over = AtomicBool::new(false);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let used = cache.used_bytes();
                if used > QUOTA + LARGEST as u64 {
                    over.store(true, Ordering::Relaxed);
                }
            }
        });
        let writers: Vec<_> = (0..8_u64)
            .map(|thread| {
                let cache = &cache;
                scope.spawn(move || {
                    for round in 0..150 {
                        let number = (thread * 31 + round * 17) % 64;
                        let len = (number as usize * 7_919) % LARGEST;
                        cache.pin(&key(number % 5));
                        let object = put(cache, number, len).unwrap();
                        assert_eq!(object.read_all().unwrap(), fixture::content(number, len));
                        cache.unpin(&key(number % 5));
                    }
                })
            })
            .collect();
        // All are joined before anything is asserted, else the watcher never ends.
        let ends: Vec<_> = writers
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        done.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(Result::is_ok));
    });
    assert!(!over.into_inner());
    assert!(cache.metrics().evictions.get() > 0);
    assert_eq!(cache.used_bytes(), on_disk(directory.path()));
    assert!(fixture::files(directory.path(), "incoming").is_empty());
}

#[test]
fn an_open_object_survives_its_eviction() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), 4 * BLOCK);
    let object = put(&cache, 1, 3 * BLOCK as usize).unwrap();
    put(&cache, 2, 3 * BLOCK as usize).unwrap();
    assert!(!cache.contains(&key(1)));
    assert!(!fixture::object_path(directory.path(), 1).exists());
    assert_eq!(
        object.read_all().unwrap(),
        fixture::content(1, 3 * BLOCK as usize)
    );
    assert_eq!(
        std::fs::read(object.path()).unwrap(),
        object.read_all().unwrap()
    );
}

#[test]
fn a_quota_lowered_between_runs_is_kept_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), 100 * BLOCK);
    for number in 0..50 {
        put(&cache, number, 1).unwrap();
    }
    bytes(&cache, 0).unwrap();
    drop(cache);
    let cache = open(directory.path(), 10 * BLOCK);
    assert_eq!(cache.used_bytes(), 10 * BLOCK);
    assert_eq!(on_disk(directory.path()), 10 * BLOCK);
    // Last uses were written down when the first cache was dropped.
    assert!(cache.contains(&key(0)) && cache.contains(&key(49)) && !cache.contains(&key(40)));
}

#[test]
fn a_reservation_evicts_before_the_bytes_come_and_is_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), 10 * BLOCK);
    for number in 0..10 {
        put(&cache, number, 1).unwrap();
    }
    let failed = cache.get_or_fetch(&key(77), |mut entry| {
        let too_large = entry.reserve(11 * BLOCK);
        assert!(matches!(
            too_large,
            Err(Error::TooLarge { quota: 40_960, .. })
        ));
        assert_eq!(cache.metrics().evictions.get(), 0);
        entry.reserve(4 * BLOCK)?;
        // Four are needed, and one for the slack.
        assert_eq!(cache.metrics().evictions.get(), 5);
        assert_eq!(cache.used_bytes(), 9 * BLOCK);
        Err(cache::FetchError::Fetch("gone"))
    });
    assert!(matches!(failed, Err(cache::FetchError::Fetch("gone"))));
    assert_eq!(cache.used_bytes(), 5 * BLOCK);
}

#[test]
fn beside_pinned_objects_one_at_a_time_goes_over_the_quota() {
    const TWO: usize = 2 * BLOCK as usize;
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), 10 * BLOCK);
    cache.pin(&key(0));
    put(&cache, 0, 9 * BLOCK as usize).unwrap();
    for number in 1..5 {
        put(&cache, number, TWO).unwrap();
        assert_eq!(cache.used_bytes(), 11 * BLOCK, "after object {number}");
    }
    // Many at once take turns.
    thread::scope(|scope| {
        for thread in 1..9_u64 {
            let cache = &cache;
            scope.spawn(move || {
                for round in 0..20 {
                    put(cache, thread * 100 + round, TWO).unwrap();
                    assert!(cache.used_bytes() <= 12 * BLOCK);
                }
            });
        }
    });
    // Nothing can leave, and the quota is exceeded already.
    let last = (0..1_000)
        .find(|number| *number > 0 && cache.contains(&key(*number)))
        .unwrap();
    cache.pin(&key(last));
    let refused = put(&cache, 1_000, TWO).unwrap_err();
    assert_eq!(kind(&refused), "no room");
    cache.unpin(&key(last));
    put(&cache, 1_000, TWO).unwrap();
    assert!(cache.contains(&key(0)) && !cache.contains(&key(last)));
}

#[test]
fn files_beside_the_cache_take_part_of_its_quota() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), 10 * BLOCK);
    for number in 0..10 {
        put(&cache, number, 4096).unwrap();
    }
    cache.count_beside(4 * BLOCK);
    assert_eq!(cache.used_bytes(), 10 * BLOCK);
    assert_eq!(cache.metrics().used_bytes.get(), 10 * BLOCK);
    assert_eq!(on_disk(directory.path()), 6 * BLOCK);
    // The least recently used ones went.
    assert!(!cache.contains(&key(3)) && cache.contains(&key(4)));
    put(&cache, 10, 4096).unwrap();
    assert!(on_disk(directory.path()) <= 6 * BLOCK);
    // What goes there comes back.
    cache.count_beside(BLOCK);
    for number in 20..29 {
        put(&cache, number, 4096).unwrap();
    }
    // Eviction goes a little beyond what is needed.
    let objects = on_disk(directory.path());
    assert!((8 * BLOCK..=9 * BLOCK).contains(&objects), "{objects}");
    assert_eq!(cache.used_bytes(), objects + BLOCK);
}

/// Containers read on, however large the trees are.
#[test]
fn beside_too_much_one_object_at_a_time_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path(), 10 * BLOCK);
    for number in 0..5 {
        put(&cache, number, 4096).unwrap();
    }
    for beside in [10 * BLOCK, 100 * BLOCK, u64::MAX] {
        cache.count_beside(beside);
        assert_eq!(on_disk(directory.path()), 0);
        for number in 10..15 {
            put(&cache, number, 4096).unwrap();
            assert_eq!(on_disk(directory.path()), BLOCK);
        }
    }
    let last = cache.get(&key(14)).unwrap().expect("the last one is there");
    assert_eq!(last.len(), 4096);
}
