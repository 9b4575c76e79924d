//! Layers in a directory that somebody else's client keeps mounted. Its bytes are trusted as that
//! client is: they are read through and never enter the cache.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use image::Digest;
use image::repository_layout::{LayerStatement, Layout, MAX_LAYERS_JSON, STRAY_CATALOG_MARKER};
use tree::{Builder, Entry, Kind};

use crate::catalog_watch::{self, CatalogWatch};
use crate::content::{Belongs, ContentRef, Stamp, decode};
use crate::error::SourceError;
use crate::implicit::{self, Time};
use crate::own_mounts::OwnMounts;
use crate::patience::{NoAnswer, Patience, Pulse};
use crate::source::{Layer, LayerSource, Located, Mounted, Opened, Wanted};

/// Bounds of a walk: a directory of somebody else's may hold anything.
const MAX_ENTRIES: usize = 4_000_000;
const MAX_DEPTH: usize = 1_000;
/// Entries whose owners tell whether the client claims ownership.
const OWNER_SAMPLE: usize = 64;

/// After so many unanswered requests that nothing is asked, something is tried this often.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// A mounted repository as a source. Its client may hang, so nothing below the directory is touched
/// but by threads that may be lost.
pub(crate) struct MountedSource {
    repository: Arc<MountedRepository>,
    patience: Patience,
}

impl MountedSource {
    pub(crate) fn new(mounted: Mounted, own_mounts: Arc<OwnMounts>, deadline: Duration) -> Self {
        let repository = MountedRepository {
            name: format!("mounted:{}", mounted.directory.display()),
            directory: mounted.directory,
            own_mounts,
            catalogs: CatalogWatch::default(),
            trusted: mounted.trust_without_diff_id,
        };
        Self {
            repository: Arc::new(repository),
            patience: Patience::new(deadline, ASK_AGAIN_AFTER),
        }
    }

    pub(crate) fn is_trusted(&self) -> bool {
        self.repository.trusted
    }

    /// Length of a file below the repository's root; `None` if there is none.
    pub(crate) fn file_length(&self, below: PathBuf) -> Result<Option<u64>, SourceError> {
        self.repository.refuse_own(&self.repository.directory)?;
        self.ask(move |repository, _| repository.file_length(&below))
    }

    /// Bytes of such a file, fewer only if it is shorter.
    pub(crate) fn file_range(
        &self,
        below: PathBuf,
        offset: u64,
        length: u64,
    ) -> Result<Vec<u8>, SourceError> {
        self.ask(move |repository, _| {
            let path = repository.directory.join(&below);
            let bytes = open_regular(&path).and_then(|file| read_range(&file, offset, length));
            bytes.map_err(|error| repository.unavailable(&path, &error))
        })
    }

    /// Looks into the repository, with a deadline.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&MountedRepository, &Pulse) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let repository = Arc::clone(&self.repository);
        self.patience
            .wait_for(move |pulse| work(&repository, pulse))
            .unwrap_or_else(|no_answer| Err(self.repository.no_answer(no_answer)))
    }
}

/// The directory itself. May hang wherever it touches it.
pub(crate) struct MountedRepository {
    name: String,
    directory: PathBuf,
    own_mounts: Arc<OwnMounts>,
    catalogs: CatalogWatch,
    trusted: bool,
}

impl MountedRepository {
    /// Looks at the mount table only.
    fn refuse_own(&self, path: &Path) -> Result<(), SourceError> {
        match self.own_mounts.hold(path) {
            Ok(false) => Ok(()),
            Ok(true) => Err(SourceError::OwnMount {
                directory: self.directory.clone(),
            }),
            Err(error) => Err(self.unavailable(Path::new("/proc/self/mountinfo"), &error)),
        }
    }

    /// The same for where the links in the path lead. What cannot be resolved is for whoever looks
    /// into it to name.
    fn refuse_linked_own(&self) -> Result<(), SourceError> {
        fs::canonicalize(&self.directory).map_or(Ok(()), |path| self.refuse_own(&path))
    }

    fn no_answer(&self, why: NoAnswer) -> SourceError {
        SourceError::Unavailable {
            source_name: self.name.clone(),
            reason: format!("the client that mounts {} {why}", self.directory.display()),
        }
    }

    fn unavailable(&self, path: &Path, error: &std::io::Error) -> SourceError {
        SourceError::Unavailable {
            source_name: self.name.clone(),
            reason: format!("{}: {error}", path.display()),
        }
    }

    fn corrupt(&self, reason: String) -> SourceError {
        SourceError::Corrupt {
            source_name: self.name.clone(),
            reason,
        }
    }

    /// The directory below the mount point.
    fn absolute(&self, path: &str) -> PathBuf {
        self.directory.join(path.trim_start_matches('/'))
    }

    fn locate_in(&self, layout: Layout, layer: &Digest) -> Result<Option<Located>, SourceError> {
        let path = layout.files(layer);
        let files = self.absolute(&path);
        let root = match fs::symlink_metadata(&files) {
            Ok(metadata) if metadata.is_dir() => metadata,
            Ok(_) => return Err(self.corrupt(format!("{} is not a directory", files.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return self.missing(),
            Err(error) => return Err(self.unavailable(&files, &error)),
        };
        self.refuse_claimed_ownership(&files)?;
        let statement = self.statement(layout, layer)?;
        Ok(Some(Located {
            source: self.name.clone(),
            trusted: self.trusted,
            identity: self.identity(&files, &root),
            path,
            diff_id: statement.map(|statement| statement.diff_id),
            size: statement.map_or(0, |statement| statement.diff_size),
        }))
    }

    /// "Not there" is only true of a repository that is mounted: an empty mount point has nothing.
    fn missing(&self) -> Result<Option<Located>, SourceError> {
        let listed =
            fs::read_dir(&self.directory).and_then(|mut entries| entries.next().transpose());
        match listed {
            Ok(Some(_)) => Ok(None),
            Ok(None) => Err(SourceError::Unavailable {
                source_name: self.name.clone(),
                reason: format!("{} is empty: is it mounted?", self.directory.display()),
            }),
            Err(error) => Err(self.unavailable(&self.directory, &error)),
        }
    }

    fn statement(
        &self,
        layout: Layout,
        layer: &Digest,
    ) -> Result<Option<LayerStatement>, SourceError> {
        let Some(path) = layout.layers_json(layer) else {
            return Ok(None);
        };
        let path = self.absolute(&path);
        let json = match read_bounded(&path, MAX_LAYERS_JSON) {
            Ok(json) => json,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.unavailable(&path, &error)),
        };
        LayerStatement::parse(&json, layer)
            .map(Some)
            .map_err(|error| self.corrupt(format!("{}: {error}", path.display())))
    }

    /// The catalog's hash where the client tells it (first line of a magic attribute), else what
    /// the directory looks like.
    fn identity(&self, files: &Path, root: &fs::Metadata) -> String {
        let hash = catalog_watch::catalog_hash(files).ok().flatten();
        match hash {
            Some(hash) => format!("mounted {hash}"),
            None => format!(
                "mounted {} ino {} mtime {}.{:09}",
                self.name,
                root.ino(),
                root.mtime(),
                root.mtime_nsec()
            ),
        }
    }

    /// Whether the layer is still the one that was found.
    fn check_identity(&self, located: &Located) -> Result<(), SourceError> {
        let path = self.absolute(&located.path);
        let metadata =
            fs::symlink_metadata(&path).map_err(|error| self.unavailable(&path, &error))?;
        if self.identity(&path, &metadata) == located.identity {
            Ok(())
        } else {
            Err(SourceError::Changed { path })
        }
    }

    /// A client that claims ownership shows one owner, its own, for everything.
    fn refuse_claimed_ownership(&self, files: &Path) -> Result<(), SourceError> {
        let mut owners = vec![self.directory.clone(), files.to_owned()];
        if let Ok(entries) = fs::read_dir(files) {
            owners.extend(
                entries
                    .take(OWNER_SAMPLE)
                    .flatten()
                    .map(|entry| entry.path()),
            );
        }
        let owners: Vec<_> = owners
            .iter()
            .filter_map(|path| fs::symlink_metadata(path).ok())
            .map(|metadata| (metadata.uid(), metadata.gid()))
            .collect();
        let claimed = owners.first().is_some_and(|first| {
            first.0 != 0 && owners.len() > 2 && owners.iter().all(|owner| owner == first)
        });
        if claimed {
            return Err(SourceError::ClaimedOwnership {
                directory: self.directory.clone(),
            });
        }
        Ok(())
    }
}

impl LayerSource for MountedSource {
    fn name(&self) -> &str {
        &self.repository.name
    }

    fn locate(&self, wanted: &Wanted) -> Result<Option<Located>, SourceError> {
        self.repository.refuse_own(&self.repository.directory)?;
        let layer = wanted.blob.digest;
        self.ask(move |repository, _| repository.locate(&layer))
    }

    fn build(&self, _: &Wanted, located: &Located) -> Result<Vec<u8>, SourceError> {
        self.repository.refuse_own(&self.repository.directory)?;
        let located = located.clone();
        self.ask(move |repository, pulse| repository.build(&located, pulse))
    }

    fn open(
        &self,
        _: &Layer,
        extent: &tree::Extent<'_>,
        skip: u64,
        wanted: u64,
    ) -> Result<Opened, SourceError> {
        let content = extent.content.to_vec();
        let offset = extent.offset + skip;
        self.ask(move |repository, _| repository.read(&content, offset, wanted))
            .map(Opened::Bytes)
    }
}

impl MountedRepository {
    fn locate(&self, layer: &Digest) -> Result<Option<Located>, SourceError> {
        self.refuse_linked_own()?;
        for layout in Layout::ALL {
            if let Some(located) = self.locate_in(layout, layer)? {
                return Ok(Some(located));
            }
        }
        Ok(None)
    }

    fn build(&self, located: &Located, pulse: &Pulse) -> Result<Vec<u8>, SourceError> {
        self.refuse_linked_own()?;
        self.check_identity(located)?;
        let mut walk = Walk::new(self, located, pulse)?;
        while let Some((path, depth)) = walk.pending.pop() {
            walk.directory(&path, depth)?;
        }
        // Before and after: the mount may show another revision at any time.
        self.check_identity(located)?;
        pulse.beat();
        walk.builder
            .finish()
            .map_err(|cause| self.tree_error(cause))
    }

    fn file_length(&self, below: &Path) -> Result<Option<u64>, SourceError> {
        self.refuse_linked_own()?;
        let path = self.directory.join(below);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
            Ok(_) => Err(self.corrupt(format!("{} is not a file", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unavailable(&path, &error)),
        }
    }

    /// Bytes of a file that a tree refers to, fewer only if the file is shorter.
    fn read(&self, content: &[u8], offset: u64, wanted: u64) -> Result<Vec<u8>, SourceError> {
        let Some(ContentRef::File { stamp, path }) = decode(content) else {
            return Err(self.corrupt("a tree refers to content of another kind".to_owned()));
        };
        let below = Path::new(OsStr::from_bytes(path));
        let path = self.directory.join(below);
        let failed = |error: std::io::Error| self.unavailable(&path, &error);
        let file = open_regular(&path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let belongs = match stamp.belongs {
            Belongs::Inode(_) => Belongs::Inode(metadata.ino()),
            catalog @ Belongs::Catalog(_) => catalog,
        };
        if stamp_of(&metadata, belongs) != stamp || !self.is_of_its_layer(below, belongs)? {
            return Err(SourceError::Changed { path });
        }
        read_range(&file, offset, wanted).map_err(failed)
    }

    /// Whether the layer of a file has the catalog of which its tree was made.
    fn is_of_its_layer(&self, below: &Path, belongs: Belongs) -> Result<bool, SourceError> {
        let Belongs::Catalog(mark) = belongs else {
            return Ok(true);
        };
        let depth = if below.starts_with(".layers") { 4 } else { 3 };
        let files = self
            .directory
            .join(below.iter().take(depth).collect::<PathBuf>());
        self.catalogs
            .is_still(&self.directory, &files, mark)
            .map_err(|error| self.unavailable(&files, &error))
    }

    fn tree_error(&self, cause: tree::BuildError) -> SourceError {
        SourceError::Tree {
            source_name: self.name.clone(),
            cause,
        }
    }
}

/// A walk over a layer's directory.
struct Walk<'a> {
    source: &'a MountedRepository,
    pulse: &'a Pulse,
    root: PathBuf,
    builder: Builder,
    pending: Vec<(PathBuf, usize)>,
    /// See [`implicit::since`].
    implicit_since: Option<Time>,
    /// Mark of the layer's catalog, where the client tells it.
    catalog: Option<u64>,
    entries: usize,
}

impl<'a> Walk<'a> {
    fn new(
        source: &'a MountedRepository,
        located: &Located,
        pulse: &'a Pulse,
    ) -> Result<Self, SourceError> {
        let root = source.absolute(&located.path);
        let metadata =
            fs::symlink_metadata(&root).map_err(|error| source.unavailable(&root, &error))?;
        let ducc = located.path.starts_with("/.layers/");
        let mut walk = Self {
            source,
            pulse,
            builder: Builder::new(),
            pending: vec![(PathBuf::new(), 0)],
            implicit_since: ducc.then(|| {
                let marker = fs::symlink_metadata(root.join(STRAY_CATALOG_MARKER)).ok();
                implicit::since(mtime(&metadata), marker.as_ref().map(mtime))
            }),
            catalog: catalog_watch::catalog_hash(&root)
                .map_err(|error| source.unavailable(&root, &error))?
                .map(|hash| catalog_watch::mark(&hash)),
            entries: 0,
            root,
        };
        walk.add(Path::new(""), &metadata)?;
        Ok(walk)
    }

    fn directory(&mut self, relative: &Path, depth: usize) -> Result<(), SourceError> {
        let path = self.root.join(relative);
        let failed = |error: std::io::Error| self.source.unavailable(&path, &error);
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !self.pulse.beat() {
                // Nobody waits any more.
                return Err(self.source.no_answer(NoAnswer::Thread));
            }
            if depth == 0 && entry.file_name() == STRAY_CATALOG_MARKER {
                continue;
            }
            let metadata = entry.metadata().map_err(failed)?;
            let relative = relative.join(entry.file_name());
            self.entries += 1;
            if self.entries > MAX_ENTRIES || depth > MAX_DEPTH {
                return Err(self
                    .source
                    .corrupt(format!("{} is too large", self.root.display())));
            }
            self.add(&relative, &metadata)?;
            if metadata.is_dir() {
                self.pending.push((relative, depth + 1));
            }
        }
        Ok(())
    }

    fn add(&mut self, relative: &Path, metadata: &fs::Metadata) -> Result<(), SourceError> {
        let path = self.root.join(relative);
        let Some(kind) = Kind::from_type_bits(metadata.mode()) else {
            return Err(self
                .source
                .corrupt(format!("{}: unknown file type", path.display())));
        };
        let symlink = if kind == Kind::Symlink {
            self.link_target(&path)?
        } else {
            Vec::new()
        };
        let entry = Entry {
            kind,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            size: if kind == Kind::Symlink {
                symlink.len() as u64
            } else {
                metadata.size()
            },
            mtime: metadata.mtime(),
            mtime_nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
            rdev: if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
                metadata.rdev()
            } else {
                0
            },
            xattrs: stored_xattrs(&path),
            symlink,
            extents: self.extents(kind, &path, metadata),
            link_group: (kind != Kind::Directory && metadata.nlink() > 1).then(|| metadata.ino()),
            implicit: self.is_implicit(metadata),
        };
        self.builder
            .add(relative.as_os_str().as_bytes(), entry)
            .map_err(|cause| self.source.tree_error(cause))
    }

    fn is_implicit(&self, metadata: &fs::Metadata) -> bool {
        metadata.is_dir()
            && self.implicit_since.is_some_and(|since| {
                let owner = (metadata.uid(), metadata.gid());
                implicit::is_implicit(since, metadata.mode(), owner, mtime(metadata))
            })
    }

    fn extents(
        &self,
        kind: Kind,
        path: &Path,
        metadata: &fs::Metadata,
    ) -> Vec<(u64, u64, Vec<u8>)> {
        if kind != Kind::File || metadata.size() == 0 {
            return Vec::new();
        }
        let below = path.strip_prefix(&self.source.directory).unwrap_or(path);
        let belongs = self
            .catalog
            .map_or(Belongs::Inode(metadata.ino()), Belongs::Catalog);
        let reference = ContentRef::File {
            stamp: stamp_of(metadata, belongs),
            path: below.as_os_str().as_bytes(),
        };
        vec![(0, metadata.size(), reference.encode())]
    }

    /// The stored target: the client expands `$(…)` in what readlink shows.
    fn link_target(&self, path: &Path) -> Result<Vec<u8>, SourceError> {
        let mut raw = vec![0; 64 << 10];
        for name in ["user.rawlink", "xfsroot.rawlink"] {
            if let Ok(length) = rustix::fs::lgetxattr(path, name, &mut raw[..]) {
                return Ok(raw[..length].to_vec());
            }
        }
        let target = fs::read_link(path).map_err(|error| self.source.unavailable(path, &error))?;
        Ok(target.into_os_string().into_encoded_bytes())
    }
}

/// Opens what should be a regular file; never waits for the other end of a pipe.
fn open_regular(path: &Path) -> std::io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    Ok(open(path, flags, Mode::empty())?.into())
}

/// Bytes of a file, fewer only if it is shorter.
fn read_range(file: &File, offset: u64, wanted: u64) -> std::io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; usize::try_from(wanted).map_err(std::io::Error::other)?];
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(read);
    Ok(bytes)
}

fn mtime(metadata: &fs::Metadata) -> Time {
    (metadata.mtime(), metadata.mtime_nsec())
}

fn stamp_of(metadata: &fs::Metadata, belongs: Belongs) -> Stamp {
    Stamp {
        belongs,
        size: metadata.size(),
        mtime_nanos: metadata
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(metadata.mtime_nsec()),
    }
}

/// Attributes that the layer has. Those in `user.` that the client makes up are not listed by it.
fn stored_xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 64 << 10];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else {
        return Vec::new();
    };
    let mut value = vec![0; 64 << 10];
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .filter_map(|name| {
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
            Some((name.to_vec(), value[..length].to_vec()))
        })
        .collect()
}

fn read_bounded(path: &Path, limit: usize) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    File::open(path)?
        .take(limit as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(std::io::Error::other(format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Blob;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use tree::Tree;

    const DEADLINE: Duration = Duration::from_secs(30);
    const LAYER: &[u8] = b"a layer's blob";

    fn fixture() -> (tempfile::TempDir, PathBuf, Digest) {
        let root = tempfile::tempdir().unwrap();
        let layer = Digest::of(LAYER);
        let files = root
            .path()
            .join(Layout::Unpacked.files(&layer).trim_start_matches('/'));
        fs::create_dir_all(files.join("bin")).unwrap();
        fs::write(files.join("bin/tool"), b"tool").unwrap();
        fs::hard_link(files.join("bin/tool"), files.join("bin/alias")).unwrap();
        symlink("tool", files.join("bin/link")).unwrap();
        fs::set_permissions(files.join("bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
        (root, files, layer)
    }

    fn wanted(layer: Digest) -> Wanted {
        Wanted {
            blob: opened(layer).blob,
            annotations: [].into(),
        }
    }

    fn opened(digest: Digest) -> Layer {
        Layer {
            blob: Blob {
                digest,
                reference: None,
            },
            tree: String::new(),
        }
    }

    fn own(chains: impl Into<PathBuf>) -> Arc<OwnMounts> {
        Arc::new(OwnMounts::new(chains.into()))
    }

    fn source(root: &Path) -> MountedSource {
        let mounted = Mounted {
            directory: root.to_owned(),
            trust_without_diff_id: false,
        };
        MountedSource::new(mounted, own("/nowhere/chains"), DEADLINE)
    }

    #[test]
    fn a_directory_becomes_a_tree_and_its_files_are_read_through() {
        let (root, _, layer) = fixture();
        let source = source(root.path());
        let located = source.locate(&wanted(layer)).unwrap().expect("there");
        assert_eq!(located.diff_id, None);
        let tree = Tree::parse(source.build(&wanted(layer), &located).unwrap()).unwrap();
        let tool = tree.lookup_path(b"bin/tool").unwrap();
        assert_eq!(tree.lookup_path(b"bin/alias"), Some(tool));
        assert_eq!(
            (tree.attributes(tool).mode, tree.attributes(tool).nlink),
            (0o4755, 2)
        );
        assert_eq!(
            tree.symlink(tree.lookup_path(b"bin/link").unwrap()),
            b"tool"
        );
        let extent = tree.extent_at(tool, 0).unwrap();
        for (skip, length, expected) in [(0, 4, &b"tool"[..]), (1, 2, b"oo"), (3, 9, b"l")] {
            match source.open(&opened(layer), &extent, skip, length).unwrap() {
                Opened::Bytes(bytes) => assert_eq!(bytes, expected),
                Opened::Object(_) | Opened::File(..) => panic!("not from a cache"),
            }
        }
    }

    #[test]
    fn a_changed_file_is_not_served() {
        let (root, files, layer) = fixture();
        let source = source(root.path());
        let located = source.locate(&wanted(layer)).unwrap().unwrap();
        let tree = Tree::parse(source.build(&wanted(layer), &located).unwrap()).unwrap();
        fs::write(files.join("bin/tool"), b"evil, and longer").unwrap();
        let extent = tree
            .extent_at(tree.lookup_path(b"bin/tool").unwrap(), 0)
            .unwrap();
        assert!(matches!(
            source.open(&opened(layer), &extent, 0, 4),
            Err(SourceError::Changed { .. })
        ));
    }

    #[test]
    fn an_empty_mount_point_is_unavailable_and_not_a_miss() {
        let empty = tempfile::tempdir().unwrap();
        let missed = source(empty.path()).locate(&wanted(Digest::of(LAYER)));
        assert!(matches!(missed, Err(SourceError::Unavailable { .. })));
        let (root, ..) = fixture();
        assert!(
            source(root.path())
                .locate(&wanted(Digest::of(b"another")))
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn own_mounts_are_refused() {
        let (root, _, layer) = fixture();
        let mounted = Mounted {
            directory: root.path().join("x/fs"),
            trust_without_diff_id: false,
        };
        let source = MountedSource::new(mounted, own(root.path()), DEADLINE);
        assert!(matches!(
            source.locate(&wanted(layer)),
            Err(SourceError::OwnMount { .. })
        ));
    }

    #[test]
    fn one_owner_for_everything_is_refused_with_the_line_to_add() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: changing owners needs root");
            return;
        }
        let (root, files, layer) = fixture();
        for path in [root.path().to_owned(), files.clone(), files.join("bin")] {
            std::os::unix::fs::chown(path, Some(990), Some(990)).unwrap();
        }
        let error = source(root.path()).locate(&wanted(layer)).unwrap_err();
        assert!(
            error.to_string().contains("CVMFS_CLAIM_OWNERSHIP=no"),
            "{error}"
        );
    }
}
