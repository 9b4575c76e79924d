//! Where the blobs of lazy layers lie: in repositories, and in the registries that images come from.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cvmfs::{Content, Repository};
use image::Digest;
use image::repository_layout::stargz_blob;
use registry::{Client, Tail};

use crate::builds::lock;
use crate::embedded::EmbeddedSource;
use crate::error::SourceError;
use crate::mounted::MountedSource;
use crate::source::Blob;

/// How much of a blob's end is read at first: footer and TOC of most layers. A range that counts
/// from the end needs no size, and so no request before.
pub(super) const TAIL: u64 = 256 << 10;
/// Blobs whose place in the repository is remembered; then all are looked up again.
const MAX_REMEMBERED: usize = 1024;

/// Somewhere blobs can be read in ranges. Nothing that it gives is verified.
pub(crate) trait BlobSource: Send + Sync {
    /// Where it has a blob, as labels state it.
    fn shown(&self, blob: &Blob) -> String;

    /// Whether images are believed about the diffIDs of its layers.
    fn is_trusted(&self) -> bool;

    /// Whether a signature vouches for its bytes, which are then kept by its own client: a TOC is
    /// believed without a digest from the manifest, and contents are not kept a second time.
    fn is_signed(&self) -> bool;

    /// Whether it is worth asking; a registry is never asked for this.
    fn may_hold(&self, blob: &Blob) -> Result<bool, SourceError>;

    /// Length of the blob; `None` if it has it not.
    fn size(&self, blob: &Blob) -> Result<Option<u64>, SourceError>;

    /// The last bytes, [`TAIL`] at least unless the blob is shorter; `None` if it has not the blob.
    fn tail(&self, blob: &Blob) -> Result<Option<Tail>, SourceError>;

    /// Bytes of several ranges, each whole.
    fn read(&self, blob: &Blob, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, SourceError>;
}

/// Blobs in a repository that our own client reads.
pub(crate) struct RepositoryBlobs {
    source: Arc<EmbeddedSource>,
    name: String,
    /// A blob's bytes are the same in every revision that has it.
    known: Mutex<HashMap<Digest, Arc<Held>>>,
}

/// A blob in a repository.
struct Held {
    size: u64,
    content: Content,
}

impl RepositoryBlobs {
    pub(crate) fn new(source: Arc<EmbeddedSource>, name: &str) -> Self {
        Self {
            source,
            name: name.to_owned(),
            known: Mutex::default(),
        }
    }

    fn held(&self, blob: &Blob) -> Result<Option<Arc<Held>>, SourceError> {
        if let Some(held) = lock(&self.known).get(&blob.digest) {
            return Ok(Some(Arc::clone(held)));
        }
        let revision = self.source.revision()?;
        let path = stargz_blob(&blob.digest);
        let failure = |error| self.source.failure(&error);
        let Some(dirent) = revision.lookup(path.as_bytes()).map_err(failure)? else {
            return Ok(None);
        };
        if dirent.kind != cvmfs::Kind::File {
            return Err(self.source.corrupt(format!("{path} is not a file")));
        }
        let held = Arc::new(Held {
            size: dirent.size,
            content: revision.content(path.as_bytes()).map_err(failure)?,
        });
        let mut known = lock(&self.known);
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(blob.digest, Arc::clone(&held));
        Ok(Some(held))
    }

    fn range(
        &self,
        repository: &Repository,
        held: &Held,
        range: &Range<u64>,
    ) -> Result<Vec<u8>, SourceError> {
        let mut bytes = Vec::new();
        let mut add = |offset: u64, size: u64, object: Result<cache::Object, cvmfs::Error>| {
            let object = object.map_err(|error| self.source.failure(&error))?;
            let from = range.start.max(offset) - offset;
            let to = range.end.min(offset + size) - offset;
            self.append(&mut bytes, &object, from..to)
        };
        let wanted = |offset: u64, size: u64| {
            size > 0 && offset < range.end && range.start < offset.saturating_add(size)
        };
        match &held.content {
            Content::None => {}
            Content::Whole(object) => {
                add(0, held.size, repository.fetch(object, Some(held.size)))?;
            }
            Content::Chunked(chunks) => {
                for chunk in chunks.iter().filter(|one| wanted(one.offset, one.size)) {
                    let object = repository.fetch(&chunk.object, Some(chunk.size));
                    add(chunk.offset, chunk.size, object)?;
                }
            }
            Content::External(chunks) => {
                for chunk in chunks.iter().filter(|one| wanted(one.offset, one.size)) {
                    let (offset, size) = (chunk.offset, chunk.size);
                    let object = repository.fetch_external(&chunk.path, offset, size, &chunk.hash);
                    add(offset, size, object)?;
                }
            }
        }
        Ok(bytes)
    }

    fn append(
        &self,
        bytes: &mut Vec<u8>,
        object: &cache::Object,
        range: Range<u64>,
    ) -> Result<(), SourceError> {
        let start = bytes.len();
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
        bytes.resize(start + length, 0);
        let read = object.read_at(&mut bytes[start..], range.start);
        match read {
            Ok(read) if read == length => Ok(()),
            Ok(_) => Err(self.source.corrupt("an object is too short".to_owned())),
            Err(error) => Err(unavailable(&self.name, &error)),
        }
    }
}

impl BlobSource for RepositoryBlobs {
    fn shown(&self, _: &Blob) -> String {
        self.name.clone()
    }

    fn is_trusted(&self) -> bool {
        self.source.is_trusted()
    }

    fn is_signed(&self) -> bool {
        true
    }

    fn may_hold(&self, blob: &Blob) -> Result<bool, SourceError> {
        Ok(self.held(blob)?.is_some())
    }

    fn size(&self, blob: &Blob) -> Result<Option<u64>, SourceError> {
        Ok(self.held(blob)?.map(|held| held.size))
    }

    fn tail(&self, blob: &Blob) -> Result<Option<Tail>, SourceError> {
        let Some(held) = self.held(blob)? else {
            return Ok(None);
        };
        let start = held.size - TAIL.min(held.size);
        let bytes = self.range(&self.source.repository()?, &held, &(start..held.size))?;
        let size = held.size;
        Ok(Some(Tail { size, bytes }))
    }

    fn read(&self, blob: &Blob, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, SourceError> {
        let held = self.held(blob)?.ok_or_else(|| gone(&self.name, blob))?;
        let repository = self.source.repository()?;
        ranges
            .iter()
            .map(|range| whole(&self.name, range, self.range(&repository, &held, range)?))
            .collect()
    }
}

/// Blobs in a directory that somebody else's client keeps mounted.
pub(crate) struct MountedBlobs {
    source: Arc<MountedSource>,
    name: String,
}

impl MountedBlobs {
    pub(crate) fn new(source: Arc<MountedSource>, name: &str) -> Self {
        Self {
            source,
            name: name.to_owned(),
        }
    }

    fn path(blob: &Blob) -> PathBuf {
        PathBuf::from(stargz_blob(&blob.digest).trim_start_matches('/'))
    }
}

impl BlobSource for MountedBlobs {
    fn shown(&self, _: &Blob) -> String {
        self.name.clone()
    }

    fn is_trusted(&self) -> bool {
        self.source.is_trusted()
    }

    fn is_signed(&self) -> bool {
        true
    }

    fn may_hold(&self, blob: &Blob) -> Result<bool, SourceError> {
        Ok(self.source.file_length(Self::path(blob))?.is_some())
    }

    fn size(&self, blob: &Blob) -> Result<Option<u64>, SourceError> {
        self.source.file_length(Self::path(blob))
    }

    fn tail(&self, blob: &Blob) -> Result<Option<Tail>, SourceError> {
        let Some(size) = self.source.file_length(Self::path(blob))? else {
            return Ok(None);
        };
        let start = size - TAIL.min(size);
        let bytes = self
            .source
            .file_range(Self::path(blob), start, size - start)?;
        let bytes = whole(&self.name, &(start..size), bytes)?;
        Ok(Some(Tail { size, bytes }))
    }

    fn read(&self, blob: &Blob, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, SourceError> {
        let read = |range: &Range<u64>| {
            let length = range.end - range.start;
            let bytes = self
                .source
                .file_range(Self::path(blob), range.start, length)?;
            whole(&self.name, range, bytes)
        };
        ranges.iter().map(read).collect()
    }
}

/// Blobs in the registries that images come from.
pub(crate) struct RegistryBlobs {
    client: Client,
    trusted: bool,
}

/// Name of the registries as a source.
const REGISTRY: &str = "registry";

impl RegistryBlobs {
    pub(crate) fn new(client: Client, trusted: bool) -> Self {
        Self { client, trusted }
    }
}

impl BlobSource for RegistryBlobs {
    fn shown(&self, blob: &Blob) -> String {
        match &blob.reference {
            Some(image) => format!("{REGISTRY}:{}/{}", image.registry(), image.repository()),
            None => REGISTRY.to_owned(),
        }
    }

    fn is_trusted(&self) -> bool {
        self.trusted
    }

    fn is_signed(&self) -> bool {
        false
    }

    fn may_hold(&self, blob: &Blob) -> Result<bool, SourceError> {
        Ok(blob.reference.is_some())
    }

    fn size(&self, blob: &Blob) -> Result<Option<u64>, SourceError> {
        let Some(image) = &blob.reference else {
            return Ok(None);
        };
        self.client
            .head_blob(image, &blob.digest)
            .map_err(|error| unavailable(&self.shown(blob), &error))
    }

    fn tail(&self, blob: &Blob) -> Result<Option<Tail>, SourceError> {
        let Some(image) = &blob.reference else {
            return Ok(None);
        };
        match self.client.blob_tail(image, &blob.digest, TAIL) {
            Ok(tail) => Ok(Some(tail)),
            Err(registry::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(unavailable(&self.shown(blob), &error)),
        }
    }

    fn read(&self, blob: &Blob, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, SourceError> {
        let image = blob.reference.as_ref();
        let image = image.ok_or_else(|| gone(REGISTRY, blob))?;
        let asked: Vec<(u64, u64)> = ranges
            .iter()
            .map(|range| (range.start, range.end - range.start))
            .collect();
        self.client
            .multi_range(image, &blob.digest, &asked)
            .map_err(|error| unavailable(&self.shown(blob), &error))
    }
}

/// Never fewer bytes than were asked for.
fn whole(name: &str, range: &Range<u64>, bytes: Vec<u8>) -> Result<Vec<u8>, SourceError> {
    if bytes.len() as u64 == range.end - range.start {
        return Ok(bytes);
    }
    Err(SourceError::Corrupt {
        source_name: name.to_owned(),
        reason: format!("a blob ends before byte {}", range.end),
    })
}

fn gone(name: &str, blob: &Blob) -> SourceError {
    SourceError::Unavailable {
        source_name: name.to_owned(),
        reason: format!("it has not blob {}", blob.digest),
    }
}

fn unavailable(name: &str, error: &dyn std::error::Error) -> SourceError {
    SourceError::Unavailable {
        source_name: name.to_owned(),
        reason: error.to_string(),
    }
}
