//! A whole layer, blob to sink.

use std::collections::HashSet;
use std::io::{self, Read};

use cvmfs::Kind as EntryKind;
use image::{Descriptor, Digest};

use super::error::LayerError;
use super::inflate::{Finished, Inflated};
use super::limits::LayerLimits;
use super::links::{LowerLink, Waiting};
use super::paths;
use super::sink::Sink;
use super::tar::{Item, Kind, TarReader};
use crate::entry::Entry;
use crate::objects::How;
use crate::path_key;
use crate::subtree::Linked;
use registry::Verified;

/// Longest name and value of an attribute that a catalog can hold, and how many.
const MAX_XATTR: usize = 255;

/// What is unpacked.
pub struct LayerBlob<'a> {
    /// The blob's bytes from the start.
    pub reader: Box<dyn Read + Send + 'a>,
    /// Digest and size that they must have.
    pub descriptor: &'a Descriptor,
    /// What the uncompressed tar must have; `None`: the image does not say.
    pub diff_id: Option<Digest>,
}

/// What a layer came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Of the uncompressed tar.
    pub diff_id: Digest,
    /// Bytes of the uncompressed tar.
    pub uncompressed: u64,
    /// Bytes of the blob.
    pub compressed: u64,
    /// Entries of the tar.
    pub entries: u64,
    /// Hardlinks to files that lower layers must have.
    pub lower_links: Vec<LowerLink>,
    /// Attributes that no catalog can hold (value longer than 255 bytes), or that would steer an overlay file system.
    pub dropped_xattrs: u64,
}

/// Hands every entry of a layer to `sink`. `progress` hears compressed bytes, now and then and at the end.
///
/// # Errors
/// [`LayerError`]. What the sink got is then worthless.
pub fn unpack(
    blob: LayerBlob<'_>,
    limits: LayerLimits,
    sink: &mut dyn Sink,
    progress: &mut dyn FnMut(u64),
) -> Result<Unpacked, LayerError> {
    let verified = Verified::new(blob.reader, blob.descriptor);
    let inflated = Inflated::new(Box::new(verified), limits)?;
    let mut unpacker = Unpacker {
        sink,
        limits,
        waiting: Waiting::default(),
        symlinks: HashSet::new(),
        clear: None,
        entries: 0,
        content: 0,
        dropped_xattrs: 0,
    };
    let mut tar = TarReader::new(inflated, limits);
    let read = unpacker.read(&mut tar, progress);
    // A damaged blob shows as a malformed tar long before its end: then the blob is what is to blame.
    let finished = tar.into_inner().finish();
    let finished = match (read, finished) {
        (Err(error @ (LayerError::Limit { .. } | LayerError::Store(_))), _) => return Err(error),
        (Err(LayerError::Tar { .. } | LayerError::Entry { .. }), Err(damage)) => {
            return Err(damage);
        }
        (Err(error), _) | (Ok(()), Err(error)) => return Err(error),
        (Ok(()), Ok(finished)) => finished,
    };
    check_diff_id(blob.diff_id, &finished)?;
    progress(finished.compressed);
    let (lower_links, _) = unpacker.waiting.settle(unpacker.sink)?;
    Ok(Unpacked {
        diff_id: finished.diff_id,
        uncompressed: finished.uncompressed,
        compressed: finished.compressed,
        entries: unpacker.entries,
        lower_links,
        dropped_xattrs: unpacker.dropped_xattrs,
    })
}

fn check_diff_id(expected: Option<Digest>, finished: &Finished) -> Result<(), LayerError> {
    match expected {
        Some(expected) if expected != finished.diff_id => Err(LayerError::DiffId {
            expected,
            actual: finished.diff_id,
        }),
        _ => Ok(()),
    }
}

struct Unpacker<'a> {
    sink: &'a mut dyn Sink,
    limits: LayerLimits,
    waiting: Waiting,
    /// Keys of the paths where symlinks are.
    symlinks: HashSet<(i64, i64)>,
    /// The directory whose way was last found free of symlinks.
    clear: Option<Vec<u8>>,
    entries: u64,
    /// Bytes of contents, holes included.
    content: u64,
    dropped_xattrs: u64,
}

impl Unpacker<'_> {
    fn read(
        &mut self,
        tar: &mut TarReader<Inflated<'_>>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), LayerError> {
        const REPORT_EACH: u64 = 1 << 20;
        let mut reported = 0;
        while let Some(item) = tar.next()? {
            self.count(&item)?;
            self.entry(tar, &item)?;
            let compressed = tar.inner().compressed();
            if compressed - reported >= REPORT_EACH {
                reported = compressed;
                progress(compressed);
            }
        }
        Ok(())
    }

    fn count(&mut self, item: &Item) -> Result<(), LayerError> {
        self.entries += 1;
        self.content = self.content.saturating_add(item.size);
        let exceeded = [
            (self.entries, "entries", self.limits.entries),
            (self.content, "bytes of content", self.limits.inflated_bytes),
        ];
        match exceeded.into_iter().find(|(count, _, limit)| count > limit) {
            Some((_, what, limit)) => Err(LayerError::Limit { what, limit }),
            None => Ok(()),
        }
    }

    fn entry(&mut self, tar: &mut TarReader<Inflated<'_>>, item: &Item) -> Result<(), LayerError> {
        let path = paths::entry(&item.path)?;
        self.refuse_below_symlinks(&path)?;
        if path.is_empty() && item.kind != Kind::Directory {
            return Err(LayerError::entry(
                &item.path,
                "the layer's root is no directory",
            ));
        }
        if item.kind == Kind::Hardlink {
            return self.hardlink(path, item);
        }
        self.waiting.replaced(&path, item.kind == Kind::Directory);
        self.note_kind(&path, item.kind == Kind::Symlink);
        let entry = self.attributes(item, &path)?;
        if item.kind != Kind::File {
            return self.sink.add(&path, entry).map_err(LayerError::from_store);
        }
        let sink = &mut *self.sink;
        tar.content(item, |reader| -> Result<(), LayerError> {
            let mut reader = reader.take(item.size);
            sink.file(&path, entry, &mut reader, item.size, How::DEFLATED)
                .map_err(LayerError::from_store)?;
            // What a sink did not want is part of the tar all the same.
            io::copy(&mut reader, &mut io::sink())
                .map(drop)
                .map_err(LayerError::from_io)
        })
    }

    fn hardlink(&mut self, path: Vec<u8>, item: &Item) -> Result<(), LayerError> {
        let target = paths::link_target(&item.link, &path)?;
        if target == path {
            return Err(LayerError::entry(&path, "it is a hardlink to itself"));
        }
        self.refuse_below_symlinks(&target).map_err(|_| {
            LayerError::entry(&path, "it is a hardlink to what lies below a symlink")
        })?;
        self.waiting.replaced(&path, false);
        let to_symlink = self.symlinks.contains(&path_key::of(&target));
        let made = self.sink.hardlink(&path, &target);
        match made.map_err(LayerError::from_store)? {
            Linked::Linked => {
                self.note_kind(&path, to_symlink);
                Ok(())
            }
            Linked::TargetMissing => self.waiting.insert(path, target, self.limits.waiting_links),
        }
    }

    /// What lies below a symlink would be written to wherever it points.
    fn refuse_below_symlinks(&mut self, path: &[u8]) -> Result<(), LayerError> {
        let parent = paths::ancestors(path).next().unwrap_or_default();
        if self.symlinks.is_empty() || self.clear.as_deref() == Some(parent) {
            return Ok(());
        }
        for ancestor in paths::ancestors(path) {
            if self.symlinks.contains(&path_key::of(ancestor)) {
                return Err(LayerError::entry(
                    path,
                    "it lies below a symlink of the same layer",
                ));
            }
        }
        self.clear = Some(parent.to_vec());
        Ok(())
    }

    fn note_kind(&mut self, path: &[u8], symlink: bool) {
        if symlink {
            self.symlinks.insert(path_key::of(path));
            self.clear = None;
        } else if !self.symlinks.is_empty() {
            self.symlinks.remove(&path_key::of(path));
        }
    }

    fn attributes(&mut self, item: &Item, path: &[u8]) -> Result<Entry, LayerError> {
        let kind = match item.kind {
            Kind::File | Kind::Hardlink => EntryKind::File,
            Kind::Directory => EntryKind::Directory,
            Kind::Symlink => EntryKind::Symlink,
            Kind::CharDevice => EntryKind::CharDevice,
            Kind::BlockDevice => EntryKind::BlockDevice,
            Kind::Fifo => EntryKind::Fifo,
        };
        if item.kind == Kind::Symlink {
            paths::symlink_target(&item.link, path)?;
        }
        let mut xattrs = item.xattrs.clone();
        xattrs.retain(|(name, value)| keeps(name, value));
        xattrs.truncate(MAX_XATTR);
        self.dropped_xattrs += (item.xattrs.len() - xattrs.len()) as u64;
        let (major, minor) = item.device;
        Ok(Entry {
            kind,
            mode: item.mode,
            uid: item.uid,
            gid: item.gid,
            mtime: item.mtime,
            mtime_nanos: item.mtime_nanos,
            rdev: rustix::fs::makedev(major, minor),
            xattrs,
            symlink: match item.kind {
                Kind::Symlink => item.link.clone(),
                _ => Vec::new(),
            },
            size: item.size,
        })
    }
}

/// `trusted.overlay.redirect` and the like would make the layer show what other layers have under other names.
fn keeps(name: &[u8], value: &[u8]) -> bool {
    let steers = [&b"trusted.overlay."[..], b"user.overlay."];
    (1..=MAX_XATTR).contains(&name.len())
        && value.len() <= MAX_XATTR
        && !name.contains(&0)
        && !steers.iter().any(|prefix| name.starts_with(prefix))
}
