//! Reading a tree: lookups, lists and attributes straight from the bytes.

use std::cmp::Ordering;

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::entry::{Attributes, Extent, Kind, NodeId};
use crate::format::{Dirent, HEADER, IMPLICIT, MERGED, Node, OPAQUE, Part, Sections, Xattr};
use crate::path;
use crate::walk::Walk;

/// A layer's files, or a chain's, as a view over bytes that [`Tree::parse`] has validated.
///
/// It keeps nothing but a few counts, so an opened tree costs no memory beside its bytes.
/// A [`NodeId`] is of use only in the tree it came from; with a foreign one every accessor answers
/// as for an empty file, and none panics, also if the bytes change under the view.
#[derive(Clone, Debug)]
pub struct Tree<B> {
    bytes: B,
    sections: Sections,
    flags: u32,
    content_bytes: u64,
}

impl<B: AsRef<[u8]>> Tree<B> {
    pub(crate) const fn assemble(
        bytes: B,
        sections: Sections,
        flags: u32,
        content_bytes: u64,
    ) -> Self {
        Self {
            bytes,
            sections,
            flags,
            content_bytes,
        }
    }

    /// The bytes it was parsed from.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// The same tree over borrowed bytes, for callers that hold trees of several owners.
    pub fn borrowed(&self) -> Tree<&[u8]> {
        Tree::assemble(
            self.bytes.as_ref(),
            self.sections,
            self.flags,
            self.content_bytes,
        )
    }

    /// Nodes of the tree, the root included. Hardlinks of one file are one node.
    pub const fn node_count(&self) -> u32 {
        self.sections.nodes
    }

    /// Sum of the sizes of all regular files, each counted once.
    pub const fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// Whether a merge made this tree: then it holds neither whiteouts nor links to lower layers.
    pub const fn is_merged(&self) -> bool {
        self.flags & MERGED != 0
    }

    /// Whether any node has an extended attribute.
    pub const fn has_xattrs(&self) -> bool {
        self.sections.xattrs != 0
    }

    /// Checks a number from outside; nothing if this tree has no such node.
    pub fn node_id(&self, number: u64) -> Option<NodeId> {
        let number = u32::try_from(number).ok()?;
        (number < self.sections.nodes).then_some(NodeId(number))
    }

    /// What `stat` shows of a node.
    pub fn attributes(&self, id: NodeId) -> Attributes {
        let node = self.node(id);
        let kind = kind_of(node);
        Attributes {
            kind,
            mode: u32::from(node.mode.get()),
            uid: node.uid.get(),
            gid: node.gid.get(),
            size: node.size.get(),
            mtime: node.mtime.get(),
            mtime_nanos: node.mtime_nanos.get(),
            rdev: if kind.is_device() {
                node.payload.get()
            } else {
                0
            },
            nlink: node.nlink.get(),
        }
    }

    /// What a node is.
    pub fn kind(&self, id: NodeId) -> Kind {
        kind_of(self.node(id))
    }

    /// The node with this name in a directory; nothing also if `directory` is none.
    /// A whiteout of the tree of a layer is found like any other node.
    pub fn lookup(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        let dirents = self.dirents(directory);
        let found = dirents.binary_search_by(|dirent| self.name(dirent).cmp(name));
        let dirent = dirents.get(found.ok()?)?;
        Some(NodeId(dirent.node.get()))
    }

    /// The node at a path from the root; symlinks are not followed. Empty components and `.` are
    /// skipped, `..` finds nothing.
    pub fn lookup_path(&self, path: &[u8]) -> Option<NodeId> {
        path::components(path)
            .try_fold(NodeId::ROOT, |directory, name| self.lookup(directory, name))
    }

    /// The names of a directory in order of their bytes, from the index `start` on. An index is
    /// stable for the life of the tree; the list goes on with the last index seen plus 1.
    pub fn children(&self, directory: NodeId, start: usize) -> Children<'_> {
        Children {
            dirents: self.dirents(directory),
            blob: self.blob(),
            next: start,
        }
    }

    /// The directory above a directory; the root's is itself, as that of what is no directory.
    pub fn parent(&self, directory: NodeId) -> NodeId {
        NodeId(self.node(directory).parent.get())
    }

    /// A symlink's target as stored, or the path that a [`Kind::Link`] names; else empty.
    pub fn symlink(&self, id: NodeId) -> &[u8] {
        let node = self.node(id);
        if !kind_of(node).has_target() {
            return &[];
        }
        slice(self.blob(), node.payload.get(), node.payload_count.get())
    }

    /// The extended attributes of a node, sorted by name.
    pub fn xattrs(&self, id: NodeId) -> Xattrs<'_> {
        let node = self.node(id);
        Xattrs {
            records: range(
                self.xattr_records(),
                u64::from(node.xattr_first.get()),
                node.xattr_count.get(),
            ),
            blob: self.blob(),
        }
    }

    /// The value of one extended attribute.
    pub fn xattr(&self, id: NodeId, name: &[u8]) -> Option<&[u8]> {
        self.xattrs(id)
            .find_map(|(other, value)| (other == name).then_some(value))
    }

    /// The parts of a file in order; none for what is no file.
    pub fn extents(&self, id: NodeId) -> Extents<'_> {
        Extents {
            parts: self.parts(id),
            blob: self.blob(),
        }
    }

    /// The part of a file that covers `offset`; nothing in a hole and past the end.
    pub fn extent_at(&self, id: NodeId, offset: u64) -> Option<Extent<'_>> {
        let parts = self.parts(id);
        let found = parts.binary_search_by(|part| compare(part, offset)).ok()?;
        Some(extent(parts.get(found)?, self.blob()))
    }

    /// Position in the chain (0 = bottom) of the layer that the node comes from; 0 in a layer's
    /// own tree.
    pub fn layer(&self, id: NodeId) -> u16 {
        self.node(id).layer.get()
    }

    /// Whether a directory hides the children of the layers below it.
    pub fn is_opaque(&self, directory: NodeId) -> bool {
        self.node(directory).flags & OPAQUE != 0
    }

    /// Whether no entry of the layer names this directory.
    pub fn is_implicit(&self, directory: NodeId) -> bool {
        self.node(directory).flags & IMPLICIT != 0
    }

    /// All names below the root with their paths, each directory before its children.
    pub fn walk(&self) -> Walk<'_, B> {
        Walk::new(self)
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        let count = self.sections.nodes;
        let nodes: &[Node] = section(self.as_bytes(), HEADER as u64, count);
        nodes.get(id.0 as usize).unwrap_or(&Node::ABSENT)
    }

    pub(crate) fn dirents(&self, directory: NodeId) -> &[Dirent] {
        let node = self.node(directory);
        if kind_of(node) != Kind::Directory {
            return &[];
        }
        range(
            self.all_dirents(),
            node.payload.get(),
            node.payload_count.get(),
        )
    }

    pub(crate) fn all_dirents(&self) -> &[Dirent] {
        let sections = &self.sections;
        section(self.as_bytes(), sections.dirents_at(), sections.dirents)
    }

    pub(crate) fn all_parts(&self) -> &[Part] {
        let sections = &self.sections;
        section(self.as_bytes(), sections.parts_at(), sections.parts)
    }

    pub(crate) fn xattr_records(&self) -> &[Xattr] {
        let sections = &self.sections;
        section(self.as_bytes(), sections.xattrs_at(), sections.xattrs)
    }

    pub(crate) fn blob(&self) -> &[u8] {
        usize::try_from(self.sections.blob_at())
            .ok()
            .and_then(|at| self.as_bytes().get(at..))
            .unwrap_or_default()
    }

    pub(crate) fn name(&self, dirent: &Dirent) -> &[u8] {
        name_of(dirent, self.blob())
    }

    pub(crate) fn parts(&self, id: NodeId) -> &[Part] {
        let node = self.node(id);
        if kind_of(node) != Kind::File {
            return &[];
        }
        range(
            self.all_parts(),
            node.payload.get(),
            node.payload_count.get(),
        )
    }
}

/// The names of a directory: index, name and node.
#[derive(Clone, Debug)]
pub struct Children<'a> {
    dirents: &'a [Dirent],
    blob: &'a [u8],
    next: usize,
}

impl<'a> Iterator for Children<'a> {
    type Item = (usize, &'a [u8], NodeId);

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.next;
        let dirent = self.dirents.get(index)?;
        self.next = index + 1;
        Some((index, name_of(dirent, self.blob), NodeId(dirent.node.get())))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.dirents.len().saturating_sub(self.next);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Children<'_> {}

/// The extended attributes of a node: name and value.
#[derive(Clone, Debug)]
pub struct Xattrs<'a> {
    records: &'a [Xattr],
    blob: &'a [u8],
}

impl<'a> Iterator for Xattrs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (record, rest) = self.records.split_first()?;
        self.records = rest;
        let name = slice(
            self.blob,
            u64::from(record.name.get()),
            u32::from(record.name_length.get()),
        );
        let value = slice(
            self.blob,
            u64::from(record.value.get()),
            record.value_length.get(),
        );
        Some((name, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.records.len(), Some(self.records.len()))
    }
}

impl ExactSizeIterator for Xattrs<'_> {}

/// The parts of a file.
#[derive(Clone, Debug)]
pub struct Extents<'a> {
    parts: &'a [Part],
    blob: &'a [u8],
}

impl<'a> Iterator for Extents<'a> {
    type Item = Extent<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (part, rest) = self.parts.split_first()?;
        self.parts = rest;
        Some(extent(part, self.blob))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.parts.len(), Some(self.parts.len()))
    }
}

impl ExactSizeIterator for Extents<'_> {}

fn kind_of(node: &Node) -> Kind {
    Kind::from_code(node.kind).unwrap_or(Kind::File)
}

fn name_of<'a>(dirent: &Dirent, blob: &'a [u8]) -> &'a [u8] {
    slice(
        blob,
        u64::from(dirent.name.get()),
        u32::from(dirent.name_length.get()),
    )
}

fn extent<'a>(part: &Part, blob: &'a [u8]) -> Extent<'a> {
    Extent {
        offset: part.offset.get(),
        length: part.length.get(),
        content: slice(
            blob,
            u64::from(part.content.get()),
            part.content_length.get(),
        ),
    }
}

/// Where a part lies as seen from an offset.
fn compare(part: &Part, offset: u64) -> Ordering {
    let start = part.offset.get();
    if start > offset {
        Ordering::Greater
    } else if offset - start < part.length.get() {
        Ordering::Equal
    } else {
        Ordering::Less
    }
}

/// `count` records from byte `at` on; none if they are not all there.
fn section<T>(bytes: &[u8], at: u64, count: u32) -> &[T]
where
    T: FromBytes + Immutable + KnownLayout + Unaligned,
{
    let Ok(at) = usize::try_from(at) else {
        return &[];
    };
    bytes
        .get(at..)
        .and_then(|tail| <[T]>::ref_from_prefix_with_elems(tail, count as usize).ok())
        .map_or(&[], |(records, _)| records)
}

/// `count` of the records from `first` on; none if they are not all there.
fn range<T>(records: &[T], first: u64, count: u32) -> &[T] {
    usize::try_from(first)
        .ok()
        .and_then(|first| records.get(first..first.checked_add(count as usize)?))
        .unwrap_or_default()
}

/// `length` bytes of the blob from `at` on; empty if they are not all there.
pub(crate) fn slice(blob: &[u8], at: u64, length: u32) -> &[u8] {
    range(blob, at, length)
}
