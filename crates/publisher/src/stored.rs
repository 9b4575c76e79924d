//! Single objects, verified when read and named by their hash when written. Catalogs, histories, certificates and meta-infos pass through
//! here; files' contents have a store of their own.

use cvmfs::{Algorithm, Compression, ContentHash, ObjectRef, Suffix};

use crate::deflate;
use crate::error::Error;
use crate::storage::Storage;

/// Stored objects are never much longer than their content.
const OVERHEAD: u64 = 64 << 10;

/// An object's content of at most `limit` bytes; `None` if there is no such object.
pub(crate) fn read_optional(
    storage: &dyn Storage,
    object: &ObjectRef,
    limit: u64,
) -> Result<Option<Vec<u8>>, Error> {
    let path = object.url_path();
    let most = limit.saturating_add(limit / 100).saturating_add(OVERHEAD);
    let Some(stored) = storage.read(&path, most)? else {
        return Ok(None);
    };
    let computed = object.hash.algorithm.digest(&stored);
    if computed != object.hash {
        return Err(Error::corrupt(
            path,
            format!("its bytes have the hash {computed}"),
        ));
    }
    match object.compression {
        Compression::None => Ok(Some(stored)),
        Compression::Zlib => deflate::inflate(&stored, limit)
            .map(Some)
            .map_err(|reason| Error::corrupt(path, reason)),
    }
}

/// As [`read_optional`], for objects that must be there.
pub(crate) fn read(
    storage: &dyn Storage,
    object: &ObjectRef,
    limit: u64,
) -> Result<Vec<u8>, Error> {
    read_optional(storage, object, limit)?.ok_or_else(|| Error::Missing {
        what: object.url_path(),
        location: storage.location(),
    })
}

/// Deflates as the real publisher does, and stores it unless it is there already.
pub(crate) fn write(
    storage: &dyn Storage,
    content: &[u8],
    suffix: Suffix,
    algorithm: Algorithm,
) -> Result<ContentHash, Error> {
    let stored = deflate::deflate(content).map_err(Error::Scratch)?;
    let hash = algorithm.digest(&stored);
    let path = ObjectRef::zlib(hash, suffix).url_path();
    if storage.size(&path)? != Some(stored.len() as u64) {
        storage.put(&path, &stored)?;
    }
    Ok(hash)
}
