//! Layout `erofs`: each layer as a prebuilt EROFS image, `/erofs/sha256/<xx>/<diffID>.erofs`.
//!
//! That is the layer content cache of containerd 2.4's `erofs` snapshotter: with
//! `layer_content_caches = ["/cvmfs/<repository>/erofs"]` it mounts the image that it finds there instead of fetching, inflating and
//! converting the layer. A layer that cannot be an image of its own is left out; containerd then pulls it as ever.
//!
//! An image states in its inodes where contents lie, so it can be written only when all entries have come: until then contents lie one
//! after the other in an unnamed temporary file.
//!
//! ```text
//! /erofs/images/<xx>/<layer>/layer.erofs    the image, in a subtree as all layouts have them
//! /erofs/sha256/<xx>/<diffID>.erofs         the name that containerd looks for: a symlink there
//! ```

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use image::Digest;
use tree::erofs::{Options, Plan, PlanError};
use tree::{BuildError, Builder, NodeId, Tree};

use super::metadata::ensure_catalog;
use super::{Backend, Changes, Layout, sharded};
use crate::entry::Entry;
use crate::error::Error;
use crate::layer::Sink;
use crate::objects::{How, StoredContent};
use crate::subtree::Linked;

/// What containerd is given, below the repository's mount.
pub const ROOT: &str = "/erofs";
/// Where it looks.
const NAMES: &str = "/erofs/sha256";
/// Name of an image in its own directory.
const FILE: &str = "layer.erofs";

/// The name that containerd looks for. The digest is the diffID.
#[must_use]
pub fn image_path(diff_id: &Digest) -> String {
    format!("{NAMES}/{}.erofs", sharded(diff_id))
}

/// Whether a layer's image is there already, and found.
pub(crate) fn is_there<C: Changes>(
    changes: &mut C,
    layer: &Digest,
    diff_id: &Digest,
) -> Result<bool, Error> {
    let image = format!("{}/{FILE}", Layout::Erofs.place(layer));
    let image = changes.lookup(&image)?;
    let is_file = image.is_some_and(|found| found.kind == cvmfs::Kind::File);
    Ok(is_file && changes.lookup(&image_path(diff_id))?.is_some())
}

/// The subtree that an image becomes.
pub(crate) fn subtree<B: Backend>(
    backend: &B,
    image: &ErofsImage,
    now: jiff::Timestamp,
) -> Result<B::Subtree, Error> {
    let mtime = now.as_second();
    let mut builder = backend.subtree(mtime)?;
    builder.file_with(FILE.as_bytes(), image.entry(mtime), &image.content)?;
    backend.finish(builder)
}

/// Lets containerd find a layer's image, which is there. The name may lead to the image of another blob with the same diffID: they
/// are the same.
pub(crate) fn point<C: Changes>(
    changes: &mut C,
    layer: &Digest,
    diff_id: &Digest,
    now: jiff::Timestamp,
) -> Result<(), Error> {
    let path = image_path(diff_id);
    if let Some(found) = changes.lookup(&path)?
        && let Some(known) = pointed(&found.symlink)
        && changes.lookup(&known)?.is_some()
    {
        return Ok(());
    }
    let shard = path.rsplit_once('/').map_or(ROOT, |(shard, _)| shard);
    for directory in [NAMES, shard] {
        ensure_catalog(changes, directory)?;
    }
    let target = format!("../../images/{}/{FILE}", sharded(layer));
    changes.symlink(&path, Entry::symlink(target, now.as_second()))
}

/// Removes all names that lead to images that are not there any more.
pub(crate) fn remove_dangling<C: Changes>(changes: &mut C) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    for shard in changes.list(NAMES)? {
        let shard = format!("{NAMES}/{}", String::from_utf8_lossy(&shard));
        for name in changes.list(&shard)? {
            let path = format!("{shard}/{}", String::from_utf8_lossy(&name));
            let target = changes.lookup(&path)?.and_then(|it| pointed(&it.symlink));
            if let Some(target) = target
                && changes.lookup(&target)?.is_none()
            {
                changes.remove(&path)?;
                removed.push(path);
            }
        }
    }
    Ok(removed)
}

/// The image that a name leads to.
fn pointed(symlink: &[u8]) -> Option<String> {
    let below = symlink.strip_prefix(b"../../images/")?;
    let below = std::str::from_utf8(below).ok()?;
    Some(format!("{ROOT}/images/{below}"))
}

/// A layer's image, stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErofsImage {
    /// The layer's.
    pub diff_id: Digest,
    /// Its bytes.
    pub length: u64,
    /// Its objects.
    pub content: StoredContent,
    /// Attributes that it does not hold, see [`Plan::dropped_xattrs`].
    pub dropped_xattrs: u64,
}

impl ErofsImage {
    /// The image as a file of the repository.
    #[must_use]
    pub fn entry(&self, mtime: i64) -> Entry {
        Entry {
            size: self.length,
            ..Entry::file(0o644, mtime)
        }
    }
}

/// Why a layer has no image. Its other layouts are none the worse.
#[derive(Debug, thiserror::Error)]
pub enum NoImage {
    /// Its entries contradict each other, or are too many.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// An image cannot say what the layer says.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// Takes a layer's entries for its image, and hands them on to the sink of another layout.
pub struct ErofsSink<'a> {
    beside: Option<&'a mut dyn Sink>,
    /// Extents refer to their place in `contents`, 8 bytes little endian.
    builder: Builder,
    contents: File,
    length: u64,
    /// Builders are of no use after an error.
    failed: Option<BuildError>,
}

impl ErofsSink<'static> {
    /// For the image alone. Contents are kept in an empty temporary file meanwhile.
    #[must_use]
    pub fn new(contents: File) -> Self {
        Self {
            beside: None,
            builder: Builder::new(),
            contents,
            length: 0,
            failed: None,
        }
    }

    /// For another layout, if there is one, at the same time: the layer is read once.
    pub fn beside(self, other: Option<&mut dyn Sink>) -> ErofsSink<'_> {
        ErofsSink {
            beside: other,
            builder: self.builder,
            contents: self.contents,
            length: self.length,
            failed: self.failed,
        }
    }
}

impl ErofsSink<'_> {
    /// Writes the image of all entries; `store` stores what it reads. The same layer gives the same bytes.
    ///
    /// # Errors
    /// Those of `store`.
    pub fn finish(
        self,
        diff_id: &Digest,
        store: impl FnOnce(&mut dyn Read, u64, How<'_>) -> Result<StoredContent, Error>,
    ) -> Result<Result<ErofsImage, NoImage>, Error> {
        let Self {
            builder,
            contents,
            failed,
            ..
        } = self;
        let tree = match failed.map_or_else(|| builder.finish(), Err) {
            Ok(bytes) => Tree::parse(bytes).map_err(|error| Error::corrupt("tree", error))?,
            Err(error) => return Ok(Err(error.into())),
        };
        let options = Options {
            uuid: uuid(diff_id),
            ..Options::default()
        };
        let plan = match Plan::new(&tree, &options) {
            Ok(plan) => plan,
            Err(error) => return Ok(Err(error.into())),
        };
        let mut image = plan.image(|node| Ok(Content::of(&contents, &tree, node)));
        let content = store(&mut image, plan.length(), How::DEFLATED)?;
        Ok(Ok(ErofsImage {
            diff_id: *diff_id,
            length: plan.length(),
            content,
            dropped_xattrs: plan.dropped_xattrs() as u64,
        }))
    }

    fn take(&mut self, path: &[u8], entry: &Entry, extent: Option<(u64, u64)>) {
        if self.failed.is_none() {
            self.failed = self.builder.add(path, tree_entry(entry, extent)).err();
        }
    }
}

impl Sink for ErofsSink<'_> {
    fn add(&mut self, path: &[u8], entry: Entry) -> Result<(), Error> {
        self.take(path, &entry, None);
        match &mut self.beside {
            Some(other) => other.add(path, entry),
            None => Ok(()),
        }
    }

    fn file(
        &mut self,
        path: &[u8],
        entry: Entry,
        reader: &mut dyn Read,
        length: u64,
        how: How<'_>,
    ) -> Result<(), Error> {
        self.take(path, &entry, Some((self.length, length)));
        let mut copied = Copied {
            reader,
            contents: &self.contents,
            failure: None,
        };
        if let Some(other) = &mut self.beside {
            let handed_on = other.file(path, entry, &mut copied, length, how);
            // A full disk here is not a failure of the layer.
            if let Some(failure) = copied.failure.take() {
                return Err(Error::Scratch(failure));
            }
            handed_on?;
        }
        // Also what the other one did not want to read.
        let rest = io::copy(&mut copied, &mut io::sink());
        if let Some(failure) = copied.failure {
            return Err(Error::Scratch(failure));
        }
        rest.map_err(|source| Error::Input {
            what: path.escape_ascii().to_string(),
            source,
        })?;
        self.length += length;
        Ok(())
    }

    /// Content that is stored in the repository is not at hand for an image.
    fn file_with(&mut self, path: &[u8], _: Entry, _: &StoredContent) -> Result<(), Error> {
        Err(Error::NotAllowed(format!(
            "{} has no content that an EROFS image could be made of",
            path.escape_ascii()
        )))
    }

    /// The image's builder finds targets by itself, also later ones; so the answer is the other sink's.
    fn hardlink(&mut self, path: &[u8], target: &[u8]) -> Result<Linked, Error> {
        if self.failed.is_none() {
            self.failed = self.builder.hardlink(path, target).err();
        }
        match &mut self.beside {
            Some(other) => other.hardlink(path, target),
            None => Ok(Linked::Linked),
        }
    }

    fn implicit_directories(&self) -> Result<Vec<Vec<u8>>, Error> {
        match &self.beside {
            Some(other) => other.implicit_directories(),
            None => Ok(Vec::new()),
        }
    }
}

/// Copies what is read to the end of the temporary file.
struct Copied<'a> {
    reader: &'a mut dyn Read,
    contents: &'a File,
    failure: Option<io::Error>,
}

impl Read for Copied<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        let mut contents = self.contents;
        if let Err(failure) = contents.write_all(&buffer[..count]) {
            self.failure = Some(failure);
            return Err(io::Error::other("the temporary file cannot be written"));
        }
        Ok(count)
    }
}

/// A file's content within the temporary file.
struct Content<'a> {
    contents: &'a File,
    at: u64,
    left: u64,
}

impl<'a> Content<'a> {
    fn of(contents: &'a File, tree: &Tree<Vec<u8>>, node: NodeId) -> Self {
        let place = tree.extents(node).next().and_then(|extent| {
            let at = extent.content.try_into().ok().map(u64::from_le_bytes)?;
            Some((at, extent.length))
        });
        let (at, left) = place.unwrap_or_default();
        Self { contents, at, left }
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.contents.read_at(&mut buffer[..wanted], self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

fn tree_entry(entry: &Entry, extent: Option<(u64, u64)>) -> tree::Entry {
    let extents = extent.filter(|(_, length)| *length != 0);
    tree::Entry {
        kind: match entry.kind {
            cvmfs::Kind::File => tree::Kind::File,
            cvmfs::Kind::Directory => tree::Kind::Directory,
            cvmfs::Kind::Symlink => tree::Kind::Symlink,
            cvmfs::Kind::CharDevice => tree::Kind::CharDevice,
            cvmfs::Kind::BlockDevice => tree::Kind::BlockDevice,
            cvmfs::Kind::Fifo => tree::Kind::Fifo,
            cvmfs::Kind::Socket => tree::Kind::Socket,
        },
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        size: extent.map_or(0, |(_, length)| length),
        mtime: entry.mtime,
        mtime_nanos: entry.mtime_nanos,
        rdev: entry.rdev,
        xattrs: entry.xattrs.clone(),
        symlink: entry.symlink.clone(),
        extents: extents
            .map(|(at, length)| (0, length, at.to_le_bytes().to_vec()))
            .into_iter()
            .collect(),
        link_group: None,
        implicit: false,
    }
}

/// A name-based UUID (version 8) of the layer, so that the image has no other source than it.
fn uuid(diff_id: &Digest) -> [u8; 16] {
    let digest = Digest::of(format!("erofs:{diff_id}").as_bytes());
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&digest.as_bytes()[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_lie_where_containerd_looks() {
        let diff_id = Digest::of(b"");
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(
            image_path(&diff_id),
            format!("/erofs/sha256/e3/{hex}.erofs")
        );
    }

    #[test]
    fn the_uuid_is_one_and_the_layers() {
        let (one, other) = (uuid(&Digest::of(b"1")), uuid(&Digest::of(b"2")));
        assert_ne!(one, other);
        assert_eq!(one, uuid(&Digest::of(b"1")));
        assert_eq!((one[6] >> 4, one[8] >> 6), (8, 2));
    }
}
