//! The snapshotter itself: synchronous, knows no gRPC.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use tokio::runtime::Handle;

use crate::api::types::Mount;
use crate::chains::{Chain, Chains};
use crate::claim::Flights;
use crate::content::ContentStore;
use crate::filters::Filters;
use crate::labels::{self, Labels};
use crate::layers::LazyLayers;
use crate::mounts::{self, Stack};
use crate::store::{Cursor, Directories, Kind, NewSnapshot, Records, Snapshot, Usage};
use crate::{Config, Error, Metrics, usage};

/// Serves containerd's snapshots from one state directory.
pub struct Snapshotter {
    pub(crate) config: Config,
    pub(crate) records: Records,
    pub(crate) directories: Directories,
    pub(crate) layers: Arc<dyn LazyLayers>,
    pub(crate) chains: Chains,
    pub(crate) flights: Flights,
    pub(crate) content: Option<ContentStore>,
    runtime: Handle,
    index_off: bool,
}

/// A Prepare or View.
#[derive(Clone, Debug, Default)]
pub struct NewRequest {
    /// Name of the new snapshot.
    pub key: String,
    /// Name of a committed snapshot; "" = none.
    pub parent: String,
    /// As they came.
    pub labels: Labels,
}

/// What a new snapshot stands on.
struct Base {
    /// Ordinary snapshots, nearest first.
    local: Vec<i64>,
    /// Lazy layers below them.
    chain: Option<Chain>,
}

impl Snapshotter {
    /// Opens the state directory; needs no network and mounts nothing. Background work runs on `runtime`.
    ///
    /// # Errors
    /// The directory cannot be used, or its records are of another version.
    pub fn open(
        config: Config,
        layers: Arc<dyn LazyLayers>,
        runtime: Handle,
    ) -> Result<Arc<Self>, Error> {
        // The directory must be there before the records; numbers are known only after them.
        Directories::open(&config.root, 0)?;
        let records = Records::open(&config.root)?;
        let last_id = records.last_id()?;
        let directories = Directories::open(&config.root, last_id)?;
        if last_id == 0 && directories.any()? {
            // Lost records: the directories' content may be all that is left. Their numbers are not used again.
            tracing::warn!(root = %config.root.display(), "directories of snapshots without any records are left alone");
        } else {
            let orphans = directories.discard_unknown(&records.ids()?)?;
            tracing::info!(root = %config.root.display(), orphans, "snapshot records opened");
        }
        let content = config
            .containerd_socket
            .clone()
            .map(|socket| ContentStore::new(socket, config.content_deadline, runtime.clone()));
        Ok(Arc::new(Self {
            config,
            records,
            directories,
            layers,
            chains: Chains::default(),
            flights: Flights::default(),
            content,
            runtime,
            index_off: mounts::index_supported(),
        }))
    }

    /// This snapshotter's counters.
    pub fn metrics(&self) -> &Metrics {
        &self.config.metrics
    }

    /// Prepare: an active snapshot's mounts, or [`Error::TargetExists`] if the layer asked for is there lazily.
    ///
    /// # Errors
    /// Key used, parent missing or not committed, lazy layers below not attachable.
    pub fn prepare(self: &Arc<Self>, request: NewRequest) -> Result<Vec<Mount>, Error> {
        let request = NewRequest {
            labels: labels::clean(request.labels),
            ..request
        };
        let parent = self.check_new(&request)?;
        let reason = match request.labels.get(labels::SNAPSHOT_REF) {
            None => None,
            Some(snapshot_ref) => {
                match self.claim_or_share(&request, snapshot_ref, parent.as_ref()) {
                    Ok(name) => return Err(Error::TargetExists(name)),
                    Err(refusal) => Some(refusal.reason()),
                }
            }
        };
        self.create(Kind::Active, &request, parent.as_ref(), reason)
    }

    /// View: a read-only snapshot's mounts.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn view(self: &Arc<Self>, request: NewRequest) -> Result<Vec<Mount>, Error> {
        let request = NewRequest {
            labels: labels::clean(request.labels),
            ..request
        };
        let parent = self.check_new(&request)?;
        self.create(Kind::View, &request, parent.as_ref(), None)
    }

    fn check_new(&self, request: &NewRequest) -> Result<Option<Snapshot>, Error> {
        if request.key.is_empty() {
            return Err(Error::Invalid("a snapshot needs a key".to_owned()));
        }
        self.records.check_new(&request.key, &request.parent)
    }

    /// Attaches what lies below, then makes directories and the record: a failure at any point leaves nothing.
    fn create(
        self: &Arc<Self>,
        kind: Kind,
        request: &NewRequest,
        parent: Option<&Snapshot>,
        reason: Option<&str>,
    ) -> Result<Vec<Mount>, Error> {
        let base = self.base(parent)?;
        let result = self.on_chain(base.chain.as_ref(), |attached| {
            let id = self.directories.next_id();
            let made = self.make_directories(id, kind, &base).and_then(|()| {
                self.records.create(&NewSnapshot {
                    id,
                    name: &request.key,
                    kind,
                    parent: &request.parent,
                    labels: &request.labels,
                    reason,
                    chain: base.chain.as_ref().map(|chain| chain.name.as_str()),
                    now: self.now(),
                })
            });
            if made.is_err() && let Err(error) = self.directories.discard(id) {
                tracing::warn!(%error, id, "directory of a failed snapshot is left until the next start");
            }
            made.map(|()| self.mounts_of(id, kind, &base, attached))
        });
        if result.is_err()
            && let Some(chain) = base.chain
        {
            self.release_later(chain);
        }
        result
    }

    fn make_directories(&self, id: i64, kind: Kind, base: &Base) -> Result<(), Error> {
        let owner = match (base.local.first(), &base.chain) {
            (Some(parent), _) => self.directories.owner(*parent)?,
            (None, Some(chain)) => self.layers.root_owner(&chain.layers),
            (None, None) => (0, 0),
        };
        self.directories.make(id, kind, owner)
    }

    /// Mounts of an active or view, also after a restart.
    ///
    /// # Errors
    /// No such snapshot, a committed one, or lazy layers below not attachable.
    pub fn mounts(self: &Arc<Self>, key: &str) -> Result<Vec<Mount>, Error> {
        let snapshot = self.records.get(key)?;
        if snapshot.kind == Kind::Committed {
            return Err(Error::CommittedHasNoMounts(key.to_owned()));
        }
        let base = self.base_of(&snapshot)?;
        self.on_chain(base.chain.as_ref(), |attached| {
            // A power cut may have lost them: the record is durable, they are not.
            self.make_directories(snapshot.id, snapshot.kind, &base)?;
            Ok(self.mounts_of(snapshot.id, snapshot.kind, &base, attached))
        })
    }

    fn mounts_of(&self, id: i64, kind: Kind, base: &Base, attached: Option<PathBuf>) -> Vec<Mount> {
        mounts::build(&Stack {
            kind,
            fs: self.directories.fs(id),
            work: self.directories.work(id),
            lowers: base
                .local
                .iter()
                .map(|id| self.directories.fs(*id))
                .chain(attached)
                .collect(),
            index_off: self.index_off,
        })
    }

    /// Runs `work` with the path at which the chain is attached, and keeps it attached meanwhile.
    fn on_chain<T>(
        &self,
        chain: Option<&Chain>,
        work: impl FnOnce(Option<PathBuf>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Some(chain) = chain else {
            return work(None);
        };
        self.chains.using(chain, || work(Some(self.attach(chain)?)))
    }

    fn attach(&self, chain: &Chain) -> Result<PathBuf, Error> {
        let attached = self.layers.attach(&chain.layers).inspect_err(|error| {
            self.metrics().attach_failures.inc();
            tracing::warn!(chain = chain.name, %error, "lazy layers cannot be attached");
        })?;
        self.metrics().attaches.inc();
        self.chains.attached(chain);
        Ok(attached)
    }

    fn base_of(&self, snapshot: &Snapshot) -> Result<Base, Error> {
        split(self.records.ancestors(snapshot.id)?)
    }

    fn base(&self, parent: Option<&Snapshot>) -> Result<Base, Error> {
        let Some(parent) = parent else {
            return split(Vec::new());
        };
        let mut below = vec![parent.clone()];
        below.extend(self.records.ancestors(parent.id)?);
        split(below)
    }

    /// Commit: one durable write, no network, no mount; the usage is counted afterwards.
    ///
    /// # Errors
    /// Name used, key missing or not active, another parent than before.
    pub fn commit(
        self: &Arc<Self>,
        name: &str,
        key: &str,
        labels: Labels,
        parent: &str,
    ) -> Result<(), Error> {
        if name.is_empty() {
            return Err(Error::Invalid(
                "a committed snapshot needs a name".to_owned(),
            ));
        }
        let started = Instant::now();
        let committed =
            self.records
                .commit(name, key, &labels::clean(labels), parent, self.now())?;
        self.metrics()
            .commit_seconds
            .observe(started.elapsed().as_secs_f64());
        let this = Arc::clone(self);
        self.runtime
            .spawn_blocking(move || this.store_usage(committed.id));
        Ok(())
    }

    fn store_usage(&self, id: i64) -> Usage {
        let usage = usage::scan(&self.directories.fs(id));
        if let Err(error) = self.records.set_usage(id, usage) {
            tracing::warn!(%error, id, "usage is not kept and will be counted again");
        }
        usage
    }

    /// Usage of a snapshot without its parents.
    ///
    /// # Errors
    /// No such snapshot.
    pub fn usage(&self, key: &str) -> Result<Usage, Error> {
        let snapshot = self.records.get(key)?;
        Ok(match (snapshot.kind, snapshot.usage) {
            (Kind::View, _) => Usage::default(),
            (Kind::Active, _) => usage::scan(&self.directories.fs(snapshot.id)),
            (Kind::Committed, Some(usage)) => usage,
            (Kind::Committed, None) => self.store_usage(snapshot.id),
        })
    }

    /// Remove: the name is free at once, the directory goes to the trash, an unused chain is detached in the background.
    ///
    /// # Errors
    /// No such snapshot, or it has children.
    pub fn remove(self: &Arc<Self>, key: &str) -> Result<(), Error> {
        let base = self
            .records
            .get(key)
            .and_then(|snapshot| self.base_of(&snapshot));
        let removed = self.records.remove(key)?;
        if removed.claim.is_none()
            && let Err(error) = self.directories.discard(removed.id)
        {
            // An error here would stop containerd's garbage collection for all; the next start discards it.
            tracing::warn!(%error, key, "directory of a removed snapshot is left until the next start");
        }
        if removed.chain.is_some()
            && let Ok(Base {
                chain: Some(chain), ..
            }) = base
        {
            self.release_later(chain);
        }
        Ok(())
    }

    /// Detaches the chain in the background unless somebody uses it.
    fn release_later(self: &Arc<Self>, chain: Chain) {
        let this = Arc::clone(self);
        self.runtime.spawn_blocking(move || this.release(&chain));
    }

    /// What the records say of a snapshot.
    ///
    /// # Errors
    /// No such snapshot.
    pub fn stat(&self, key: &str) -> Result<Snapshot, Error> {
        self.records.get(key)
    }

    /// Update: replaces labels (`labels`, or no path at all) or single ones (`labels.<key>`; empty deletes).
    ///
    /// # Errors
    /// No such snapshot, or a path that is no label.
    pub fn update(&self, name: &str, new: Labels, paths: &[String]) -> Result<Snapshot, Error> {
        self.records.update(name, self.now(), |mut old| {
            if paths.is_empty() {
                return Ok(labels::clean(new));
            }
            for path in paths {
                match path.strip_prefix("labels.") {
                    Some(key) => {
                        old.insert(key.to_owned(), new.get(key).cloned().unwrap_or_default());
                    }
                    None if path == "labels" => old = new.clone(),
                    None => {
                        return Err(Error::Invalid(format!(
                            "cannot update {path:?} field on snapshot {name:?}"
                        )));
                    }
                }
            }
            Ok(labels::clean(old))
        })
    }

    /// One block of a list, and where the next one begins; `None` at the end. Nothing is held between two blocks.
    pub(crate) fn list(
        &self,
        filters: &Filters,
        after: Cursor,
    ) -> Result<Option<(Vec<Snapshot>, Cursor)>, Error> {
        let demanded = filters.only_value(&["labels", labels::SNAPSHOT_REF]);
        let mut page = self.records.page(after, demanded)?;
        let Some(next) = page.last().map(Cursor::after) else {
            return Ok(None);
        };
        page.retain(|snapshot| filters.matches(snapshot));
        Ok(Some((page, next)))
    }

    /// Nanoseconds since 1970.
    pub(crate) fn now(&self) -> i64 {
        let since = (self.config.now)()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }

    /// Attaches what running containers use; failures are left to the next Mounts.
    pub(crate) fn restore(&self) -> Result<(), Error> {
        for user in self.records.chain_users()? {
            if let Some(chain) = self.base_of(&user)?.chain {
                // The failure is logged and counted; other images are not concerned.
                let _ = self.chains.using(&chain, || self.attach(&chain));
            }
        }
        Ok(())
    }
}

/// Splits ancestors (nearest first) into local layers and the chain below them.
fn split(ancestors: Vec<Snapshot>) -> Result<Base, Error> {
    let mut local = Vec::new();
    let mut layers = Vec::new();
    for snapshot in ancestors {
        match snapshot.claim {
            Some(claim) => layers.push(claim.layer),
            None if layers.is_empty() => local.push(snapshot.id),
            None => {
                let problem = "lies below a lazy layer but is none".to_owned();
                return Err(Error::BadRecord {
                    id: snapshot.id,
                    problem,
                });
            }
        }
    }
    layers.reverse();
    Ok(Base {
        local,
        chain: Chain::new(layers),
    })
}
