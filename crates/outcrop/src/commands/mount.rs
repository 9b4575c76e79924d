//! `outcrop mount`: a whole repository, in the foreground.

use crate::cli::MountArgs;
use crate::config::Log;
use crate::error::{Error, Kind};
use crate::repository::{self, OpenAt, ProxyList, Repository, Stated};
use crate::{logging, signals, wiring};
use cvmfs::Refresh;
use fuse::{MountError, MountOptions, Session};
use layerfs::{Ownership, RepositoryFs, RepositoryFsOptions};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Below it, each repository has a cache of its own.
const CACHES: &str = "/var/lib/outcrop/mount";

/// The reference client's packaged default, 4000 MB, rounded.
const DEFAULT_QUOTA: u64 = 4 << 30;

/// How long the kernel may keep names and attributes of a repository that changes (the reference client's).
const KERNEL_CACHE: Duration = Duration::from_secs(60);

/// Longest time that open files keep an unmounted repository served.
const LAST_USERS: Duration = Duration::from_secs(10);

/// After a refresh that failed; what is mounted is served on.
const RETRY_REFRESH: Duration = Duration::from_secs(180);

/// A manifest that states no time to live must not make us hammer the server.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);

/// Mounts and serves until a signal or an unmount.
pub(super) fn run(args: MountArgs, out: &mut dyn Write) -> Result<(), Error> {
    logging::start(&Log {
        json: args.log_json,
        filter: "info".to_owned(),
    })?;
    let variables = repository::variables(&args.variable)?;
    let open_at = OpenAt::choose(
        args.tag.as_deref(),
        args.date.as_deref(),
        args.root_hash.as_deref(),
    )?;
    let repository = resolve(&args, open_at)?;
    check_mount_point(&args.directory)?;
    let cache_directory = args
        .cache
        .unwrap_or_else(|| Path::new(CACHES).join(&repository.fqrn));
    make_private(&cache_directory)?;
    let client = wiring::client_config(&repository, &cache_directory)?;
    let quota = args
        .cache_quota
        .map(|size| size.as_u64())
        .or(repository.quota)
        .unwrap_or(DEFAULT_QUOTA);
    let runtime = wiring::runtime()?;
    let cache = wiring::open_cache(&cache_directory, quota)?;
    let opened = wiring::open(client, cache, &runtime)?;
    let moves = repository.open_at == OpenAt::Trunk;
    let files = RepositoryFs::new(
        opened.clone(),
        RepositoryFsOptions {
            variables,
            ownership: ownership(&repository),
            valid: if moves { KERNEL_CACHE } else { Duration::MAX },
        },
    );
    let revision = opened.current().number();
    let served = runtime.block_on(async {
        // Before the mount: a signal between the two must not leave one behind.
        let stop = signals::stop()?;
        let session = mount(files, &args.directory)?;
        let fqrn = &repository.fqrn;
        super::print(
            out,
            &format!(
                "mounted {fqrn} revision {revision} on {}",
                session.directory().display()
            ),
        )?;
        if moves {
            follow(opened)?;
        }
        until_stopped(Arc::new(session), stop).await
    });
    runtime.shutdown_background();
    served
}

fn resolve(args: &MountArgs, open_at: Option<OpenAt>) -> Result<Repository, Error> {
    repository::check_name(&args.fqrn)?;
    let stated = Stated {
        server_urls: args.server_url.clone(),
        public_keys: args.public_key.clone(),
        proxy: args.proxy.as_deref().map(ProxyList::parse).transpose()?,
        external_urls: args.external_url.clone(),
        open_at,
    };
    repository::resolve(&args.fqrn, stated, &wiring::etc_cvmfs(&args.fqrn)?)
}

/// Before anything is fetched.
fn check_mount_point(directory: &Path) -> Result<(), Error> {
    let cannot = || {
        Error::new(
            Kind::Usage,
            format!("cannot mount on {}", directory.display()),
        )
    };
    match directory.metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(cannot().because(std::io::Error::from(std::io::ErrorKind::NotADirectory))),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error()) => {
            Err(cannot().because(error).hint(format!(
                "a mount whose client is dead lies there: umount -l {}",
                directory.display()
            )))
        }
        Err(error) => Err(cannot()
            .because(error)
            .hint(format!("mkdir -p {}", directory.display()))),
    }
}

fn make_private(directory: &PathBuf) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| {
            Error::new(
                Kind::Unavailable,
                format!("cannot make the cache {}", directory.display()),
            )
            .because(error)
            .hint("give another directory with --cache")
        })
}

fn ownership(repository: &Repository) -> Ownership {
    if repository.claim_ownership {
        Ownership::Claimed(
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        )
    } else {
        Ownership::Stored
    }
}

fn mount(files: RepositoryFs, directory: &Path) -> Result<Session, Error> {
    let options = MountOptions {
        source: "outcrop".to_owned(),
        ..MountOptions::default()
    };
    Session::mount(Arc::new(files), directory, options).map_err(|error| {
        let kind = match &error {
            MountError::MountPoint { .. } => Kind::Usage,
            _ => Kind::Unavailable,
        };
        Error::new(kind, format!("cannot mount on {}", directory.display())).because(error)
    })
}

/// Looks for newer revisions for the rest of the process's life.
fn follow(repository: cvmfs::Repository) -> Result<(), Error> {
    let refresh = move || {
        let mut pause = repository.time_to_live();
        loop {
            std::thread::sleep(pause.max(SHORTEST_REFRESH));
            pause = match repository.refresh() {
                Ok(Refresh::UpToDate) => repository.time_to_live(),
                Ok(Refresh::Changed) => {
                    tracing::info!(
                        revision = repository.current().number(),
                        "the repository changed"
                    );
                    repository.time_to_live()
                }
                Err(error) => {
                    tracing::warn!(%error, "no newer revision can be had; serving on");
                    RETRY_REFRESH
                }
            };
        }
    };
    std::thread::Builder::new()
        .name("outcrop-refresh".to_owned())
        .spawn(refresh)
        .map(drop)
        .map_err(|error| Error::new(Kind::Unavailable, "cannot start threads").because(error))
}

async fn until_stopped(
    session: Arc<Session>,
    stop: impl Future<Output = &'static str>,
) -> Result<(), Error> {
    let waiting = Arc::clone(&session);
    let unmounted = tokio::task::spawn_blocking(move || waiting.wait());
    tokio::select! {
        _ = unmounted => {
            tracing::info!("unmounted from outside");
            return Ok(());
        }
        signal = stop => tracing::info!(signal, "unmounting"),
    }
    session.detach().map_err(|error| {
        Error::new(
            Kind::Unavailable,
            format!("cannot unmount {}", session.directory().display()),
        )
        .because(error)
    })?;
    let ended = tokio::task::spawn_blocking(move || session.wait_timeout(LAST_USERS)).await;
    if !ended.unwrap_or(false) {
        tracing::warn!("files are still open: their readers get errors from now on");
    }
    Ok(())
}
