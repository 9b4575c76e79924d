//! Tree files on disk: written whole, renamed into place, mapped, never changed.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tree::Tree;

use crate::builds::lock;
use crate::error::AttachError;
use crate::space::Space;

/// Bytes of the SHA-256 that ends a tree file. What a tree says (owners, modes, where contents lie) is
/// guarded like any content: damage that still parses must not be served.
const CHECKSUM: usize = 32;

/// Bound of the memory.
const MAX_REMEMBERED: usize = 4096;

/// A tree that lives in the page cache, not in the heap.
pub(crate) type MappedTree = Tree<MappedBytes>;

/// A mapped tree file without its checksum.
pub(crate) struct MappedBytes(sys::Mapping);

impl AsRef<[u8]> for MappedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0[..self.0.len() - CHECKSUM]
    }
}

impl MappedBytes {
    /// Reads the file through once; `None` if it is not what was written.
    fn verified(mapping: sys::Mapping) -> Option<Self> {
        let (bytes, checksum) = mapping.split_last_chunk::<CHECKSUM>()?;
        (Sha256::digest(bytes).as_slice() == checksum).then_some(Self(mapping))
    }
}

/// The directory of tree files.
pub(crate) struct TreeStore {
    directory: PathBuf,
    next: AtomicU64,
    space: Arc<Space>,
    /// When each tree was last asked for: a record that names it may be about to be written.
    wanted: Mutex<HashMap<String, Instant>>,
    grace: Duration,
    /// Nodes of trees that were built or opened: looking again would read the whole file.
    nodes: Mutex<HashMap<String, u64>>,
}

/// Name of a layer's tree: what it was made from, and in which format it is written. Another
/// repository's layer, or a republished one, has another identity and thus never shadows it.
pub(crate) fn tree_key(layer: &image::Digest, identity: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(format!("{}\n{layer}\n{identity}", tree::FORMAT_VERSION));
    hex(&hasher.finalize())
}

/// Name of a chain: its layers' trees in order.
pub(crate) fn chain_key<'a>(trees: impl Iterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for tree in trees {
        hasher.update(tree);
        hasher.update("\n");
    }
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Keys become file names and come back from records and labels, so they are checked.
pub(crate) fn is_key(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl TreeStore {
    pub(crate) fn open(
        root: &Path,
        space: Arc<Space>,
        grace: Duration,
    ) -> Result<Self, AttachError> {
        let directory = root
            .join("trees")
            .join(format!("v{}", tree::FORMAT_VERSION));
        create_private(&directory)?;
        for leftover in files(&directory)?.filter(|path| path.extension().is_some()) {
            fs::remove_file(&leftover).map_err(|cause| disk(&leftover, cause))?;
        }
        space.look(files(&directory)?);
        Ok(Self {
            directory,
            next: AtomicU64::new(0),
            space,
            wanted: Mutex::default(),
            grace,
            nodes: Mutex::default(),
        })
    }

    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.directory.join(key)
    }

    /// The tree, if it is there and whole. A damaged file is removed, so that it is built anew.
    pub(crate) fn get(&self, key: &str) -> Result<Option<Arc<MappedTree>>, AttachError> {
        let path = self.path(key);
        match map(&path) {
            Ok(tree) => {
                if let Some(tree) = &tree {
                    self.remember(key, u64::from(tree.node_count()));
                }
                Ok(tree.map(Arc::new))
            }
            Err(AttachError::TreeFile { path, reason }) => {
                tracing::warn!(path = %path.display(), reason, "damaged tree file removed");
                let removed = fs::remove_file(&path).map_err(|cause| disk(&path, cause));
                self.space.look([path]);
                removed.map(|()| None)
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.path(key).exists()
    }

    /// Keeps a tree; a crash at any moment leaves either nothing or the whole file.
    pub(crate) fn put(&self, key: &str, bytes: &[u8]) -> Result<(), AttachError> {
        self.want(key);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        write_counted(&self.space, &self.path(key), &format!("{number}"), bytes)
    }

    /// Inodes of a tree that is there, 0 of another.
    pub(crate) fn inodes(&self, key: &str) -> u64 {
        if !self.contains(key) {
            return 0;
        }
        let known = lock(&self.nodes).get(key).copied();
        known.unwrap_or_else(|| match self.get(key) {
            Ok(Some(tree)) => u64::from(tree.node_count()),
            _ => 0,
        })
    }

    fn remember(&self, key: &str, nodes: u64) {
        let mut known = lock(&self.nodes);
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(key.to_owned(), nodes);
    }

    /// Keeps a tree, present or to come, from [`TreeStore::retain`] for a while. Comes before the
    /// look whether it is there.
    pub(crate) fn want(&self, key: &str) {
        lock(&self.wanted).insert(key.to_owned(), Instant::now());
    }

    /// Removes every tree that `keep` does not want and nobody asked for lately; returns how many.
    pub(crate) fn retain(&self, keep: impl Fn(&str) -> bool) -> Result<usize, AttachError> {
        let mut removed = 0;
        lock(&self.wanted).retain(|_, asked| asked.elapsed() < self.grace);
        for path in files(&self.directory)? {
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            let Some(name) = name.filter(|name| is_key(name) && !keep(name)) else {
                continue;
            };
            // Held while it is removed: whoever wants it now finds it gone, and builds it.
            let wanted = lock(&self.wanted);
            if wanted
                .get(&name)
                .is_none_or(|asked| asked.elapsed() >= self.grace)
            {
                fs::remove_file(&path).map_err(|cause| disk(&path, cause))?;
                self.space.look([path]);
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Writes beside `path` and renames, so that nobody ever sees half a file.
fn write_whole(path: &Path, unique: &str, bytes: &[u8]) -> Result<(), AttachError> {
    let temporary = path.with_extension(format!("{unique}.new"));
    let written = fs::File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.write_all(&Sha256::digest(bytes))?;
        // A tree is named by what it was made from, not by its bytes: its length at least must
        // survive a power cut, or the name would promise what is not there.
        file.sync_data()?;
        fs::rename(&temporary, path)
    });
    written.map_err(|cause| {
        let _ = fs::remove_file(&temporary);
        disk(path, cause)
    })
}

/// The same, counted.
pub(crate) fn write_counted(
    space: &Space,
    path: &Path,
    unique: &str,
    bytes: &[u8],
) -> Result<(), AttachError> {
    space.expect(path, bytes.len() + CHECKSUM);
    let written = write_whole(path, unique, bytes);
    space.look([path.to_owned()]);
    written
}

/// Maps a tree file; `None` if there is none.
pub(crate) fn map(path: &Path) -> Result<Option<MappedTree>, AttachError> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(disk(path, cause)),
    };
    let mapping = sys::map_readonly(&file).map_err(|cause| disk(path, cause))?;
    let damaged = |reason| AttachError::TreeFile {
        path: path.to_owned(),
        reason,
    };
    let bytes = MappedBytes::verified(mapping)
        .ok_or_else(|| damaged("its checksum does not match".to_owned()))?;
    let tree = Tree::parse(bytes).map_err(|error| damaged(error.to_string()))?;
    Ok(Some(tree))
}

/// A directory that only root may enter: trees name every file of an image.
pub(crate) fn create_private(directory: &Path) -> Result<(), AttachError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|cause| disk(directory, cause))
}

pub(crate) fn disk(path: &Path, cause: std::io::Error) -> AttachError {
    AttachError::Disk {
        path: path.to_owned(),
        cause,
    }
}

pub(crate) fn files(directory: &Path) -> Result<impl Iterator<Item = PathBuf>, AttachError> {
    let entries = fs::read_dir(directory).map_err(|cause| disk(directory, cause))?;
    Ok(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tree::{Builder, Entry, Kind};

    fn store() -> (tempfile::TempDir, TreeStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), Duration::ZERO);
        (directory, store)
    }

    fn open(root: &Path, grace: Duration) -> TreeStore {
        TreeStore::open(root, Arc::new(Space::new(None)), grace).unwrap()
    }

    fn tree() -> Vec<u8> {
        let mut builder = Builder::new();
        builder
            .add(b"etc/hosts", Entry::new(Kind::File, 0o644))
            .unwrap();
        builder.finish().unwrap()
    }

    fn key(seed: &str) -> String {
        tree_key(&image::Digest::of(seed.as_bytes()), "identity")
    }

    #[test]
    fn what_was_put_is_there_after_a_restart() {
        let (directory, store) = store();
        store.put(&key("a"), &tree()).unwrap();
        drop(store);
        let store = open(directory.path(), Duration::ZERO);
        let tree = store.get(&key("a")).unwrap().expect("kept");
        assert!(tree.lookup_path(b"etc/hosts").is_some());
        assert!(store.get(&key("b")).unwrap().is_none());
    }

    #[test]
    fn inodes_are_the_trees_nodes() {
        let (directory, store) = store();
        assert_eq!(store.inodes(&key("a")), 0);
        store.put(&key("a"), &tree()).unwrap();
        // The root, a directory and a file.
        assert_eq!(store.inodes(&key("a")), 3);
        drop(store);
        assert_eq!(open(directory.path(), Duration::ZERO).inodes(&key("a")), 3);
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let (_directory, store) = store();
        store.put(&key("a"), &tree()).unwrap();
        fs::write(store.path(&key("a")), &tree()[..40]).unwrap();
        assert!(store.get(&key("a")).unwrap().is_none());
        assert!(!store.contains(&key("a")));
    }

    #[test]
    fn damage_that_still_parses_is_found() {
        let (_directory, store) = store();
        store.put(&key("a"), &tree()).unwrap();
        let path = store.path(&key("a"));
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert!(store.get(&key("a")).unwrap().is_none(), "byte {at}");
        }
        fs::write(&path, &whole).unwrap();
        assert!(store.get(&key("a")).unwrap().is_some());
    }

    #[test]
    fn leftovers_of_a_crash_are_removed() {
        let (directory, store) = store();
        let leftover = store.path(&key("a")).with_extension("3.new");
        fs::write(&leftover, b"half").unwrap();
        open(directory.path(), Duration::ZERO);
        assert!(!leftover.exists());
    }

    #[test]
    fn only_unwanted_trees_go() {
        let (_directory, store) = store();
        for seed in ["a", "b"] {
            store.put(&key(seed), &tree()).unwrap();
        }
        assert_eq!(store.retain(|name| name == key("a")).unwrap(), 1);
        assert!(store.contains(&key("a")) && !store.contains(&key("b")));
    }

    #[test]
    fn what_was_asked_for_lately_waits_for_its_record() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), Duration::from_secs(3600));
        store.put(&key("a"), &tree()).unwrap();
        assert_eq!(store.retain(|_| false).unwrap(), 0);
        drop(store);
        // After a restart only the records count, and what is asked for again.
        let store = open(directory.path(), Duration::from_secs(3600));
        store.put(&key("b"), &tree()).unwrap();
        assert_eq!(store.retain(|_| false).unwrap(), 1);
        assert!(!store.contains(&key("a")) && store.contains(&key("b")));
    }

    #[test]
    fn keys_depend_on_layer_identity_and_order() {
        let (a, b) = (key("a"), key("b"));
        assert!(is_key(&a) && a != b);
        assert_ne!(a, tree_key(&image::Digest::of(b"a"), "other"));
        let chain = |keys: &[&str]| chain_key(keys.iter().copied());
        assert_ne!(chain(&[&a, &b]), chain(&[&b, &a]));
        assert!(!is_key("../../etc/passwd") && !is_key(""));
    }
}
