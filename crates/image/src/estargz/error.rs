use crate::{Digest, DigestError};

/// Why bytes are no layer that can be read piece by piece, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The last bytes are no footer that we know: an ordinary layer.
    #[error("no eStargz, stargz or zstd:chunked footer: an ordinary layer")]
    NoFooter,
    /// A footer that points nowhere.
    #[error("bad footer: {0}")]
    BadFooter(&'static str),
    /// An annotation of the layer that is not what its name promises.
    #[error("annotation {name} is malformed: {value:?}")]
    Annotation {
        /// its key
        name: &'static str,
        /// its value, cut
        value: String,
    },
    /// An annotation that should be a digest.
    #[error("annotation {0}: {1}")]
    AnnotationDigest(&'static str, #[source] DigestError),
    /// More than a reader is ready to hold.
    #[error("{what} exceeds the limit of {limit}")]
    TooLarge {
        /// of what
        what: &'static str,
        /// in bytes or pieces
        limit: u64,
    },
    /// The bytes handed in are not the whole TOC or member.
    #[error("truncated {0}")]
    Truncated(&'static str),
    /// The compressed stream is damaged.
    #[error("cannot decompress {0}: {1}")]
    Decompress(&'static str, #[source] std::io::Error),
    /// What should hold the TOC is another tar member.
    #[error("the member with the TOC is no tar of stargz.index.json")]
    NoToc,
    /// The TOC is not the JSON that it should be.
    #[error("malformed TOC: {0}")]
    Json(#[source] serde_json::Error),
    /// The TOC is of another version than 1.
    #[error("TOC of version {0}, only 1 is known")]
    Version(u64),
    /// An entry of the TOC is not possible.
    #[error("TOC entry {index} ({path:?}): {fault}")]
    Entry {
        /// counted from 0, chunks included
        index: u64,
        /// as the TOC has it, cut
        path: String,
        /// what is wrong
        fault: EntryFault,
    },
    /// The TOC is not the one that the manifest names.
    #[error("TOC has digest {actual}, expected {expected}")]
    TocDigest {
        /// from the annotation
        expected: Digest,
        /// of the bytes
        actual: Digest,
    },
    /// A chunk is not the one that the TOC names.
    #[error("chunk has digest {actual}, expected {expected}")]
    ChunkDigest {
        /// from the TOC
        expected: Digest,
        /// of the bytes
        actual: Digest,
    },
    /// The TOC gives no digest for this chunk (legacy stargz): it cannot be verified by itself.
    #[error("the TOC has no digest for this chunk")]
    NoChunkDigest,
    /// A tar that cannot be indexed.
    #[error("cannot index the tar: {0}")]
    Tar(#[source] Box<WriteError>),
}

/// What is wrong with one entry of a TOC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// The writer's JSON cannot hold bytes that are not UTF-8 and put U+FFFD in their place: the name is lost.
    #[error("a name that is not UTF-8 was lost")]
    LostName,
    /// Longer than a kernel takes.
    #[error("name or path too long")]
    NameTooLong,
    /// With a NUL byte.
    #[error("name with a NUL byte")]
    Nul,
    /// A type that a layer cannot hold.
    #[error("unknown type")]
    UnknownType,
    /// A time that is not RFC 3339.
    #[error("malformed time")]
    Time,
    /// A digest that is not SHA-256.
    #[error("malformed digest")]
    Digest,
    /// An extended attribute that is not base64, or larger than a kernel takes.
    #[error("malformed or oversized extended attribute")]
    Xattr,
    /// A root that is not a directory.
    #[error("the root is not a directory")]
    Root,
    /// A chunk without a file before it.
    #[error("a chunk without its file")]
    LoneChunk,
    /// Chunks that overlap, leave gaps, or do not add up to the file.
    #[error("chunks do not add up to the file")]
    Chunks,
    /// A chunk larger than we are ready to hold in memory.
    #[error("chunk too large")]
    ChunkTooLarge,
    /// An offset that is not before the TOC.
    #[error("offset beyond the data")]
    Offset,
    /// A link or symlink without a target.
    #[error("no target")]
    NoTarget,
    /// Hardlinks that lead in a circle.
    #[error("hardlinks in a circle")]
    LinkCycle,
    /// A hardlink to a directory.
    #[error("hardlink to a directory")]
    LinkToDirectory,
    /// A chunk type that we do not know.
    #[error("unknown chunk type")]
    ChunkType,
}

/// Why a tar cannot be written as such a layer.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The tar cannot be read: damaged, or the stream broke.
    #[error("cannot read the tar: {0}")]
    Input(#[source] std::io::Error),
    /// The layer cannot be written.
    #[error("cannot write the layer: {0}")]
    Output(#[source] std::io::Error),
    /// A name or target that JSON cannot hold. Such a layer must stay as it is.
    #[error("{0:?} is not UTF-8, which a TOC cannot hold: leave this layer as it is")]
    NotUtf8(String),
    /// A kind of tar entry that the formats do not have.
    #[error("{path:?} is of tar type {kind:?}, which a TOC cannot hold: leave this layer as it is")]
    Unsupported {
        /// its name
        path: String,
        /// the type's byte
        kind: char,
    },
    /// More than the format can state.
    #[error("{0} does not fit the format")]
    TooLarge(&'static str),
    /// Options that contradict each other.
    #[error("bad options: {0}")]
    Options(&'static str),
}
