//! A tree as an EROFS image, the file system that Linux mounts read-only.
//!
//! Two steps, so that memory is bounded by the number of files and the image streams: a [`Plan`]
//! gives everything its place; writing it asks for the files' contents one after the other, each
//! once. What overlayfs needs of a layer is in the image as `mkfs.erofs --tar=f --aufs` has it:
//! a whiteout is a character device 0:0, a directory that hides what is below has
//! `trusted.overlay.opaque=y`, one that holds whiteouts `trusted.overlay.origin`.
//!
//! The same tree, options and contents give the same bytes: nothing in an image comes from the
//! clock, the machine or chance.
//!
//! ```
//! use tree::{Builder, Entry, Kind, Tree, erofs};
//!
//! let mut builder = Builder::new();
//! builder.add(b"hello", Entry { size: 5, ..Entry::new(Kind::File, 0o644) })?;
//! let tree = Tree::parse(builder.finish()?)?;
//!
//! let plan = erofs::Plan::new(&tree, &erofs::Options::default())?;
//! let mut image = Vec::new();
//! plan.write(&mut image, |_| Ok(&b"world"[..]))?;
//! assert_eq!(image.len() as u64, plan.length());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Layout: one block with the superblock; the inodes, each followed by its extended attributes and,
//! where that is short, its content; the blocks of directories; the blocks of files.

mod checksum;
mod directory;
mod format;
mod image;
mod packer;
mod plan;
mod xattrs;

pub use image::{Image, WriteError};
pub use plan::{Plan, PlanError};

/// What an image is to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Identifies the image; make it from the content, so that equal images stay equal.
    pub uuid: [u8; 16],
    /// Longest file, in bytes, that lies behind its inode: it saves a block and a read. Longer
    /// ones begin with a block of their own. 0: none.
    pub inline_files: u32,
}

impl Options {
    /// Half a block: so the inodes of small files stay dense enough to be listed fast.
    pub const DEFAULT_INLINE_FILES: u32 = 2048;
}

impl Default for Options {
    fn default() -> Self {
        Self {
            uuid: [0; 16],
            inline_files: Self::DEFAULT_INLINE_FILES,
        }
    }
}
