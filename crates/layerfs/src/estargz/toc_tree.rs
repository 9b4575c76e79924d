//! From a layer's table of contents to its tree.

use image::estargz::{Entry, EntryKind, Toc};
use tree::{BuildError, Builder, Kind};

use crate::content::ContentRef;

/// The tree of a layer. Contents are chunks of its blob.
pub(crate) fn tree_of(toc: &Toc) -> Result<Vec<u8>, BuildError> {
    let mut builder = Builder::new();
    for entry in toc.entries() {
        match kind(entry.kind()) {
            None => builder.hardlink(entry.path(), entry.target())?,
            Some(kind) => builder.add(entry.path(), tree_entry(&entry, kind))?,
        }
    }
    builder.finish()
}

/// `None` for a hardlink.
fn kind(kind: EntryKind) -> Option<Kind> {
    Some(match kind {
        EntryKind::File => Kind::File,
        EntryKind::Directory => Kind::Directory,
        EntryKind::Symlink => Kind::Symlink,
        EntryKind::CharDevice => Kind::CharDevice,
        EntryKind::BlockDevice => Kind::BlockDevice,
        EntryKind::Fifo => Kind::Fifo,
        EntryKind::Hardlink => return None,
    })
}

fn tree_entry(entry: &Entry<'_>, kind: Kind) -> tree::Entry {
    let (mtime, mtime_nanos) = entry.mtime();
    let symlink = match kind {
        Kind::Symlink => entry.target().to_vec(),
        _ => Vec::new(),
    };
    tree::Entry {
        uid: entry.uid(),
        gid: entry.gid(),
        size: match kind {
            Kind::Symlink => symlink.len() as u64,
            _ => entry.size(),
        },
        mtime,
        mtime_nanos,
        rdev: device(entry, kind),
        xattrs: entry
            .xattrs()
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect(),
        symlink,
        extents: entry
            .chunks()
            .iter()
            .map(|chunk| {
                let content = ContentRef::Chunk(&chunk.to_reference()).encode();
                (chunk.file_offset, chunk.size, content)
            })
            .collect(),
        ..tree::Entry::new(kind, entry.mode())
    }
}

fn device(entry: &Entry<'_>, kind: Kind) -> u64 {
    let (major, minor) = entry.device();
    match kind {
        Kind::CharDevice | Kind::BlockDevice => rustix::fs::makedev(major, minor),
        _ => 0,
    }
}
