use std::collections::BTreeMap;
use std::ops::Range;

use super::{Error, TOC_DIGEST_ANNOTATION, chunk::Codec};
use crate::{Digest, zstd_chunked};

/// The length of an eStargz footer.
const ESTARGZ_BYTES: usize = 51;
/// The length of a stargz footer, as CRFS wrote it.
const LEGACY_BYTES: usize = 47;
/// The length of the footer of a layer whose TOC is in another image.
const EXTERNAL_BYTES: usize = 46;

/// An empty gzip member: header with an extra field, then one empty stored block, CRC and length 0.
const GZIP_HEADER_BYTES: usize = 10;
const GZIP_END: &[u8] = b"\x01\x00\x00\xff\xff\0\0\0\0\0\0\0\0";
const MAGIC: &[u8] = b"STARGZ";
const EXTERNAL_MAGIC: &[u8] = b"STARGZEXTERNALTOC";

/// How much of the end of a blob to read so that footer and TOC mostly come in one read.
///
/// A TOC needs 60 to 80 compressed bytes a file; small files of 4 KiB would make it a 64th of the layer. Not less than
/// 64 KiB, which cost no more time than one, and not more than 1 MiB, which a slow link should not read in vain.
#[must_use]
pub fn tail_length_to_fetch(blob_size: u64) -> u64 {
    (blob_size / 64).clamp(64 << 10, 1 << 20).min(blob_size)
}

/// Which of the formats a layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FooterKind {
    /// eStargz: gzip members, TOC verified by its digest.
    Estargz,
    /// CRFS's stargz of 2019: gzip members, no digests for chunks.
    LegacyStargz,
    /// zstd frames, TOC in a skippable one.
    ZstdChunked,
    /// eStargz whose TOC is a layer of another image.
    ExternalToc,
}

/// Where the TOC of a blob lies, and where its data ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    kind: FooterKind,
    /// Empty for an external TOC.
    toc: Range<u64>,
    /// Of the TOC, if the footer states it.
    uncompressed: Option<u64>,
    data_end: u64,
}

impl Footer {
    /// Finds the footer at the end of `tail`, the last bytes of a blob of `blob_size` bytes. The longest is tried first.
    ///
    /// # Errors
    /// [`Error::NoFooter`] for an ordinary layer; [`Error::BadFooter`] if it points outside of the blob.
    pub fn parse(tail: &[u8], blob_size: u64) -> Result<Self, Error> {
        if tail.len() as u64 > blob_size {
            return Err(Error::BadFooter("tail longer than the blob"));
        }
        if let Some(position) = zstd_chunked::parse_footer(tail) {
            return Self::zstd(position?, blob_size);
        }
        if let Some(offset) = gzip_footer(tail, ESTARGZ_BYTES, b"SG\x16\0") {
            return Self::gzip(FooterKind::Estargz, offset?, blob_size, ESTARGZ_BYTES);
        }
        if let Some(offset) = gzip_footer(tail, LEGACY_BYTES, b"") {
            return Self::gzip(FooterKind::LegacyStargz, offset?, blob_size, LEGACY_BYTES);
        }
        match extra_field(tail, EXTERNAL_BYTES) {
            Some(extra) if extra == [b"SG\x11\0", EXTERNAL_MAGIC].concat() => Ok(Self {
                kind: FooterKind::ExternalToc,
                toc: 0..0,
                uncompressed: None,
                data_end: blob_size - EXTERNAL_BYTES as u64,
            }),
            _ => Err(Error::NoFooter),
        }
    }

    /// As the layer's annotations say, for zstd:chunked layers; else as [`Footer::parse`].
    ///
    /// # Errors
    /// As [`Footer::parse`]; or a malformed annotation.
    pub fn find(
        annotations: &BTreeMap<String, String>,
        tail: &[u8],
        blob_size: u64,
    ) -> Result<Self, Error> {
        match Self::from_annotations(annotations, blob_size)? {
            Some(footer) => Ok(footer),
            None => Self::parse(tail, blob_size),
        }
    }

    /// Where the TOC of a zstd:chunked layer lies, from its annotations alone: then no footer needs to be read.
    ///
    /// # Errors
    /// [`Error::Annotation`] or [`Error::BadFooter`].
    pub fn from_annotations(
        annotations: &BTreeMap<String, String>,
        blob_size: u64,
    ) -> Result<Option<Self>, Error> {
        zstd_chunked::position_from_annotations(annotations)?
            .map(|position| Self::zstd(position, blob_size))
            .transpose()
    }

    fn gzip(kind: FooterKind, offset: u64, blob_size: u64, length: usize) -> Result<Self, Error> {
        let end = blob_size - length as u64;
        if offset == 0 || offset >= end {
            return Err(Error::BadFooter("TOC offset outside of the blob"));
        }
        Ok(Self {
            kind,
            toc: offset..end,
            uncompressed: None,
            data_end: offset,
        })
    }

    fn zstd(position: zstd_chunked::Position, blob_size: u64) -> Result<Self, Error> {
        let start = position.offset;
        let end = start.checked_add(position.compressed);
        match (end, start.checked_sub(zstd_chunked::SKIPPABLE_HEADER_BYTES)) {
            (Some(end), Some(data_end)) if start < end && end <= blob_size => Ok(Self {
                kind: FooterKind::ZstdChunked,
                toc: start..end,
                uncompressed: Some(position.uncompressed),
                data_end,
            }),
            _ => Err(Error::BadFooter("TOC outside of the blob")),
        }
    }

    /// Which format it is.
    #[must_use]
    pub fn kind(&self) -> FooterKind {
        self.kind
    }

    /// The bytes of the blob that [`Toc::parse`](super::Toc::parse) takes; `None` if the TOC is a layer of another image
    /// (then that layer's whole blob is what it takes).
    #[must_use]
    pub fn toc_range(&self) -> Option<Range<u64>> {
        (self.kind != FooterKind::ExternalToc).then(|| self.toc.clone())
    }

    /// Where the data ends: every chunk lies before.
    #[must_use]
    pub fn data_end(&self) -> u64 {
        self.data_end
    }

    pub(crate) fn codec(&self) -> Codec {
        match self.kind {
            FooterKind::ZstdChunked => Codec::Zstd,
            _ => Codec::Gzip,
        }
    }

    /// What the footer says of the JSON's length.
    pub(crate) fn uncompressed(&self) -> Option<u64> {
        self.uncompressed
    }
}

/// The footer that points to a TOC at `toc_offset`.
pub(crate) fn estargz_footer(toc_offset: u64) -> Vec<u8> {
    let mut footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0".to_vec();
    footer.extend_from_slice(format!("{toc_offset:016x}").as_bytes());
    footer.extend_from_slice(MAGIC);
    footer.extend_from_slice(GZIP_END);
    footer
}

/// The TOC's offset if the last `length` bytes are a footer whose extra field is `before`, 16 hex digits and the magic.
fn gzip_footer(tail: &[u8], length: usize, before: &[u8]) -> Option<Result<u64, Error>> {
    let extra = extra_field(tail, length)?;
    let digits = extra.strip_prefix(before)?.strip_suffix(MAGIC)?;
    Some(parse_hex(digits).ok_or(Error::BadFooter("TOC offset is not hexadecimal")))
}

/// No sign, no prefix, exactly 16 digits.
fn parse_hex(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    let plain = digits.len() == 16 && digits.iter().all(u8::is_ascii_hexdigit);
    plain.then(|| u64::from_str_radix(text, 16).ok())?
}

/// The extra field of an empty gzip member of `length` bytes. Time, flags of the compressor and system may be any: other
/// writers are free to set them.
fn extra_field(tail: &[u8], length: usize) -> Option<&[u8]> {
    let member = tail.get(tail.len().checked_sub(length)?..)?;
    let (header, rest) = member.split_at_checked(GZIP_HEADER_BYTES)?;
    let (extra_length, rest) = rest.split_first_chunk::<2>()?;
    let extra = rest.get(..usize::from(u16::from_le_bytes(*extra_length)))?;
    (header.starts_with(b"\x1f\x8b\x08\x04") && &rest[extra.len()..] == GZIP_END).then_some(extra)
}

/// How the TOC is to be verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TocDigest {
    /// The SHA-256 of the JSON (eStargz, and zstd:chunked as stargz-snapshotter writes it).
    Uncompressed(Digest),
    /// The SHA-256 of the compressed TOC (zstd:chunked as containers/storage writes it).
    Compressed(Digest),
    /// Not at all. For legacy stargz, or a blob whose every byte was verified by other means.
    Unverified,
}

impl TocDigest {
    /// What a layer's annotations say; `None` if nothing.
    ///
    /// # Errors
    /// [`Error::AnnotationDigest`] if it is no SHA-256.
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Result<Option<Self>, Error> {
        if let Some(text) = annotations.get(TOC_DIGEST_ANNOTATION) {
            return text
                .parse()
                .map(|digest| Some(Self::Uncompressed(digest)))
                .map_err(|error| Error::AnnotationDigest(TOC_DIGEST_ANNOTATION, error));
        }
        zstd_chunked::checksum_from_annotations(annotations)
            .map(|found| found.map(Self::Compressed))
    }
}
