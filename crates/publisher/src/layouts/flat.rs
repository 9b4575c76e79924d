//! `/.flat/<xx>/<configuration's digest>`: all layers merged, for Apptainer, with a symlink `/<registry>/<repository>:<tag>` there.
//!
//! Layers are merged as trees whose files refer to objects that are stored already, so no byte is copied. As DUCC's, a flat image has no
//! whiteouts, and its owner may read and write whatever is in it: a client shows its user as the owner.

use std::collections::HashMap;
use std::io::Read;

use cvmfs::{Algorithm, Compression, ContentHash, DIGEST_BYTES, Kind};
use image::Digest;
use tree::{BuildError, Builder, MergeError, NodeId, Tree};

use super::metadata::{ResolvedImage, image_name};
use super::{Backend, Changes, Layout, singularity};
use crate::entry::Entry;
use crate::error::Error;
use crate::layer::Sink;
use crate::objects::{How, StoredChunk, StoredContent};
use crate::subtree::Linked;

/// One layer on its way into a merge. Contents are stored at once.
pub(crate) struct FlatSink<'a, B> {
    backend: &'a B,
    builder: Builder,
}

impl<'a, B: Backend> FlatSink<'a, B> {
    pub(crate) fn new(backend: &'a B) -> Self {
        Self {
            backend,
            builder: Builder::new(),
        }
    }

    pub(crate) fn finish(self) -> Result<Tree<Vec<u8>>, Error> {
        let bytes = self.builder.finish().map_err(built)?;
        parsed(bytes)
    }
}

fn parsed(bytes: Vec<u8>) -> Result<Tree<Vec<u8>>, Error> {
    Tree::parse(bytes).map_err(|error| Error::corrupt("tree of a layer", error))
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn built(error: BuildError) -> Error {
    Error::Refused {
        what: "layer".to_owned(),
        reason: error.to_string(),
    }
}

impl<B: Backend> Sink for FlatSink<'_, B> {
    fn add(&mut self, path: &[u8], entry: Entry) -> Result<(), Error> {
        let entry = tree_entry(entry, Vec::new());
        self.builder.add(path, entry).map_err(built)
    }

    fn file(
        &mut self,
        path: &[u8],
        entry: Entry,
        reader: &mut dyn Read,
        length: u64,
        how: How<'_>,
    ) -> Result<(), Error> {
        let content = match length {
            0 => StoredContent::Empty,
            _ => self.backend.store(reader, length, how)?,
        };
        let entry = Entry {
            size: length,
            ..entry
        };
        self.file_with(path, entry, &content)
    }

    fn file_with(
        &mut self,
        path: &[u8],
        entry: Entry,
        content: &StoredContent,
    ) -> Result<(), Error> {
        let extents = extents(content, entry.size);
        let entry = tree_entry(entry, extents);
        self.builder.add(path, entry).map_err(built)
    }

    /// The builder finds targets itself, also later ones and those of lower layers.
    fn hardlink(&mut self, path: &[u8], target: &[u8]) -> Result<Linked, Error> {
        self.builder.hardlink(path, target).map_err(built)?;
        Ok(Linked::Linked)
    }

    fn implicit_directories(&self) -> Result<Vec<Vec<u8>>, Error> {
        Ok(Vec::new())
    }
}

fn tree_entry(entry: Entry, extents: Vec<(u64, u64, Vec<u8>)>) -> tree::Entry {
    tree::Entry {
        kind: match entry.kind {
            Kind::File => tree::Kind::File,
            Kind::Directory => tree::Kind::Directory,
            Kind::Symlink => tree::Kind::Symlink,
            Kind::CharDevice => tree::Kind::CharDevice,
            Kind::BlockDevice => tree::Kind::BlockDevice,
            Kind::Fifo => tree::Kind::Fifo,
            Kind::Socket => tree::Kind::Socket,
        },
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        size: entry.size,
        mtime: entry.mtime,
        mtime_nanos: entry.mtime_nanos,
        rdev: entry.rdev,
        xattrs: entry.xattrs,
        symlink: entry.symlink,
        extents,
        link_group: None,
        implicit: false,
    }
}

/// An object a part: whether it is the whole file, its algorithm and encoding, its digest.
fn extents(content: &StoredContent, size: u64) -> Vec<(u64, u64, Vec<u8>)> {
    let part = |tag: u8, hash: &ContentHash, compression: Compression| {
        let plain = u8::from(compression == Compression::None);
        let mut bytes = vec![tag, hash.algorithm as u8, plain];
        bytes.extend(hash.digest);
        bytes
    };
    match content {
        StoredContent::Empty => Vec::new(),
        StoredContent::Whole { hash, compression } => {
            vec![(0, size, part(b'W', hash, *compression))]
        }
        StoredContent::Chunked(chunks) => chunks
            .iter()
            .map(|chunk| {
                let bytes = part(b'C', &chunk.hash, chunk.compression);
                (chunk.offset, chunk.size, bytes)
            })
            .collect(),
    }
}

/// Reads what [`extents`] wrote.
fn content(tree: &Tree<Vec<u8>>, id: NodeId) -> Result<StoredContent, Error> {
    let unreadable = || Error::corrupt("merged tree", "a reference to content is malformed");
    let mut chunks = Vec::new();
    for extent in tree.extents(id) {
        let (head, digest) = extent
            .content
            .split_first_chunk::<3>()
            .ok_or_else(unreadable)?;
        let digest = <[u8; DIGEST_BYTES]>::try_from(digest).map_err(|_| unreadable())?;
        let algorithm = Algorithm::from_number(head[1]).ok_or_else(unreadable)?;
        let hash = ContentHash { algorithm, digest };
        let compression = match head[2] {
            0 => Compression::Zlib,
            _ => Compression::None,
        };
        if head[0] == b'W' {
            return Ok(StoredContent::Whole { hash, compression });
        }
        chunks.push(StoredChunk {
            offset: extent.offset,
            size: extent.length,
            hash,
            compression,
        });
    }
    Ok(match chunks.is_empty() {
        true => StoredContent::Empty,
        false => StoredContent::Chunked(chunks),
    })
}

/// Merges layers, given bottom to top, and adds what Apptainer expects.
pub(crate) fn subtree<B: Backend>(
    backend: &B,
    layers: &[Tree<Vec<u8>>],
    config: &[u8],
    mtime: i64,
) -> Result<B::Subtree, Error> {
    let layers: Vec<&Tree<Vec<u8>>> = layers.iter().collect();
    let merged = match layers.is_empty() {
        true => Builder::new().finish().map_err(built)?,
        false => tree::merge(&layers).map_err(|error: MergeError| Error::Refused {
            what: "image".to_owned(),
            reason: error.to_string(),
        })?,
    };
    let tree = parsed(merged)?;
    let mut builder = backend.subtree(mtime)?;
    builder.add(b"", entry(&tree, NodeId::ROOT))?;
    let mut names: HashMap<NodeId, Vec<u8>> = HashMap::new();
    for (path, id) in tree.walk() {
        if tree.attributes(id).kind == tree::Kind::File {
            let content = content(&tree, id)?;
            match names.get(&id) {
                Some(first) => drop(builder.hardlink(&path, first)?),
                None => builder.file_with(&path, entry(&tree, id), &content)?,
            }
        } else if let Some(first) = names.get(&id) {
            builder.hardlink(&path, first)?;
        } else {
            builder.add(&path, entry(&tree, id))?;
        }
        let attributes = tree.attributes(id);
        if attributes.kind != tree::Kind::Directory && attributes.nlink > 1 {
            names.entry(id).or_insert(path);
        }
    }
    singularity::add(&mut builder, &tree, config, mtime)?;
    super::mark(&mut builder, mtime)?;
    backend.finish(builder)
}

fn entry(tree: &Tree<Vec<u8>>, id: NodeId) -> Entry {
    let attributes = tree.attributes(id);
    let (kind, accessible) = match attributes.kind {
        tree::Kind::Directory => (Kind::Directory, 0o700),
        tree::Kind::Symlink => (Kind::Symlink, 0),
        tree::Kind::CharDevice => (Kind::CharDevice, 0),
        tree::Kind::BlockDevice => (Kind::BlockDevice, 0),
        tree::Kind::Fifo => (Kind::Fifo, 0),
        tree::Kind::Socket => (Kind::Socket, 0),
        // A merged tree has neither whiteouts nor links that are not resolved.
        _ => (Kind::File, 0o600),
    };
    Entry {
        kind,
        mode: attributes.mode | accessible,
        uid: attributes.uid,
        gid: attributes.gid,
        mtime: attributes.mtime,
        mtime_nanos: attributes.mtime_nanos,
        rdev: attributes.rdev,
        xattrs: tree
            .xattrs(id)
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect(),
        symlink: tree.symlink(id).to_vec(),
        size: attributes.size,
    }
}

/// The image's public name, and where it points to.
pub(crate) fn link(image: &ResolvedImage, configuration: &Digest) -> (String, String) {
    let name = image_name(&image.reference);
    let up = "../".repeat(name.matches('/').count());
    let place = Layout::Flat.place(configuration);
    let target = format!("{up}{}", place.trim_start_matches('/'));
    (format!("/{name}"), target)
}

/// Whether a flat image is there.
pub(crate) fn is_there<C: Changes>(
    changes: &mut C,
    configuration: &Digest,
    has_catalog: &dyn Fn(&ContentHash) -> Result<bool, Error>,
) -> Result<bool, Error> {
    let found = changes.lookup(&Layout::Flat.place(configuration))?;
    match found.and_then(|found| found.catalog) {
        Some(catalog) => has_catalog(&catalog),
        None => Ok(false),
    }
}
