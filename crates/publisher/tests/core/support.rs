//! Repositories to work on.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use publisher::storage::LocalStorage;
use publisher::{InitOptions, Keys, PublishLock, Repository, Storage};
use tempfile::TempDir;
use testkit::{FIXTURE_FQRN, Fixture, fixture};

/// A little after the fixture was made.
pub(crate) const NOW: i64 = 1_795_500_000;

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
