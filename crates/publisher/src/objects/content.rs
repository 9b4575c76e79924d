//! What storing a file came to, and its compact form in temporary databases.

use cvmfs::{Algorithm, Compression, ContentHash, DIGEST_BYTES};

/// Objects of one regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredContent {
    /// No bytes. The object of an empty zlib stream stands for it.
    Empty,
    /// One object.
    Whole {
        /// Its name.
        hash: ContentHash,
        /// Its encoding.
        compression: Compression,
    },
    /// At least two objects in the order of their offsets, without gaps; one algorithm and one encoding.
    Chunked(Vec<StoredChunk>),
}

/// A piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredChunk {
    /// First byte, counted in the file.
    pub offset: u64,
    /// Bytes before encoding.
    pub size: u64,
    /// Name of its object, which has suffix `P`.
    pub hash: ContentHash,
    /// Encoding of its object.
    pub compression: Compression,
}

impl StoredContent {
    /// Algorithm and encoding, then a digest, or size and digest of each chunk; nothing for an empty file.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let head = |hash: &ContentHash, compression: Compression, tag: u8| {
            let raw = u8::from(compression == Compression::None);
            vec![tag, hash.algorithm as u8 | raw << 4]
        };
        match self {
            Self::Empty => Vec::new(),
            Self::Whole { hash, compression } => {
                let mut bytes = head(hash, *compression, b'W');
                bytes.extend(hash.digest);
                bytes
            }
            Self::Chunked(chunks) => {
                let Some(first) = chunks.first() else {
                    return Vec::new();
                };
                let mut bytes = head(&first.hash, first.compression, b'C');
                for chunk in chunks {
                    bytes.extend(chunk.size.to_le_bytes());
                    bytes.extend(chunk.hash.digest);
                }
                bytes
            }
        }
    }

    /// Reads [`StoredContent::to_bytes`]; `None` for anything else.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::Empty);
        }
        let ([tag, kind], body) = bytes.split_first_chunk::<2>()?;
        let algorithm = Algorithm::from_number(kind & 0x0f)?;
        let compression = match kind >> 4 {
            0 => Compression::Zlib,
            _ => Compression::None,
        };
        let hash = |digest: &[u8]| {
            let digest = <[u8; DIGEST_BYTES]>::try_from(digest).ok()?;
            Some(ContentHash { algorithm, digest })
        };
        if *tag == b'W' {
            let hash = hash(body)?;
            return Some(Self::Whole { hash, compression });
        }
        let mut offset = 0_u64;
        let mut chunks = Vec::with_capacity(body.len() / (8 + DIGEST_BYTES));
        for chunk in body.chunks(8 + DIGEST_BYTES) {
            let (size, digest) = chunk.split_first_chunk::<8>()?;
            let size = u64::from_le_bytes(*size);
            chunks.push(StoredChunk {
                offset,
                size,
                hash: hash(digest)?,
                compression,
            });
            offset = offset.checked_add(size)?;
        }
        Some(Self::Chunked(chunks))
    }
}
