//! Opening: which root catalog to show, on whose word.

use std::sync::Arc;
use std::time::Duration;

use super::RETRY_AFTER_FAILURE;
use crate::blacklist::Blacklist;
use crate::config::{OpenAt, RepositoryConfig};
use crate::download::Downloader;
use crate::error::Error;
use crate::hash::ContentHash;
use crate::history::{History, Tag};
use crate::manifest::Manifest;
use crate::metrics::Metrics;
use crate::object::{ObjectRef, Suffix};
use crate::objects::Objects;
use crate::revision::About;
use crate::trust::{Asked, Known, Trust};

/// Largest history database that is read.
const MAX_HISTORY_BYTES: u64 = 1 << 30;

/// What opening has found out.
pub(super) struct Opened {
    pub(super) root: ContentHash,
    pub(super) about: About,
    pub(super) alternative: bool,
    pub(super) time_to_live: Option<Duration>,
}

impl Opened {
    pub(super) fn from_manifest(manifest: &Manifest) -> Self {
        Self {
            root: manifest.root_catalog,
            about: About {
                number: manifest.revision,
                timestamp: manifest.timestamp,
                tag: None,
            },
            alternative: manifest.alternative_locations,
            time_to_live: Some(Duration::from_secs(manifest.time_to_live)),
        }
    }

    fn from_tag(tag: Tag) -> Self {
        Self {
            root: tag.root_catalog,
            about: About {
                number: tag.revision,
                timestamp: tag.timestamp,
                tag: Some(tag.name),
            },
            alternative: false,
            time_to_live: None,
        }
    }
}

pub(super) fn check(config: &RepositoryConfig) -> Result<(), Error> {
    let refused = |reason: &str| {
        Err(Error::Config {
            fqrn: config.fqrn.clone(),
            reason: reason.to_owned(),
        })
    };
    // The name becomes part of file names.
    let permitted = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if config.fqrn.is_empty() || config.fqrn.len() > 200 || !config.fqrn.bytes().all(permitted) {
        return refused("the repository's name may have letters, digits, '.', '-' and '_'");
    }
    if config.servers.is_empty() {
        return refused("no servers; set the URLs of at least one Stratum 1");
    }
    Ok(())
}

pub(super) fn objects(
    config: &RepositoryConfig,
    cache: Arc<cache::Cache>,
    metrics: &Metrics,
    runtime: tokio::runtime::Handle,
) -> Result<Objects, Error> {
    let servers = Downloader::new(
        config,
        &config.servers,
        &config.proxies,
        metrics,
        runtime.clone(),
    )?;
    let external = Downloader::new(
        config,
        &config.external_servers,
        &config.external_proxies,
        metrics,
        runtime,
    )?;
    Ok(Objects::new(
        config.fqrn.clone(),
        cache,
        servers,
        external,
        metrics.clone(),
    ))
}

/// Which root catalog to show.
pub(super) fn find(
    config: &RepositoryConfig,
    trust: Option<&Trust>,
    objects: &Objects,
    now: jiff::Timestamp,
) -> Result<Opened, Error> {
    let Some(trust) = trust else {
        let OpenAt::RootHash(root) = config.open_at else {
            return Err(Error::NotFound("revision".to_owned()));
        };
        return Ok(Opened {
            root,
            about: About::default(),
            alternative: false,
            time_to_live: None,
        });
    };
    if config.open_at == OpenAt::Trunk {
        return trunk(config, trust, objects, now);
    }
    let manifest = manifest(config, trust, objects, now)?;
    let history = history(config, objects, &manifest)?;
    let (tag, wanted) = match &config.open_at {
        OpenAt::Tag(name) => (history.by_name(name)?, format!("tag {name}")),
        OpenAt::Date(date) => (
            history.by_date(date.as_second())?,
            format!("a revision of {date} or earlier"),
        ),
        OpenAt::Trunk | OpenAt::RootHash(_) => (None, "revision".to_owned()),
    };
    let tag = tag.ok_or_else(|| Error::NotFound(format!("{wanted} of {}", config.fqrn)))?;
    Blacklist::load(&config.blacklists)?.check_revision(&config.fqrn, tag.revision)?;
    Ok(Opened::from_tag(tag))
}

fn trunk(
    config: &RepositoryConfig,
    trust: &Trust,
    objects: &Objects,
    now: jiff::Timestamp,
) -> Result<Opened, Error> {
    let blacklist = Blacklist::load(&config.blacklists)?;
    let seen = trust.remembered()?;
    let known = Known {
        timestamp: seen.map_or(0, |seen| seen.timestamp),
        shown: None,
    };
    let unreachable = match trust.ask(objects, &blacklist, known, now)? {
        Asked::Newer(manifest) => return Ok(Opened::from_manifest(&manifest)),
        Asked::UpToDate => return Err(Error::NotFound("revision".to_owned())),
        Asked::Offline(error) => error,
    };
    let Some(seen) = seen else {
        return Err(unreachable);
    };
    if !objects.is_cached(&ObjectRef::zlib(seen.root_catalog, Suffix::Catalog))? {
        return Err(unreachable);
    }
    blacklist.check_revision(&config.fqrn, seen.revision)?;
    tracing::warn!(fqrn = config.fqrn, error = %unreachable, revision = seen.revision, "starting offline");
    Ok(Opened {
        root: seen.root_catalog,
        about: About {
            number: seen.revision,
            timestamp: seen.timestamp,
            tag: None,
        },
        alternative: false,
        time_to_live: Some(RETRY_AFTER_FAILURE),
    })
}

/// The verified manifest of now.
pub(super) fn manifest(
    config: &RepositoryConfig,
    trust: &Trust,
    objects: &Objects,
    now: jiff::Timestamp,
) -> Result<Manifest, Error> {
    let blacklist = Blacklist::load(&config.blacklists)?;
    let known = Known {
        timestamp: trust.remembered()?.map_or(0, |seen| seen.timestamp),
        shown: None,
    };
    match trust.ask(objects, &blacklist, known, now)? {
        Asked::Newer(manifest) => Ok(manifest),
        Asked::Offline(error) => Err(error),
        Asked::UpToDate => Err(Error::NotFound("manifest".to_owned())),
    }
}

pub(super) fn history(
    config: &RepositoryConfig,
    objects: &Objects,
    manifest: &Manifest,
) -> Result<History, Error> {
    let hash = manifest
        .history
        .ok_or_else(|| Error::NotFound(format!("history of {}", config.fqrn)))?;
    let object = ObjectRef::zlib(hash, Suffix::History);
    let file = objects.fetch_pinned(&object, || {
        objects.fetch_public(&object, manifest.alternative_locations, MAX_HISTORY_BYTES)
    })?;
    History::open(hash, file)
}

/// Fills in what only the catalog knows, when it was opened by its hash alone.
pub(super) fn complete(mut about: About, root: &crate::catalog::Catalog) -> Result<About, Error> {
    if about.number == 0 {
        let number = root.property("revision")?;
        about.number = number.and_then(|text| text.parse().ok()).unwrap_or(0);
    }
    if about.timestamp == 0 {
        let time = root.property("last_modified")?;
        about.timestamp = time.and_then(|text| text.parse().ok()).unwrap_or(0);
    }
    Ok(about)
}
