use super::chunk::Chunk;
use crate::Digest;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Regular file; also a whiteout, by its name.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Another name of a file in this layer or in one below.
    Hardlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
}

/// A record as [`Toc`](super::Toc) holds it; texts and lists are places in its pools.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) kind: EntryKind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) device: (u32, u32),
    pub(crate) nanos: u32,
    pub(crate) seconds: i64,
    pub(crate) size: u64,
    pub(crate) path: Span,
    pub(crate) target: Span,
    /// name length, name, value length, value; lengths of 4 bytes
    pub(crate) xattrs: Span,
    pub(crate) chunks: (u32, u32),
    /// Index into the digests of whole files; `u32::MAX` for none.
    pub(crate) digest: u32,
}

/// A place in the pool of texts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) length: u32,
}

impl Span {
    pub(crate) fn of(self, pool: &[u8]) -> &[u8] {
        let start = self.start as usize;
        pool.get(start..start + self.length as usize)
            .unwrap_or_default()
    }
}

/// One file, directory or other thing that a TOC lists, in the order of the tar.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub(crate) record: &'a Record,
    pub(crate) texts: &'a [u8],
    pub(crate) chunks: &'a [Chunk],
    pub(crate) digests: &'a [Digest],
}

impl<'a> Entry<'a> {
    /// Its path without a leading slash, single slashes between, no `.` or `..`; empty for the root.
    #[must_use]
    pub fn path(&self) -> &'a [u8] {
        self.record.path.of(self.texts)
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> EntryKind {
        self.record.kind
    }

    /// Permission bits with set-uid, set-gid and sticky.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.record.mode.into()
    }

    /// Owner.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.record.uid
    }

    /// Group.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.record.gid
    }

    /// Length of a regular file, else 0.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.record.size
    }

    /// Modification time: seconds since 1970 and nanoseconds.
    #[must_use]
    pub fn mtime(&self) -> (i64, u32) {
        (self.record.seconds, self.record.nanos)
    }

    /// Major and minor number of a device, else zeros.
    #[must_use]
    pub fn device(&self) -> (u32, u32) {
        self.record.device
    }

    /// A symlink's target, verbatim; a hardlink's, as [`Entry::path`]; else empty.
    #[must_use]
    pub fn target(&self) -> &'a [u8] {
        self.record.target.of(self.texts)
    }

    /// Extended attributes: name and value.
    pub fn xattrs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = self.record.xattrs.of(self.texts);
        std::iter::from_fn(move || Some((take_counted(&mut rest)?, take_counted(&mut rest)?)))
    }

    /// The chunks of a regular file, in its order and without gaps; empty for an empty file.
    #[must_use]
    pub fn chunks(&self) -> &'a [Chunk] {
        let (first, count) = self.record.chunks;
        let first = first as usize;
        self.chunks
            .get(first..first + count as usize)
            .unwrap_or_default()
    }

    /// The SHA-256 of a whole regular file, if the TOC gives it.
    #[must_use]
    pub fn digest(&self) -> Option<&'a Digest> {
        let own = self.digests.get(self.record.digest as usize);
        own.or_else(|| match self.chunks() {
            [only] => only.digest.as_ref(),
            _ => None,
        })
    }
}

fn take_counted<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (text, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *rest = after;
    Some(text)
}

pub(crate) fn put_counted(pool: &mut Vec<u8>, text: &[u8]) {
    // Lengths are checked against far smaller limits before.
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    pool.extend_from_slice(&length.to_le_bytes());
    pool.extend_from_slice(text);
}
