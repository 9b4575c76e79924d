//! Puts a tree's bytes together in the order that [`mod@crate::format`] asks for.

use std::collections::HashMap;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{I64, U16, U32, U64};

use crate::entry::{Extent, Kind};
use crate::format::{
    DIRENT, Dirent, FORMAT_VERSION, HEADER, Header, MAGIC, NODE, Node, PART, Part, XATTR, Xattr,
};

/// More than 2³² of something, or sizes that add up to more than 2⁶⁴.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TooLarge;

/// A node as its writer knows it; what depends on the order of writing is added here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) layer: u16,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    pub(crate) mtime_nanos: u32,
    pub(crate) size: u64,
    pub(crate) rdev: u64,
    pub(crate) target: &'a [u8],
}

/// The sections as they grow. Use: `node` for the root, then for each directory in the order of
/// its number `open`, `node` for every child not yet numbered, `name`, and `close`.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    nodes: Vec<Node>,
    dirents: Vec<Dirent>,
    parts: Vec<Part>,
    xattrs: Vec<Xattr>,
    blob: Vec<u8>,
    content_bytes: u64,
    /// Sets already written, by their encoding: labels of security modules are the same on
    /// thousands of files.
    xattr_sets: HashMap<Vec<u8>, (u32, u32)>,
}

impl Writer {
    /// Numbers a node. `parent` counts for directories only.
    pub(crate) fn node<'a>(
        &mut self,
        draft: &Draft<'_>,
        parent: u32,
        xattrs: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + Clone,
        extents: impl Iterator<Item = Extent<'a>>,
    ) -> Result<u32, TooLarge> {
        let number = count(self.nodes.len())?;
        let (payload, payload_count) = match draft.kind {
            Kind::File => self.add_parts(draft.size, extents)?,
            Kind::Symlink | Kind::Link => {
                let at = self.text(draft.target)?;
                (u64::from(at), count(draft.target.len())?)
            }
            Kind::CharDevice | Kind::BlockDevice => (draft.rdev, 0),
            Kind::Directory | Kind::Fifo | Kind::Socket | Kind::Whiteout => (0, 0),
        };
        let size = match draft.kind {
            Kind::File | Kind::Directory => draft.size,
            Kind::Symlink | Kind::Link => draft.target.len() as u64,
            _ => 0,
        };
        let is_directory = draft.kind == Kind::Directory;
        let (xattr_first, xattr_count) = self.add_xattrs(xattrs)?;
        self.nodes.push(Node {
            kind: draft.kind.code(),
            flags: draft.flags,
            layer: U16::new(draft.layer),
            mode: U16::new(draft.mode & 0o7777),
            reserved: U16::ZERO,
            uid: U32::new(draft.uid),
            gid: U32::new(draft.gid),
            // Of a directory: itself and its name above; `name` adds what else there is.
            nlink: U32::new(if is_directory { 2 } else { 0 }),
            mtime_nanos: U32::new(draft.mtime_nanos),
            mtime: I64::new(draft.mtime),
            size: U64::new(size),
            payload: U64::new(payload),
            payload_count: U32::new(payload_count),
            parent: U32::new(if is_directory { parent } else { 0 }),
            xattr_first: U32::new(xattr_first),
            xattr_count: U32::new(xattr_count),
        });
        Ok(number)
    }

    /// The next names are this directory's.
    pub(crate) fn open(&mut self, directory: u32) {
        if let Some(node) = self.nodes.get_mut(directory as usize) {
            node.payload = U64::new(self.dirents.len() as u64);
        }
    }

    /// Names a node in the open directory; names come in order of their bytes.
    pub(crate) fn name(&mut self, directory: u32, name: &[u8], node: u32) -> Result<(), TooLarge> {
        let at = self.text(name)?;
        count(self.dirents.len())?;
        self.dirents.push(Dirent {
            name: U32::new(at),
            node: U32::new(node),
            name_length: U16::new(u16::try_from(name.len()).map_err(|_| TooLarge)?),
            reserved: U16::ZERO,
        });
        // A subdirectory links to the directory above; every other name links to its node.
        let of_a_directory = self
            .nodes
            .get(node as usize)
            .is_some_and(|node| node.kind == Kind::Directory.code());
        let linked = if of_a_directory { directory } else { node };
        if let Some(node) = self.nodes.get_mut(linked as usize) {
            node.nlink += 1;
        }
        if let Some(node) = self.nodes.get_mut(directory as usize) {
            node.payload_count += 1;
        }
        Ok(())
    }

    /// All sections as one byte string.
    pub(crate) fn finish(self, flags: u32) -> Result<Vec<u8>, TooLarge> {
        let header = Header {
            magic: MAGIC,
            version: U32::new(FORMAT_VERSION),
            flags: U32::new(flags),
            nodes: U32::new(count(self.nodes.len())?),
            dirents: U32::new(count(self.dirents.len())?),
            parts: U32::new(count(self.parts.len())?),
            xattrs: U32::new(count(self.xattrs.len())?),
            blob: U64::new(u64::from(count(self.blob.len())?)),
            content_bytes: U64::new(self.content_bytes),
            reserved: [0; 16],
        };
        let length = HEADER
            + self.nodes.len() * NODE
            + self.dirents.len() * DIRENT
            + self.parts.len() * PART
            + self.xattrs.len() * XATTR
            + self.blob.len();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(self.nodes.as_bytes());
        bytes.extend_from_slice(self.dirents.as_bytes());
        bytes.extend_from_slice(self.parts.as_bytes());
        bytes.extend_from_slice(self.xattrs.as_bytes());
        bytes.extend_from_slice(&self.blob);
        Ok(bytes)
    }

    fn add_parts<'a>(
        &mut self,
        size: u64,
        extents: impl Iterator<Item = Extent<'a>>,
    ) -> Result<(u64, u32), TooLarge> {
        self.content_bytes = self.content_bytes.checked_add(size).ok_or(TooLarge)?;
        let first = self.parts.len();
        for extent in extents {
            let content = self.text(extent.content)?;
            self.parts.push(Part {
                offset: U64::new(extent.offset),
                length: U64::new(extent.length),
                content: U32::new(content),
                content_length: U32::new(count(extent.content.len())?),
            });
        }
        count(self.parts.len())?;
        Ok((first as u64, count(self.parts.len() - first)?))
    }

    fn add_xattrs<'a>(
        &mut self,
        xattrs: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + Clone,
    ) -> Result<(u32, u32), TooLarge> {
        if xattrs.len() == 0 {
            return Ok((0, 0));
        }
        let mut key = Vec::new();
        for (name, value) in xattrs.clone() {
            key.extend_from_slice(&name.len().to_le_bytes());
            key.extend_from_slice(name);
            key.extend_from_slice(&value.len().to_le_bytes());
            key.extend_from_slice(value);
        }
        if let Some(set) = self.xattr_sets.get(&key) {
            return Ok(*set);
        }
        let set = (count(self.xattrs.len())?, count(xattrs.len())?);
        for (name, value) in xattrs {
            let record = Xattr {
                name: U32::new(self.text(name)?),
                value: U32::new(self.text(value)?),
                value_length: U32::new(count(value.len())?),
                name_length: U16::new(u16::try_from(name.len()).map_err(|_| TooLarge)?),
                reserved: U16::ZERO,
            };
            self.xattrs.push(record);
        }
        self.xattr_sets.insert(key, set);
        Ok(set)
    }

    /// Puts bytes into the blob and says where.
    fn text(&mut self, bytes: &[u8]) -> Result<u32, TooLarge> {
        let at = count(self.blob.len())?;
        self.blob.extend_from_slice(bytes);
        Ok(at)
    }
}

fn count(count: usize) -> Result<u32, TooLarge> {
    u32::try_from(count).map_err(|_| TooLarge)
}
