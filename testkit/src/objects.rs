use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha1::Digest as _;

use crate::layer::Storage;
use crate::truth::hex;

/// How a repository hashes what it stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// 40 hex digits
    #[default]
    Sha1,
    /// `…-rmd160`
    Ripemd160,
    /// `…-shake128`, 160 bits of it
    Shake128,
}

/// The name of stored bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ContentHash {
    pub(crate) algorithm: Algorithm,
    pub(crate) digest: [u8; 20],
}

impl Algorithm {
    pub(crate) fn hash(self, bytes: &[u8]) -> ContentHash {
        let digest = match self {
            Self::Sha1 => sha1::Sha1::digest(bytes).into(),
            Self::Ripemd160 => ripemd::Ripemd160::digest(bytes).into(),
            Self::Shake128 => shake128(bytes),
        };
        ContentHash {
            algorithm: self,
            digest,
        }
    }

    /// Bits 8–10 of a row's flags.
    pub(crate) fn flags(self) -> i64 {
        (self as i64) << 8
    }
}

fn shake128(bytes: &[u8]) -> [u8; 20] {
    use shake::digest::{ExtendableOutput as _, Update as _, XofReader as _};
    let mut hasher = shake::Shake128::default();
    hasher.update(bytes);
    let mut digest = [0; 20];
    hasher.finalize_xof().read(&mut digest);
    digest
}

impl fmt::Display for ContentHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = match self.algorithm {
            Algorithm::Sha1 => "",
            Algorithm::Ripemd160 => "-rmd160",
            Algorithm::Shake128 => "-shake128",
        };
        write!(formatter, "{}{suffix}", hex(&self.digest))
    }
}

/// Where a file's content lies.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileObjects {
    /// None if chunked
    pub(crate) bulk: Option<[u8; 20]>,
    /// offset, length, digest
    pub(crate) chunks: Vec<(usize, usize, [u8; 20])>,
}

type KnownContent = (Arc<[u8]>, FileObjects);

/// Writes objects below `<repository>/data`.
#[derive(Debug)]
pub(crate) struct ObjectStore {
    directory: PathBuf,
    pub(crate) algorithm: Algorithm,
    /// By address of the shared content, which the map keeps alive: contents that many files share are hashed once.
    known: HashMap<(usize, Storage), KnownContent>,
}

impl ObjectStore {
    pub(crate) fn new(repository: &Path) -> Self {
        Self {
            directory: repository.join("data"),
            algorithm: Algorithm::default(),
            known: HashMap::new(),
        }
    }

    /// Stores one object; `suffix` is its kind's letter or empty.
    pub(crate) fn store(
        &self,
        content: &[u8],
        compressed: bool,
        suffix: &str,
    ) -> Result<ContentHash> {
        let deflated;
        let stored = if compressed {
            deflated = deflate(content)?;
            &deflated
        } else {
            content
        };
        let hash = self.algorithm.hash(stored);
        let name = hash.to_string();
        let folder = self.directory.join(&name[..2]);
        let path = folder.join(format!("{}{suffix}", &name[2..]));
        if !path.exists() {
            fs::create_dir_all(&folder)?;
            fs::write(&path, stored).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(hash)
    }

    /// Stores a file's content as its storage says; external content is only hashed.
    pub(crate) fn store_file(
        &mut self,
        content: &Arc<[u8]>,
        storage: Storage,
    ) -> Result<FileObjects> {
        let key = (content.as_ptr() as usize, storage);
        // Empty contents may share an address with others.
        if let Some((_, objects)) = self
            .known
            .get(&key)
            .filter(|(known, _)| Arc::ptr_eq(known, content))
        {
            return Ok(objects.clone());
        }
        let put = |bytes: &[u8], suffix| match storage.is_external() {
            true => Ok(self.algorithm.hash(bytes).digest),
            false => self
                .store(bytes, storage.is_compressed(), suffix)
                .map(|hash| hash.digest),
        };
        let objects = match storage.chunk_size() {
            Some(size) if content.len() > size => {
                let chunk = |(index, bytes): (usize, &[u8])| {
                    Ok((index * size, bytes.len(), put(bytes, "P")?))
                };
                let chunks = content
                    .chunks(size)
                    .enumerate()
                    .map(chunk)
                    .collect::<Result<_>>()?;
                FileObjects { bulk: None, chunks }
            }
            _ => FileObjects {
                bulk: Some(put(content, "")?),
                chunks: Vec::new(),
            },
        };
        self.known
            .insert(key, (Arc::clone(content), objects.clone()));
        Ok(objects)
    }
}

/// As the real publisher: zlib, level 6.
pub(crate) fn deflate(content: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(content)?;
    Ok(encoder.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_the_published_ones() {
        for (algorithm, text) in [
            (Algorithm::Sha1, "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
            (
                Algorithm::Ripemd160,
                "9c1185a5c5e9fc54612808977ee8f548b2258d31-rmd160",
            ),
            (
                Algorithm::Shake128,
                "7f9c2ba4e88f827d616045507605853ed73b8093-shake128",
            ),
        ] {
            assert_eq!(algorithm.hash(b"").to_string(), text);
        }
        // CVMFS.md §2.3: the object of an empty file.
        let empty = Algorithm::Sha1.hash(&deflate(b"").unwrap());
        assert_eq!(
            empty.to_string(),
            "e8ec3d88b62ebf526e4e5a4ff6162a3aa48a6b78"
        );
    }
}
