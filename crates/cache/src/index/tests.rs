use proptest::prelude::*;

use super::*;
use crate::row::Stamp;

fn row(number: u64) -> Row {
    let stamp = Stamp {
        inode: number,
        modified: -1,
        changed: i64::MAX,
    };
    Row {
        len: number,
        digest: u128::from(number) << 64,
        boot: 5,
        stamp,
    }
}

fn present(key: u128, number: u64) -> Record {
    Record::Present {
        key,
        row: row(number),
    }
}

fn log(records: &[Record]) -> Vec<u8> {
    let mut bytes = header().to_vec();
    bytes.extend(records.iter().flat_map(Record::encode));
    bytes
}

fn load(bytes: &[u8]) -> Loaded {
    parse(bytes).unwrap()
}

#[test]
fn the_last_record_of_a_key_counts_and_the_order_is_that_of_use() {
    let loaded = load(&log(&[
        present(1, 10),
        present(2, 20),
        present(3, 30),
        present(1, 11),
        Record::Removed { key: 2 },
    ]));
    assert_eq!(
        loaded.rows,
        HashMap::from([(3, (2, row(30))), (1, (3, row(11)))])
    );
    assert_eq!((loaded.records, loaded.damaged), (5, false));
}

#[test]
fn a_torn_tail_costs_the_torn_record_only() {
    let whole = log(&[present(1, 10), present(2, 20)]);
    for cut in 1..RECORD {
        let loaded = load(&whole[..whole.len() - cut]);
        assert!(loaded.damaged);
        assert_eq!(loaded.rows, HashMap::from([(1, (0, row(10)))]));
    }
}

#[test]
fn every_flipped_bit_of_a_record_is_found_and_the_next_record_still_read() {
    let whole = log(&[present(1, 10), present(2, 20)]);
    for bit in 0..RECORD * 8 {
        let mut bytes = whole.clone();
        bytes[HEADER + bit / 8] ^= 1 << (bit % 8);
        let loaded = load(&bytes);
        assert!(loaded.damaged, "bit {bit}");
        assert_eq!(loaded.rows, HashMap::from([(2, (1, row(20)))]), "bit {bit}");
    }
}

#[test]
fn a_log_of_another_version_or_none_is_empty_and_damaged() {
    let mut other = header();
    other[8..12].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let checksum = XxHash3_128::oneshot(&other[..16]);
    other[16..].copy_from_slice(&checksum.to_le_bytes());
    for bytes in [&other[..], &header()[..HEADER - 1], b"", &[0; 4096]] {
        let empty = Loaded {
            damaged: true,
            ..Loaded::default()
        };
        assert_eq!(load(bytes), empty);
    }
}

#[test]
fn compaction_is_due_when_the_dead_outnumber_the_living_and_are_many() {
    let table = [
        (0, 0, false),
        (DEAD_FLOOR, 0, false),
        (DEAD_FLOOR + 1, 0, true),
        (30_000, 20_000, false),
        (40_000, 20_000, false),
        (40_001, 20_000, true),
    ];
    for (records, live, expected) in table {
        assert_eq!(is_overgrown(records, live), expected, "{records} {live}");
    }
}

#[test]
fn a_compaction_that_failed_is_tried_again_much_later() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let index = Index::create(&store, &[]).unwrap();
    let many = vec![Record::Removed { key: 1 }; DEAD_FLOOR as usize + 1];
    index.append(&many).unwrap();
    assert!(index.is_overgrown(0));
    // No file can be made in a directory that was removed; the open log is still written.
    std::fs::remove_dir_all(directory.path()).unwrap();
    index.compact(&store, Vec::new).unwrap_err();
    index.append(&many[2..]).unwrap();
    assert!(!index.is_overgrown(0));
    index.append(&many[..1]).unwrap();
    assert!(index.is_overgrown(0));
}

#[test]
fn a_state_is_never_written_behind_its_later_change() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let index = Index::create(&store, &[]).unwrap();
    std::thread::scope(|scope| {
        let state = || {
            scope.spawn(|| index.append(&[Record::Removed { key: 1 }]).unwrap());
            // Time for the other to overtake, if it can.
            std::thread::sleep(std::time::Duration::from_millis(50));
            [present(1, 10)]
        };
        index.append_present(state).unwrap();
    });
    let loaded = Index::load(&store).unwrap();
    assert_eq!((loaded.records, loaded.rows.len()), (2, 0));
}

#[test]
fn a_row_of_an_impossible_length_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let config = crate::Config {
        directory: directory.path().to_owned(),
        quota: 1 << 30,
        boot_id: String::new(),
    };
    let keys = ["0123abcd", "0123abce", "0123abcf"].map(|text| crate::Key::new(text).unwrap());
    let store = Store::open(directory.path()).unwrap();
    let rows = keys
        .each_ref()
        .map(|key| present(crate::row::key_tag(key), u64::MAX / 2));
    Index::create(&store, &rows).unwrap();
    let objects = directory.path().join("v1/objects/01");
    std::fs::create_dir(&objects).unwrap();
    for key in &keys {
        std::fs::write(objects.join(&key.as_str()[2..]), "content").unwrap();
    }
    drop(store);
    let cache = crate::Cache::open(config).unwrap();
    assert_eq!(cache.used_bytes(), 0);
    assert!(keys.iter().all(|key| !cache.contains(key)));
    assert_eq!(std::fs::read_dir(&objects).unwrap().count(), 0);
}

fn any_record() -> impl Strategy<Value = Record> {
    (0_u128..6, any::<u64>(), any::<bool>()).prop_map(|(key, number, is_present)| {
        if is_present {
            present(key, number)
        } else {
            Record::Removed { key }
        }
    })
}

/// A reader that gives one byte less than asked, and at times none because of a signal.
struct Halting<'a>(&'a [u8], bool);

impl Read for Halting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let short = buffer.len().min(5);
        self.0.read(&mut buffer[..short])
    }
}

proptest! {
    #[test]
    fn records_survive_encoding(record in any_record()) {
        prop_assert_eq!(Record::decode(&record.encode()), Some(record));
    }

    #[test]
    fn a_log_read_in_pieces_says_the_same(records in prop::collection::vec(any_record(), 0..20)) {
        let bytes = log(&records);
        prop_assert_eq!(parse(Halting(&bytes, false)).unwrap(), load(&bytes));
    }

    #[test]
    fn garbage_is_no_panic_and_no_row(
        records in prop::collection::vec(any_record(), 0..6),
        garbage in prop::collection::vec(any::<u8>(), 1..300),
    ) {
        let good = log(&records);
        let mut bytes = good.clone();
        bytes.extend(garbage);
        let loaded = load(&bytes);
        prop_assert!(loaded.damaged);
        prop_assert_eq!(loaded.rows, load(&good).rows);
    }

}

proptest! {
    // Every case syncs a file.
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Removed and appended in the midst of a compaction, the log must say what was said last.
    #[test]
    fn compaction_loses_nothing(
        before in prop::collection::vec(any_record(), 0..12),
        during in prop::collection::vec(any_record(), 0..12),
        after in prop::collection::vec(any_record(), 0..12),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let index = Index::create(&store, &[]).unwrap();
        index.append(&before).unwrap();
        index.compact(&store, || {
            // What is appended while the new log is written is in the snapshot or not: both are right.
            index.append(&during).unwrap();
            let mut live: Vec<_> = load(&log(&before)).rows.into_iter().collect();
            live.sort_by_key(|(_, (place, _))| *place);
            live.into_iter().map(|(key, (_, row))| Record::Present { key, row }).collect()
        }).unwrap();
        index.append(&after).unwrap();
        let order = |loaded: &Loaded| {
            let mut rows: Vec<_> = loaded.rows.iter().map(|(key, (place, row))| (*place, *key, *row)).collect();
            rows.sort_by_key(|(place, ..)| *place);
            rows.into_iter().map(|(_, key, row)| (key, row)).collect::<Vec<_>>()
        };
        let all: Vec<_> = before.into_iter().chain(during).chain(after).collect();
        let loaded = Index::load(&store).unwrap();
        prop_assert!(!loaded.damaged);
        prop_assert_eq!(order(&loaded), order(&load(&log(&all))));
    }
}
