//! `outcrop serve`: constructs everything and hands it to each other.

use crate::cli::ServeArgs;
use crate::config::{Access, Config, RepositoryEntry};
use crate::error::{Error, Kind};
use crate::lazy_layers::{NodeLayers, drop_unnamed_trees};
use crate::{logging, notify, signals, socket, state, wiring};
use cache::Cache;
use layerfs::{Embedded, Layers, Mounted, Source};
use snapshotter::{LazyLayers, Snapshotter};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::runtime::{Handle, Runtime};

/// After the service has ended, threads that still wait for a server are left behind.
const LAST_THREADS: Duration = Duration::from_secs(2);

/// A claim is answered before it is recorded, and the trees of an image's other layers are made before they are claimed.
const TREE_GRACE: Duration = Duration::from_secs(600);

/// Serves until SIGTERM or SIGINT. What is mounted stays mounted.
pub(super) fn run(args: &ServeArgs) -> Result<(), Error> {
    let config = Config::load(args.config.as_deref())?;
    logging::start(&config.log)?;
    // All before any thread, and before anything is touched that another daemon may be using.
    socket::check_free(&config.socket)?;
    let _lock = state::prepare(&config.root)?;
    let listener = socket::bind(&config.socket)?;
    let runtime = wiring::runtime()?;
    let cache = wiring::open_cache(&config.cache_directory, config.cache_quota)?;
    let entries = wiring::repositories(&config)?;
    match (entries.is_empty(), &config.registry) {
        (false, _) => {}
        (true, Some(_)) => tracing::warn!(
            "no repository is configured: lazy are only layers that can be read piece by piece from their registry"
        ),
        (true, None) => {
            tracing::warn!("no repository is configured: every layer is pulled the ordinary way");
        }
    }
    let layers = layers(&config, &entries, &cache, runtime.handle())?;
    let served = serve(&config, &entries, layers, listener, &runtime);
    runtime.shutdown_timeout(LAST_THREADS);
    served
}

fn layers(
    config: &Config,
    entries: &[RepositoryEntry],
    cache: &Arc<Cache>,
    runtime: &Handle,
) -> Result<Arc<Layers>, Error> {
    let state_directory = config.root.join("repositories");
    std::fs::create_dir_all(&state_directory).map_err(|error| {
        Error::new(
            Kind::Unavailable,
            format!("cannot make {}", state_directory.display()),
        )
        .because(error)
    })?;
    let mut sources = entries
        .iter()
        .map(|entry| source(entry, cache, runtime, &state_directory))
        .collect::<Result<Vec<_>, _>>()?;
    sources.extend(wiring::registries(config, runtime));
    let settings = layerfs::Config {
        root: config.root.clone(),
        build_deadline: config.build_deadline,
        build_threads: config.tree_workers,
        workers: config.fuse_workers,
        read_ahead_kib: config.read_ahead_kib,
        tree_grace: TREE_GRACE,
        mounted_deadline: config.mounted_deadline,
        cache: Some(Arc::clone(cache)),
        fetching: wiring::fetching(config),
        unpack: wiring::unpack(config),
    };
    let layers = Layers::open(settings, sources).map_err(|error| {
        Error::new(Kind::Unavailable, "cannot open the layers' state")
            .because(error)
            .hint("run `outcrop check`")
    })?;
    // Before the first request.
    drop_unnamed_trees(&config.root, &layers);
    Ok(Arc::new(layers))
}

/// A repository that cannot be reached now is opened when a layer is asked for: a daemon starts without its network.
fn source(
    entry: &RepositoryEntry,
    cache: &Arc<Cache>,
    runtime: &Handle,
    state_directory: &Path,
) -> Result<Source, Error> {
    let trust_without_diff_id = entry.trust_without_diff_id;
    let embedded = match &entry.access {
        Access::Mounted(directory) => {
            return Ok(Source::Mounted(Mounted {
                directory: directory.clone(),
                trust_without_diff_id,
            }));
        }
        Access::Embedded(embedded) => embedded,
    };
    let repository = wiring::resolve(&entry.name, embedded)?;
    let client = wiring::client_config(&repository, state_directory)?;
    let (cache, runtime) = (Arc::clone(cache), runtime.clone());
    let open = move || {
        cvmfs::Repository::open(
            client.clone(),
            Arc::clone(&cache),
            runtime.clone(),
            jiff::Timestamp::now,
        )
    };
    Ok(Source::Embedded(Embedded {
        fqrn: entry.name.clone(),
        open: Box::new(open),
        trust_without_diff_id,
    }))
}

fn serve(
    config: &Config,
    entries: &[RepositoryEntry],
    layers: Arc<Layers>,
    listener: std::os::unix::net::UnixListener,
    runtime: &Runtime,
) -> Result<(), Error> {
    let failed = |error: snapshotter::Error| {
        Error::new(Kind::Unavailable, "cannot serve snapshots")
            .because(error)
            .hint("run `outcrop check`")
    };
    let mut settings = snapshotter::Config::new(config.root.clone(), Arc::new(SystemTime::now));
    settings.containerd_socket = config.containerd_socket.clone();
    settings.trusted_sources = wiring::trusted_sources(config, entries);
    let layers = NodeLayers::start(config.root.clone(), layers)
        .map_err(|error| Error::new(Kind::Unavailable, "cannot start threads").because(error))?;
    let layers: Arc<dyn LazyLayers> = Arc::new(layers);
    let opened = Snapshotter::open(settings, layers, runtime.handle().clone()).map_err(failed)?;
    let notify_socket = std::env::var_os("NOTIFY_SOCKET");
    runtime.block_on(async {
        let stop = signals::stop()?;
        notify::ready(notify_socket.as_deref());
        tracing::info!(socket = %config.socket.display(), repositories = entries.len(), "serving");
        let stop = async {
            let signal = stop.await;
            tracing::info!(signal, "stopping; what is mounted stays mounted");
            notify::stopping(notify_socket.as_deref());
        };
        snapshotter::serve_opened(opened, listener, stop)
            .await
            .map_err(failed)
    })
}
