//! A repository's backend from its options.

use crate::cli::{Backend, WritableBackend};
use crate::error::{Error, Kind};
use publisher::storage::S3Credentials;
use publisher::{Keys, PublishLock, Repository, Storage};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where `cvmfs_server` keeps keys, too.
const KEYS: &str = "/etc/cvmfs/keys";

/// Where temporary files go unless something else is said.
const SCRATCH: &str = "/var/tmp";

/// Larger files with credentials are none.
const MAX_CREDENTIALS_BYTES: u64 = 64 << 10;

/// Opens the storage; nothing is read yet.
///
/// # Errors
/// The text names no backend, or its credentials cannot be read.
pub fn storage(
    options: &Backend,
    runtime: &tokio::runtime::Runtime,
) -> Result<Arc<dyn Storage>, Error> {
    let credentials = match options.repository.starts_with("s3+") {
        true => s3_credentials(options.s3_credentials.as_deref())?,
        false => None,
    };
    Ok(publisher::open_storage(
        &options.repository,
        runtime.handle(),
        credentials,
    )?)
}

/// The directory with the keys.
pub fn keys_directory(options: &Backend) -> PathBuf {
    options
        .keys
        .clone()
        .unwrap_or_else(|| Path::new(KEYS).to_owned())
}

/// Opens a repository for reading: with its keys if they are there, else without, which leaves the whitelist's signature unverified.
///
/// # Errors
/// There is none, it is not trusted, or its keys are unusable.
pub fn open(options: &Backend, runtime: &tokio::runtime::Runtime) -> Result<Repository, Error> {
    let storage = storage(options, runtime)?;
    let repository = Repository::open_expired(Arc::clone(&storage), None)?;
    let keys = keys_directory(options);
    let fqrn = repository.fqrn();
    if options.keys.is_none() && !keys.join(format!("{fqrn}.pub")).exists() {
        return Ok(repository);
    }
    let keys = Keys::load(&keys, fqrn)?;
    Ok(Repository::open_expired(storage, Some(keys))?)
}

/// Opens a repository with its keys, for writing. Clients must accept it as it is, unless `expired` allows an old whitelist.
///
/// # Errors
/// As [`open`]; also if the whitelist has expired.
pub fn open_writable(
    options: &WritableBackend,
    runtime: &tokio::runtime::Runtime,
    expired: bool,
) -> Result<Repository, Error> {
    let storage = storage(&options.backend, runtime)?;
    let fqrn = Repository::open_expired(Arc::clone(&storage), None)?
        .fqrn()
        .to_owned();
    let keys = Keys::load(&keys_directory(&options.backend), &fqrn)?;
    if expired {
        return Ok(Repository::open_expired(storage, Some(keys))?);
    }
    let repository = Repository::open(storage, Some(keys), jiff::Timestamp::now())?;
    repository.check_certificate()?;
    Ok(repository)
}

/// Where temporary files go: what was asked for, else TMPDIR, else `/var/tmp`, which is large and not in memory as `/tmp` often is.
pub fn scratch(given: Option<&Path>) -> PathBuf {
    let environment = || std::env::var_os("TMPDIR").map(PathBuf::from);
    given
        .map(Path::to_owned)
        .or_else(environment)
        .unwrap_or_else(|| SCRATCH.into())
}

/// Threads that compress: what was asked for, else one a processor.
pub fn threads(given: Option<u16>) -> usize {
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    given.map_or_else(processors, usize::from)
}

/// Waits for the right to publish.
///
/// # Errors
/// Another publisher works for longer than we may wait.
pub fn lock(repository: &Repository, options: &WritableBackend) -> Result<PublishLock, Error> {
    Ok(repository.lock(options.wait, jiff::Timestamp::now())?)
}

fn s3_credentials(file: Option<&Path>) -> Result<Option<S3Credentials>, Error> {
    let Some(file) = file else {
        return Ok(environment_credentials());
    };
    let wrong = |reason: String| {
        Error::new(
            Kind::Config,
            format!("credentials {}: {reason}", file.display()),
        )
        .hint("it needs CVMFS_S3_ACCESS_KEY=… and CVMFS_S3_SECRET_KEY=…, a line each")
    };
    let length = file.metadata().map_err(|error| wrong(error.to_string()))?;
    if length.len() > MAX_CREDENTIALS_BYTES {
        return Err(wrong("too long".to_owned()));
    }
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let value = |name: &str| {
        text.lines()
            .filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
            .next_back()
    };
    match (value("CVMFS_S3_ACCESS_KEY"), value("CVMFS_S3_SECRET_KEY")) {
        (Some(key), Some(secret)) => Ok(Some(S3Credentials {
            key,
            secret,
            token: value("CVMFS_S3_SESSION_TOKEN"),
        })),
        _ => Err(wrong("a key is missing".to_owned())),
    }
}

/// Without any, requests are not signed: some servers in the house need none.
fn environment_credentials() -> Option<S3Credentials> {
    Some(S3Credentials {
        key: std::env::var("AWS_ACCESS_KEY_ID").ok()?,
        secret: std::env::var("AWS_SECRET_ACCESS_KEY").ok()?,
        token: std::env::var("AWS_SESSION_TOKEN").ok(),
    })
}
