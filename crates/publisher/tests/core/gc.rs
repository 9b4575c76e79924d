//! Garbage goes, everything else stays.

use std::time::Duration;

use cvmfs::OpenAt;
use publisher::{Error, GcOptions, InitOptions, Repository};
use testkit::{FIXTURE_FQRN, Stratum1};

use crate::support::{
    Client, New, assert_clean, at, files, keys, lock, new_repository, publish, shown,
};

const DAY: i64 = 86_400;

/// Files' times are those of the machine, which may lie long before the test's.
fn options(grace_days: u64) -> GcOptions {
    GcOptions {
        grace: Duration::from_secs(grace_days * 86_400),
        ..GcOptions::default()
    }
}

/// Revisions: 1 empty, 2 "one" (tagged), 3 "two", 4 "three" (trunk-previous), 5 "four"; days 0, 1, 2, 10, 12.
fn with_history() -> New {
    let new = new_repository();
    publish(&new.repository, Some("one"), &files("one"), DAY);
    publish(&new.repository, None, &files("two"), 2 * DAY);
    publish(&new.repository, None, &files("three"), 10 * DAY);
    publish(&new.repository, None, &files("four"), 12 * DAY);
    new
}

#[test]
fn dead_revisions_go_and_kept_ones_can_be_read() {
    let new = with_history();
    let repository = &new.repository;
    let before = new.objects();
    let lock = lock(repository);
    let dry = GcOptions {
        dry_run: true,
        ..options(3)
    };
    let planned = repository.gc(None, dry, at(20 * DAY)).unwrap();
    assert_eq!(new.objects(), before);
    let report = repository
        .gc(Some(&lock), options(3), at(20 * DAY))
        .unwrap();
    assert_eq!(report, planned);
    // Kept: trunk, the one before and the tag; gone: the empty revision and "two".
    assert_eq!((report.kept_revisions, report.removed_revisions), (3, 2));
    // Two root catalogs, a nested one, two files, four histories.
    assert_eq!(report.removed_objects, 9);
    assert_eq!(
        before.len() as u64 - new.objects().len() as u64,
        report.removed_objects
    );
    assert_clean(&new.reopened());
    let server = Stratum1::serving(new.path()).start().unwrap();
    for (tag, text) in [
        ("one", "one"),
        ("trunk-previous", "three"),
        ("trunk", "four"),
    ] {
        let client = Client::new();
        let open = client
            .open(
                &server.repository_url(FIXTURE_FQRN),
                OpenAt::Tag(tag.to_owned()),
                at(0),
            )
            .unwrap();
        assert_eq!(shown(&open, "/a/file").unwrap(), text);
        assert_eq!(
            shown(&open, "/nested/deep/file").unwrap(),
            format!("nested {text}")
        );
    }
    // There is nothing more to do.
    let again = repository
        .gc(Some(&lock), options(3), at(20 * DAY))
        .unwrap();
    assert_eq!((again.removed_revisions, again.removed_objects), (0, 0));
}

#[test]
fn what_clients_showed_within_the_grace_stays() {
    let new = with_history();
    let lock = lock(&new.repository);
    // "two" was the newest until day 10, so clients showed it 4 days before day 13.
    let report = new
        .repository
        .gc(Some(&lock), options(4), at(13 * DAY))
        .unwrap();
    assert_eq!((report.kept_revisions, report.removed_revisions), (4, 1));
    let report = new
        .repository
        .gc(Some(&lock), options(4), at(15 * DAY))
        .unwrap();
    assert_eq!((report.kept_revisions, report.removed_revisions), (3, 1));
    assert_clean(&new.repository);
}

#[test]
fn a_number_of_revisions_can_be_kept() {
    let new = with_history();
    let lock = lock(&new.repository);
    let keep = GcOptions {
        keep_revisions: 3,
        ..options(0)
    };
    let report = new.repository.gc(Some(&lock), keep, at(20 * DAY)).unwrap();
    assert_eq!((report.kept_revisions, report.removed_revisions), (4, 1));
}

#[test]
fn orphans_go_when_they_are_old() {
    let new = new_repository();
    let lock = lock(&new.repository);
    let orphan = "data/ab/cdef0123456789abcdef0123456789abcdef01";
    let unknown = "data/ab/README";
    for path in [orphan, unknown] {
        new.storage().put(path, b"nobody's").unwrap();
    }
    let written = std::fs::metadata(new.path().join(orphan)).unwrap();
    let written = jiff::Timestamp::try_from(written.modified().unwrap()).unwrap();
    let young = written + jiff::SignedDuration::from_hours(1);
    let report = new.repository.gc(Some(&lock), options(1), young).unwrap();
    assert_eq!(
        (report.young_orphans, report.orphans, report.removed_objects),
        (1, 0, 0)
    );
    let old = written + jiff::SignedDuration::from_hours(25);
    let report = new.repository.gc(Some(&lock), options(1), old).unwrap();
    assert_eq!(
        (report.young_orphans, report.orphans, report.removed_bytes),
        (0, 1, 8)
    );
    // What is no object is not ours to remove.
    assert!(new.path().join(unknown).exists());
}

#[test]
fn a_damaged_kept_revision_stops_it() {
    let new = with_history();
    let tag = new.repository.tag("one").unwrap();
    let hex = tag.root_catalog.to_string();
    std::fs::remove_file(
        new.path()
            .join(format!("data/{}/{}C", &hex[..2], &hex[2..])),
    )
    .unwrap();
    let before = new.objects();
    let lock = lock(&new.repository);
    let refused = new
        .repository
        .gc(Some(&lock), options(0), at(20 * DAY))
        .unwrap_err();
    assert!(matches!(refused, Error::Missing { .. }), "{refused}");
    assert_eq!(new.objects(), before);
}

#[test]
fn a_repository_that_keeps_all_is_not_collected() {
    let directory = tempfile::TempDir::new().unwrap();
    let storage = std::sync::Arc::new(publisher::storage::LocalStorage::new(directory.path()));
    let keeping = InitOptions {
        garbage_collectable: false,
        ..InitOptions::default()
    };
    let repository = Repository::init(storage, keys(), &keeping, at(0)).unwrap();
    let lock = lock(&repository);
    let refused = repository.gc(Some(&lock), options(0), at(DAY)).unwrap_err();
    assert!(matches!(refused, Error::NotAllowed(_)), "{refused}");
}
