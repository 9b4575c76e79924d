//! A repository, opened and kept up to date.

mod opening;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::blacklist::Blacklist;
use crate::breadcrumb::Breadcrumb;
use crate::catalog::Counters;
use crate::config::{OpenAt, RepositoryConfig};
use crate::content::Content;
use crate::dirent::Dirent;
use crate::error::Error;
use crate::hash::ContentHash;
use crate::history::Tag;
use crate::keys::MasterKeys;
use crate::metrics::Metrics;
use crate::nodes::{NodeId, Nodes};
use crate::object::ObjectRef;
use crate::objects::Objects;
use crate::revision::Revision;
use crate::store::Catalogs;
use crate::trust::{Asked, Known, Trust};
use crate::xattr::Xattrs;

/// After a failed check the next one comes at the latest then.
const RETRY_AFTER_FAILURE: Duration = Duration::from_secs(180);

/// What a refresh found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Nothing new, or fixed to a revision.
    UpToDate,
    /// [`Repository::current`] is a newer revision now.
    Changed,
}

/// An open repository. Cloning costs a reference count.
///
/// Methods wait for the network and must not be called on a worker thread of an asynchronous runtime.
#[derive(Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

struct Inner {
    config: RepositoryConfig,
    trust: Option<Trust>,
    objects: Arc<Objects>,
    catalogs: Arc<Catalogs>,
    nodes: Nodes,
    current: RwLock<Current>,
    /// One refresh at a time.
    refreshing: Mutex<()>,
    /// Milliseconds until the next check.
    time_to_live: AtomicU64,
    /// The same, as long as nothing fails.
    standing_time_to_live: AtomicU64,
    now: Box<dyn Fn() -> jiff::Timestamp + Send + Sync>,
    metrics: Metrics,
}

#[derive(Clone)]
struct Current {
    revision: Arc<Revision>,
    root: NodeId,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository")
            .field("fqrn", &self.inner.config.fqrn)
            .field("revision", &self.current())
            .finish_non_exhaustive()
    }
}

impl Repository {
    /// Opens a repository: verifies the chain of trust and loads the root catalog. When no manifest can be fetched (not: when one does not
    /// verify), the state seen last is shown, if the cache has its root catalog.
    ///
    /// `now` tells the time for the whitelist's expiry.
    ///
    /// # Errors
    /// [`Error`]: everything but [`Error::NotADirectory`] and [`Error::TooLarge`] may occur.
    pub fn open(
        config: RepositoryConfig,
        cache: Arc<cache::Cache>,
        runtime: tokio::runtime::Handle,
        now: impl Fn() -> jiff::Timestamp + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        opening::check(&config)?;
        let metrics = Metrics::default();
        let trust = match config.open_at {
            // The hash is all the authority it takes.
            OpenAt::RootHash(_) => None,
            OpenAt::Trunk | OpenAt::Tag(_) | OpenAt::Date(_) => Some(Trust {
                fqrn: config.fqrn.clone(),
                keys: MasterKeys::load(&config.public_keys)?,
                breadcrumb: Breadcrumb::path(&config.state_directory, &config.fqrn),
            }),
        };
        let objects = Arc::new(opening::objects(&config, cache, &metrics, runtime)?);
        let catalogs = Arc::new(Catalogs::new(
            objects.clone(),
            config.open_catalogs,
            metrics.clone(),
        ));
        let opened = opening::find(&config, trust.as_ref(), &objects, now())?;
        let root = catalogs.get_root(opened.root, opened.alternative)?;
        let about = opening::complete(opened.about, &root)?;
        let nodes = Nodes::new(catalogs.clone());
        let root_node = nodes.attach(opened.root)?;
        let revision = Arc::new(Revision::new(root, catalogs.clone(), about));
        let repository = Self {
            inner: Arc::new(Inner {
                config,
                trust,
                objects,
                catalogs,
                nodes,
                current: RwLock::new(Current {
                    revision: revision.clone(),
                    root: root_node,
                }),
                refreshing: Mutex::new(()),
                time_to_live: AtomicU64::new(0),
                standing_time_to_live: AtomicU64::new(0),
                now: Box::new(now),
                metrics,
            }),
        };
        repository.inner.shown(&revision, opened.time_to_live);
        Ok(repository)
    }

    /// Fully qualified repository name.
    pub fn fqrn(&self) -> &str {
        &self.inner.config.fqrn
    }

    /// The revision shown now; stays usable when a newer one is shown.
    pub fn current(&self) -> Arc<Revision> {
        self.inner.current().revision
    }

    /// Looks for a newer revision. A failure leaves the current one in place, except that a blacklisted one must not be used any longer.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub fn refresh(&self) -> Result<Refresh, Error> {
        let inner = &*self.inner;
        let _one = inner
            .refreshing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let outcome = inner.refresh();
        if outcome.is_err() {
            inner.metrics.failed_refreshes.inc();
            inner.set_time_to_live(Some(RETRY_AFTER_FAILURE));
        }
        outcome
    }

    /// How long to wait before the next [`Repository::refresh`]; `Duration::MAX` if the revision is fixed.
    pub fn time_to_live(&self) -> Duration {
        match self.inner.time_to_live.load(Ordering::Relaxed) {
            u64::MAX => Duration::MAX,
            milliseconds => Duration::from_millis(milliseconds),
        }
    }

    /// Counters.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// All tags of the repository, newest first.
    ///
    /// # Errors
    /// As [`Repository::open`]; [`Error::NotFound`] if the repository has no history.
    pub fn tags(&self) -> Result<Vec<Tag>, Error> {
        let inner = &*self.inner;
        let trust = inner
            .trust
            .as_ref()
            .ok_or_else(|| Error::NotFound("history of a root hash".to_owned()))?;
        let manifest = opening::manifest(&inner.config, trust, &inner.objects, (inner.now)())?;
        opening::history(&inner.config, &inner.objects, &manifest)?.all()
    }

    /// An object's decoded content: from the cache, else fetched once for all who wait, with fail-over, verified, inflated.
    /// A `size` that is given is enforced.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Corrupt`], [`Error::Cache`].
    pub fn fetch(&self, object: &ObjectRef, size: Option<u64>) -> Result<cache::Object, Error> {
        self.inner.objects.fetch(object, size)
    }

    /// A piece of an external file (`path` as in [`crate::ExternalChunk`]), like [`Repository::fetch`].
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Corrupt`], [`Error::Cache`].
    pub fn fetch_external(
        &self,
        path: &[u8],
        offset: u64,
        size: u64,
        hash: &ContentHash,
    ) -> Result<cache::Object, Error> {
        self.inner.objects.fetch_external(path, offset, size, hash)
    }

    /// The node of the current revision's root.
    pub fn root(&self) -> NodeId {
        self.inner.current().root
    }

    /// Attributes of a node; the root's name is empty.
    ///
    /// # Errors
    /// [`Error::NotFound`] for numbers that were never handed out; [`Error::Unavailable`] or [`Error::Corrupt`] if its catalog cannot be had.
    pub fn node(&self, node: NodeId) -> Result<Dirent, Error> {
        self.inner.nodes.node(node)
    }

    /// The entry of a directory, hidden ones too.
    ///
    /// # Errors
    /// [`Error::NotADirectory`], and as [`Repository::node`].
    pub fn lookup_child(
        &self,
        parent: NodeId,
        name: &[u8],
    ) -> Result<Option<(NodeId, Dirent)>, Error> {
        self.inner.nodes.lookup_child(parent, name)
    }

    /// Up to `limit` entries of a directory behind the cookie `after` (0 = from the start), hidden ones left out.
    /// Each comes with the cookie that continues behind it. Only an empty list means the end.
    ///
    /// # Errors
    /// [`Error::NotADirectory`], and as [`Repository::node`].
    pub fn children(
        &self,
        directory: NodeId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, NodeId, Dirent)>, Error> {
        self.inner.nodes.children(directory, after, limit)
    }

    /// Where a node's bytes are; remembered for a while.
    ///
    /// # Errors
    /// As [`Repository::node`].
    pub fn node_content(&self, node: NodeId) -> Result<Arc<Content>, Error> {
        self.inner.nodes.content(node)
    }

    /// Hash of the catalog that lists a directory (the nested one at its mountpoint), or holds another node.
    ///
    /// # Errors
    /// As [`Repository::node`].
    pub fn node_catalog(&self, node: NodeId) -> Result<ContentHash, Error> {
        self.inner.nodes.catalog_hash(node)
    }

    /// Extended attributes (full name, value) of a node.
    ///
    /// # Errors
    /// As [`Repository::node`].
    pub fn node_xattrs(&self, node: NodeId) -> Result<Xattrs, Error> {
        self.inner.nodes.xattrs(node)
    }

    /// Sums over the current revision, for `statfs`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the counters are malformed.
    pub fn statistics(&self) -> Result<Counters, Error> {
        self.current().counters()
    }
}

impl Inner {
    fn current(&self) -> Current {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn refresh(&self) -> Result<Refresh, Error> {
        let (Some(trust), OpenAt::Trunk) = (&self.trust, &self.config.open_at) else {
            return Ok(Refresh::UpToDate);
        };
        let current = self.current().revision;
        let blacklist = Blacklist::load(&self.config.blacklists)?;
        blacklist.check_revision(&self.config.fqrn, current.number())?;
        let known = Known {
            timestamp: current.timestamp().map_or(0, jiff::Timestamp::as_second),
            shown: Some((current.number(), current.root_hash())),
        };
        let manifest = match trust.ask(&self.objects, &blacklist, known, (self.now)())? {
            Asked::Newer(manifest) => manifest,
            Asked::UpToDate => {
                // The last failure is overcome.
                let standing = self.standing_time_to_live.load(Ordering::Relaxed);
                self.time_to_live.store(standing, Ordering::Relaxed);
                return Ok(Refresh::UpToDate);
            }
            Asked::Offline(error) => return Err(error),
        };
        let opened = opening::Opened::from_manifest(&manifest);
        let root = self.catalogs.get_root(opened.root, opened.alternative)?;
        let node = self.nodes.attach(opened.root)?;
        let revision = Arc::new(Revision::new(root, self.catalogs.clone(), opened.about));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Current {
            revision: revision.clone(),
            root: node,
        };
        self.shown(&revision, opened.time_to_live);
        Ok(Refresh::Changed)
    }

    /// Remembers what is shown now. A breadcrumb that cannot be written costs protection later, not the revision.
    fn shown(&self, revision: &Revision, time_to_live: Option<Duration>) {
        self.metrics.revision.set(revision.number().cast_signed());
        self.set_time_to_live(time_to_live);
        let standing = self.time_to_live.load(Ordering::Relaxed);
        self.standing_time_to_live
            .store(standing, Ordering::Relaxed);
        let (Some(trust), OpenAt::Trunk) = (&self.trust, &self.config.open_at) else {
            return;
        };
        let Some(timestamp) = revision.timestamp() else {
            return;
        };
        let breadcrumb = Breadcrumb {
            root_catalog: revision.root_hash(),
            timestamp: timestamp.as_second(),
            revision: revision.number(),
        };
        if let Err(error) = breadcrumb.store(&trust.breadcrumb) {
            tracing::warn!(fqrn = self.config.fqrn, %error, "breadcrumb not written");
        }
    }

    fn set_time_to_live(&self, time_to_live: Option<Duration>) {
        let milliseconds = time_to_live.map_or(u64::MAX, |time_to_live| {
            let time_to_live =
                time_to_live.min(self.config.max_time_to_live.unwrap_or(Duration::MAX));
            u64::try_from(time_to_live.as_millis()).unwrap_or(u64::MAX - 1)
        });
        self.time_to_live.store(milliseconds, Ordering::Relaxed);
    }
}
