//! A layer's table of contents, verified and in compact form.

mod collect;
mod of_tar;

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::entry::Record;
use super::{Chunk, Entry, Error, Footer, Landmark, TOC_NAME, TocDigest, json, links};
use crate::estargz::chunk::Codec;
use crate::zstd_chunked::frame;
use crate::{Digest, deflate};

use collect::Collector;

/// How much of a TOC a reader is ready to take. The memory of a [`Toc`] is about 100 bytes an entry, 100 a chunk, and the
/// names.
#[derive(Clone, Debug)]
pub struct Limits {
    /// bytes of the compressed TOC
    pub compressed: u64,
    /// bytes of its JSON
    pub json: u64,
    /// bytes of one entry's JSON
    pub entry_json: u64,
    /// entries but chunks
    pub entries: u32,
    /// chunks
    pub chunks: u32,
    /// bytes of all paths, targets and extended attributes
    pub texts: u32,
    /// bytes of a chunk's content
    pub chunk: u64,
    /// bytes of a decompressed member up to the end of a chunk in it
    pub member: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            compressed: 256 << 20,
            json: 2 << 30,
            entry_json: 4 << 20,
            entries: 4_000_000,
            chunks: 8_000_000,
            texts: 1 << 30,
            chunk: 128 << 20,
            member: 256 << 20,
        }
    }
}

/// What a layer holds, and where.
#[derive(Debug)]
pub struct Toc {
    records: Vec<Record>,
    chunks: Vec<Chunk>,
    texts: Vec<u8>,
    digests: Vec<Digest>,
    landmark: Landmark,
    digest: Digest,
}

impl Toc {
    /// Reads and verifies a TOC; `bytes` is what the blob has at [`Footer::toc_range`] (or the whole blob of the layer that
    /// holds an external TOC).
    ///
    /// # Errors
    /// [`Error`]: whatever it is, the layer is to be pulled the ordinary way.
    pub fn parse(
        bytes: &[u8],
        footer: &Footer,
        expected: &TocDigest,
        limits: &Limits,
    ) -> Result<Self, Error> {
        within(bytes.len() as u64, limits.compressed, "the compressed TOC")?;
        if let TocDigest::Compressed(expected) = expected {
            verify(*expected, Digest::of(bytes))?;
        }
        if let Some(stated) = footer.uncompressed() {
            within(stated, limits.json, "the TOC")?;
        }
        let mut collector = Collector::new(footer, limits);
        let digest = match footer.codec() {
            Codec::Zstd => {
                let decoder =
                    frame::decompressor(bytes).map_err(|error| Error::Decompress("TOC", error))?;
                read_json(decoder, limits, &mut collector)?
            }
            _ => {
                let mut decoder = deflate::decompressor(bytes);
                let size = tar_member_size(&mut decoder)?;
                within(size, limits.json, "the TOC")?;
                read_json(decoder.take(size), limits, &mut collector)?
            }
        };
        if let TocDigest::Uncompressed(expected) = expected {
            verify(*expected, digest)?;
        }
        collector.finish(digest)
    }

    /// All entries in the order of the tar, without landmarks. Of two with one path the later counts.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry<'_>> {
        self.records.iter().map(|record| Entry {
            record,
            texts: &self.texts,
            chunks: &self.chunks,
            digests: &self.digests,
        })
    }

    /// All chunks that are stored, in the order of the tar. Those of one member follow each other.
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// What the layer's maker says of reading ahead.
    #[must_use]
    pub fn landmark(&self) -> Landmark {
        self.landmark
    }

    /// The SHA-256 of the JSON: the name under which to keep what was made of it.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    fn check_links(self) -> Result<Self, Error> {
        links::check(&self.records, &self.texts).map_err(|(index, fault)| Error::Entry {
            index: index as u64,
            path: self
                .records
                .get(index)
                .map(|record| cut(&String::from_utf8_lossy(record.path.of(&self.texts))))
                .unwrap_or_default(),
            fault,
        })?;
        Ok(self)
    }
}

fn verify(expected: Digest, actual: Digest) -> Result<(), Error> {
    if expected == actual {
        Ok(())
    } else {
        Err(Error::TocDigest { expected, actual })
    }
}

fn within(length: u64, limit: u64, what: &'static str) -> Result<(), Error> {
    if length <= limit {
        Ok(())
    } else {
        Err(Error::TooLarge { what, limit })
    }
}

/// Foreign text in error messages is cut, so that a log line stays one.
fn cut(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Feeds the collector, and gives the digest of all that was read.
fn read_json(
    input: impl Read,
    limits: &Limits,
    collector: &mut Collector<'_>,
) -> Result<Digest, Error> {
    let mut hashed = Hashed {
        // One more than is allowed: the end of the limit is not the end of the JSON.
        input: input.take(limits.json.saturating_add(1)),
        hash: Sha256::new(),
    };
    let result = json::read(&mut hashed, limits.entry_json, collector);
    if hashed.input.limit() == 0 {
        return within(u64::MAX, limits.json, "the TOC").map(|()| Digest::of(&[]));
    }
    result.map(|()| Digest::from_bytes(hashed.hash.finalize().into()))
}

struct Hashed<R> {
    input: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(buffer)?;
        self.hash.update(&buffer[..length]);
        Ok(length)
    }
}

/// The length of the tar member that holds the TOC, after its header.
fn tar_member_size(input: &mut impl Read) -> Result<u64, Error> {
    let mut header = tar::Header::new_old();
    input
        .read_exact(header.as_mut_bytes())
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Truncated("TOC"),
            _ => Error::Decompress("TOC", error),
        })?;
    let named = header.path_bytes().as_ref() == TOC_NAME.as_bytes();
    match header.entry_size() {
        Ok(size) if named && header.entry_type().is_file() => Ok(size),
        _ => Err(Error::NoToc),
    }
}
