//! References to stored objects: hash, kind and encoding, from which follow URL and cache key.

use crate::hash::{Algorithm, ContentHash, DIGEST_BYTES};

/// The kind of an object; printed as one letter behind its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Suffix {
    /// A whole regular file (no letter).
    Bulk,
    /// A catalog (`C`).
    Catalog,
    /// A history database (`H`).
    History,
    /// A certificate (`X`).
    Certificate,
    /// The meta-information JSON (`M`).
    MetaInfo,
    /// A chunk of a file (`P`).
    Partial,
}

impl Suffix {
    const ALL: [Self; 6] = [
        Self::Bulk,
        Self::Catalog,
        Self::History,
        Self::Certificate,
        Self::MetaInfo,
        Self::Partial,
    ];

    /// The letter as printed in URLs; empty for whole files.
    pub fn letter(self) -> &'static str {
        match self {
            Self::Bulk => "",
            Self::Catalog => "C",
            Self::History => "H",
            Self::Certificate => "X",
            Self::MetaInfo => "M",
            Self::Partial => "P",
        }
    }
}

/// How an object's bytes are stored on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compression {
    /// One zlib stream (RFC 1950); number 0 in catalogs.
    Zlib,
    /// As they are; number 1 in catalogs.
    None,
}

/// One stored object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Hash of the stored bytes.
    pub hash: ContentHash,
    /// Its kind.
    pub suffix: Suffix,
    /// Its encoding.
    pub compression: Compression,
}

impl ObjectRef {
    /// Length of [`ObjectRef::to_bytes`].
    pub const ENCODED_BYTES: usize = 2 + DIGEST_BYTES;

    /// A zlib-compressed object, as catalogs, certificates and histories always are.
    pub fn zlib(hash: ContentHash, suffix: Suffix) -> Self {
        Self {
            hash,
            suffix,
            compression: Compression::Zlib,
        }
    }

    /// Path below a repository's URL: `data/ab/cdef…[-rmd160][C]`.
    pub fn url_path(&self) -> String {
        let text = self.hash.to_string();
        format!("data/{}/{}{}", &text[..2], &text[2..], self.suffix.letter())
    }

    /// Name of the decoded content in a cache. The encoding is part of it, because one hash read with two encodings is two contents.
    pub fn cache_key(&self) -> String {
        let mut key = self.hash.to_string();
        if self.suffix != Suffix::Bulk {
            key.push('.');
            key.push_str(&self.suffix.letter().to_ascii_lowercase());
        }
        if self.compression == Compression::None {
            key.push_str(".raw");
        }
        key
    }

    /// Compact form for references kept in trees: algorithm and encoding, kind, digest.
    pub fn to_bytes(&self) -> [u8; Self::ENCODED_BYTES] {
        let mut bytes = [0; Self::ENCODED_BYTES];
        let raw = u8::from(self.compression == Compression::None);
        bytes[0] = self.hash.algorithm as u8 | raw << 4;
        // An unsuffixed object is stored as 0, the others as their letter.
        bytes[1] = self.suffix.letter().bytes().next().unwrap_or(0);
        bytes[2..].copy_from_slice(&self.hash.digest);
        bytes
    }

    /// Reads [`ObjectRef::to_bytes`]; `None` unless the bytes are exactly one reference.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, digest) = bytes.split_first_chunk::<2>()?;
        let digest = <[u8; DIGEST_BYTES]>::try_from(digest).ok()?;
        let algorithm = Algorithm::from_number(head[0] & 0x0f)?;
        let compression = match head[0] >> 4 {
            0 => Compression::Zlib,
            1 => Compression::None,
            _ => return None,
        };
        let suffix = Suffix::ALL
            .into_iter()
            .find(|suffix| suffix.letter().bytes().next().unwrap_or(0) == head[1])?;
        Some(Self {
            hash: ContentHash { algorithm, digest },
            suffix,
            compression,
        })
    }
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.hash, self.suffix.letter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_keys() {
        let hash = ContentHash::parse("9c1185a5c5e9fc54612808977ee8f548b2258d31-rmd160").unwrap();
        let object = ObjectRef::zlib(hash, Suffix::Partial);
        assert_eq!(
            object.url_path(),
            "data/9c/1185a5c5e9fc54612808977ee8f548b2258d31-rmd160P"
        );
        assert_eq!(
            object.cache_key(),
            "9c1185a5c5e9fc54612808977ee8f548b2258d31-rmd160.p"
        );
        let raw = ObjectRef {
            suffix: Suffix::Bulk,
            compression: Compression::None,
            ..object
        };
        assert_eq!(
            raw.cache_key(),
            "9c1185a5c5e9fc54612808977ee8f548b2258d31-rmd160.raw"
        );
    }

    #[test]
    fn bytes_come_back() {
        for algorithm in [Algorithm::Sha1, Algorithm::Ripemd160, Algorithm::Shake128] {
            for suffix in Suffix::ALL {
                for compression in [Compression::Zlib, Compression::None] {
                    let object = ObjectRef {
                        hash: algorithm.digest(b"x"),
                        suffix,
                        compression,
                    };
                    let bytes = object.to_bytes();
                    assert_eq!(ObjectRef::from_bytes(&bytes), Some(object));
                    assert_eq!(ObjectRef::from_bytes(&bytes[1..]), None);
                }
            }
        }
        let mut bytes = ObjectRef::zlib(Algorithm::Sha1.digest(b""), Suffix::Bulk).to_bytes();
        bytes[0] |= 0x20;
        assert_eq!(ObjectRef::from_bytes(&bytes), None);
    }
}
