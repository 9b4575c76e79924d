//! A repository in memory that behaves as the seam demands, and writes what it holds as a real, signed one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cvmfs::{Algorithm, Compression, ContentHash, Kind};
use publisher::layer::Sink;
use publisher::layouts::{Backend, Changes, Found};
use publisher::{Entry, Error, How, Linked, NewTag, StoredChunk, StoredContent};
use testkit::{EntryKind, RepositoryBuilder, Storage};

/// One file system object: hardlinks share it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) entry: Entry,
    pub(crate) content: Arc<[u8]>,
    pub(crate) storage: Storage,
    /// Equal for all names of one file.
    pub(crate) inode: u64,
}

/// Entries by path without leading slash; the root is empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nodes {
    pub(crate) nodes: BTreeMap<Vec<u8>, Node>,
    pub(crate) implicit: BTreeSet<Vec<u8>>,
    next_inode: u64,
    mtime: i64,
}

fn refused(path: &[u8], reason: &str) -> Error {
    Error::Refused {
        what: path.escape_ascii().to_string(),
        reason: reason.to_owned(),
    }
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => Some(&path[..slash]),
        None if path.is_empty() => None,
        None => Some(b""),
    }
}

fn lies_below(path: &[u8], directory: &[u8]) -> bool {
    match directory {
        b"" => !path.is_empty(),
        directory => {
            path.len() > directory.len()
                && path.starts_with(directory)
                && path[directory.len()] == b'/'
        }
    }
}

impl Nodes {
    pub(crate) fn new(mtime: i64) -> Self {
        let mut nodes = Self {
            mtime,
            ..Self::default()
        };
        nodes.parents(b"x").unwrap();
        nodes
    }

    fn parents(&mut self, path: &[u8]) -> Result<(), Error> {
        let Some(parent) = parent(path).map(<[u8]>::to_vec) else {
            return Ok(());
        };
        self.parents(&parent)?;
        match self.nodes.get(&parent) {
            Some(node) if node.entry.kind == Kind::Directory => Ok(()),
            Some(_) => Err(refused(path, "it lies below what is no directory")),
            None => {
                let entry = Entry::directory(0o755, self.mtime);
                self.implicit.insert(parent.clone());
                self.insert(parent, entry, Arc::from([]), Storage::Compressed);
                Ok(())
            }
        }
    }

    fn insert(&mut self, path: Vec<u8>, entry: Entry, content: Arc<[u8]>, storage: Storage) {
        self.next_inode += 1;
        let inode = self.next_inode;
        let node = Node {
            entry,
            content,
            storage,
            inode,
        };
        self.nodes.insert(path, node);
    }

    pub(crate) fn remove(&mut self, path: &[u8]) {
        self.nodes
            .retain(|known, _| known != path && !lies_below(known, path));
        self.implicit
            .retain(|known| known != path && !lies_below(known, path));
    }

    fn replace(&mut self, path: &[u8], directory: bool) -> Result<(), Error> {
        self.parents(path)?;
        let known = self.nodes.get(path).map(|node| node.entry.kind);
        match (known, directory) {
            (Some(Kind::Directory), true) => {
                self.implicit.remove(path);
            }
            (Some(_), _) => self.remove(path),
            (None, _) => {}
        }
        Ok(())
    }

    /// Names of the file that is at a path, the first of them.
    pub(crate) fn first_name(&self, inode: u64) -> &[u8] {
        let found = self.nodes.iter().find(|(_, node)| node.inode == inode);
        found.map(|(path, _)| path.as_slice()).unwrap()
    }
}

impl Sink for Nodes {
    fn add(&mut self, path: &[u8], entry: Entry) -> Result<(), Error> {
        self.replace(path, entry.kind == Kind::Directory)?;
        self.insert(path.to_vec(), entry, Arc::from([]), Storage::Compressed);
        Ok(())
    }

    fn file(
        &mut self,
        path: &[u8],
        entry: Entry,
        reader: &mut dyn Read,
        length: u64,
        how: How<'_>,
    ) -> Result<(), Error> {
        let mut content = Vec::new();
        reader
            .take(length)
            .read_to_end(&mut content)
            .map_err(|source| Error::Input {
                what: path.escape_ascii().to_string(),
                source,
            })?;
        assert_eq!(
            content.len() as u64,
            length,
            "no reader ends early silently"
        );
        self.replace(path, false)?;
        let storage = match how.compression {
            Compression::Zlib => Storage::Compressed,
            Compression::None => Storage::Plain,
        };
        let entry = Entry {
            size: length,
            ..entry
        };
        self.insert(path.to_vec(), entry, content.into(), storage);
        Ok(())
    }

    fn file_with(
        &mut self,
        path: &[u8],
        entry: Entry,
        content: &StoredContent,
    ) -> Result<(), Error> {
        let (bytes, storage) = recall(content);
        assert_eq!(entry.size, bytes.len() as u64);
        self.replace(path, false)?;
        self.insert(path.to_vec(), entry, bytes, storage);
        Ok(())
    }

    fn hardlink(&mut self, path: &[u8], target: &[u8]) -> Result<Linked, Error> {
        let Some(node) = self.nodes.get(target).cloned() else {
            return Ok(Linked::TargetMissing);
        };
        if node.entry.kind == Kind::Directory {
            return Err(refused(path, "it is a hardlink to a directory"));
        }
        self.replace(path, false)?;
        self.nodes.insert(path.to_vec(), node);
        Ok(Linked::Linked)
    }

    fn implicit_directories(&self) -> Result<Vec<Vec<u8>>, Error> {
        Ok(self.implicit.iter().cloned().collect())
    }
}

/// Content by its hash, of this process.
static STORED: Mutex<BTreeMap<[u8; 20], Arc<[u8]>>> = Mutex::new(BTreeMap::new());

fn remember(content: &[u8]) -> ContentHash {
    let hash = Algorithm::Sha1.digest(content);
    STORED.lock().unwrap().insert(hash.digest, content.into());
    hash
}

fn recall(content: &StoredContent) -> (Arc<[u8]>, Storage) {
    let stored = STORED.lock().unwrap();
    match content {
        StoredContent::Empty => (Arc::from([]), Storage::Compressed),
        StoredContent::Whole { hash, compression } => (
            Arc::clone(&stored[&hash.digest]),
            match compression {
                Compression::Zlib => Storage::Compressed,
                Compression::None => Storage::Plain,
            },
        ),
        StoredContent::Chunked(chunks) => {
            let bytes: Vec<u8> = chunks
                .iter()
                .flat_map(|chunk| stored[&chunk.hash.digest].to_vec())
                .collect();
            (bytes.into(), Storage::PlainChunked(chunks[0].size as usize))
        }
    }
}

/// A repository; clones are the same one.
#[derive(Clone)]
pub(crate) struct Memory {
    pub(crate) state: Arc<Mutex<State>>,
}

#[derive(Clone)]
pub(crate) struct State {
    pub(crate) nodes: Nodes,
    /// Paths, as `/a/b`.
    pub(crate) catalogs: BTreeSet<String>,
    pub(crate) revision: u64,
    /// Boundaries that content was stored with.
    pub(crate) cuts: Vec<Option<Vec<u64>>>,
    /// Catalogs are missing.
    pub(crate) damaged: bool,
}

impl Memory {
    pub(crate) fn new() -> Self {
        let state = State {
            nodes: Nodes::new(0),
            catalogs: BTreeSet::new(),
            revision: 1,
            cuts: Vec::new(),
            damaged: false,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state.lock().unwrap().clone()
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        let state = self.state();
        let paths = state.nodes.nodes.keys();
        paths
            .map(|path| format!("/{}", path.escape_ascii()))
            .collect()
    }

    pub(crate) fn read(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let node = state.nodes.nodes.get(&path.as_bytes()[1..])?;
        (node.entry.kind == Kind::File).then(|| node.content.to_vec())
    }

    pub(crate) fn symlink(&self, path: &str) -> Option<String> {
        let state = self.state();
        let node = state.nodes.nodes.get(&path.as_bytes()[1..])?;
        Some(String::from_utf8(node.entry.symlink.clone()).unwrap())
    }

    /// As a signed repository that any client reads.
    pub(crate) fn write(&self, directory: &Path, fqrn: &str, now: i64) {
        let state = self.state();
        let mut builder = RepositoryBuilder::new(directory, fqrn);
        for (path, node) in &state.nodes.nodes {
            let first = state.nodes.first_name(node.inode);
            let entry = &node.entry;
            let (major, minor) = (rustix::fs::major(entry.rdev), rustix::fs::minor(entry.rdev));
            let kind = match entry.kind {
                _ if first != path => EntryKind::Hardlink(first.to_vec()),
                Kind::File => EntryKind::File(Arc::clone(&node.content)),
                Kind::Directory => EntryKind::Directory,
                Kind::Symlink => EntryKind::Symlink(entry.symlink.clone()),
                Kind::CharDevice => EntryKind::CharDevice(major, minor),
                Kind::BlockDevice => EntryKind::BlockDevice(major, minor),
                Kind::Fifo => EntryKind::Fifo,
                Kind::Socket => EntryKind::Socket,
            };
            let mut written = testkit::Entry::new(path, kind)
                .mode(entry.mode)
                .owner(entry.uid, entry.gid)
                .mtime(entry.mtime, entry.mtime_nanos)
                .storage(node.storage);
            written.xattrs.clone_from(&entry.xattrs);
            builder.add(written);
        }
        builder.publish(now).unwrap();
    }
}

impl Backend for Memory {
    type Builder = Nodes;
    type Subtree = Nodes;
    type Changes = MemoryChanges;

    fn begin(&self) -> Result<MemoryChanges, Error> {
        Ok(MemoryChanges {
            memory: self.clone(),
            state: self.state(),
        })
    }

    fn look(&self) -> Result<MemoryChanges, Error> {
        self.begin()
    }

    fn subtree(&self, implicit_mtime: i64) -> Result<Nodes, Error> {
        Ok(Nodes::new(implicit_mtime))
    }

    fn finish(&self, builder: Nodes) -> Result<Nodes, Error> {
        Ok(builder)
    }

    fn store(
        &self,
        reader: &mut dyn Read,
        length: u64,
        how: How<'_>,
    ) -> Result<StoredContent, Error> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, length);
        let boundaries = how.boundaries.map(<[u64]>::to_vec);
        self.state.lock().unwrap().cuts.push(boundaries.clone());
        let compression = how.compression;
        let cuts = boundaries.unwrap_or_default();
        if cuts.is_empty() {
            let hash = remember(&bytes);
            return Ok(StoredContent::Whole { hash, compression });
        }
        let starts: Vec<u64> = [0].into_iter().chain(cuts).collect();
        let ends = starts[1..].iter().copied().chain([length]);
        let chunks = starts.iter().zip(ends).map(|(start, end)| {
            assert!(*start < end && end <= length, "cuts ascend within the file");
            StoredChunk {
                offset: *start,
                size: end - start,
                hash: remember(&bytes[*start as usize..end as usize]),
                compression,
            }
        });
        Ok(StoredContent::Chunked(chunks.collect()))
    }

    fn scratch_file(&self) -> Result<File, Error> {
        tempfile::tempfile().map_err(Error::Scratch)
    }

    fn has_catalog(&self, _: &ContentHash) -> Result<bool, Error> {
        Ok(!self.state().damaged)
    }
}

pub(crate) struct MemoryChanges {
    memory: Memory,
    state: State,
}

fn key(path: &str) -> &[u8] {
    path.strip_prefix('/')
        .unwrap_or_else(|| panic!("{path} is relative"))
        .as_bytes()
}

impl MemoryChanges {
    fn forget(&mut self, path: &str) {
        let below = format!("{path}/");
        self.state
            .catalogs
            .retain(|catalog| catalog != path && !catalog.starts_with(&below));
    }
}

impl Changes for MemoryChanges {
    type Subtree = Nodes;

    fn lookup(&mut self, path: &str) -> Result<Option<Found>, Error> {
        let catalog = self.state.catalogs.contains(path);
        Ok(self.state.nodes.nodes.get(key(path)).map(|node| Found {
            kind: node.entry.kind,
            symlink: node.entry.symlink.clone(),
            catalog: catalog.then(|| Algorithm::Sha1.digest(path.as_bytes())),
        }))
    }

    fn list(&mut self, path: &str) -> Result<Vec<Vec<u8>>, Error> {
        let directory = key(path);
        let children = self.state.nodes.nodes.keys();
        Ok(children
            .filter(|known| parent(known) == Some(directory))
            .map(|known| known[directory.len() + 1..].to_vec())
            .collect())
    }

    fn read(&mut self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let node = self.state.nodes.nodes.get(key(path));
        let content = node.filter(|node| node.entry.kind == Kind::File);
        Ok(content.map(|node| {
            assert!(node.content.len() as u64 <= limit);
            node.content.to_vec()
        }))
    }

    fn graft(&mut self, path: &str, subtree: &Nodes) -> Result<(), Error> {
        self.forget(path);
        let at = key(path);
        self.state.nodes.remove(at);
        let nodes = &mut self.state.nodes;
        nodes.parents(at)?;
        let base = nodes.next_inode;
        for (below, node) in &subtree.nodes {
            let separator: &[u8] = if below.is_empty() { b"" } else { b"/" };
            let node = Node {
                inode: base + node.inode,
                ..node.clone()
            };
            nodes.nodes.insert([at, separator, below].concat(), node);
        }
        nodes.next_inode = base + subtree.next_inode;
        let marker = format!("{path}/.cvmfscatalog");
        if !nodes.nodes.contains_key(key(&marker)) {
            self.file(&marker, Entry::file(0o644, 0), b"")?;
        }
        self.state.catalogs.insert(path.to_owned());
        Ok(())
    }

    fn file(&mut self, path: &str, entry: Entry, bytes: &[u8]) -> Result<(), Error> {
        let length = bytes.len() as u64;
        let nodes = &mut self.state.nodes;
        nodes.file(key(path), entry, &mut &bytes[..], length, How::DEFLATED)
    }

    fn symlink(&mut self, path: &str, entry: Entry) -> Result<(), Error> {
        self.state.nodes.add(key(path), entry)
    }

    fn nested_catalog(&mut self, path: &str) -> Result<(), Error> {
        let marker = format!("{path}/.cvmfscatalog");
        self.file(&marker, Entry::file(0o644, 0), b"")?;
        self.state.catalogs.insert(path.to_owned());
        Ok(())
    }

    fn remove(&mut self, path: &str) -> Result<(), Error> {
        self.forget(path);
        self.state.nodes.remove(key(path));
        Ok(())
    }

    fn commit(mut self, _: Option<NewTag>) -> Result<u64, Error> {
        let mut state = self.memory.state.lock().unwrap();
        self.state.revision += 1;
        self.state.cuts.clone_from(&state.cuts);
        *state = self.state;
        Ok(state.revision)
    }

    fn abandon(self) -> Result<(), Error> {
        Ok(())
    }
}
