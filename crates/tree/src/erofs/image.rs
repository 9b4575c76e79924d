//! The second step: the bytes of a planned image, front to back.

use std::fmt;
use std::io::{self, Read, Write};

use thiserror::Error;
use zerocopy::IntoBytes;

use crate::entry::{Attributes, Kind, NodeId};

use super::checksum::crc32c;
use super::directory::{Blocks, Names, file_type};
use super::format::{
    BLOCK, BLOCK_BITS, CHECKSUM, DataLayout, Inode, MAGIC, MODIFICATION_TIMES, SLOT, SUPERBLOCK_AT,
    Superblock, xattr_count,
};
use super::plan::{Body, Plan};
use super::xattrs;

/// Bytes moved at a time.
const BUFFER: usize = 128 * 1024;

/// Why an image was not written to its end.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The content of a file could not be read.
    #[error("/{}: cannot read the content", path.escape_ascii())]
    Content {
        /// The file.
        path: Vec<u8>,
        /// What the reader said.
        source: io::Error,
    },
    /// A file's content is shorter than the tree says.
    #[error("/{}: the content ends after {got} of {size} bytes", path.escape_ascii())]
    Short {
        /// The file.
        path: Vec<u8>,
        /// Bytes that there were.
        got: u64,
        /// Bytes that the tree states.
        size: u64,
    },
    /// A file's content is longer than the tree says.
    #[error("/{}: the content is longer than {size} bytes", path.escape_ascii())]
    Long {
        /// The file.
        path: Vec<u8>,
        /// Bytes that the tree states.
        size: u64,
    },
    /// The image could not be written.
    #[error("cannot write the image")]
    Output(#[source] io::Error),
}

/// A part of an image.
enum Piece {
    Bytes(Vec<u8>),
    Zeros(u64),
    /// A file's content, so many bytes.
    Content(NodeId, u64),
}

/// What comes next; numbers are indices into the order of the inodes, or of nodes.
enum Next {
    Superblock,
    Inode(usize),
    Directory(u32),
    File(u32),
    Nothing,
}

/// An image as a reader: it asks `content` for each file of [`Plan::files`], in that order, as it
/// gets there. Errors are of [`WriteError`], inside an [`io::Error`].
pub struct Image<'p, 't, B, F, R> {
    plan: &'p Plan<'t, B>,
    /// Nodes in the order of their inodes; none for the shared attributes.
    order: Vec<Option<NodeId>>,
    next: Next,
    /// Pieces to come, the last first.
    pieces: Vec<Piece>,
    /// How much of the current bytes is gone.
    given: usize,
    /// Bytes in pieces so far.
    planned: u64,
    content: F,
    open: Option<(NodeId, R, u64, u64)>,
}

impl<B, F, R> fmt::Debug for Image<'_, '_, B, F, R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Image").finish_non_exhaustive()
    }
}

impl<'t, B: AsRef<[u8]>> Plan<'t, B> {
    /// Writes the image. `content` opens a file's content, for each of [`Plan::files`] in that
    /// order; holes are read as zeros.
    ///
    /// # Errors
    /// [`WriteError`]; what is written by then is of no use.
    pub fn write<R: Read>(
        &self,
        out: &mut (impl Write + ?Sized),
        content: impl FnMut(NodeId) -> io::Result<R>,
    ) -> Result<(), WriteError> {
        let mut image = self.image(content);
        let mut buffer = vec![0; BUFFER];
        loop {
            let got = image.fill(&mut buffer)?;
            let Some(bytes) = buffer.get(..got).filter(|bytes| !bytes.is_empty()) else {
                return Ok(());
            };
            out.write_all(bytes).map_err(WriteError::Output)?;
        }
    }

    /// The image as a reader of [`Plan::length`] bytes; see [`Plan::write`].
    pub fn image<R: Read, F: FnMut(NodeId) -> io::Result<R>>(
        &self,
        content: F,
    ) -> Image<'_, 't, B, F, R> {
        let mut order: Vec<(u64, Option<NodeId>)> = self
            .nodes()
            .map(|node| (u64::from(self.place(node).slot) * SLOT, Some(node)))
            .collect();
        if self.shared.length() != 0 {
            order.push((self.shared_at, None));
        }
        order.sort_unstable_by_key(|(at, _)| *at);
        Image {
            plan: self,
            order: order.into_iter().map(|(_, node)| node).collect(),
            next: Next::Superblock,
            pieces: Vec::new(),
            given: 0,
            planned: 0,
            content,
            open: None,
        }
    }
}

impl<B: AsRef<[u8]>, R: Read, F: FnMut(NodeId) -> io::Result<R>> Image<'_, '_, B, F, R> {
    /// Fills the buffer; less only at the end of the image.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, WriteError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            if self.pieces.is_empty() && !self.advance() {
                break;
            }
            filled += self.take(rest)?;
        }
        Ok(filled)
    }

    /// Moves bytes of the current piece, of which there is one; takes it away at its end.
    fn take(&mut self, buffer: &mut [u8]) -> Result<usize, WriteError> {
        let moved = match self.pieces.last_mut() {
            None => return Ok(0),
            Some(Piece::Bytes(bytes)) => {
                let rest = bytes.get(self.given..).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                self.given += count;
                if self.given < bytes.len() {
                    return Ok(count);
                }
                self.given = 0;
                count
            }
            Some(Piece::Zeros(left)) => {
                let count = buffer
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                buffer[..count].fill(0);
                *left -= count as u64;
                if *left != 0 {
                    return Ok(count);
                }
                count
            }
            Some(Piece::Content(node, size)) => {
                let (node, size) = (*node, *size);
                let count = self.read_content(node, size, buffer)?;
                if self.open.is_some() {
                    return Ok(count);
                }
                count
            }
        };
        self.pieces.pop();
        Ok(moved)
    }

    /// Reads on in a file. At its end nothing is open any more.
    fn read_content(
        &mut self,
        node: NodeId,
        size: u64,
        buffer: &mut [u8],
    ) -> Result<usize, WriteError> {
        let path = || self.plan.path(node);
        let failed = |source| WriteError::Content {
            path: path(),
            source,
        };
        let (node, mut reader, mut got) = match self.open.take() {
            Some((node, reader, got, _)) => (node, reader, got),
            None => (node, (self.content)(node).map_err(failed)?, 0),
        };
        let wanted = usize::try_from(size - got)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = retry(|| reader.read(&mut buffer[..wanted])).map_err(failed)?;
        if count == 0 {
            return Err(WriteError::Short {
                path: path(),
                got,
                size,
            });
        }
        got += count as u64;
        if got < size {
            self.open = Some((node, reader, got, size));
        } else if retry(|| reader.read(&mut [0])).map_err(failed)? != 0 {
            return Err(WriteError::Long { path: path(), size });
        }
        Ok(count)
    }

    /// Queues the next part of the image; false at its end.
    fn advance(&mut self) -> bool {
        let mut pieces = Vec::new();
        while pieces.is_empty() {
            match self.next {
                Next::Superblock => {
                    pieces.push(Piece::Bytes(self.plan.superblock()));
                    self.next = Next::Inode(0);
                }
                Next::Inode(index) => self.advance_inode(index, &mut pieces),
                Next::Directory(number) => {
                    self.next = Next::Directory(number + 1);
                    if number == self.plan.tree.node_count() {
                        self.next = Next::File(0);
                    } else {
                        self.plan.directory_blocks(NodeId(number), &mut pieces);
                    }
                }
                Next::File(number) => {
                    self.next = Next::File(number + 1);
                    if number == self.plan.tree.node_count() {
                        self.next = Next::Nothing;
                    } else {
                        self.plan.file_blocks(NodeId(number), &mut pieces);
                    }
                }
                Next::Nothing => return false,
            }
        }
        self.planned += pieces.iter().map(Piece::length).sum::<u64>();
        pieces.reverse();
        self.pieces = pieces;
        true
    }

    fn advance_inode(&mut self, index: usize, pieces: &mut Vec<Piece>) {
        let Some(node) = self.order.get(index) else {
            push_zeros(pieces, self.plan.metadata_end * BLOCK - self.planned);
            self.next = Next::Directory(0);
            return;
        };
        self.next = Next::Inode(index + 1);
        let at = node.map_or(self.plan.shared_at, |node| {
            u64::from(self.plan.place(node).slot) * SLOT
        });
        push_zeros(pieces, at - self.planned);
        match node {
            Some(node) => self.plan.inode(*node, pieces),
            None => pieces.push(Piece::Bytes(self.plan.shared.encode())),
        }
    }
}

impl<B: AsRef<[u8]>, R: Read, F: FnMut(NodeId) -> io::Result<R>> Read for Image<'_, '_, B, F, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fill(buffer).map_err(io::Error::other)
    }
}

impl Piece {
    const fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Zeros(length) | Self::Content(_, length) => *length,
        }
    }
}

impl<B: AsRef<[u8]>> Plan<'_, B> {
    /// The first block.
    fn superblock(&self) -> Vec<u8> {
        let mut superblock = Superblock {
            magic: MAGIC.into(),
            checksum: 0.into(),
            compatible: (CHECKSUM | MODIFICATION_TIMES).into(),
            block_bits: BLOCK_BITS,
            extra_slots: 0,
            // The root comes first, so its slot is that of the first inode.
            root: (self.place(NodeId::ROOT).slot as u16).into(),
            inodes: u64::from(self.tree.node_count()).into(),
            build_time: 0.into(),
            build_time_nanos: 0.into(),
            blocks: (self.blocks as u32).into(),
            metadata_block: 0.into(),
            xattr_block: 0.into(),
            uuid: self.options.uuid,
            volume_name: [0; 16],
            incompatible: 0.into(),
            unused: [0; 44],
        };
        let mut block = vec![0; BLOCK as usize];
        let end = SUPERBLOCK_AT + size_of::<Superblock>();
        block[SUPERBLOCK_AT..end].copy_from_slice(superblock.as_bytes());
        superblock.checksum = crc32c(&block[SUPERBLOCK_AT..]).into();
        block[SUPERBLOCK_AT..end].copy_from_slice(superblock.as_bytes());
        block
    }

    /// An inode with what lies behind it.
    fn inode(&self, node: NodeId, pieces: &mut Vec<Piece>) {
        let attributes = self.tree.attributes(node);
        let body = self.place(node).body;
        let length = self.content_length(node, &attributes);
        let mut behind = Vec::new();
        self.shared
            .push(&mut behind, xattrs::of_node(self.tree, node));
        let header = self.inode_record(node, &attributes, length, behind.len());
        let mut bytes = header.as_bytes().to_vec();
        bytes.append(&mut behind);
        if body.is_inline() {
            match attributes.kind {
                Kind::Symlink => bytes.extend_from_slice(self.tree.symlink(node)),
                Kind::Directory => bytes.extend(self.blocks_of(node).last().unwrap_or_default()),
                _ => {}
            }
        }
        pieces.push(Piece::Bytes(bytes));
        if body.is_inline() && attributes.kind == Kind::File {
            pieces.push(Piece::Content(node, length));
        }
    }

    fn inode_record(
        &self,
        node: NodeId,
        attributes: &Attributes,
        length: u64,
        xattrs: usize,
    ) -> Inode {
        let body = self.place(node).body;
        let layout = if body.is_inline() {
            DataLayout::Inline
        } else {
            DataLayout::Plain
        };
        let (type_bits, device) = match attributes.kind {
            Kind::Whiteout => (Kind::CharDevice.type_bits(), true),
            kind => (kind.type_bits(), kind.is_device()),
        };
        Inode {
            format: (1 | (layout as u16) << 1).into(),
            xattr_count: xattr_count(xattrs).unwrap_or_default().into(),
            // Twelve and four bits.
            mode: ((type_bits | attributes.mode) as u16).into(),
            reserved: 0.into(),
            size: length.into(),
            data: if device {
                attributes.rdev as u32
            } else {
                body.block()
            }
            .into(),
            number: (node.0.wrapping_add(1)).into(),
            uid: attributes.uid.into(),
            gid: attributes.gid.into(),
            mtime: attributes.mtime.cast_unsigned().into(),
            mtime_nanos: attributes.mtime_nanos.into(),
            nlink: attributes.nlink.into(),
            reserved_2: [0; 16],
        }
    }

    fn blocks_of(&self, directory: NodeId) -> Blocks<'_, impl Fn(NodeId) -> (u64, u8) + '_> {
        Blocks::new(Names::of(self.tree, directory), |node| {
            let number = u64::from(self.place(node).slot);
            (number, file_type(self.tree.kind(node)))
        })
    }

    /// The blocks of a directory, but for a last one behind its inode.
    fn directory_blocks(&self, node: NodeId, pieces: &mut Vec<Piece>) {
        let body = self.place(node).body;
        if self.tree.kind(node) != Kind::Directory || body.block() == Body::None.block() {
            return;
        }
        let mut blocks = self.blocks_of(node).peekable();
        while let Some(mut block) = blocks.next() {
            if body.is_inline() && blocks.peek().is_none() {
                return;
            }
            block.resize(BLOCK as usize, 0);
            pieces.push(Piece::Bytes(block));
        }
    }

    /// The blocks of a file, or of a symlink that is too long to lie behind its inode.
    fn file_blocks(&self, node: NodeId, pieces: &mut Vec<Piece>) {
        let attributes = self.tree.attributes(node);
        let Body::Blocks(_) = self.place(node).body else {
            return;
        };
        let length = match attributes.kind {
            Kind::Directory => return,
            Kind::Symlink => {
                pieces.push(Piece::Bytes(self.tree.symlink(node).to_vec()));
                self.tree.symlink(node).len() as u64
            }
            _ => {
                pieces.push(Piece::Content(node, attributes.size));
                attributes.size
            }
        };
        push_zeros(pieces, length.next_multiple_of(BLOCK) - length);
    }
}

fn push_zeros(pieces: &mut Vec<Piece>, length: u64) {
    if length != 0 {
        pieces.push(Piece::Zeros(length));
    }
}

/// Reads again when a signal came between.
fn retry(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
