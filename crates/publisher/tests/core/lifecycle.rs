//! Made, published, named, rolled back, signed anew; seen by the client library over HTTP.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use cvmfs::{Algorithm, OpenAt, Refresh};
use publisher::storage::LocalStorage;
use publisher::{Error, InitOptions, Keys, Kind, NewTag, Repository};
use tempfile::TempDir;
use testkit::{FIXTURE_FQRN, Stratum1};

use crate::support::{
    Client, assert_clean, at, files, keys, lock, new_repository, publish, shared_fixture, shown,
    store,
};

fn tag(name: &str) -> NewTag {
    NewTag {
        name: name.to_owned(),
        description: format!("named {name}"),
    }
}

#[test]
fn generated_keys_make_a_repository_that_opens_with_the_saved_ones() {
    let directory = TempDir::new().unwrap();
    let fqrn = "a-rather-long-name-of-a-repository.example.org";
    let generated = Keys::generate(fqrn, at(0)).unwrap();
    generated.save(directory.path()).unwrap();
    assert!(Keys::exist(directory.path(), fqrn));
    assert!(matches!(
        generated.save(directory.path()),
        Err(Error::Key { .. })
    ));
    let mode = |end: &str| {
        let path = directory.path().join(format!("{fqrn}.{end}"));
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode("masterkey"), mode("key")), (0o600, 0o600));
    let storage = Arc::new(LocalStorage::new(&directory.path().join("repository")));
    let options = InitOptions {
        algorithm: Algorithm::Ripemd160,
        ..InitOptions::default()
    };
    let repository = Repository::init(storage.clone(), generated, &options, at(0)).unwrap();
    let loaded = Keys::load(directory.path(), fqrn).unwrap();
    let opened = Repository::open(storage.clone(), Some(loaded), at(0)).unwrap();
    assert_eq!(*opened.head(), *repository.head());
    assert_eq!(opened.algorithm(), Algorithm::Ripemd160);
    assert_clean(&opened);
    let again = Repository::init(storage, keys(), &options, at(0)).unwrap_err();
    assert!(matches!(again, Error::Exists { .. }), "{again}");
}

#[test]
fn the_client_follows_publications() {
    let new = new_repository();
    let server = Stratum1::serving(new.path()).start().unwrap();
    let client = Client::new();
    let open = client
        .open(&server.repository_url(FIXTURE_FQRN), OpenAt::Trunk, at(10))
        .unwrap();
    assert_eq!(open.current().number(), 1);
    publish(&new.repository, None, &files("one"), 20);
    assert!(matches!(open.refresh().unwrap(), Refresh::Changed));
    assert_eq!(shown(&open, "/a/file").unwrap(), "one");
    assert_eq!(shown(&open, "/nested/deep/file").unwrap(), "nested one");
    publish(&new.repository, None, &files("two"), 30);
    assert!(matches!(open.refresh().unwrap(), Refresh::Changed));
    assert_eq!(shown(&open, "/a/file").unwrap(), "two");
    assert_eq!(new.reopened().head().revision, 3);
    assert_clean(&new.repository);
}

#[test]
fn tags_name_revisions_without_making_new_ones() {
    let new = new_repository();
    let repository = &new.repository;
    publish(repository, Some("one"), &files("one"), 10);
    publish(repository, None, &files("two"), 20);
    let before = repository.head();
    {
        let lock = lock(repository);
        repository.add_tag(&lock, tag("two"), None, at(30)).unwrap();
        repository
            .add_tag(&lock, tag("first"), Some("one"), at(30))
            .unwrap();
        repository
            .add_tag(&lock, tag("gone"), None, at(30))
            .unwrap();
        repository.remove_tag(&lock, "gone", at(40)).unwrap();
        let missing = repository.remove_tag(&lock, "gone", at(40)).unwrap_err();
        assert!(matches!(missing, Error::NotFound(_)), "{missing}");
        for bad in ["", "a b", "trunk", "trunk-previous", "ä", "a/b"] {
            let refused = repository
                .add_tag(&lock, tag(bad), None, at(30))
                .unwrap_err();
            assert!(matches!(refused, Error::BadTag { .. }), "{bad}");
        }
    }
    let after = new.reopened().head();
    assert_eq!(
        (after.revision, after.root_catalog),
        (before.revision, before.root_catalog)
    );
    assert_ne!(after.history, before.history);
    let tags: Vec<_> = repository
        .tags()
        .unwrap()
        .into_iter()
        .map(|tag| (tag.name, tag.revision))
        .collect();
    let expected = [
        ("trunk", 3),
        ("two", 3),
        ("first", 2),
        ("one", 2),
        ("trunk-previous", 2),
    ];
    assert_eq!(
        tags,
        expected.map(|(name, revision)| (name.to_owned(), revision))
    );
    let server = Stratum1::serving(new.path()).start().unwrap();
    let client = Client::new();
    let first = client
        .open(
            &server.repository_url(FIXTURE_FQRN),
            OpenAt::Tag("first".to_owned()),
            at(50),
        )
        .unwrap();
    assert_eq!(shown(&first, "/a/file").unwrap(), "one");
    assert_clean(repository);
}

#[test]
fn a_rollback_is_a_newer_revision() {
    let new = new_repository();
    let repository = &new.repository;
    publish(repository, Some("one"), &files("one"), 10);
    publish(repository, None, &files("two"), 20);
    let server = Stratum1::serving(new.path()).start().unwrap();
    let client = Client::new();
    let open = client
        .open(&server.repository_url(FIXTURE_FQRN), OpenAt::Trunk, at(30))
        .unwrap();
    let lock = lock(repository);
    assert!(matches!(
        repository.rollback(&lock, "none", at(40)),
        Err(Error::NotFound(_))
    ));
    let head = repository.rollback(&lock, "one", at(40)).unwrap();
    assert_eq!(head.revision, 4);
    assert!(matches!(open.refresh().unwrap(), Refresh::Changed));
    assert_eq!(open.current().number(), 4);
    assert_eq!(shown(&open, "/a/file").unwrap(), "one");
    assert_clean(repository);
}

#[test]
fn a_repository_that_expired_lives_again_when_signed_anew() {
    let new = new_repository();
    let month = 31 * 86_400;
    let late = at(month);
    let open = |now| Repository::open(new.storage(), Some(keys()), now);
    let expired = open(late).unwrap_err();
    assert!(matches!(expired, Error::Expired { .. }), "{expired}");
    assert_eq!(expired.kind(), Kind::Config);
    let repository = Repository::open_expired(new.storage(), Some(keys())).unwrap();
    let lock = repository.lock(Duration::ZERO, late).unwrap();
    repository.resign_whitelist(&lock, 30, late).unwrap();
    repository.resign_manifest(&lock, late).unwrap();
    let opened = open(late).unwrap();
    assert_eq!(opened.head().published, late.as_second());
    assert_eq!(opened.head().revision, 1);
    let server = Stratum1::serving(new.path()).start().unwrap();
    Client::new()
        .open(&server.repository_url(FIXTURE_FQRN), OpenAt::Trunk, late)
        .unwrap();
}

#[test]
fn what_is_not_signed_by_the_keys_is_not_opened() {
    let new = new_repository();
    let stranger = TempDir::new().unwrap();
    let theirs = Keys::generate(FIXTURE_FQRN, at(0)).unwrap();
    theirs.save(stranger.path()).unwrap();
    let refused = Repository::open(new.storage(), Some(theirs), at(0)).unwrap_err();
    assert!(
        matches!(
            refused,
            Error::Untrusted {
                what: "whitelist",
                ..
            }
        ),
        "{refused}"
    );
    // A manifest that somebody changed.
    let path = new.path().join(".cvmfspublished");
    let mut manifest = fs::read(&path).unwrap();
    let at_digit = manifest
        .windows(3)
        .position(|bytes| bytes == b"\nS1")
        .unwrap()
        + 2;
    manifest[at_digit] = b'7';
    fs::write(&path, manifest).unwrap();
    let refused = Repository::open(new.storage(), Some(keys()), at(0)).unwrap_err();
    assert!(
        matches!(
            refused,
            Error::Untrusted {
                what: "manifest",
                ..
            }
        ),
        "{refused}"
    );
    let nothing = Arc::new(LocalStorage::new(stranger.path()));
    let refused = Repository::open(nothing, Some(keys()), at(0)).unwrap_err();
    assert!(matches!(refused, Error::NoRepository { .. }), "{refused}");
}

#[test]
fn without_keys_a_repository_can_be_read_only() {
    let storage = Arc::new(LocalStorage::new(&shared_fixture().repository()));
    let repository = Repository::open(storage, None, at(0)).unwrap();
    let info = repository.info().unwrap();
    assert_eq!((info.head.revision, info.tags), (59, 10));
    // As the real client counts them.
    assert!(info.files > 20_000 && info.nested_catalogs > 30, "{info:?}");
    assert_eq!(repository.revisions().unwrap()[0].number, Some(59));
    let refused = repository.lock(Duration::ZERO, at(0)).unwrap_err();
    assert!(matches!(refused, Error::NoKey { .. }), "{refused}");
}

#[test]
fn a_commit_of_what_is_not_stored_is_refused() {
    let new = new_repository();
    let lock = lock(&new.repository);
    let commit = store(&new.repository, &files("one"), 10);
    let before = fs::read(new.path().join(".cvmfspublished")).unwrap();
    let nested = commit
        .catalogs
        .iter()
        .find(|hash| **hash != commit.root_catalog)
        .unwrap();
    let hex = nested.to_string();
    fs::remove_file(
        new.path()
            .join(format!("data/{}/{}C", &hex[..2], &hex[2..])),
    )
    .unwrap();
    let refused = new.repository.commit(&lock, commit).unwrap_err();
    assert!(matches!(refused, Error::Missing { .. }), "{refused}");
    assert_eq!(
        fs::read(new.path().join(".cvmfspublished")).unwrap(),
        before
    );
}

#[test]
fn a_revision_that_another_tool_published_meanwhile_is_not_overwritten() {
    let new = new_repository();
    let lock = lock(&new.repository);
    let commit = store(&new.repository, &files("mine"), 10);
    // It does not know our lock.
    let manifest = new.path().join(".cvmfspublished");
    let text = fs::read(&manifest).unwrap();
    let changed: Vec<u8> = String::from_utf8_lossy(&text)
        .replace("\nS1\n", "\nS2\n")
        .into_bytes();
    let changed = [
        &changed[..changed
            .windows(4)
            .position(|bytes| bytes == b"\n--\n")
            .unwrap()],
        &text[text
            .windows(4)
            .position(|bytes| bytes == b"\n--\n")
            .unwrap()..],
    ]
    .concat();
    fs::write(&manifest, &changed).unwrap();
    let refused = new.repository.commit(&lock, commit).unwrap_err();
    assert!(matches!(refused, Error::LockLost { .. }), "{refused}");
    assert_eq!(fs::read(&manifest).unwrap(), changed);
}

#[test]
fn names_that_are_none() {
    for bad in [
        "", "nodot", "a b.c", "../x.y", ".a.b", "a..b", "a/b.c", "a.b\n",
    ] {
        let refused = Keys::load(shared_fixture().root().as_path(), bad).unwrap_err();
        assert!(matches!(refused, Error::BadName { .. }), "{bad:?}");
    }
    let new = new_repository();
    assert!(new.storage().read("../x", 1).is_err());
}
