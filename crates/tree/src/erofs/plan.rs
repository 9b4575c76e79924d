//! The first step: a place for everything.

use thiserror::Error;

use crate::entry::{Attributes, Kind, NodeId};
use crate::view::Tree;

use super::Options;
use super::directory::{self, Names};
use super::format::{BLOCK, INODE, NO_BLOCK, SLOT};
use super::packer::Packer;
use super::xattrs::{self, Shared};

/// Devices have 12 bits of a major and 20 bits of a minor number, which Linux packs as `stat`
/// shows them.
const MAX_DEVICE: u64 = u32::MAX as u64;

/// Why a tree cannot be an image.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// A hardlink to a file of a lower layer: one layer's image cannot hold it.
    #[error(
        "{} is a hardlink into a lower layer; only the whole chain can be an image",
        show(path)
    )]
    LinkToLowerLayer {
        /// The link.
        path: Vec<u8>,
    },
    /// A block's number has 32 bits: 16 TiB.
    #[error("{} does not fit: an EROFS image ends at 16 TiB", show(path))]
    TooLarge {
        /// The file, directory or symlink that passes the limit.
        path: Vec<u8>,
    },
    /// One extended attribute above 65535 bytes, or 256 KiB of them.
    #[error("the extended attributes of {} are too long for EROFS", show(path))]
    XattrsTooLong {
        /// Whose they are.
        path: Vec<u8>,
    },
    /// A device number that Linux does not have.
    #[error("{} has a device number beyond 12 and 20 bits", show(path))]
    Device {
        /// The device.
        path: Vec<u8>,
    },
}

fn show(path: &[u8]) -> String {
    format!("/{}", path.escape_ascii())
}

/// Where a node's content lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Nowhere: empty, or no content at all.
    None,
    /// Behind the inode.
    Inline,
    /// In blocks from this one on.
    Blocks(u32),
    /// In blocks from this one on, the last and incomplete one behind the inode.
    Tail(u32),
}

impl Body {
    /// Whether the last part of the content lies behind the inode.
    pub(super) const fn is_inline(self) -> bool {
        matches!(self, Self::Inline | Self::Tail(_))
    }

    /// The first block as the inode states it.
    pub(super) const fn block(self) -> u32 {
        match self {
            Self::None | Self::Inline => NO_BLOCK,
            Self::Blocks(block) | Self::Tail(block) => block,
        }
    }
}

/// A node's place: slot of its inode, place of its content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) slot: u32,
    pub(super) body: Body,
}

/// An image that is laid out but not written: about 12 bytes for each node, and the attributes
/// that several nodes share.
#[derive(Debug)]
pub struct Plan<'t, B> {
    pub(super) tree: &'t Tree<B>,
    pub(super) options: Options,
    /// By number of the node.
    pub(super) places: Vec<Place>,
    pub(super) shared: Shared<'t>,
    /// Where the shared attributes begin.
    pub(super) shared_at: u64,
    /// First block behind the inodes.
    pub(super) metadata_end: u64,
    pub(super) blocks: u64,
}

impl<'t, B: AsRef<[u8]>> Plan<'t, B> {
    /// Lays out the image of a tree, a layer's or a merged one.
    ///
    /// # Errors
    /// [`PlanError`] with the path that cannot be in an image.
    pub fn new(tree: &'t Tree<B>, options: &Options) -> Result<Self, PlanError> {
        let shared =
            Shared::collect(tree).map_err(|_| PlanError::XattrsTooLong { path: vec![] })?;
        let mut plan = Self {
            tree,
            options: *options,
            places: Vec::with_capacity(tree.node_count() as usize),
            shared,
            shared_at: 0,
            metadata_end: 0,
            blocks: 0,
        };
        plan.place_inodes()?;
        plan.place_blocks()?;
        Ok(plan)
    }

    /// Bytes of the image, a multiple of 4096.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.blocks * BLOCK
    }

    /// The files whose content writing will ask for, in this order.
    pub fn files(&self) -> impl Iterator<Item = NodeId> + '_ {
        let mut small: Vec<NodeId> = self.nodes().filter(|node| self.is_small(*node)).collect();
        small.sort_unstable_by_key(|node| self.place(*node).slot);
        let large = self.nodes().filter(|node| {
            self.tree.kind(*node) == Kind::File && matches!(self.place(*node).body, Body::Blocks(_))
        });
        small.into_iter().chain(large)
    }

    /// Extended attributes of the tree that the image does not hold: such as Linux would not let
    /// anybody set, and `trusted.overlay.*`, which would give orders to an overlay above.
    #[must_use]
    pub fn dropped_xattrs(&self) -> usize {
        let dropped = |node| {
            let kind = self.tree.kind(node);
            let xattrs = self.tree.xattrs(node);
            xattrs
                .filter(|(name, _)| !xattrs::is_kept(kind, name))
                .count()
        };
        self.nodes().map(dropped).sum()
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> + use<B> {
        (0..self.tree.node_count()).map(NodeId)
    }

    pub(super) fn place(&self, node: NodeId) -> Place {
        const NOWHERE: Place = Place {
            slot: 0,
            body: Body::None,
        };
        self.places.get(node.0 as usize).copied().unwrap_or(NOWHERE)
    }

    /// Bytes of a node's content in the image.
    pub(super) fn content_length(&self, node: NodeId, attributes: &Attributes) -> u64 {
        match attributes.kind {
            Kind::Directory => directory::length(Names::of(self.tree, node)),
            Kind::Symlink => self.tree.symlink(node).len() as u64,
            Kind::File => attributes.size,
            _ => 0,
        }
    }

    fn is_small(&self, node: NodeId) -> bool {
        self.tree.kind(node) == Kind::File && self.place(node).body.is_inline()
    }

    /// The root first, as its number has 16 bits; then the shared attributes, then all others.
    fn place_inodes(&mut self) -> Result<(), PlanError> {
        let mut packer = Packer::new();
        for node in self.nodes() {
            let place = self.place_inode(&mut packer, node)?;
            self.places.push(place);
            if node == NodeId::ROOT {
                self.shared_at = packer.run(self.shared.length());
                let placed = self.shared.place(self.shared_at);
                placed.map_err(|_| PlanError::XattrsTooLong { path: vec![] })?;
            }
        }
        self.metadata_end = packer.end();
        Ok(())
    }

    fn place_inode(&self, packer: &mut Packer, node: NodeId) -> Result<Place, PlanError> {
        let attributes = self.tree.attributes(node);
        match attributes.kind {
            Kind::Link => {
                return Err(PlanError::LinkToLowerLayer {
                    path: self.path(node),
                });
            }
            _ if attributes.rdev > MAX_DEVICE => {
                return Err(PlanError::Device {
                    path: self.path(node),
                });
            }
            _ => {}
        }
        let xattrs = xattrs::of_node(self.tree, node);
        let xattrs = self.shared.length_of(xattrs);
        let xattrs = xattrs.map_err(|_| PlanError::XattrsTooLong {
            path: self.path(node),
        })?;
        let head = (INODE + xattrs) as u64;
        let length = self.content_length(node, &attributes);
        let tail = length % BLOCK;
        let limit = match attributes.kind {
            Kind::File if length > u64::from(self.options.inline_files) => 0,
            _ => BLOCK,
        };
        // Whether a last block begins at 0 or not, the inode says with one and the same layout.
        let body = match (tail != 0 && head + tail <= limit, length >= BLOCK) {
            (true, false) => Body::Inline,
            (true, true) => Body::Tail(NO_BLOCK),
            (false, _) if length != 0 => Body::Blocks(NO_BLOCK),
            (false, _) => Body::None,
        };
        let inline = if body.is_inline() { tail } else { 0 };
        let at = packer.inode(head + inline);
        let slot = u32::try_from(at / SLOT).map_err(|_| self.too_large(node))?;
        Ok(Place { slot, body })
    }

    /// The blocks of the directories first, so that listing a tree reads them in one go.
    fn place_blocks(&mut self) -> Result<(), PlanError> {
        let mut next = self.metadata_end;
        for directories in [true, false] {
            for node in self.nodes() {
                let attributes = self.tree.attributes(node);
                if (attributes.kind == Kind::Directory) == directories {
                    self.place_content(node, &attributes, &mut next)?;
                }
            }
        }
        self.blocks = next;
        Ok(())
    }

    fn place_content(
        &mut self,
        node: NodeId,
        attributes: &Attributes,
        next: &mut u64,
    ) -> Result<(), PlanError> {
        let body = self.place(node).body;
        let length = self.content_length(node, attributes);
        let blocks = match body {
            Body::None | Body::Inline => return Ok(()),
            Body::Blocks(_) => length.div_ceil(BLOCK),
            Body::Tail(_) => length / BLOCK,
        };
        let block = u32::try_from(*next).map_err(|_| self.too_large(node))?;
        *next += blocks;
        // The last number stands for "no block".
        if *next >= u64::from(NO_BLOCK) {
            return Err(self.too_large(node));
        }
        if let Some(place) = self.places.get_mut(node.0 as usize) {
            place.body = match body {
                Body::Tail(_) => Body::Tail(block),
                _ => Body::Blocks(block),
            };
        }
        Ok(())
    }

    fn too_large(&self, node: NodeId) -> PlanError {
        PlanError::TooLarge {
            path: self.path(node),
        }
    }

    /// A path of a node, for errors.
    pub(super) fn path(&self, node: NodeId) -> Vec<u8> {
        self.tree
            .walk()
            .find_map(|(path, found)| (found == node).then_some(path))
            .unwrap_or_default()
    }
}
