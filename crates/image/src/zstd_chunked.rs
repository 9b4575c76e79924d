//! What zstd:chunked has of its own: frames, footers and annotations. The rest it shares with [`estargz`](crate::estargz),
//! whose reader and writer take both.
//!
//! Sources: `zstdchunked/` of stargz-snapshotter (footer of 40 bytes) and `pkg/chunked` of containers/storage (64 bytes,
//! and a magic that differs in one letter).

pub(crate) mod frame;
pub(crate) mod tar_split;

use std::collections::BTreeMap;

use crate::Digest;
use crate::estargz::Error;

/// The annotation with the SHA-256 of the compressed TOC.
pub const CHECKSUM_ANNOTATION: &str = "io.github.containers.zstd-chunked.manifest-checksum";
/// The annotation with `offset:compressed length:length:type` of the TOC.
pub const POSITION_ANNOTATION: &str = "io.github.containers.zstd-chunked.manifest-position";
/// The annotation with `offset:compressed length:length` of the tar-split data.
pub const TAR_SPLIT_ANNOTATION: &str = "io.github.containers.zstd-chunked.tarsplit-position";
/// As stargz-snapshotter calls them.
const OTHER_CHECKSUM_ANNOTATION: &str = "io.containers.zstd-chunked.manifest-checksum";
const OTHER_POSITION_ANNOTATION: &str = "io.containers.zstd-chunked.manifest-position";

/// containers/storage's, and stargz-snapshotter's.
const MAGIC: &[u8; 8] = b"GNUlInUx";
const OTHER_MAGIC: &[u8; 8] = b"GnUlInUx";
const FOOTER_BYTES: usize = 64;
const OTHER_FOOTER_BYTES: usize = 40;
/// The only type of TOC: CRFS's JSON.
const TYPE_CRFS: u64 = 1;

const SKIPPABLE_MAGIC: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
/// Magic and length before the content of a skippable frame.
pub(crate) const SKIPPABLE_HEADER_BYTES: u64 = 8;

/// Where a TOC lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) offset: u64,
    pub(crate) compressed: u64,
    pub(crate) uncompressed: u64,
}

/// The footer at the end of `tail`; `None` if there is none.
pub(crate) fn parse_footer(tail: &[u8]) -> Option<Result<Position, Error>> {
    let magic = tail.last_chunk::<8>()?;
    if magic != MAGIC && magic != OTHER_MAGIC {
        return None;
    }
    let length = [FOOTER_BYTES, OTHER_FOOTER_BYTES]
        .into_iter()
        .find(|length| in_skippable_frame(tail, *length));
    let Some(length) = length else {
        return Some(Err(Error::BadFooter("not in a skippable frame")));
    };
    let words = &tail[tail.len() - length..];
    let word = |index: usize| {
        let bytes = words.get(8 * index..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    if word(3) != TYPE_CRFS {
        return Some(Err(Error::BadFooter("unknown type of TOC")));
    }
    Some(Ok(Position {
        offset: word(0),
        compressed: word(1),
        uncompressed: word(2),
    }))
}

fn in_skippable_frame(tail: &[u8], length: usize) -> bool {
    let Some(header) = skippable_header(length as u64) else {
        return false;
    };
    let start = tail.len().checked_sub(header.len() + length);
    start.is_some_and(|start| tail[start..].starts_with(&header))
}

/// `None` if a skippable frame cannot be so long.
fn skippable_header(length: u64) -> Option<[u8; 8]> {
    let mut header = [0; 8];
    header[..4].copy_from_slice(&SKIPPABLE_MAGIC);
    header[4..].copy_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
    Some(header)
}

/// A frame that decoders pass over; `None` if it would be too long.
pub(crate) fn skippable_frame(content: &[u8]) -> Option<Vec<u8>> {
    let mut frame = skippable_header(content.len() as u64)?.to_vec();
    frame.extend_from_slice(content);
    Some(frame)
}

/// containers/storage's footer: TOC and tar-split data.
pub(crate) fn footer(toc: Position, tar_split: Position) -> [u8; FOOTER_BYTES] {
    let words = [
        toc.offset,
        toc.compressed,
        toc.uncompressed,
        TYPE_CRFS,
        tar_split.offset,
        tar_split.compressed,
        tar_split.uncompressed,
        u64::from_le_bytes(*MAGIC),
    ];
    let mut footer = [0; FOOTER_BYTES];
    for (place, word) in footer.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    footer
}

/// containers/storage's annotations; it refuses a layer that has eStargz's as well.
pub(crate) fn annotations(
    toc: &[u8],
    position: Position,
    tar_split: Position,
) -> BTreeMap<String, String> {
    let place = |position: Position| {
        format!(
            "{}:{}:{}",
            position.offset, position.compressed, position.uncompressed
        )
    };
    BTreeMap::from([
        (CHECKSUM_ANNOTATION.to_owned(), Digest::of(toc).to_string()),
        (
            POSITION_ANNOTATION.to_owned(),
            format!("{}:{TYPE_CRFS}", place(position)),
        ),
        (TAR_SPLIT_ANNOTATION.to_owned(), place(tar_split)),
    ])
}

/// What the annotations say of the TOC's place.
pub(crate) fn position_from_annotations(
    annotations: &BTreeMap<String, String>,
) -> Result<Option<Position>, Error> {
    let Some((name, value)) = either(annotations, POSITION_ANNOTATION, OTHER_POSITION_ANNOTATION)
    else {
        return Ok(None);
    };
    let malformed = || Error::Annotation {
        name,
        value: value.chars().take(100).collect(),
    };
    let numbers: Option<Vec<u64>> = value.split(':').map(decimal).collect();
    match numbers.as_deref() {
        Some([offset, compressed, uncompressed, TYPE_CRFS]) => Ok(Some(Position {
            offset: *offset,
            compressed: *compressed,
            uncompressed: *uncompressed,
        })),
        _ => Err(malformed()),
    }
}

fn decimal(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

/// What the annotations say of the compressed TOC's digest.
pub(crate) fn checksum_from_annotations(
    annotations: &BTreeMap<String, String>,
) -> Result<Option<Digest>, Error> {
    either(annotations, CHECKSUM_ANNOTATION, OTHER_CHECKSUM_ANNOTATION)
        .map(|(name, text)| {
            text.parse()
                .map_err(|error| Error::AnnotationDigest(name, error))
        })
        .transpose()
}

fn either<'a>(
    annotations: &'a BTreeMap<String, String>,
    name: &'static str,
    other: &'static str,
) -> Option<(&'static str, &'a String)> {
    [name, other]
        .into_iter()
        .find_map(|name| Some((name, annotations.get(name)?)))
}
