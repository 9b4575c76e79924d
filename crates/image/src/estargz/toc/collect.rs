//! Turns the entries of the JSON into a [`Toc`], checking each.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Limits, Toc, cut};
use crate::Digest;
use crate::estargz::chunk::{Chunk, Codec};
use crate::estargz::entry::{EntryKind, Record, Span, put_counted};
use crate::estargz::json::{JsonEntry, Sink};
use crate::estargz::{EntryFault, Error, Footer, Landmark, TOC_NAME, landmark, time};

/// What Linux takes.
const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4096;
const MAX_XATTR_NAME: usize = 255;
const MAX_XATTR_VALUE: usize = 64 << 10;

/// Holes are cut, so that nobody needs to hold a large one in memory.
const HOLE_BYTES: u64 = 16 << 20;

/// Go puts this in the place of bytes that are not UTF-8.
const REPLACEMENT: char = '\u{fffd}';

const NO_DIGEST: u32 = u32::MAX;

pub(super) struct Collector<'a> {
    limits: &'a Limits,
    codec: Codec,
    data_end: u64,
    index: u64,
    open: Option<OpenFile>,
    records: Vec<Record>,
    chunks: Vec<Chunk>,
    texts: Vec<u8>,
    digests: Vec<Digest>,
    landmark: Landmark,
    /// Landmarks and the TOC itself are no part of the layer.
    hides: bool,
}

/// A regular file whose chunks are still coming.
struct OpenFile {
    record: Record,
    digest: Option<Digest>,
    first_chunk: usize,
    filled: u64,
    end_offset: u64,
    landmark: Option<Hidden>,
}

/// What is in the TOC and not in the layer.
#[derive(Clone, Copy)]
enum Hidden {
    Prefetch,
    NoPrefetch,
    Other,
}

impl Sink for Collector<'_> {
    fn entry(&mut self, entry: JsonEntry) -> Result<(), Error> {
        let result = match entry.kind.as_str() {
            "chunk" => self.chunk(&entry),
            _ => self.close().and_then(|()| self.named(&entry)),
        };
        result.map_err(|fault| Error::Entry {
            index: self.index,
            path: cut(&entry.name),
            fault,
        })?;
        self.index += 1;
        let limits = self.limits;
        super::within(
            self.records.len() as u64,
            limits.entries.into(),
            "the number of entries",
        )?;
        super::within(
            self.chunks.len() as u64,
            limits.chunks.into(),
            "the number of chunks",
        )?;
        super::within(
            self.texts.len() as u64,
            limits.texts.into(),
            "the length of all names",
        )
    }
}

impl<'a> Collector<'a> {
    pub(super) fn new(footer: &Footer, limits: &'a Limits) -> Self {
        Self {
            hides: true,
            ..Self::with(limits, footer.codec(), footer.data_end())
        }
    }

    /// For the entries of a tar that is no lazy layer.
    pub(super) fn of_tar(limits: &'a Limits) -> Self {
        Self::with(limits, Codec::Plain, u64::MAX)
    }

    fn with(limits: &'a Limits, codec: Codec, data_end: u64) -> Self {
        Self {
            limits,
            codec,
            data_end,
            hides: false,
            index: 0,
            open: None,
            records: Vec::new(),
            chunks: Vec::new(),
            texts: Vec::new(),
            digests: Vec::new(),
            landmark: Landmark::None,
        }
    }

    pub(super) fn finish(mut self, digest: Digest) -> Result<Toc, Error> {
        self.close().map_err(|fault| Error::Entry {
            index: self.index,
            path: String::new(),
            fault,
        })?;
        self.set_ends();
        let toc = Toc {
            records: self.records,
            chunks: self.chunks,
            texts: self.texts,
            digests: self.digests,
            landmark: self.landmark,
            digest,
        };
        toc.check_links()
    }

    /// A member ends where the next begins. The order of the TOC is not relied upon.
    fn set_ends(&mut self) {
        let stored = |chunk: &&Chunk| chunk.codec != Codec::Zeros;
        let mut starts: Vec<u64> = self
            .chunks
            .iter()
            .filter(stored)
            .map(|chunk| chunk.start)
            .collect();
        starts.sort_unstable();
        starts.dedup();
        for chunk in &mut self.chunks {
            match chunk.codec {
                Codec::Zeros => continue,
                Codec::Plain => {
                    chunk.end = chunk.start.saturating_add(chunk.size);
                    continue;
                }
                Codec::Gzip | Codec::Zstd => {}
            }
            let next = starts.partition_point(|start| *start <= chunk.start);
            let next = starts.get(next).copied().unwrap_or(self.data_end);
            // Incompressible data grows by far less; beyond this is nothing that the chunk needs.
            let content = chunk.inner_offset + chunk.size;
            let needed = chunk.start.saturating_add(2 * content + (1 << 20));
            chunk.end = chunk.end.min(next).min(needed);
        }
    }

    fn named(&mut self, entry: &JsonEntry) -> Result<(), EntryFault> {
        let kind = match entry.kind.as_str() {
            "reg" => EntryKind::File,
            "dir" => EntryKind::Directory,
            "symlink" => EntryKind::Symlink,
            "hardlink" => EntryKind::Hardlink,
            "char" => EntryKind::CharDevice,
            "block" => EntryKind::BlockDevice,
            "fifo" => EntryKind::Fifo,
            _ => return Err(EntryFault::UnknownType),
        };
        let path = clean(&entry.name)?;
        if path.is_empty() && kind != EntryKind::Directory {
            return Err(EntryFault::Root);
        }
        let hidden = match path.as_str() {
            _ if !self.hides => None,
            landmark::PREFETCH => Some(Hidden::Prefetch),
            landmark::NO_PREFETCH => Some(Hidden::NoPrefetch),
            TOC_NAME => Some(Hidden::Other),
            _ => None,
        };
        let (seconds, nanos) = match entry.modified.as_deref() {
            None | Some("") => (0, 0),
            Some(text) => time::parse(text).ok_or(EntryFault::Time)?,
        };
        let target = target(kind, &entry.link_name)?;
        let record = Record {
            kind,
            mode: (entry.mode & 0o7777) as u16,
            uid: entry.uid,
            gid: entry.gid,
            device: match kind {
                EntryKind::CharDevice | EntryKind::BlockDevice => {
                    (entry.dev_major, entry.dev_minor)
                }
                _ => (0, 0),
            },
            nanos,
            seconds,
            size: 0,
            path: self.text(path.as_bytes()),
            target: self.text(target.as_bytes()),
            xattrs: self.xattrs(entry)?,
            chunks: (0, 0),
            digest: NO_DIGEST,
        };
        match (kind, hidden) {
            (EntryKind::File, _) => self.file(record, entry, hidden),
            (_, None) => {
                self.records.push(record);
                Ok(())
            }
            // A directory with such a name is none of ours, and none of the layer's either.
            (_, Some(_)) => Ok(()),
        }
    }

    fn file(
        &mut self,
        mut record: Record,
        entry: &JsonEntry,
        landmark: Option<Hidden>,
    ) -> Result<(), EntryFault> {
        record.size = entry.size;
        self.open = Some(OpenFile {
            record,
            digest: digest(entry.digest.as_deref())?,
            first_chunk: self.chunks.len(),
            filled: 0,
            end_offset: entry.end_offset,
            landmark,
        });
        if entry.size > 0 {
            self.chunk(entry)?;
        }
        Ok(())
    }

    /// Adds a chunk to the open file: from an entry of its own, or from the file's.
    fn chunk(&mut self, entry: &JsonEntry) -> Result<(), EntryFault> {
        let file = self.open.as_mut().ok_or(EntryFault::LoneChunk)?;
        let left = file.record.size - file.filled;
        if entry.chunk_offset != file.filled || left == 0 || entry.chunk_size > left {
            return Err(EntryFault::Chunks);
        }
        let size = if entry.chunk_size == 0 {
            left
        } else {
            entry.chunk_size
        };
        let mut chunk = Chunk {
            file_offset: file.filled,
            size,
            codec: self.codec,
            start: entry.offset,
            end: u64::MAX,
            inner_offset: entry.inner_offset,
            digest: digest(entry.chunk_digest.as_deref())?,
        };
        file.filled += size;
        match entry.chunk_type.as_deref() {
            None | Some("") => {}
            Some("zeros") => return self.hole(chunk),
            Some(_) => return Err(EntryFault::ChunkType),
        }
        if size == file.record.size && chunk.digest.is_none() {
            chunk.digest = file.digest;
        }
        let member = size.checked_add(entry.inner_offset);
        if size > self.limits.chunk || member.is_none_or(|member| member > self.limits.member) {
            return Err(EntryFault::ChunkTooLarge);
        }
        // A blob begins with a header: what begins with it lies further in.
        let nowhere = chunk.start == 0 && chunk.inner_offset == 0;
        if nowhere || chunk.start >= self.data_end {
            return Err(EntryFault::Offset);
        }
        self.chunks.push(chunk);
        Ok(())
    }

    /// Adds chunks that need no bytes of the blob.
    fn hole(&mut self, whole: Chunk) -> Result<(), EntryFault> {
        let room = u64::from(self.limits.chunks).saturating_sub(self.chunks.len() as u64);
        if whole.size.div_ceil(HOLE_BYTES) > room {
            return Err(EntryFault::ChunkTooLarge);
        }
        let end = whole.file_offset + whole.size;
        let mut at = whole.file_offset;
        while at < end {
            let size = HOLE_BYTES.min(end - at);
            self.chunks.push(Chunk {
                file_offset: at,
                size,
                codec: Codec::Zeros,
                start: 0,
                end: 0,
                inner_offset: 0,
                digest: None,
            });
            at += size;
        }
        Ok(())
    }

    /// Ends the open file, if there is one.
    fn close(&mut self) -> Result<(), EntryFault> {
        let Some(mut file) = self.open.take() else {
            return Ok(());
        };
        if file.filled != file.record.size {
            return Err(EntryFault::Chunks);
        }
        if let Some(hidden) = file.landmark {
            self.set_landmark(hidden, file.first_chunk);
            self.chunks.truncate(file.first_chunk);
            return Ok(());
        }
        if let Some(last) = self.chunks[file.first_chunk..].last_mut()
            && last.codec != Codec::Zeros
            && file.end_offset > last.start
        {
            last.end = file.end_offset;
        }
        let count = self.chunks.len() - file.first_chunk;
        let narrow = |number: usize| u32::try_from(number).map_err(|_| EntryFault::Chunks);
        file.record.chunks = (narrow(file.first_chunk)?, narrow(count)?);
        let only = (count == 1)
            .then(|| self.chunks[file.first_chunk].digest)
            .flatten();
        if let Some(digest) = file.digest.filter(|digest| only != Some(*digest)) {
            file.record.digest = narrow(self.digests.len())?;
            self.digests.push(digest);
        }
        self.records.push(file.record);
        Ok(())
    }

    /// No prefetch wins over prefetch, as for stargz-snapshotter.
    fn set_landmark(&mut self, hidden: Hidden, first_chunk: usize) {
        match hidden {
            Hidden::NoPrefetch => self.landmark = Landmark::NoPrefetch,
            Hidden::Prefetch if self.landmark == Landmark::None => {
                if let Some(chunk) = self.chunks.get(first_chunk) {
                    self.landmark = Landmark::Prefetch { end: chunk.start };
                }
            }
            Hidden::Prefetch | Hidden::Other => {}
        }
    }

    fn text(&mut self, text: &[u8]) -> Span {
        let start = self.texts.len();
        self.texts.extend_from_slice(text);
        self.span(start)
    }

    /// All within `u32`: the limit is checked after each entry, and one entry is far shorter than what is left above.
    fn span(&self, start: usize) -> Span {
        Span {
            start: start as u32,
            length: (self.texts.len() - start) as u32,
        }
    }

    fn xattrs(&mut self, entry: &JsonEntry) -> Result<Span, EntryFault> {
        let start = self.texts.len();
        for (name, value) in entry.xattrs.iter().flatten() {
            if name.contains(REPLACEMENT) {
                return Err(EntryFault::LostName);
            }
            let value = STANDARD.decode(value).map_err(|_| EntryFault::Xattr)?;
            let fits = (1..=MAX_XATTR_NAME).contains(&name.len())
                && !name.contains('\0')
                && value.len() <= MAX_XATTR_VALUE;
            if !fits {
                return Err(EntryFault::Xattr);
            }
            put_counted(&mut self.texts, name.as_bytes());
            put_counted(&mut self.texts, &value);
        }
        Ok(self.span(start))
    }
}

/// As a tar is unpacked: below the root, whatever the name says.
fn clean(name: &str) -> Result<String, EntryFault> {
    check_text(name)?;
    let mut names: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            part if part.len() > MAX_NAME => return Err(EntryFault::NameTooLong),
            part => names.push(part),
        }
    }
    Ok(names.join("/"))
}

fn check_text(text: &str) -> Result<(), EntryFault> {
    if text.len() > MAX_PATH {
        return Err(EntryFault::NameTooLong);
    }
    if text.contains('\0') {
        return Err(EntryFault::Nul);
    }
    if text.contains(REPLACEMENT) {
        return Err(EntryFault::LostName);
    }
    Ok(())
}

fn target(kind: EntryKind, text: &str) -> Result<String, EntryFault> {
    match kind {
        EntryKind::Symlink => {
            check_text(text)?;
            if text.is_empty() {
                return Err(EntryFault::NoTarget);
            }
            Ok(text.to_owned())
        }
        EntryKind::Hardlink => {
            if text.is_empty() {
                return Err(EntryFault::NoTarget);
            }
            let target = clean(text)?;
            if target.is_empty() {
                return Err(EntryFault::LinkToDirectory);
            }
            Ok(target)
        }
        _ => Ok(String::new()),
    }
}

fn digest(text: Option<&str>) -> Result<Option<Digest>, EntryFault> {
    match text {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| EntryFault::Digest),
    }
}
