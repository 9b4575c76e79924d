//! Objects: from the cache, else from servers, verified and decoded.

use std::io;
use std::sync::Arc;

use cache::{Cache, Entry, FetchError, Key, Object, Verified};

use crate::catalog::Pinned;
use crate::download::{Decoded, Download, Downloader, Ended, Expected, encode_path};
use crate::error::Error;
use crate::hash::ContentHash;
use crate::metrics::Metrics;
use crate::object::{Compression, ObjectRef, Suffix};

/// Objects whose decoded size nobody states (old catalogs, histories) may have this many bytes.
const MAX_UNKNOWN_SIZE: u64 = 4 << 30;

/// Gets objects of one repository.
pub(crate) struct Objects {
    fqrn: String,
    cache: Arc<Cache>,
    servers: Downloader,
    external: Downloader,
    metrics: Metrics,
}

/// One object that is wanted.
struct Wanted<'a> {
    /// For messages.
    name: String,
    key: String,
    source: &'a Downloader,
    /// Path below the servers' URLs.
    path: String,
    range: Option<(u64, u64)>,
    expected: Expected,
}

impl Wanted<'_> {
    fn begin(&self) -> Download {
        // Incompressible content grows by 5 bytes per 16 KiB, and a header.
        let decoded = self.expected.size.unwrap_or(self.expected.limit);
        let limit = decoded
            .saturating_add(decoded / 1024)
            .saturating_add(64 << 10);
        self.source.begin(self.path.clone(), self.range, limit)
    }
}

impl Objects {
    pub(crate) fn new(
        fqrn: String,
        cache: Arc<Cache>,
        servers: Downloader,
        external: Downloader,
        metrics: Metrics,
    ) -> Self {
        Self {
            fqrn,
            cache,
            servers,
            external,
            metrics,
        }
    }

    pub(crate) fn servers(&self) -> &Downloader {
        &self.servers
    }

    /// A database, pinned in the cache for as long as it is open: SQLite opens it by name again and again.
    pub(crate) fn fetch_pinned(
        &self,
        object: &ObjectRef,
        fetch: impl FnOnce() -> Result<Object, Error>,
    ) -> Result<Pinned, Error> {
        let key = Key::new(&object.cache_key()).map_err(|error| Error::corrupt(object, error))?;
        // Before it is there, so that it cannot vanish in between.
        self.cache.pin(&key);
        let mut pinned = Pinned {
            cache: self.cache.clone(),
            key,
            object: None,
        };
        pinned.object = Some(fetch()?);
        Ok(pinned)
    }

    /// True if no server is needed for an object.
    pub(crate) fn is_cached(&self, object: &ObjectRef) -> Result<bool, Error> {
        let key = Key::new(&object.cache_key()).map_err(|error| Error::corrupt(object, error))?;
        Ok(self.cache.get(&key)?.is_some())
    }

    /// An object, decoded. A known size is enforced.
    pub(crate) fn fetch(&self, object: &ObjectRef, size: Option<u64>) -> Result<Object, Error> {
        self.fetch_at(object, object.url_path(), size, MAX_UNKNOWN_SIZE)
    }

    /// An object that may lie at `.cvmfsalt-…`, as those do that servers with access control must show to everybody.
    pub(crate) fn fetch_public(
        &self,
        object: &ObjectRef,
        alternative: bool,
        limit: u64,
    ) -> Result<Object, Error> {
        let path = if alternative {
            format!(".cvmfsalt-{object}")
        } else {
            object.url_path()
        };
        self.fetch_at(object, path, None, limit)
    }

    fn fetch_at(
        &self,
        object: &ObjectRef,
        path: String,
        size: Option<u64>,
        limit: u64,
    ) -> Result<Object, Error> {
        self.obtain(&Wanted {
            name: format!("object {object} of {}", self.fqrn),
            key: object.cache_key(),
            source: &self.servers,
            path,
            range: None,
            expected: Expected {
                hash: object.hash,
                compression: object.compression,
                size,
                limit,
            },
        })
    }

    /// A piece of an external file.
    pub(crate) fn fetch_external(
        &self,
        path: &[u8],
        offset: u64,
        size: u64,
        hash: &ContentHash,
    ) -> Result<Object, Error> {
        let object = ObjectRef {
            hash: *hash,
            suffix: Suffix::Bulk,
            compression: Compression::None,
        };
        self.obtain(&Wanted {
            name: format!(
                "external file {} of {}",
                String::from_utf8_lossy(path),
                self.fqrn
            ),
            key: object.cache_key(),
            source: &self.external,
            path: encode_path(path.strip_prefix(b"/").unwrap_or(path)),
            range: (size > 0).then_some((offset, size)),
            expected: Expected {
                hash: *hash,
                compression: Compression::None,
                size: Some(size),
                limit: size,
            },
        })
    }

    fn obtain(&self, wanted: &Wanted<'_>) -> Result<Object, Error> {
        let key = Key::new(&wanted.key).map_err(|error| Error::corrupt(&wanted.name, error))?;
        let mut download = None;
        loop {
            let outcome = self.cache.get_or_fetch(&key, |entry| {
                let download = download.get_or_insert_with(|| wanted.begin());
                self.fill(wanted, download, entry)
            });
            match outcome {
                Ok(object) => return check_size(object, wanted),
                Err(FetchError::Fetch(Ended::Restart)) => {}
                Err(FetchError::Fetch(Ended::Exhausted)) => {
                    self.metrics.failed_objects.inc();
                    let download = download.unwrap_or_else(|| wanted.begin());
                    return Err(download.into_error(&wanted.name));
                }
                Err(FetchError::Fetch(Ended::Local(error))) => return Err(local(error)),
                Err(FetchError::Cache(error)) => return Err(error.into()),
            }
        }
    }

    fn fill(
        &self,
        wanted: &Wanted<'_>,
        download: &mut Download,
        mut entry: Entry,
    ) -> Result<Verified, FetchError<Ended>> {
        if let Some(size) = wanted.expected.size {
            entry.reserve(size)?;
        }
        let mut decoded = Decoded::new(wanted.expected, &mut entry);
        wanted
            .source
            .run(download, &mut decoded)
            .map_err(FetchError::Fetch)?;
        let computed = decoded
            .computed()
            .map(|hash| hash.digest)
            .unwrap_or_default();
        self.metrics.fetched_objects.inc();
        Ok(entry.finish(&computed, &wanted.expected.hash.digest)?)
    }
}

/// What the cache already had may have been asked for with another size.
fn check_size(object: Object, wanted: &Wanted<'_>) -> Result<Object, Error> {
    match wanted.expected.size {
        Some(size) if size != object.len() => Err(Error::corrupt(
            &wanted.name,
            format!("it has {} bytes, the catalog says {size}", object.len()),
        )),
        _ => Ok(object),
    }
}

/// The sink is a cache entry: its errors travel inside the I/O error.
fn local(error: io::Error) -> Error {
    match error.downcast::<cache::Error>() {
        Ok(error) => error.into(),
        Err(source) => Error::State {
            path: "cache entry".into(),
            source,
        },
    }
}
