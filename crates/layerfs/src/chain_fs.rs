//! A chain as the kernel sees it: the merged tree of its layers, contents from their sources.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuse::{Attr, DirReply, Entry, Errno, FileSystem, Inode, ReadReply, StatFs};
use tree::{Kind, NodeId};

use crate::error::errno;
use crate::metrics::Metrics;
use crate::own_mounts::OwnMount;
use crate::read_ahead::{CHUNKS_AHEAD, ReadAhead};
use crate::reads::Reads;
use crate::source::{Layer, LayerSource, Opened, OwnedExtent};
use crate::tree_store::MappedTree;

/// Everything in a chain is immutable, so the kernel may remember it as long as it likes.
const FOR_EVER: Duration = Duration::MAX;

/// READDIR offsets 1 and 2 belong to `.` and `..`; children follow.
const DOTS: u64 = 2;

/// The file system of one chain.
pub(crate) struct ChainFs {
    tree: MappedTree,
    /// Layers with their sources, by their position in the chain.
    layers: Vec<(Layer, Arc<dyn LayerSource>)>,
    /// What was read of them, by the same position.
    reads: Vec<Arc<Reads>>,
    ahead: ReadAhead,
    /// Set once it is mounted.
    pub(crate) own: OnceLock<OwnMount>,
    metrics: Metrics,
}

impl ChainFs {
    pub(crate) fn new(
        tree: MappedTree,
        layers: Vec<(Layer, Arc<dyn LayerSource>)>,
        reads: Vec<Arc<Reads>>,
        metrics: Metrics,
    ) -> Self {
        Self {
            tree,
            layers,
            reads,
            ahead: ReadAhead::default(),
            own: OnceLock::new(),
            metrics,
        }
    }

    /// Owner of the root directory.
    pub(crate) fn root_owner(&self) -> (u32, u32) {
        let root = self.tree.attributes(NodeId::ROOT);
        (root.uid, root.gid)
    }

    fn node(&self, inode: Inode) -> Result<NodeId, Errno> {
        let number = inode.0.checked_sub(1).ok_or(Errno::ESTALE)?;
        self.tree.node_id(number).ok_or(Errno::ESTALE)
    }

    fn node_of_kind(&self, inode: Inode, kind: Kind, otherwise: Errno) -> Result<NodeId, Errno> {
        let node = self.node(inode)?;
        if self.tree.kind(node) == kind {
            Ok(node)
        } else {
            Err(otherwise)
        }
    }

    fn attr(&self, node: NodeId) -> Attr {
        let attributes = self.tree.attributes(node);
        Attr {
            ino: inode(node),
            size: attributes.size,
            mode: attributes.st_mode(),
            nlink: attributes.nlink,
            uid: attributes.uid,
            gid: attributes.gid,
            rdev: attributes.rdev,
            mtime: attributes.mtime,
            mtime_nanos: attributes.mtime_nanos,
        }
    }

    fn entry(&self, node: NodeId) -> Entry {
        let attr = self.attr(node);
        Entry {
            inode: attr.ino,
            attr,
            entry_valid: FOR_EVER,
            attr_valid: FOR_EVER,
        }
    }

    /// Appends bytes of one extent; returns how many.
    fn read_extent(
        &self,
        node: NodeId,
        offset: u64,
        end: u64,
        out: &mut ReadReply<'_>,
    ) -> Result<u64, Errno> {
        let Some(extent) = self.tree.extent_at(node, offset) else {
            // A hole: no extent covers it.
            let next = self
                .tree
                .extents(node)
                .map(|extent| extent.offset)
                .find(|&o| o > offset);
            return Ok(out.push_zeros(next.unwrap_or(end).min(end) - offset) as u64);
        };
        let position = usize::from(self.tree.layer(node));
        let (layer, source) = self.layers.get(position).ok_or(Errno::EIO)?;
        if ReadAhead::is_sequential(usize::from(extent.offset > 0), extent.offset, offset) {
            self.fetch_ahead(layer, source, node, extent.offset + extent.length);
        }
        let skip = offset - extent.offset;
        let wanted = (end - offset).min(extent.length - skip);
        let opened = source.open(layer, &extent, skip, wanted).map_err(|error| {
            self.metrics.failed_reads.inc();
            tracing::error!(error = %error, "a read in a container fails with EIO");
            errno(&error)
        })?;
        let read = match opened {
            Opened::Object(object) => out.push_file(object.file(), skip, wanted)?,
            Opened::Bytes(bytes) => out.push(&bytes),
            Opened::File(file, start) => out.push_file(&file, start + skip, wanted)?,
        } as u64;
        if read < wanted.min(read + out.remaining() as u64) {
            // Shorter than the catalog says: never pad with zeros.
            self.metrics.failed_reads.inc();
            return Err(Errno::EIO);
        }
        let new = self
            .reads
            .get(position)
            .and_then(|reads| reads.note(&extent));
        self.metrics.read_bytes.inc_by(new.unwrap_or_default());
        Ok(read)
    }

    /// Fetches the extents from `offset` on in the background.
    fn fetch_ahead(&self, layer: &Layer, source: &Arc<dyn LayerSource>, node: NodeId, offset: u64) {
        let next = |offset| self.tree.extent_at(node, offset);
        let after = |extent: &tree::Extent<'_>| next(extent.offset + extent.length);
        let extents: Vec<OwnedExtent> = std::iter::successors(next(offset), after)
            .take(CHUNKS_AHEAD)
            .map(|extent| OwnedExtent::from(&extent))
            .collect();
        for extents in source.ahead(&extents) {
            let (source, layer) = (Arc::clone(source), layer.clone());
            self.ahead.start(move || source.fetch(&layer, &extents));
        }
    }
}

fn inode(node: NodeId) -> Inode {
    Inode(u64::from(node.0) + 1)
}

impl FileSystem for ChainFs {
    fn lookup(&self, parent: Inode, name: &[u8]) -> Result<Option<Entry>, Errno> {
        let parent = self.node_of_kind(parent, Kind::Directory, Errno::ENOTDIR)?;
        Ok(self.tree.lookup(parent, name).map(|node| self.entry(node)))
    }

    fn negative_valid(&self) -> Duration {
        FOR_EVER
    }

    fn getattr(&self, inode: Inode) -> Result<(Attr, Duration), Errno> {
        Ok((self.attr(self.node(inode)?), FOR_EVER))
    }

    fn readlink(&self, inode: Inode) -> Result<Vec<u8>, Errno> {
        let node = self.node_of_kind(inode, Kind::Symlink, Errno::EINVAL)?;
        Ok(self.tree.symlink(node).to_vec())
    }

    fn read(&self, inode: Inode, offset: u64, out: &mut ReadReply<'_>) -> Result<(), Errno> {
        let node = self.node_of_kind(inode, Kind::File, Errno::EISDIR)?;
        let size = self.tree.attributes(node).size;
        let end = size.min(offset.saturating_add(out.remaining() as u64));
        let mut at = offset;
        while at < end {
            at += match self.read_extent(node, at, end, out)? {
                0 => return Err(Errno::EIO),
                read => read,
            };
        }
        Ok(())
    }

    fn readdir(&self, inode: Inode, offset: u64, out: &mut DirReply<'_>) -> Result<(), Errno> {
        let directory = self.node_of_kind(inode, Kind::Directory, Errno::ENOTDIR)?;
        let dots = [(&b"."[..], directory), (b"..", self.tree.parent(directory))];
        for (index, (name, node)) in dots.into_iter().enumerate().skip(clamp(offset)) {
            if !out.add(name, index as u64 + 1, &self.entry(node)) {
                return Ok(());
            }
        }
        for (index, name, node) in self
            .tree
            .children(directory, clamp(offset.saturating_sub(DOTS)))
        {
            if !out.add(name, index as u64 + 1 + DOTS, &self.entry(node)) {
                break;
            }
        }
        Ok(())
    }

    fn has_xattrs(&self) -> bool {
        self.tree.has_xattrs()
    }

    fn getxattr(&self, inode: Inode, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let node = self.node(inode)?;
        self.tree
            .xattr(node, name)
            .map(<[u8]>::to_vec)
            .ok_or(Errno::ENODATA)
    }

    fn listxattr(&self, inode: Inode) -> Result<Vec<Vec<u8>>, Errno> {
        let node = self.node(inode)?;
        Ok(self
            .tree
            .xattrs(node)
            .map(|(name, _)| name.to_vec())
            .collect())
    }

    fn statfs(&self) -> StatFs {
        StatFs {
            content_bytes: self.tree.content_bytes(),
            inodes: u64::from(self.tree.node_count()),
        }
    }
}

fn clamp(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
