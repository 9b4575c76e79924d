use std::collections::HashMap;
use std::sync::Arc;

use cvmfs::{Compression, ContentHash, Hasher, ObjectRef, Suffix};

use crate::error::Error;
use crate::step::{OnStep, Step};
use crate::storage::Storage;
use crate::stored_catalog::{ObjectKey, key, object_at};

const PIECE: usize = 256 << 10;

/// All objects of the backend, by one listing: asking for each would take a request each.
pub(super) struct Objects<'a> {
    storage: Arc<dyn Storage>,
    content: bool,
    on_step: OnStep<'a>,
    looked: u64,
    /// Whether a revision named it.
    there: HashMap<ObjectKey, bool>,
}

/// What is wrong with an object.
pub(super) enum Wrong {
    Missing,
    Corrupt(String),
}

impl<'a> Objects<'a> {
    pub(super) fn listed(
        storage: Arc<dyn Storage>,
        content: bool,
        on_step: OnStep<'a>,
    ) -> Result<Self, Error> {
        let mut there = HashMap::new();
        storage.list("data/", &mut |file| {
            if let Some((hash, suffix)) = object_at(file.path) {
                there.insert(key(hash, suffix), false);
            }
            Ok(())
        })?;
        Ok(Self {
            storage,
            content,
            on_step,
            looked: 0,
            there,
        })
    }

    pub(super) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// Looks at an object; a second time it is only looked whether it is there. `size` = what it must inflate to.
    pub(super) fn look(
        &mut self,
        object: &ObjectRef,
        size: Option<u64>,
    ) -> Result<Option<Wrong>, Error> {
        let Some(named) = self.there.get_mut(&key(object.hash, object.suffix)) else {
            return Ok(Some(Wrong::Missing));
        };
        let before = std::mem::replace(named, true);
        if !before {
            self.looked += 1;
            (self.on_step)(Step {
                what: "checking objects",
                done: self.looked,
                total: Some(self.there.len() as u64),
            });
        }
        if before || !self.content {
            return Ok(None);
        }
        self.hash(object, size)
    }

    fn hash(&self, object: &ObjectRef, size: Option<u64>) -> Result<Option<Wrong>, Error> {
        let path = object.url_path();
        let Some(reader) = self.storage.reader(&path)? else {
            return Ok(Some(Wrong::Missing));
        };
        let mut hashing = Hashing {
            inner: reader,
            hasher: Hasher::new(object.hash.algorithm),
        };
        let decoded = match object.compression {
            Compression::None => drain(&mut hashing, u64::MAX),
            Compression::Zlib => drain(
                &mut flate2::read::ZlibDecoder::new(&mut hashing),
                size.unwrap_or(u64::MAX),
            ),
        };
        // What is behind the stream's end is hashed too.
        let rest = drain(&mut hashing, u64::MAX);
        let computed = hashing.hasher.finish();
        if computed != object.hash {
            return Ok(Some(Wrong::Corrupt(format!(
                "its bytes have the hash {computed}"
            ))));
        }
        Ok(match (decoded, rest) {
            (Err(error), _) | (_, Err(error)) => Some(Wrong::Corrupt(error.to_string())),
            (Ok(length), _) if size.is_some_and(|size| size != length) => Some(Wrong::Corrupt(
                format!("it has {length} bytes, its file {}", size.unwrap_or(0)),
            )),
            _ => None,
        })
    }

    /// Notes that something names an object; false if it is not there.
    pub(super) fn name(&mut self, object: &ObjectRef) -> bool {
        let named = self.there.get_mut(&key(object.hash, object.suffix));
        named.map(|named| *named = true).is_some()
    }

    pub(super) fn name_catalog(&mut self, hash: ContentHash) {
        self.name(&ObjectRef::zlib(hash, Suffix::Catalog));
    }

    /// Objects that were named.
    pub(super) fn named(&self) -> usize {
        self.there.values().filter(|named| **named).count()
    }

    /// Objects that were not.
    pub(super) fn unnamed(&self) -> usize {
        self.there.len() - self.named()
    }
}

/// Hashes what passes.
struct Hashing {
    inner: Box<dyn std::io::Read + Send>,
    hasher: Hasher,
}

impl std::io::Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}

/// Reads to the end, or a little past `limit`: bombs are not unpacked.
fn drain(reader: &mut dyn std::io::Read, limit: u64) -> std::io::Result<u64> {
    let mut length = 0;
    let mut buffer = vec![0; PIECE];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(length),
            Ok(read) => length += read as u64,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if length > limit {
            return Ok(length);
        }
    }
}
