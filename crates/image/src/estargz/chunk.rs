use std::io;
use std::ops::Range;

use super::Error;
use crate::zstd_chunked::frame;
use crate::{Digest, deflate};

/// How a chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// In a gzip member.
    Gzip,
    /// In a zstd frame.
    Zstd,
    /// Not at all: all its bytes are zero.
    Zeros,
    /// As it is, in a tar that is not compressed.
    Plain,
}

/// A part of a file that can be read by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it begins in its file.
    pub file_offset: u64,
    /// Its length in the file; at least 1.
    pub size: u64,
    /// How it is stored.
    pub codec: Codec,
    /// Where its member begins in the blob.
    pub start: u64,
    /// Where its member ends at the latest.
    pub end: u64,
    /// Where it begins in its decompressed member.
    pub inner_offset: u64,
    /// The SHA-256 of its bytes; legacy stargz has none for files of several chunks.
    pub digest: Option<Digest>,
}

const DIGEST_BYTES: usize = 32;
const HAS_DIGEST: u8 = 0x80;

impl Chunk {
    /// The bytes of the blob that [`decode_member`] takes; empty for zeros.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.start..self.end
    }

    /// All but place and size in the file, in at most 63 bytes, for a tree that keeps these by itself.
    #[must_use]
    pub fn to_reference(&self) -> Vec<u8> {
        let codec = match self.codec {
            Codec::Gzip => 0,
            Codec::Zstd => 1,
            Codec::Zeros => 2,
            Codec::Plain => 3,
        };
        let flag = if self.digest.is_some() { HAS_DIGEST } else { 0 };
        let mut reference = vec![codec | flag];
        for number in [self.start, self.end - self.start, self.inner_offset] {
            put_number(&mut reference, number);
        }
        if let Some(digest) = &self.digest {
            reference.extend_from_slice(digest.as_bytes());
        }
        reference
    }

    /// The chunk of which [`Chunk::to_reference`] gave `reference`; `None` if it is none.
    #[must_use]
    pub fn from_reference(reference: &[u8], file_offset: u64, size: u64) -> Option<Self> {
        let (first, mut rest) = reference.split_first()?;
        let codec = match first & !HAS_DIGEST {
            0 => Codec::Gzip,
            1 => Codec::Zstd,
            2 => Codec::Zeros,
            3 => Codec::Plain,
            _ => return None,
        };
        let start = take_number(&mut rest)?;
        let end = start.checked_add(take_number(&mut rest)?)?;
        let inner_offset = take_number(&mut rest)?;
        let digest = match (first & HAS_DIGEST, rest.len()) {
            (0, 0) => None,
            (HAS_DIGEST, DIGEST_BYTES) => Some(Digest::from_bytes(rest.try_into().ok()?)),
            _ => return None,
        };
        Some(Self {
            file_offset,
            size,
            codec,
            start,
            end,
            inner_offset,
            digest,
        })
    }

    fn checked(&self, content: &[u8]) -> Result<(), Error> {
        let expected = self.digest.ok_or(Error::NoChunkDigest)?;
        let actual = Digest::of(content);
        if actual == expected {
            Ok(())
        } else {
            Err(Error::ChunkDigest { expected, actual })
        }
    }
}

/// Seven bits a byte, least first; the last byte has no high bit.
fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(first & 0x7f);
        if part << shift >> shift != part {
            return None;
        }
        number |= part << shift;
        if *first < 0x80 {
            return Some(number);
        }
    }
    None
}

/// The verified bytes of `chunk`; `member` is what the blob has at [`Chunk::range`].
///
/// # Errors
/// [`Error::Decompress`] or [`Error::Truncated`] if `member` is damaged, [`Error::ChunkDigest`] if it is another,
/// [`Error::NoChunkDigest`] if nothing says what it should be.
pub fn decode_member(member: &[u8], chunk: &Chunk) -> Result<Vec<u8>, Error> {
    if chunk.codec != Codec::Zeros && chunk.digest.is_none() {
        return Err(Error::NoChunkDigest);
    }
    let content = decode_unverified(member, chunk)?;
    if chunk.codec != Codec::Zeros {
        chunk.checked(&content)?;
    }
    Ok(content)
}

/// As [`decode_member`], without looking at the digest. For legacy stargz, by explicit choice only.
///
/// # Errors
/// [`Error::Decompress`] or [`Error::Truncated`].
pub fn decode_unverified(member: &[u8], chunk: &Chunk) -> Result<Vec<u8>, Error> {
    let size = in_memory(chunk.size)?;
    if chunk.codec == Codec::Zeros {
        return Ok(vec![0; size]);
    }
    let inner = in_memory(chunk.inner_offset)?;
    let mut content = decompress(member, chunk.codec, inner.saturating_add(size))?;
    content.drain(..inner);
    Ok(content)
}

/// A chunk and its verified bytes, or why there are none.
pub type Decoded<'a> = (&'a Chunk, Result<Vec<u8>, Error>);

/// The verified bytes of several chunks of one member, which is decompressed once. Each chunk has its own verdict.
///
/// # Errors
/// [`Error::Decompress`] or [`Error::Truncated`] if the member is damaged or does not hold them all.
///
/// # Panics
/// If the chunks are not of one member.
pub fn decode_chunks<'a>(member: &[u8], chunks: &'a [Chunk]) -> Result<Vec<Decoded<'a>>, Error> {
    let Some(first) = chunks.first() else {
        return Ok(Vec::new());
    };
    let mut longest = 0;
    for chunk in chunks {
        assert!(chunk.start == first.start && chunk.codec == first.codec);
        longest = longest.max(in_memory(chunk.inner_offset.saturating_add(chunk.size))?);
    }
    if first.codec == Codec::Zeros {
        return Ok(chunks
            .iter()
            .map(|chunk| (chunk, decode_member(member, chunk)))
            .collect());
    }
    let content = decompress(member, first.codec, longest)?;
    Ok(chunks
        .iter()
        .map(|chunk| {
            // No overflow, and within the content: `longest` is the largest end.
            let start = chunk.inner_offset as usize;
            let part = &content[start..start + chunk.size as usize];
            (chunk, chunk.checked(part).map(|()| part.to_vec()))
        })
        .collect())
}

/// More than any TOC that [`Toc::parse`](super::Toc::parse) lets through asks for.
const MAX_DECOMPRESSED: u64 = 1 << 30;

fn in_memory(length: u64) -> Result<usize, Error> {
    let fits = length <= MAX_DECOMPRESSED;
    fits.then_some(length as usize).ok_or(Error::TooLarge {
        what: "a chunk's member",
        limit: MAX_DECOMPRESSED,
    })
}

fn decompress(member: &[u8], codec: Codec, length: usize) -> Result<Vec<u8>, Error> {
    let result = match codec {
        Codec::Gzip => deflate::decompress_prefix(member, length),
        Codec::Zstd => frame::decompress_prefix(member, length),
        Codec::Zeros => Ok(vec![0; length]),
        Codec::Plain => member
            .get(..length)
            .map(<[u8]>::to_vec)
            .ok_or(io::ErrorKind::UnexpectedEof.into()),
    };
    result.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Truncated("member"),
        _ => Error::Decompress("member", error),
    })
}
