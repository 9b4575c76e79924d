//! Layers in a repository that our own client reads.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cvmfs::{Content, Dirent, Repository, Revision, WalkEntry};
use image::Digest;
use image::repository_layout::{LayerStatement, Layout, MAX_LAYERS_JSON, STRAY_CATALOG_MARKER};
use tree::{Builder, Entry, Kind};

use crate::builds::lock;
use crate::content::{ContentRef, decode};
use crate::error::SourceError;
use crate::implicit::{self, Time};
use crate::source::{Embedded, Layer, LayerSource, Located, OpenRepository, Opened, Wanted};

/// How long a failed attempt to open the repository stands, so that a pull of many layers does not
/// wait for the same dead host each time.
const RETRY_OPEN_AFTER: Duration = Duration::from_secs(5);

/// An embedded repository as a source; opened when it is first needed.
pub(crate) struct EmbeddedSource {
    name: String,
    open: OpenRepository,
    trusted: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    repository: Option<Repository>,
    failed: Option<(Instant, String)>,
    refreshed: Option<Instant>,
}

impl EmbeddedSource {
    pub(crate) fn is_trusted(&self) -> bool {
        self.trusted
    }

    pub(crate) fn new(embedded: Embedded) -> Self {
        Self {
            name: format!("cvmfs:{}", embedded.fqrn),
            open: embedded.open,
            trusted: embedded.trust_without_diff_id,
            state: Mutex::default(),
        }
    }

    pub(crate) fn repository(&self) -> Result<Repository, SourceError> {
        let mut state = lock(&self.state);
        if let Some(repository) = &state.repository {
            return Ok(repository.clone());
        }
        if let Some((at, reason)) = &state.failed
            && at.elapsed() < RETRY_OPEN_AFTER
        {
            return Err(self.unavailable(reason.clone()));
        }
        match (self.open)() {
            Ok(repository) => {
                state.refreshed = Some(Instant::now());
                state.repository = Some(repository.clone());
                Ok(repository)
            }
            Err(error) => {
                state.failed = Some((Instant::now(), error.to_string()));
                Err(self.failure(&error))
            }
        }
    }

    /// The revision for new claims: at most one time-to-live old, or the last one that was seen
    /// when no newer can be had.
    pub(crate) fn revision(&self) -> Result<Arc<Revision>, SourceError> {
        let repository = self.repository()?;
        let stale = {
            let mut state = lock(&self.state);
            let stale = state
                .refreshed
                .is_none_or(|at| at.elapsed() >= repository.time_to_live());
            if stale {
                // One caller refreshes; the others go on with what there is.
                state.refreshed = Some(Instant::now());
            }
            stale
        };
        if stale && let Err(error) = repository.refresh() {
            tracing::warn!(source = self.name, %error, "no newer revision can be had");
        }
        Ok(repository.current())
    }

    fn unavailable(&self, reason: String) -> SourceError {
        SourceError::Unavailable {
            source_name: self.name.clone(),
            reason,
        }
    }

    pub(crate) fn corrupt(&self, reason: String) -> SourceError {
        SourceError::Corrupt {
            source_name: self.name.clone(),
            reason,
        }
    }

    pub(crate) fn failure(&self, error: &cvmfs::Error) -> SourceError {
        if error.is_unavailable() {
            self.unavailable(error.to_string())
        } else {
            self.corrupt(error.to_string())
        }
    }

    fn locate_in(
        &self,
        revision: &Revision,
        layout: Layout,
        layer: &Digest,
    ) -> Result<Option<Located>, SourceError> {
        let path = layout.files(layer);
        let failure = |error| self.failure(&error);
        let Some(root) = revision.lookup(path.as_bytes()).map_err(failure)? else {
            return Ok(None);
        };
        if root.kind != cvmfs::Kind::Directory {
            return Err(self.corrupt(format!("{path} is not a directory")));
        }
        let nested = revision.nested_catalog(path.as_bytes()).map_err(failure)?;
        let identity = identity(revision, &path, nested);
        let statement = self.statement(revision, layout, layer)?;
        Ok(Some(Located {
            source: self.name.clone(),
            trusted: self.trusted,
            path,
            identity,
            diff_id: statement.map(|statement| statement.diff_id),
            size: statement.map_or(0, |statement| statement.diff_size),
        }))
    }

    /// A revision may have come since the layer was found: its tree must not be made from another
    /// layer than the one it is named by.
    fn check_identity(&self, revision: &Revision, located: &Located) -> Result<(), SourceError> {
        let nested = revision
            .nested_catalog(located.path.as_bytes())
            .map_err(|error| self.failure(&error))?;
        if identity(revision, &located.path, nested) == located.identity {
            Ok(())
        } else {
            Err(SourceError::Changed {
                path: located.path.clone().into(),
            })
        }
    }

    /// Only DUCC's layout has directories that its ingestion made.
    fn implicit_since(&self, revision: &Revision, root: &str) -> Result<Option<Time>, SourceError> {
        if !root.starts_with("/.layers/") {
            return Ok(None);
        }
        let time = |path: &str| -> Result<Option<Time>, SourceError> {
            let dirent = revision
                .lookup(path.as_bytes())
                .map_err(|error| self.failure(&error))?;
            Ok(dirent.map(|dirent| mtime(&dirent)))
        };
        let marker = time(&format!("{root}/{STRAY_CATALOG_MARKER}"))?;
        Ok(time(root)?.map(|root| implicit::since(root, marker)))
    }

    fn statement(
        &self,
        revision: &Revision,
        layout: Layout,
        layer: &Digest,
    ) -> Result<Option<LayerStatement>, SourceError> {
        let Some(path) = layout.layers_json(layer) else {
            return Ok(None);
        };
        let json = revision
            .read_small(path.as_bytes(), MAX_LAYERS_JSON as u64)
            .map_err(|error| self.failure(&error))?;
        let Some(json) = json else { return Ok(None) };
        LayerStatement::parse(&json, layer)
            .map(Some)
            .map_err(|error| self.corrupt(format!("{path}: {error}")))
    }
}

impl LayerSource for EmbeddedSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn locate(&self, wanted: &Wanted) -> Result<Option<Located>, SourceError> {
        let layer = &wanted.blob.digest;
        let revision = self.revision()?;
        for layout in Layout::ALL {
            if let Some(located) = self.locate_in(&revision, layout, layer)? {
                return Ok(Some(located));
            }
        }
        Ok(None)
    }

    fn build(&self, _: &Wanted, located: &Located) -> Result<Vec<u8>, SourceError> {
        let revision = self.repository()?.current();
        self.check_identity(&revision, located)?;
        let mut layer = LayerBuilder::new(self.implicit_since(&revision, &located.path)?);
        let mut broken = None;
        revision
            .walk(
                located.path.as_bytes(),
                &mut |path, entry| match layer.add(path, entry) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(cause) => {
                        broken = Some(cause);
                        ControlFlow::Break(())
                    }
                },
            )
            .map_err(|error| self.failure(&error))?;
        let built = match broken {
            Some(cause) => Err(cause),
            None => layer.builder.finish(),
        };
        built.map_err(|cause| SourceError::Tree {
            source_name: self.name.clone(),
            cause,
        })
    }

    fn open(
        &self,
        _: &Layer,
        extent: &tree::Extent<'_>,
        _: u64,
        _: u64,
    ) -> Result<Opened, SourceError> {
        let repository = self.repository()?;
        let object = match decode(extent.content) {
            Some(ContentRef::Object(object)) => repository.fetch(&object, Some(extent.length)),
            Some(ContentRef::External { hash, path }) => {
                repository.fetch_external(path, extent.offset, extent.length, &hash)
            }
            Some(ContentRef::File { .. } | ContentRef::Chunk(_)) | None => {
                return Err(self.corrupt("a tree refers to content of another kind".to_owned()));
            }
        };
        object
            .map(Opened::Object)
            .map_err(|error| self.failure(&error))
    }
}

/// Turns a walk over a layer's directory into a tree.
struct LayerBuilder {
    builder: Builder,
    /// See [`implicit::since`].
    implicit_since: Option<Time>,
}

/// What makes a layer's content this and no other.
fn identity(revision: &Revision, path: &str, nested: Option<(cvmfs::ContentHash, u64)>) -> String {
    // A layer without a catalog of its own is as old as the revision that shows it.
    nested.map_or_else(
        || format!("root {} {path}", revision.root_hash()),
        |(hash, _)| hash.to_string(),
    )
}

fn mtime(dirent: &Dirent) -> Time {
    (dirent.mtime, i64::from(dirent.mtime_nanos))
}

impl LayerBuilder {
    fn new(implicit_since: Option<Time>) -> Self {
        Self {
            builder: Builder::new(),
            implicit_since,
        }
    }

    fn add(&mut self, path: &[u8], walked: &WalkEntry) -> Result<(), tree::BuildError> {
        if path == STRAY_CATALOG_MARKER.as_bytes() {
            return Ok(());
        }
        let dirent = &walked.dirent;
        let entry = Entry {
            kind: kind(dirent.kind),
            mode: dirent.mode & 0o7777,
            uid: dirent.uid,
            gid: dirent.gid,
            size: dirent.size,
            mtime: dirent.mtime,
            mtime_nanos: dirent.mtime_nanos,
            rdev: dirent.rdev,
            xattrs: walked.xattrs.clone(),
            symlink: dirent.symlink.clone(),
            extents: extents(walked),
            // Groups count anew in each catalog.
            link_group: (dirent.link_group != 0)
                .then(|| u64::from(walked.catalog) << 32 | u64::from(dirent.link_group)),
            implicit: self.is_implicit(dirent),
        };
        self.builder.add(path, entry)
    }

    fn is_implicit(&self, dirent: &Dirent) -> bool {
        let owner = (dirent.uid, dirent.gid);
        dirent.kind == cvmfs::Kind::Directory
            && self.implicit_since.is_some_and(|since| {
                implicit::is_implicit(since, dirent.mode, owner, mtime(dirent))
            })
    }
}

fn kind(kind: cvmfs::Kind) -> Kind {
    match kind {
        cvmfs::Kind::File => Kind::File,
        cvmfs::Kind::Directory => Kind::Directory,
        cvmfs::Kind::Symlink => Kind::Symlink,
        cvmfs::Kind::CharDevice => Kind::CharDevice,
        cvmfs::Kind::BlockDevice => Kind::BlockDevice,
        cvmfs::Kind::Fifo => Kind::Fifo,
        cvmfs::Kind::Socket => Kind::Socket,
    }
}

fn extents(walked: &WalkEntry) -> Vec<(u64, u64, Vec<u8>)> {
    match &walked.content {
        Content::None => Vec::new(),
        // An empty file has an object, but nothing to read.
        Content::Whole(_) if walked.dirent.size == 0 => Vec::new(),
        Content::Whole(object) => {
            vec![(0, walked.dirent.size, ContentRef::Object(*object).encode())]
        }
        Content::Chunked(chunks) => chunks
            .iter()
            .map(|chunk| {
                (
                    chunk.offset,
                    chunk.size,
                    ContentRef::Object(chunk.object).encode(),
                )
            })
            .collect(),
        Content::External(chunks) => chunks
            .iter()
            .filter(|chunk| chunk.size > 0)
            .map(|chunk| {
                let external = ContentRef::External {
                    hash: chunk.hash,
                    path: &chunk.path,
                };
                (chunk.offset, chunk.size, external.encode())
            })
            .collect(),
    }
}
