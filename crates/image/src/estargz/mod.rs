//! Layers that can be read piece by piece: eStargz, its forerunner stargz, and zstd:chunked. Reading and writing.
//!
//! Such a layer is an ordinary compressed tar, cut so that each file (each **chunk** of a large one) begins a compressed
//! member of its own. A table of contents (**TOC**) near its end says where; a **footer** at the very end says where the
//! TOC is. Formats: `docs/estargz.md` of containerd's stargz-snapshotter, and `pkg/chunked` of containers/storage.
//!
//! Nothing here reads from a disk or a network. A reader of such a layer goes like this:
//!
//! ```no_run
//! use image::estargz::{EntryKind, Footer, Limits, Toc, TocDigest, decode_member, tail_length_to_fetch};
//! # fn fetch(_: std::ops::Range<u64>) -> Vec<u8> { vec![] }
//! # fn read(blob_size: u64, annotations: &std::collections::BTreeMap<String, String>) -> Result<(), Box<dyn std::error::Error>> {
//! // One ranged read mostly brings both footer and TOC.
//! let tail_start = blob_size - tail_length_to_fetch(blob_size);
//! let tail = fetch(tail_start..blob_size);
//! let footer = Footer::find(annotations, &tail, blob_size)?;
//! let range = footer.toc_range().ok_or("the TOC is in another blob")?;
//! let toc_bytes = match range.start.checked_sub(tail_start) {
//!     Some(at) => tail[at as usize..(range.end - tail_start) as usize].to_vec(),
//!     None => fetch(range),
//! };
//!
//! // Without the digest from the manifest nobody knows whose TOC it is: then fall back, or say so.
//! let expected = TocDigest::from_annotations(annotations)?.ok_or("no TOC digest")?;
//! let toc = Toc::parse(&toc_bytes, &footer, &expected, &Limits::default())?;
//!
//! for entry in toc.entries() {
//!     if entry.kind() == EntryKind::File {
//!         for chunk in entry.chunks() {
//!             // In a tree: an extent (chunk.file_offset, chunk.size, chunk.to_reference()).
//!             // When it is read: Chunk::from_reference(…), then the member and its verified content.
//!             let content = decode_member(&fetch(chunk.range()), chunk)?;
//!             assert_eq!(content.len() as u64, chunk.size);
//!         }
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! * A chunk of [`Codec::Zeros`] has no range: [`decode_member`] takes an empty slice for it.
//! * Several small chunks may lie in one member (their `range().start` is equal): [`decode_chunks`] inflates it once.
//! * The cache key of a chunk is its [`Chunk::digest`]; multi-chunk files of legacy stargz have none, see
//!   [`decode_unverified`].
//! * Whiteouts are regular files with their special names, hardlinks [`EntryKind::Hardlink`] with the cleaned path of
//!   their target, which may come later, be a link itself (never in a circle), or lie in a layer below; a tree builder
//!   takes both as a tar has them.
//! * Landmarks and the TOC's own name are not among the entries; [`Toc::landmark`] says how much to prefetch.

mod chunk;
mod entry;
mod error;
mod footer;
mod json;
mod landmark;

mod links;
mod members;
mod order;
mod pax;
mod tar_input;

mod time;
mod toc;
mod toc_writer;
mod writer;

pub use chunk::{Chunk, Codec, Decoded, decode_chunks, decode_member, decode_unverified};
pub use entry::{Entry, EntryKind};
pub use error::{EntryFault, Error, WriteError};
pub use footer::{Footer, FooterKind, TocDigest, tail_length_to_fetch};
pub use landmark::Landmark;
pub use toc::{Limits, Toc};
pub use writer::{Format, Options, Written, write, write_prioritized};

/// The annotation of a layer that holds the SHA-256 of its TOC, the uncompressed JSON.
pub const TOC_DIGEST_ANNOTATION: &str = "containerd.io/snapshot/stargz/toc.digest";
/// The annotation of a layer that holds the length of its tar in decimal bytes; containers/storage asks for it.
pub const UNCOMPRESSED_SIZE_ANNOTATION: &str = "io.containers.estargz.uncompressed-size";

/// The name of the tar member that holds the TOC.
pub(crate) const TOC_NAME: &str = "stargz.index.json";
