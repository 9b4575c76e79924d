//! A repository to change, and what the client library shows of it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cvmfs::{Content, RepositoryConfig, WalkEntry};
use jiff::Timestamp;
use publisher::storage::LocalStorage;
use publisher::{
    CheckOptions, InitOptions, Keys, ObjectStore, Options, Repository, Subtree, SubtreeBuilder,
    SubtreeOptions, Transaction,
};
use tempfile::TempDir;
use testkit::{FIXTURE_FQRN, Fixture, Stratum1, fixture};

pub(crate) const MTIME: i64 = 1_700_000_000;

pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_795_500_000).unwrap()
}

pub(crate) fn shared_fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(fixture)
}

fn keys() -> Keys {
    Keys::load(&shared_fixture().root().join("keys"), FIXTURE_FQRN).unwrap()
}

pub(crate) struct Test {
    pub(crate) directory: TempDir,
    pub(crate) repository: Repository,
    pub(crate) objects: ObjectStore,
}

pub(crate) fn options(directory: &TempDir) -> Options {
    let scratch = directory.path().join("scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    Options::new(2, scratch)
}

impl Test {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("repository");
        std::fs::create_dir(&path).unwrap();
        let storage = Arc::new(LocalStorage::new(&path));
        let repository = Repository::init(storage, keys(), &InitOptions::default(), now()).unwrap();
        Self::with(directory, repository)
    }

    /// A copy of the repository that the real server made.
    pub(crate) fn of_fixture() -> Self {
        let directory = TempDir::new().unwrap();
        let root = testkit::unpack_fixture(directory.path()).unwrap();
        std::fs::rename(
            root.join("srv").join(FIXTURE_FQRN),
            directory.path().join("repository"),
        )
        .unwrap();
        let storage = Arc::new(LocalStorage::new(&directory.path().join("repository")));
        let repository = Repository::open(storage, Some(keys()), now()).unwrap();
        Self::with(directory, repository)
    }

    fn with(directory: TempDir, repository: Repository) -> Self {
        let objects = ObjectStore::new(
            Arc::clone(repository.storage()),
            repository.algorithm(),
            options(&directory),
        )
        .unwrap();
        Self {
            directory,
            repository,
            objects,
        }
    }

    pub(crate) fn begin(&self) -> Transaction {
        let lock = self.repository.lock(Duration::ZERO, now()).unwrap();
        Transaction::begin(&self.repository, lock, &self.objects, now()).unwrap()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Transaction)) {
        let mut transaction = self.begin();
        change(&mut transaction);
        transaction.commit(None).unwrap();
    }

    pub(crate) fn builder(&self, max_rows: u64) -> SubtreeBuilder {
        let options = SubtreeOptions {
            max_rows,
            implicit_mtime: MTIME,
        };
        SubtreeBuilder::new(&self.objects, options).unwrap()
    }

    pub(crate) fn graft(&self, path: &str, subtree: &Subtree) {
        self.change(|transaction| transaction.graft(path.as_bytes(), subtree).unwrap());
    }

    /// Counters, links, nested sizes and hashes, all recomputed.
    pub(crate) fn assert_sound(&self) {
        let options = CheckOptions {
            content: true,
            tags: false,
        };
        assert_eq!(self.repository.check(options).unwrap().findings, []);
    }

    pub(crate) fn client(&self) -> Client {
        let server = Stratum1::serving(&self.directory.path().join("repository"))
            .start()
            .unwrap();
        let state = TempDir::new().unwrap();
        let cache = cache::Cache::open(cache::Config {
            directory: state.path().join("cache"),
            quota: 1 << 30,
            boot_id: "boot".to_owned(),
        });
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut config = RepositoryConfig::new(
            FIXTURE_FQRN,
            vec![format!("{}/{FIXTURE_FQRN}", server.url())],
            state.path().join("state"),
        );
        config.public_keys = vec![shared_fixture().public_key()];
        let handle = runtime.handle().clone();
        let cache = Arc::new(cache.unwrap());
        let repository = cvmfs::Repository::open(config, cache, handle, now).unwrap();
        Client {
            repository,
            _server: server,
            _state: state,
            _runtime: runtime,
        }
    }
}

pub(crate) struct Client {
    pub(crate) repository: cvmfs::Repository,
    _server: testkit::Running<Stratum1>,
    _state: TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Client {
    pub(crate) fn walk(&self, path: &str) -> BTreeMap<String, WalkEntry> {
        let mut found = BTreeMap::new();
        let mut visit = |path: &[u8], entry: &WalkEntry| {
            found.insert(path.escape_ascii().to_string(), entry.clone());
            ControlFlow::Continue(())
        };
        let revision = self.repository.current();
        revision.walk(path.as_bytes(), &mut visit).unwrap();
        found
    }

    pub(crate) fn bytes(&self, content: &Content) -> Vec<u8> {
        let objects: Vec<_> = match content {
            Content::Whole(object) => vec![*object],
            Content::Chunked(chunks) => chunks.iter().map(|chunk| chunk.object).collect(),
            _ => Vec::new(),
        };
        let mut bytes = Vec::new();
        for object in objects {
            let object = self.repository.fetch(&object, None).unwrap();
            let mut part = vec![0; usize::try_from(object.len()).unwrap()];
            object.read_at(&mut part, 0).unwrap();
            bytes.extend(part);
        }
        bytes
    }
}

/// Bytes that do not deflate, the same each time.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
