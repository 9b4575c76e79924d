//! What the tests share: the unpacked fixture, a small HTTP server with scripted faults, a fixture signer.
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod server;
pub(crate) mod signer;
pub(crate) mod truth;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cvmfs::{Jitter, Repository, RepositoryConfig, Retries, Timeouts};

pub(crate) const FQRN: &str = "unpacked.test.local";

/// A file of the fixtures' directory.
pub(crate) fn fixture_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../testkit/fixtures")
        .join(name)
}

/// The unpacked fixture repository; shared by the tests of one process, never changed.
pub(crate) fn fixture() -> &'static Path {
    static FIXTURE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let directory = FIXTURE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let archive = fixture_file("small.tar.zst");
        assert!(archive.exists(), "{} is missing", archive.display());
        let mut zstd = Command::new("zstd")
            .arg("-dc")
            .arg(&archive)
            .stdout(Stdio::piped())
            .spawn()
            .expect("zstd unpacks the fixture");
        let tar = Command::new("tar")
            .args(["-x", "-C"])
            .arg(directory.path())
            .stdin(zstd.stdout.take().unwrap())
            .status()
            .expect("tar unpacks the fixture");
        assert!(zstd.wait().unwrap().success() && tar.success());
        directory
    });
    let path = directory.path().join("fixture-small");
    // The directory is never dropped, being static; it lies in the machine's temporary directory.
    Box::leak(path.into_boxed_path())
}

/// The repository's own directory on the server.
pub(crate) fn backend() -> PathBuf {
    fixture().join("srv").join(FQRN)
}

/// Path in the backend of an object that a URL path names.
pub(crate) fn backend_file(path: &str) -> Vec<u8> {
    std::fs::read(backend().join(path)).unwrap()
}

/// A client's surroundings: cache, state directory, runtime.
pub(crate) struct Client {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) cache: Arc<cache::Cache>,
    pub(crate) now: jiff::Timestamp,
}

impl Client {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let cache = open_cache(directory.path());
        Self {
            directory,
            runtime,
            cache,
            // Within the fixture whitelist's validity.
            now: "2026-11-25T00:00:00Z".parse().unwrap(),
        }
    }

    /// Short deadlines and pauses; one server or more.
    pub(crate) fn config(&self, servers: &[&str]) -> RepositoryConfig {
        let servers = servers.iter().map(|url| (*url).to_owned()).collect();
        let mut config = RepositoryConfig::new(FQRN, servers, self.directory.path().join("state"));
        config.public_keys = vec![fixture().join("keys").join(format!("{FQRN}.pub"))];
        config.timeouts = Timeouts {
            connect: Duration::from_secs(2),
            stall: Duration::from_millis(700),
            total: Duration::from_secs(60),
        };
        config.retries = Retries {
            count: 1,
            backoff_initial: Duration::from_millis(5),
            backoff_max: Duration::from_millis(10),
        };
        config.jitter = Jitter::new(|| 0.0);
        config
    }

    pub(crate) fn open(&self, config: RepositoryConfig) -> Result<Repository, cvmfs::Error> {
        let now = self.now;
        Repository::open(
            config,
            self.cache.clone(),
            self.runtime.handle().clone(),
            move || now,
        )
    }
}

fn open_cache(directory: &Path) -> Arc<cache::Cache> {
    let config = cache::Config {
        directory: directory.join("cache"),
        quota: 1 << 30,
        boot_id: "boot".to_owned(),
    };
    Arc::new(cache::Cache::open(config).unwrap())
}

/// The text of an error that must be.
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, cvmfs::Error>) -> cvmfs::Error {
    result.expect_err("this must not succeed")
}
