//! From resolved options to the libraries' values, and from their errors to ours.

use crate::config::{Access, Config, Embedded, Registry, RepositoryEntry, Unpack};
use crate::error::{Error, Kind};
use crate::publishing::registries;
use crate::repository::{self, EtcCvmfs, OpenAt, Repository, Stated};
use cache::Cache;
use registry::credentials::KubeletProviders;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Where other CVMFS clients keep their configuration.
pub const ETC_CVMFS: &str = "/etc/cvmfs";

/// Repositories a daemon has open at once are few; their downloads wait for the network, not for processors.
const NETWORK_THREADS: usize = 2;

/// Bytes before a range that a server may send unasked.
const SKIP: u64 = 64 << 20;

/// The runtime in which downloads and gRPC live.
///
/// # Errors
/// No threads can be started.
pub fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(NETWORK_THREADS)
        .thread_name("outcrop-network")
        .enable_all()
        .build()
        .map_err(|error| Error::new(Kind::Unavailable, "cannot start threads").because(error))
}

/// Opens the cache.
///
/// # Errors
/// [`Kind::Unavailable`] if another process has it or the disk refuses.
pub fn open_cache(directory: &Path, quota: u64) -> Result<Arc<Cache>, Error> {
    let cannot = || {
        Error::new(
            Kind::Unavailable,
            format!("cannot open the cache {}", directory.display()),
        )
    };
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|error| cannot().because(error).hint("is /proc mounted?"))?;
    let config = cache::Config {
        directory: directory.to_owned(),
        quota,
        boot_id: boot_id.trim().to_owned(),
    };
    let cache = Cache::open(config).map_err(|error| {
        cannot().because(error).hint(
            "give each daemon and each `outcrop mount` a cache of its own, on a disk with space",
        )
    })?;
    Ok(Arc::new(cache))
}

/// The settings of `fqrn` below [`ETC_CVMFS`].
///
/// # Errors
/// [`Kind::Config`] if a file there cannot be read or understood.
pub fn etc_cvmfs(fqrn: &str) -> Result<EtcCvmfs, Error> {
    Ok(EtcCvmfs::new(
        Path::new(ETC_CVMFS),
        fqrn,
        etc_settings(fqrn)?,
    ))
}

fn etc_settings(fqrn: &str) -> Result<BTreeMap<String, String>, Error> {
    cvmfs::etc_cvmfs::load(Path::new(ETC_CVMFS), fqrn).map_err(|error| {
        Error::new(Kind::Config, format!("cannot read {ETC_CVMFS}")).because(error)
    })
}

/// The configured repositories; without any, those that /etc/cvmfs names.
///
/// # Errors
/// As [`etc_cvmfs`].
pub fn repositories(config: &Config) -> Result<Vec<RepositoryEntry>, Error> {
    if !config.repositories.is_empty() {
        return Ok(config.repositories.clone());
    }
    // Which repositories there are is said in the files that hold for all of them; this name has none of its own.
    let settings = etc_settings("outcrop.invalid")?;
    let entry = |name: String| {
        let access = Access::Embedded(Embedded::default());
        repository::check_name(&name).map(|()| RepositoryEntry {
            name,
            trust_without_diff_id: false,
            access,
        })
    };
    repository::names(&settings)
        .into_iter()
        .map(entry)
        .collect()
}

/// The registries that images come from, as a source of lazy layers; `None` if they are not to be asked.
pub fn registries(config: &Config, runtime: &tokio::runtime::Handle) -> Option<layerfs::Source> {
    let registry = config.registry.as_ref()?;
    let client = registry::Client::new(
        registry_config(registry),
        registry::Metrics::default(),
        runtime.clone(),
    );
    Some(layerfs::Source::Registry(layerfs::FromRegistry {
        client,
        trust_without_diff_id: registry.trust_without_diff_id,
    }))
}

fn registry_config(registry: &Registry) -> registry::Config {
    let mut programs = registries::programs();
    if !registry.helper_directories.is_empty() {
        programs.search = registry.helper_directories.clone();
    }
    let kubelet = registry.credential_providers.clone();
    let mut config = registry::Config {
        hosts_directories: registry.hosts_directories.clone(),
        credentials: registry::Credentials {
            docker: registry.docker_config.iter().cloned().collect(),
            kubelet: kubelet
                .map(|(config, programs)| KubeletProviders { config, programs })
                .into_iter()
                .collect(),
            programs,
            ..registry::Credentials::default()
        },
        plain_http: registry.plain_http.clone(),
        proxies: registries::proxies(),
        // A server that ignores ranges is slow then, but no reason for an error.
        skip_bound: Some(SKIP),
        ..registry::Config::default()
    };
    let timeouts = &mut config.timeouts;
    timeouts.operation = registry.deadline;
    // Within it there is time for another host.
    let share = registry.deadline / 3;
    timeouts.connect = timeouts.connect.min(share);
    timeouts.answer = timeouts.answer.min(share);
    timeouts.stall = timeouts.stall.min(share);
    config
}

/// What is fetched before anybody asks.
pub fn fetching(config: &Config) -> layerfs::Fetching {
    layerfs::Fetching {
        prefetch: config.lazy.prefetch,
        background: config.lazy.background_fetch,
    }
}

/// Which ordinary layers are fetched and unpacked by the daemon.
pub fn unpack(config: &Config) -> layerfs::Unpack {
    match config.lazy.unpack {
        Unpack::BelowLazy => layerfs::Unpack::BelowLazy,
        Unpack::Always => layerfs::Unpack::Always,
        Unpack::Never => layerfs::Unpack::Never,
    }
}

/// Names of the sources whose layers are believed without a diffID that leads to the chainID.
pub fn trusted_sources(config: &Config, entries: &[RepositoryEntry]) -> Vec<String> {
    let trusted = entries.iter().filter(|entry| entry.trust_without_diff_id);
    let mut names: Vec<String> = trusted
        .map(|entry| match &entry.access {
            Access::Embedded(_) => format!("cvmfs:{}", entry.name),
            Access::Mounted(directory) => format!("mounted:{}", directory.display()),
        })
        .flat_map(|name| [format!("estargz:{name}"), name])
        .collect();
    if let Some(registry) = &config.registry
        && registry.trust_without_diff_id
    {
        // All registries: what follows says which.
        names.push("estargz:registry:".to_owned());
    }
    names
}

/// What an embedded entry needs to be opened.
///
/// # Errors
/// [`Kind::Config`] if servers, keys or proxies are known from nowhere.
pub fn resolve(name: &str, embedded: &Embedded) -> Result<Repository, Error> {
    let stated = Stated {
        server_urls: embedded.server_urls.clone(),
        public_keys: embedded.public_keys.clone(),
        proxy: embedded.proxy.clone(),
        external_urls: embedded.external_urls.clone(),
        open_at: embedded.open_at.clone(),
    };
    repository::resolve(name, stated, &etc_cvmfs(name)?)
}

/// The client library's form of a repository.
///
/// # Errors
/// [`Kind::Usage`] if the root hash is none.
pub fn client_config(
    repository: &Repository,
    state_directory: &Path,
) -> Result<cvmfs::RepositoryConfig, Error> {
    let mut config = cvmfs::RepositoryConfig::new(
        &repository.fqrn,
        repository.servers.clone(),
        state_directory,
    );
    config.proxies = repository.proxies.groups().to_vec();
    config.external_servers = repository.external_servers.clone();
    config.external_proxies = repository.proxies.groups().to_vec();
    config.public_keys = repository.public_keys.clone();
    config.blacklists = repository.blacklists.clone();
    config.open_at = match &repository.open_at {
        OpenAt::Trunk => cvmfs::OpenAt::Trunk,
        OpenAt::Tag(name) => cvmfs::OpenAt::Tag(name.clone()),
        OpenAt::Date(date) => cvmfs::OpenAt::Date(*date),
        OpenAt::RootHash(hash) => {
            cvmfs::OpenAt::RootHash(hash.parse().map_err(|error: cvmfs::HashError| {
                Error::new(Kind::Usage, format!("{hash:?} is no content hash")).because(error)
            })?)
        }
    };
    let direct = repository
        .proxies
        .groups()
        .iter()
        .flatten()
        .all(|member| member == "DIRECT");
    let timeout = if direct {
        repository.timeouts.direct
    } else {
        repository.timeouts.proxy
    };
    config.timeouts.connect = timeout;
    config.timeouts.stall = timeout;
    config.retries.count = repository.retries;
    config.max_time_to_live = repository.max_ttl;
    Ok(config)
}

/// Opens a repository; waits for the network.
///
/// # Errors
/// [`open_error`] of what the client says.
pub fn open(
    config: cvmfs::RepositoryConfig,
    cache: Arc<Cache>,
    runtime: &tokio::runtime::Runtime,
) -> Result<cvmfs::Repository, Error> {
    let fqrn = config.fqrn.clone();
    cvmfs::Repository::open(
        config,
        cache,
        runtime.handle().clone(),
        jiff::Timestamp::now,
    )
    .map_err(|error| open_error(&fqrn, error))
}

/// Who has to do something about a repository that does not open.
pub fn open_error(fqrn: &str, error: cvmfs::Error) -> Error {
    use cvmfs::Error as Client;
    let (kind, hint) = match &error {
        Client::Unavailable { .. } => (
            Kind::Unavailable,
            Some("check the server URL and the proxies, and that the network is up"),
        ),
        Client::Corrupt { .. } | Client::Malformed { .. } => (
            Kind::Corrupt,
            Some("report it to the server's operator; another server may be right"),
        ),
        Client::BadSignature { .. } | Client::NotWhitelisted { .. } => (
            Kind::Corrupt,
            Some(
                "check that the master key is this repository's; if it is, the server's content is not to be trusted",
            ),
        ),
        Client::Expired { .. } | Client::Blacklisted { .. } | Client::RolledBack { .. } => {
            (Kind::Corrupt, None)
        }
        Client::WrongRepository { .. } | Client::PublicKey { .. } | Client::Config { .. } => {
            (Kind::Config, None)
        }
        Client::NotFound(_) => (
            Kind::Usage,
            Some("the tags of a repository are listed by its publisher (cvmfs_server tag -l)"),
        ),
        Client::State { .. } | Client::Cache(_) => (
            Kind::Unavailable,
            Some("check the cache directory and the space on its disk"),
        ),
        _ => (Kind::Internal, None),
    };
    let failure = Error::new(kind, format!("cannot open repository {fqrn}")).because(error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
