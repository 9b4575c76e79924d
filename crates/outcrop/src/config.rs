//! Configuration: text → [`raw`] options, unknown keys refused → resolved [`Config`].
//!
//! The defaults are a file (`default.toml`, compiled in); a user's file overrides single keys. Libraries get plain values and
//! read no file and no environment.

mod raw;

use crate::error::{Error, Kind};
use crate::repository::{OpenAt, ProxyList};
use raw::{RawConfig, RawRepository};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The commented default configuration, as `outcrop config show` prints it.
pub const DEFAULT: &str = include_str!("default.toml");

/// Read when no `--config` is given, if it exists.
pub const DEFAULT_PATH: &str = "/etc/outcrop/config.toml";

/// Everything `serve`, `check` and `release` need, with defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// State directory; snapshots, chains and trees lie below.
    pub root: PathBuf,
    /// The snapshotter's socket.
    pub socket: PathBuf,
    /// How to log.
    pub log: Log,
    /// containerd's socket; none = its content is never asked for manifests.
    pub containerd_socket: Option<PathBuf>,
    /// Directory of the cache.
    pub cache_directory: PathBuf,
    /// Upper limit of the cache in bytes.
    pub cache_quota: u64,
    /// How long attach waits for trees.
    pub build_deadline: Duration,
    /// How long a mounted repository may take for one answer.
    pub mounted_deadline: Duration,
    /// Threads that build trees.
    pub tree_workers: usize,
    /// Threads that answer the kernel, for each mount.
    pub fuse_workers: usize,
    /// Read-ahead of our mounts in KiB.
    pub read_ahead_kib: u32,
    /// How registries are asked for parts of layers; none = never.
    pub registry: Option<Registry>,
    /// Layers that are read piece by piece, and those between them.
    pub lazy: Lazy,
    /// In the order in which layers are looked for. Empty = ask /etc/cvmfs.
    pub repositories: Vec<RepositoryEntry>,
}

/// `[registry]`
#[derive(Clone, Debug, PartialEq)]
pub struct Registry {
    /// Folders with `<registry>/hosts.toml`.
    pub hosts_directories: Vec<PathBuf>,
    /// docker's `config.json`.
    pub docker_config: Option<PathBuf>,
    /// The kubelet's `CredentialProviderConfig`, and the folder of its programs.
    pub credential_providers: Option<(PathBuf, PathBuf)>,
    /// Where `docker-credential-…` are looked for; empty = in `PATH`.
    pub helper_directories: Vec<PathBuf>,
    /// Registries (`host[:port]`) without TLS.
    pub plain_http: Vec<String>,
    /// Longest time for one part of a layer, repetitions included.
    pub deadline: Duration,
    /// Serve lazy layers of registries to all namespaces.
    pub trust_without_diff_id: bool,
}

/// `[lazy]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lazy {
    /// Fetch the files that a layer's maker marked when it is claimed.
    pub prefetch: bool,
    /// Fetch all of a layer once a container uses it.
    pub background_fetch: bool,
    /// Which ordinary layers are fetched and unpacked by the daemon.
    pub unpack: Unpack,
}

/// Which ordinary layers are fetched and unpacked by the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpack {
    /// Those with a lazy layer above.
    BelowLazy,
    /// All.
    Always,
    /// None.
    Never,
}

/// How to log.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// One JSON object a line instead of text.
    pub json: bool,
    /// Directives of `tracing_subscriber::EnvFilter`.
    pub filter: String,
}

/// One `[[repository]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct RepositoryEntry {
    /// Fully qualified name.
    pub name: String,
    /// Serve layers whose diffID the repository does not state.
    pub trust_without_diff_id: bool,
    /// Who reads it.
    pub access: Access,
}

/// Who reads a repository.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    /// Our own client.
    Embedded(Embedded),
    /// Another client, which keeps it mounted at this directory.
    Mounted(PathBuf),
}

/// What an embedded entry states; the rest comes from /etc/cvmfs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embedded {
    /// Stratum 1 URLs, templates not yet replaced.
    pub server_urls: Vec<String>,
    /// Master keys: files or directories.
    pub public_keys: Vec<PathBuf>,
    /// Proxy groups.
    pub proxy: Option<ProxyList>,
    /// Servers of external data.
    pub external_urls: Vec<String>,
    /// The revision.
    pub open_at: Option<OpenAt>,
}

impl Config {
    /// Reads `path`; without one, [`DEFAULT_PATH`] if it exists, else the defaults.
    ///
    /// # Errors
    /// [`Kind::Config`] if the file cannot be read or holds an unknown key or an impossible value; the error names key, line
    /// and file.
    pub fn load(path: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = path else {
            let default = Path::new(DEFAULT_PATH);
            return if default.exists() {
                Self::read(default)
            } else {
                Self::parse("", Path::new("(defaults)"))
            };
        };
        Self::read(path)
    }

    fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            let failure = Error::new(
                Kind::Config,
                format!("cannot read configuration {}", path.display()),
            )
            .because(error);
            if missing {
                failure.hint(format!(
                    "create it: outcrop config show > {}",
                    path.display()
                ))
            } else {
                failure
            }
        })?;
        Self::parse(&text, path)
    }

    /// Resolves the text of a file; `path` is named in errors.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let file = RawConfig::parse(text).map_err(|error| syntax_error(&error, text, path))?;
        let defaults = RawConfig::parse(DEFAULT).map_err(|error| {
            Error::new(Kind::Internal, "the compiled-in configuration is broken").because(error)
        })?;
        resolve(file.or(defaults)).map_err(|problem| {
            Error::new(
                Kind::Config,
                format!("configuration {}: {}", path.display(), problem.what),
            )
            .hint(problem.hint)
        })
    }
}

/// Names line, key and file; toml's own message already lists the keys that would have been right.
fn syntax_error(error: &toml::de::Error, text: &str, path: &Path) -> Error {
    let line = error
        .span()
        .map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let place = line.map_or_else(String::new, |line| format!(", line {line}"));
    let what = error.message().replace("unknown field", "unknown key");
    Error::new(
        Kind::Config,
        format!("configuration {}{place}: {what}", path.display()),
    )
    .hint("`outcrop config show` prints every key with its meaning")
}

/// A value that is syntactically right and makes no sense.
struct Problem {
    what: String,
    hint: String,
}

impl Problem {
    fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: hint.into(),
        }
    }
}

fn resolve(raw: RawConfig) -> Result<Config, Problem> {
    let required = |key: &str| Problem::new(format!("{key} has no value"), "give one");
    let root = absolute("root", raw.root.ok_or_else(|| required("root"))?)?;
    let socket = absolute("socket", raw.socket.ok_or_else(|| required("socket"))?)?;
    let read_ahead = raw
        .fuse
        .read_ahead
        .ok_or_else(|| required("fuse.read_ahead"))?;
    Ok(Config {
        log: log(raw.log)?,
        containerd_socket: optional_path("containerd.socket", raw.containerd.socket)?,
        cache_directory: optional_path("cache.directory", raw.cache.directory)?
            .unwrap_or_else(|| root.join("cache")),
        cache_quota: raw
            .cache
            .quota
            .ok_or_else(|| required("cache.quota"))?
            .as_u64(),
        build_deadline: positive("layers.build_deadline", raw.layers.build_deadline)?,
        mounted_deadline: positive("layers.mounted_deadline", raw.layers.mounted_deadline)?,
        tree_workers: threads("layers.workers", raw.layers.workers)?,
        fuse_workers: threads("fuse.workers", raw.fuse.workers)?,
        read_ahead_kib: u32::try_from(read_ahead.as_u64() / 1024)
            .map_err(|_| Problem::new("fuse.read_ahead is too large", "1MiB is a good value"))?,
        registry: registry(raw.registry)?,
        lazy: lazy(&raw.lazy),
        repositories: raw
            .repository
            .unwrap_or_default()
            .into_iter()
            .map(entry)
            .collect::<Result<_, _>>()?,
        root,
        socket,
    })
}

fn registry(raw: raw::RawRegistry) -> Result<Option<Registry>, Problem> {
    if raw.enabled == Some(false) {
        return Ok(None);
    }
    let config = optional_path(
        "registry.credential_provider_config",
        raw.credential_provider_config,
    )?;
    let programs = optional_path(
        "registry.credential_provider_directory",
        raw.credential_provider_directory,
    )?;
    let credential_providers = match (config, programs) {
        (Some(config), Some(programs)) => Some((config, programs)),
        (None, None) => None,
        _ => {
            return Err(Problem::new(
                "registry: credential_provider_config and credential_provider_directory go together",
                "give both, as the kubelet's --image-credential-provider-config and -bin-dir",
            ));
        }
    };
    let all_absolute = |key: &str, paths: Option<Vec<PathBuf>>| {
        let paths = paths.unwrap_or_default();
        paths
            .into_iter()
            .map(|path| absolute(key, path))
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(Some(Registry {
        hosts_directories: all_absolute("registry.hosts_directories", raw.hosts_directories)?,
        docker_config: optional_path("registry.docker_config", raw.docker_config)?,
        credential_providers,
        helper_directories: all_absolute("registry.helper_directories", raw.helper_directories)?,
        plain_http: raw.plain_http.unwrap_or_default(),
        deadline: positive("registry.deadline", raw.deadline)?,
        trust_without_diff_id: raw.trust_without_diff_id.unwrap_or(false),
    }))
}

fn lazy(raw: &raw::RawLazy) -> Lazy {
    Lazy {
        prefetch: raw.prefetch.unwrap_or(true),
        background_fetch: raw.background_fetch.unwrap_or(false),
        unpack: match raw.unpack {
            Some(raw::Unpack::Always) => Unpack::Always,
            Some(raw::Unpack::Never) => Unpack::Never,
            Some(raw::Unpack::BelowLazy) | None => Unpack::BelowLazy,
        },
    }
}

fn log(raw: raw::RawLog) -> Result<Log, Problem> {
    let filter = raw.filter.unwrap_or_default();
    if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&filter) {
        return Err(Problem::new(
            format!("log.filter {filter:?} is no filter: {error}"),
            "\"info\" is a good value",
        ));
    }
    Ok(Log {
        json: raw.format == Some(raw::LogFormat::Json),
        filter,
    })
}

fn absolute(key: &str, path: PathBuf) -> Result<PathBuf, Problem> {
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Problem::new(
        format!("{key} {:?} is not absolute", path.display()),
        "start it with /",
    ))
}

fn optional_path(key: &str, path: Option<PathBuf>) -> Result<Option<PathBuf>, Problem> {
    path.filter(|path| !path.as_os_str().is_empty())
        .map(|path| absolute(key, path))
        .transpose()
}

fn positive(key: &str, duration: Option<jiff::SignedDuration>) -> Result<Duration, Problem> {
    let problem = || {
        Problem::new(
            format!("{key} must be more than 0"),
            "\"60s\" is a good value",
        )
    };
    let duration = Duration::try_from(duration.unwrap_or_default()).map_err(|_| problem())?;
    if duration.is_zero() {
        Err(problem())
    } else {
        Ok(duration)
    }
}

/// More threads than this is a slip of the pen.
const MOST_THREADS: usize = 256;

fn threads(key: &str, count: Option<usize>) -> Result<usize, Problem> {
    match count {
        Some(count @ 1..=MOST_THREADS) => Ok(count),
        _ => Err(Problem::new(
            format!("{key} must be between 1 and {MOST_THREADS}"),
            "4 is a good value",
        )),
    }
}

fn entry(raw: RawRepository) -> Result<RepositoryEntry, Problem> {
    crate::repository::check_name(&raw.name).map_err(|error| {
        Problem::new(
            error.message(),
            "a full name has a dot, as in unpacked.cern.ch",
        )
    })?;
    let trust_without_diff_id = raw.trust_without_diff_id.unwrap_or(false);
    let access = match raw.kind {
        raw::Kind::Mounted => Access::Mounted(mounted(&raw)?),
        raw::Kind::Embedded => Access::Embedded(embedded(&raw)?),
    };
    Ok(RepositoryEntry {
        name: raw.name,
        trust_without_diff_id,
        access,
    })
}

fn mounted(raw: &RawRepository) -> Result<PathBuf, Problem> {
    let foreign = raw.server_urls.is_some()
        || raw.public_keys.is_some()
        || raw.proxy.is_some()
        || raw.external_urls.is_some()
        || raw.tag.is_some()
        || raw.date.is_some()
        || raw.root_hash.is_some();
    if foreign {
        return Err(Problem::new(
            format!(
                "repository {}: kind \"mounted\" takes only directory and trust_without_diff_id",
                raw.name
            ),
            "servers, keys, proxies and the revision are the business of the client that mounts it",
        ));
    }
    let default = || Path::new("/cvmfs").join(&raw.name);
    absolute("directory", raw.directory.clone().unwrap_or_else(default))
}

fn embedded(raw: &RawRepository) -> Result<Embedded, Problem> {
    let name = &raw.name;
    if raw.directory.is_some() {
        return Err(Problem::new(
            format!("repository {name}: directory goes with kind \"mounted\""),
            "remove it, or set kind = \"mounted\"",
        ));
    }
    let problem = |error: Error| {
        let hint = error
            .next_step()
            .unwrap_or("see `outcrop config show`")
            .to_owned();
        Problem::new(format!("repository {name}: {}", error.message()), hint)
    };
    let open_at = OpenAt::choose(
        raw.tag.as_deref(),
        raw.date.as_deref(),
        raw.root_hash.as_deref(),
    )
    .map_err(problem)?;
    Ok(Embedded {
        server_urls: raw.server_urls.clone().unwrap_or_default(),
        public_keys: raw.public_keys.clone().unwrap_or_default(),
        proxy: raw
            .proxy
            .as_deref()
            .map(ProxyList::parse)
            .transpose()
            .map_err(problem)?,
        external_urls: raw.external_urls.clone().unwrap_or_default(),
        open_at,
    })
}

#[cfg(test)]
mod tests;
