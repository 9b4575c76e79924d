//! Chains that are mounted: one mount a chain, whoever asks.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fuse::{MountOptions, Session};

use crate::builds::lock;
use crate::chain_fs::ChainFs;
use crate::error::AttachError;
use crate::metrics::Metrics;
use crate::own_mounts::OwnMounts;
use crate::space::Space;
use crate::tree_store::{create_private, disk, files, is_key};

/// Name of the merged tree in a chain's directory.
const TREE: &str = "tree";

/// The directory of chains.
pub(crate) struct Attachments {
    directory: PathBuf,
    chains: Mutex<HashMap<String, Arc<Mutex<Option<Attached>>>>>,
    workers: usize,
    read_ahead_kib: u32,
    space: Arc<Space>,
    own: Arc<OwnMounts>,
    metrics: Metrics,
}

struct Attached {
    session: Session,
    root_owner: (u32, u32),
    /// Names of its layers' trees.
    trees: Vec<String>,
}

impl Attachments {
    /// Opens the directory and detaches what a dead daemon left mounted there: without its server
    /// such a mount answers nothing. Its path is never touched, only the mount table is read.
    pub(crate) fn open(
        root: &Path,
        workers: usize,
        read_ahead_kib: u32,
        space: Arc<Space>,
        metrics: Metrics,
    ) -> Result<Self, AttachError> {
        let directory = root.join("chains");
        create_private(&directory)?;
        detach_below(&directory)?;
        space.look(files(&directory)?.map(|chain| chain.join(TREE)));
        Ok(Self {
            own: Arc::new(OwnMounts::new(directory.clone())),
            directory,
            chains: Mutex::default(),
            workers,
            read_ahead_kib,
            space,
            metrics,
        })
    }

    /// What this process serves.
    pub(crate) fn own(&self) -> &Arc<OwnMounts> {
        &self.own
    }

    /// Where the merged tree of a chain is kept.
    pub(crate) fn tree_path(&self, key: &str) -> PathBuf {
        self.directory.join(key).join(TREE)
    }

    pub(crate) fn mount_point(&self, key: &str) -> PathBuf {
        self.directory.join(key).join("fs")
    }

    /// Mounts the chain of these trees unless it is mounted; `make` gives its file system.
    pub(crate) fn attach(
        &self,
        key: &str,
        trees: &[&str],
        make: impl FnOnce() -> Result<ChainFs, AttachError>,
    ) -> Result<PathBuf, AttachError> {
        let chain = self.chain(key);
        let mut attached = lock(&chain);
        let path = self.mount_point(key);
        let mounted = is_mount_point(&path)?;
        if mounted
            && attached
                .as_ref()
                .is_some_and(|attached| attached.session.is_alive())
        {
            return Ok(path);
        }
        create_private(&self.directory.join(key))?;
        let files = make()?;
        if mounted {
            // Served by nobody any more, or by somebody else: never to be touched.
            fuse::detach_path(&path).map_err(|cause| disk(&path, cause))?;
        } else {
            create_private(&path)?;
        }
        let root_owner = files.root_owner();
        let files = Arc::new(files);
        let session = Session::mount(Arc::clone(&files) as _, &path, self.options())?;
        let own = self.own.serve(session.device());
        files.own.get_or_init(|| own);
        let dead = attached.replace(Attached {
            session,
            root_owner,
            trees: trees.iter().map(|&tree| tree.to_owned()).collect(),
        });
        if dead.is_none() {
            self.metrics.chains.inc();
        }
        self.metrics.attached.inc();
        Ok(path)
    }

    /// Owner of a mounted chain's root directory.
    pub(crate) fn root_owner(&self, key: &str) -> Option<(u32, u32)> {
        let chain = self.chain(key);
        let attached = lock(&chain);
        attached.as_ref().map(|attached| attached.root_owner)
    }

    /// Unmounts the chain. An overlay that still stands above it reads on: the session serves until
    /// the kernel has no user left, and only then ends.
    pub(crate) fn detach(&self, key: &str) {
        let chain = self.chain(key);
        let mut attached = lock(&chain);
        if let Some(attached) = attached.take() {
            self.metrics.chains.dec();
            if let Err(error) = attached.session.detach() {
                tracing::warn!(chain = key, %error, "cannot detach");
            }
        }
        self.remove_files(key);
        drop(attached);
        self.forget(key, &chain);
    }

    /// Removes what is left of chains that are neither mounted nor in `keep`; returns how many.
    /// Stopped anywhere, the next call does the rest.
    pub(crate) fn retain(&self, keep: &HashSet<String>) -> Result<usize, AttachError> {
        let mut removed = 0;
        for path in files(&self.directory)? {
            let key = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            let Some(key) = key.filter(|key| is_key(key) && !keep.contains(key)) else {
                continue;
            };
            let chain = self.chain(&key);
            // Locked: it is being attached or detached just now.
            if let Ok(attached) = chain.try_lock()
                && attached.is_none()
                && !is_mount_point(&self.mount_point(&key))?
            {
                self.remove_files(&key);
                removed += 1;
            }
            self.forget(&key, &chain);
        }
        Ok(removed)
    }

    /// The layers' trees of what is mounted.
    pub(crate) fn trees(&self) -> HashSet<String> {
        let chains: Vec<_> = lock(&self.chains).values().cloned().collect();
        let mut trees = HashSet::new();
        for chain in chains {
            // Locked: being attached, its trees were just asked for.
            if let Ok(attached) = chain.try_lock()
                && let Some(attached) = &*attached
            {
                trees.extend(attached.trees.iter().cloned());
            }
        }
        trees
    }

    /// Removes a chain's directory as far as it goes: never what is mounted.
    fn remove_files(&self, key: &str) {
        let directory = self.directory.join(key);
        let _ = fs::remove_dir(self.mount_point(key));
        for path in files(&directory).into_iter().flatten() {
            // The tree, or half of one that a crash left.
            let name = path.file_name().map(|name| name.to_string_lossy());
            if name.is_some_and(|name| name.starts_with(TREE)) {
                let _ = fs::remove_file(&path);
            }
        }
        // Whatever is left goes at the next detach of the same chain, or with what no record names.
        let _ = fs::remove_dir(&directory);
        self.space.look([self.tree_path(key)]);
    }

    /// Drops the chain's place if nobody else holds it.
    fn forget(&self, key: &str, chain: &Arc<Mutex<Option<Attached>>>) {
        let mut chains = lock(&self.chains);
        let empty = chain.try_lock().is_ok_and(|attached| attached.is_none());
        if empty && Arc::strong_count(chain) == 2 {
            chains.remove(key);
        }
    }

    /// Unmounts every chain, on purpose.
    pub(crate) fn release(&self) -> Result<usize, AttachError> {
        lock(&self.chains).clear();
        self.metrics.chains.set(0);
        detach_below(&self.directory)
    }

    fn chain(&self, key: &str) -> Arc<Mutex<Option<Attached>>> {
        Arc::clone(lock(&self.chains).entry(key.to_owned()).or_default())
    }

    fn options(&self) -> MountOptions {
        MountOptions {
            source: "outcrop".to_owned(),
            subtype: "outcrop".to_owned(),
            default_permissions: true,
            read_ahead_kib: self.read_ahead_kib,
            workers: self.workers,
            suid: true,
            dev: true,
            ..MountOptions::default()
        }
    }
}

fn is_mount_point(path: &Path) -> Result<bool, AttachError> {
    let mounts = fuse::mounts_below(path).map_err(|cause| disk(path, cause))?;
    Ok(!mounts.is_empty())
}

/// Detaches every chain's mount below a directory; returns how many.
pub(crate) fn detach_below(directory: &Path) -> Result<usize, AttachError> {
    let mounts = fuse::mounts_below(directory).map_err(|cause| disk(directory, cause))?;
    let mut detached = 0;
    for mount in mounts
        .iter()
        .rev()
        .filter(|mount| is_chain(directory, &mount.mount_point))
    {
        fuse::detach_path(&mount.mount_point).map_err(|cause| disk(&mount.mount_point, cause))?;
        detached += 1;
    }
    Ok(detached)
}

fn is_chain(directory: &Path, mount_point: &Path) -> bool {
    let Ok(below) = mount_point.strip_prefix(directory) else {
        return false;
    };
    let mut parts = below
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned());
    let key = parts.next();
    key.is_some_and(|key| is_key(&key)) && parts.next().as_deref() == Some("fs")
}
