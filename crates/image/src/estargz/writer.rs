//! Makes a tar into a layer that can be read piece by piece.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, Write};

use sha2::{Digest as _, Sha256};

use super::chunk::Codec;
use super::footer::estargz_footer;
use super::json::JsonEntry;
use super::members::Members;
use super::tar_input::{self, Item};
use super::toc_writer::TocWriter;
use super::{
    TOC_DIGEST_ANNOTATION, TOC_NAME, UNCOMPRESSED_SIZE_ANNOTATION, WriteError, landmark, order,
};
use crate::Digest;
use crate::zstd_chunked::tar_split::{Crc64, TarSplit};
use crate::zstd_chunked::{self, Position, SKIPPABLE_HEADER_BYTES, frame};

/// Which kind of layer to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// gzip members, as stargz-snapshotter writes them. The tar gains the TOC and a landmark, so its diffID is another.
    Estargz,
    /// zstd frames, as containers/storage writes them. Without prioritised files the tar stays the same, and its diffID.
    ZstdChunked,
}

/// How to write a layer. The same tar and options give the same bytes, whatever the number of threads.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which kind.
    pub format: Format,
    /// Of gzip (1 to 9) or zstd (1 to 22).
    pub level: i32,
    /// Most bytes of a file in one chunk; at most 128 MiB, which readers take.
    pub chunk_size: u64,
    /// Chunks are put together in one member until it holds so many bytes. 0: each chunk has a member of its own, as
    /// stargz-snapshotter before 0.13 asks for. Better compression of small files, worse access to them. eStargz only.
    pub min_chunk_size: u64,
    /// How many threads compress. Memory is about `3 × threads × chunk_size`, and the TOC.
    pub threads: usize,
}

impl Options {
    /// What the tools of the format choose.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            level: match format {
                Format::Estargz => 9,
                Format::ZstdChunked => 3,
            },
            chunk_size: 4 << 20,
            min_chunk_size: 0,
            threads: 1,
        }
    }

    fn codec(&self) -> Codec {
        match self.format {
            Format::Estargz => Codec::Gzip,
            Format::ZstdChunked => Codec::Zstd,
        }
    }

    fn check(&self) -> Result<(), WriteError> {
        let levels = match self.format {
            Format::Estargz => 1..=9,
            Format::ZstdChunked => 1..=22,
        };
        if !levels.contains(&self.level) {
            return Err(WriteError::Options("no such level of compression"));
        }
        if !(1..=128 << 20).contains(&self.chunk_size) {
            return Err(WriteError::Options(
                "chunk size is not from 1 byte to 128 MiB",
            ));
        }
        if self.min_chunk_size > 0 && self.format == Format::ZstdChunked {
            return Err(WriteError::Options("zstd:chunked has no shared members"));
        }
        if self.min_chunk_size > 64 << 20 {
            return Err(WriteError::Options("smallest member above 64 MiB"));
        }
        Ok(())
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Of the blob.
    pub digest: Digest,
    /// Of the blob in bytes.
    pub size: u64,
    /// Of the tar in the blob.
    pub diff_id: Digest,
    /// Of the tar in the blob.
    pub uncompressed_size: u64,
    /// Of the TOC's JSON.
    pub toc_digest: Digest,
    /// For the layer's descriptor.
    pub annotations: BTreeMap<String, String>,
    /// Prioritised files that the layer does not have.
    pub missing: Vec<String>,
}

/// Writes the layer of a tar, in one pass. An eStargz layer says that there is nothing to prefetch.
///
/// Existing landmarks and TOCs are left out of eStargz layers.
///
/// # Errors
/// [`WriteError`]; what was written so far is of no use.
pub fn write<R: Read, W: Write>(
    tar: R,
    output: W,
    options: &Options,
) -> Result<Written, WriteError> {
    match options.format {
        Format::Estargz => convert(tar, output, options, Landmarks::NoPrefetch),
        Format::ZstdChunked => convert(tar, output, options, Landmarks::AsTheyAre),
    }
}

/// Writes the layer of a tar with some files first, in the order of `files`, then a landmark, then all others in the
/// order of the tar. Directories above them and targets of hardlinks come before them.
///
/// Paths are as in the tar, with or without a leading slash; one that the layer does not have is reported, not refused.
/// So is one that occurs several times: which of them a hardlink means depends on the order.
///
/// # Errors
/// [`WriteError`]; what was written so far is of no use.
pub fn write_prioritized<R: Read + Seek, W: Write>(
    mut tar: R,
    output: W,
    options: &Options,
    files: &[String],
) -> Result<Written, WriteError> {
    if files.is_empty() {
        return write(tar, output, options);
    }
    let (plan, missing) = order::plan(&mut tar, files)?;
    let written = convert(plan.over(tar), output, options, Landmarks::AsTheyAre)?;
    Ok(Written { missing, ..written })
}

/// What to do with the landmarks of the tar.
#[derive(Clone, Copy, PartialEq)]
enum Landmarks {
    AsTheyAre,
    /// Drop them, and begin with the one that says that there is nothing to prefetch.
    NoPrefetch,
}

fn convert<R: Read, W: Write>(
    tar: R,
    output: W,
    options: &Options,
    landmarks: Landmarks,
) -> Result<Written, WriteError> {
    options.check()?;
    let mut layer = Layer::new(output, options)?;
    if landmarks == Landmarks::NoPrefetch {
        let headers = tar_input::header_of(landmark::NO_PREFETCH, landmark::CONTENT.len() as u64)?;
        layer.item(Item {
            entry: Some(JsonEntry {
                name: landmark::NO_PREFETCH.to_owned(),
                kind: "reg".to_owned(),
                mode: 0o444,
                size: landmark::CONTENT.len() as u64,
                ..JsonEntry::default()
            }),
            start: 0,
            headers,
            size: landmark::CONTENT.len() as u64,
            end: 0,
            content: &mut &*landmark::CONTENT,
        })?;
    }
    let rest = tar_input::each(tar, &mut |item| {
        let name = item.entry.as_ref().map_or("", |entry| entry.name.as_str());
        if landmarks == Landmarks::NoPrefetch && is_ours(name) {
            return Ok(());
        }
        layer.item(item)
    })?;
    layer.finish(rest)
}

/// Longer PAX headers for all that follows are refused.
const MAX_GLOBAL_HEADERS: u64 = 1 << 20;

/// What belongs to the format and not to the layer.
pub(crate) fn is_ours(name: &str) -> bool {
    let name = name.trim_start_matches("./").trim_start_matches('/');
    matches!(name, landmark::PREFETCH | landmark::NO_PREFETCH | TOC_NAME)
}

struct Layer<'a, W> {
    options: &'a Options,
    members: Members<W>,
    toc: TocWriter,
    tar_split: Option<TarSplit>,
    /// Of the last file, not yet written.
    padding: usize,
}

impl<'a, W: Write> Layer<'a, W> {
    fn new(output: W, options: &'a Options) -> Result<Self, WriteError> {
        let tar_split = match options.format {
            Format::Estargz => None,
            Format::ZstdChunked => Some(TarSplit::new(options.level).map_err(WriteError::Output)?),
        };
        Ok(Self {
            options,
            members: Members::new(
                output,
                options.codec(),
                options.level,
                options.threads,
                options.chunk_size as usize,
            ),
            toc: TocWriter::default(),
            tar_split,
            padding: 0,
        })
    }

    fn item(&mut self, item: Item<'_>) -> Result<(), WriteError> {
        let mut before = vec![0; self.padding];
        before.extend_from_slice(&item.headers);
        self.segment(&before)?;
        self.padding = tar_input::padding_of(item.size);
        let name = item.entry.as_ref().map(|entry| entry.name.clone());
        let mut checksum = Crc64::new();
        match item.entry {
            Some(mut entry) => {
                if self.tar_split.is_some() {
                    // containers/storage has no place for them.
                    entry.user_name = None;
                    entry.group_name = None;
                }
                if item.size == 0 {
                    self.empty(entry);
                } else {
                    self.file(entry, item.size, item.content, &mut checksum)?;
                }
            }
            None => {
                // PAX headers for all that follows.
                if item.size > MAX_GLOBAL_HEADERS {
                    return Err(WriteError::TooLarge("a global PAX header"));
                }
                let content = self.members.fill(item.content, item.size)?;
                checksum.update(content);
            }
        }
        if let Some(split) = &mut self.tar_split {
            split
                .file(name.as_deref().unwrap_or_default(), item.size, checksum)
                .map_err(WriteError::Output)?;
        }
        self.toc.drain(&self.members)
    }

    /// Bytes of the tar between files.
    fn segment(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        if let Some(split) = &mut self.tar_split {
            split.segment(bytes).map_err(WriteError::Output)?;
        }
        self.members.headers(bytes)
    }

    fn empty(&mut self, mut entry: JsonEntry) {
        if entry.kind == "reg" && self.options.format == Format::Estargz {
            entry.digest = Some(Digest::of(&[]).to_string());
        }
        self.toc.add(entry);
    }

    fn file(
        &mut self,
        entry: JsonEntry,
        size: u64,
        content: &mut dyn Read,
        checksum: &mut Crc64,
    ) -> Result<(), WriteError> {
        let whole = size <= self.options.chunk_size;
        let own_member = is_ours(&entry.name);
        let name = entry.name.clone();
        let mut next = entry;
        let mut hash = Sha256::new();
        let (mut number, mut offset, mut digest) = (0, 0, Digest::of(&[]));
        while offset < size {
            let length = self.options.chunk_size.min(size - offset);
            if own_member || self.members.place().1 >= self.options.min_chunk_size {
                self.members.cut()?;
            }
            let (member, inner) = self.members.place();
            let bytes = self.members.fill(content, length)?;
            digest = Digest::of(bytes);
            if !whole {
                hash.update(bytes);
                next.chunk_size = length;
            }
            if self.tar_split.is_some() {
                checksum.update(bytes);
            }
            next.chunk_offset = offset;
            next.inner_offset = inner;
            next.chunk_digest = Some(digest.to_string());
            let added = self.toc.add_chunk(next, member);
            if offset == 0 {
                number = added;
            }
            offset += length;
            next = JsonEntry {
                name: name.clone(),
                kind: "chunk".to_owned(),
                ..JsonEntry::default()
            };
        }
        if !whole {
            digest = Digest::from_bytes(hash.finalize().into());
        }
        let mut end = None;
        if self.options.format == Format::ZstdChunked {
            // Its readers take all up to the end of the file for the file.
            self.members.cut()?;
            end = Some(self.members.place().0);
        }
        self.toc.complete(number, digest, end);
        Ok(())
    }

    fn finish(mut self, mut rest: impl Read) -> Result<Written, WriteError> {
        self.segment(&vec![0; self.padding])?;
        if self.options.format == Format::ZstdChunked {
            return self.finish_zstd(rest);
        }
        io::copy(&mut rest, &mut io::sink()).map_err(WriteError::Input)?;
        self.members.cut()?;
        self.members.flush()?;
        self.toc.drain(&self.members)?;
        let json = self.toc.finish(None);
        let toc_offset = self.members.written();
        self.members
            .put(&tar_input::header_of(TOC_NAME, json.len() as u64)?);
        self.members.put(&json);
        let padding = tar_input::padding_of(json.len() as u64);
        self.members
            .put(&vec![0; padding + 2 * tar_input::BLOCK as usize]);
        self.members.cut()?;
        self.members.flush()?;
        self.members.raw(&estargz_footer(toc_offset))?;
        let written = self.members.finish()?;
        let toc_digest = Digest::of(&json);
        Ok(Written {
            toc_digest,
            annotations: BTreeMap::from([
                (TOC_DIGEST_ANNOTATION.to_owned(), toc_digest.to_string()),
                (
                    UNCOMPRESSED_SIZE_ANNOTATION.to_owned(),
                    written.uncompressed_size.to_string(),
                ),
            ]),
            ..written
        })
    }

    fn finish_zstd(mut self, mut rest: impl Read) -> Result<Written, WriteError> {
        let mut buffer = vec![0; 1 << 20];
        loop {
            let length = read_full(&mut rest, &mut buffer).map_err(WriteError::Input)?;
            self.segment(&buffer[..length])?;
            if length < buffer.len() {
                break;
            }
        }
        self.members.cut()?;
        self.members.flush()?;
        self.toc.drain(&self.members)?;
        let (split, split_length) = match self.tar_split.take() {
            Some(split) => split.finish().map_err(WriteError::Output)?,
            None => (Vec::new(), 0),
        };
        let digest = Digest::of(&split).to_string();
        let json = self.toc.finish(Some(("tarSplitDigest", digest)));
        let toc = frame::compress_frame(&json, self.options.level).map_err(WriteError::Output)?;
        let toc_position = skippable(&mut self.members, &toc, json.len() as u64)?;
        let split_position = skippable(&mut self.members, &split, split_length)?;
        skippable(
            &mut self.members,
            &zstd_chunked::footer(toc_position, split_position),
            0,
        )?;
        Ok(Written {
            toc_digest: Digest::of(&json),
            annotations: zstd_chunked::annotations(&toc, toc_position, split_position),
            ..self.members.finish()?
        })
    }
}

/// Writes a skippable frame, and says where its content lies.
fn skippable<W: Write>(
    members: &mut Members<W>,
    content: &[u8],
    uncompressed: u64,
) -> Result<Position, WriteError> {
    let frame = zstd_chunked::skippable_frame(content).ok_or(WriteError::TooLarge("the TOC"))?;
    let position = Position {
        offset: members.written() + SKIPPABLE_HEADER_BYTES,
        compressed: content.len() as u64,
        uncompressed,
    };
    members.raw(&frame)?;
    Ok(position)
}

fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..])? {
            0 => break,
            length => filled += length,
        }
    }
    Ok(filled)
}
