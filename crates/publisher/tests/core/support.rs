//! Repositories to work on, and the client that reads them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cvmfs::{ContentHash, OpenAt, RepositoryConfig};
use jiff::Timestamp;
use publisher::storage::LocalStorage;
use publisher::{
    CheckOptions, Commit, InitOptions, Keys, NewTag, PublishLock, Repository, Storage,
};
use tempfile::TempDir;
use testkit::{Entry, FIXTURE_FQRN, Fixture, RepositoryBuilder, fixture};

/// A little after the fixture was made.
const NOW: i64 = 1_795_500_000;

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

/// The fixture, unpacked once for all that only read.
pub(crate) fn shared_fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(fixture)
}

/// The fixture's keys: generating some takes seconds.
pub(crate) fn keys() -> Keys {
    Keys::load(&shared_fixture().root().join("keys"), FIXTURE_FQRN).unwrap()
}

/// A new repository in a directory of its own.
pub(crate) struct New {
    pub(crate) directory: TempDir,
    pub(crate) repository: Repository,
}

impl New {
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(LocalStorage::new(self.path()))
    }

    /// Opened once more, as another process would.
    pub(crate) fn reopened(&self) -> Repository {
        Repository::open(self.storage(), Some(keys()), at(0)).unwrap()
    }

    /// All objects, with their sizes.
    pub(crate) fn objects(&self) -> BTreeMap<String, u64> {
        objects(&*self.storage())
    }
}

/// Everything below `data/` but what publishers keep for themselves.
pub(crate) fn objects(storage: &dyn Storage) -> BTreeMap<String, u64> {
    let mut objects = BTreeMap::new();
    let mut each = |file: &publisher::storage::Listed<'_>| {
        if !file.path.starts_with("data/txn/") {
            objects.insert(file.path.to_owned(), file.size);
        }
        Ok(())
    };
    storage.list("data/", &mut each).unwrap();
    objects
}

pub(crate) fn new_repository() -> New {
    let directory = TempDir::new().unwrap();
    let storage = Arc::new(LocalStorage::new(directory.path()));
    let repository = Repository::init(storage, keys(), &InitOptions::default(), at(0)).unwrap();
    New {
        directory,
        repository,
    }
}

pub(crate) fn lock(repository: &Repository) -> PublishLock {
    repository.lock(Duration::ZERO, at(0)).unwrap()
}

/// Stores what a revision with these files needs, and returns what publishes it.
pub(crate) fn store(repository: &Repository, entries: &[Entry], seconds: i64) -> Commit {
    let directory = TempDir::new().unwrap();
    let mut builder = RepositoryBuilder::new(directory.path(), FIXTURE_FQRN);
    builder.last_revision(repository.head().revision);
    for entry in entries {
        builder.add(entry.clone());
    }
    let published = builder.publish(at(seconds).as_second()).unwrap();
    let source = LocalStorage::new(directory.path());
    for path in objects(&source).into_keys() {
        if path.ends_with(['H', 'X', 'M']) || repository.storage().size(&path).unwrap().is_some() {
            continue;
        }
        let content = source.read(&path, 1 << 30).unwrap().unwrap();
        repository.storage().put(&path, &content).unwrap();
    }
    let manifest = String::from_utf8_lossy(&published.manifest).into_owned();
    let size = manifest.lines().find_map(|line| line.strip_prefix('B'));
    let hash = |text: &String| ContentHash::parse(text).unwrap();
    Commit {
        root_catalog: hash(&published.root_hash),
        root_catalog_size: size.unwrap().parse().unwrap(),
        catalogs: published.catalogs.values().map(hash).collect(),
        tag: None,
        now: at(seconds),
    }
}

/// A revision with these files, by name if one is given.
pub(crate) fn publish(repository: &Repository, tag: Option<&str>, entries: &[Entry], seconds: i64) {
    let lock = lock(repository);
    let commit = Commit {
        tag: tag.map(|name| NewTag {
            name: name.to_owned(),
            description: "a test".to_owned(),
        }),
        ..store(repository, entries, seconds)
    };
    repository.commit(&lock, commit).unwrap();
}

/// Two files, one of them in a nested catalog, that hold `text`.
pub(crate) fn files(text: &str) -> Vec<Entry> {
    vec![
        Entry::file("a/file", text),
        Entry::file("nested/.cvmfscatalog", ""),
        Entry::file("nested/deep/file", format!("nested {text}")),
    ]
}

/// The whole check, contents included.
pub(crate) fn assert_clean(repository: &Repository) {
    let options = CheckOptions {
        content: true,
        tags: true,
    };
    assert_eq!(repository.check(options).unwrap().findings, []);
}

/// The client library with a cache of its own.
pub(crate) struct Client {
    directory: TempDir,
    runtime: tokio::runtime::Runtime,
    cache: Arc<cache::Cache>,
}

impl Client {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let config = cache::Config {
            directory: directory.path().join("cache"),
            quota: 1 << 30,
            boot_id: "boot".to_owned(),
        };
        Self {
            cache: Arc::new(cache::Cache::open(config).unwrap()),
            runtime: tokio::runtime::Runtime::new().unwrap(),
            directory,
        }
    }

    pub(crate) fn open(
        &self,
        url: &str,
        open_at: OpenAt,
        now: Timestamp,
    ) -> Result<cvmfs::Repository, cvmfs::Error> {
        let state = self.directory.path().join("state");
        let mut config = RepositoryConfig::new(FIXTURE_FQRN, vec![url.to_owned()], state);
        config.public_keys = vec![public_key()];
        config.open_at = open_at;
        config.retries.count = 0;
        let handle = self.runtime.handle().clone();
        cvmfs::Repository::open(config, Arc::clone(&self.cache), handle, move || now)
    }
}

fn public_key() -> PathBuf {
    shared_fixture().public_key()
}

/// A file's text as the client shows it.
pub(crate) fn shown(repository: &cvmfs::Repository, path: &str) -> Option<String> {
    let content = repository.current().read_small(path.as_bytes(), 1 << 20);
    content
        .unwrap()
        .map(|bytes| String::from_utf8(bytes).unwrap())
}

/// A directory's copy.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
