//! Ordinary layers that the daemon fetches and unpacks by itself, because lazy ones lie above: else
//! containerd would fetch those, too.
//!
//! ```text
//! <root>/unpacked/<layer>.<diffID>     the layer's tar, uncompressed, both digests verified
//! ```
//! The tree says where in the tar each file is. The tar counts in the quota and goes with its tree.

mod pieces;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use image::Digest;
use image::estargz::{Chunk, Codec, Toc};
use sha2::{Digest as _, Sha256};

use crate::builds::lock;
use crate::content::{ContentRef, decode};
use crate::error::{AttachError, SourceError};
use crate::estargz::{BlobSource, tree_of};
use crate::metrics::LazyMetrics;
use crate::source::{Blob, Layer, LayerSource, Located, Opened, Wanted};
use crate::space::Space;
use crate::tree_store::{TreeStore, create_private, disk, files, tree_key};
use pieces::Pieces;

/// Name of the source.
pub(crate) const NAME: &str = "unpacked-here";

/// Which ordinary layers are unpacked here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpack {
    /// Those with a lazy layer above.
    BelowLazy,
    /// All.
    Always,
    /// None.
    Never,
}

/// Room for what is written is made in steps of this size.
const ROOM: u64 = 16 << 20;

/// The directory of unpacked layers.
pub(crate) struct UnpackedSource {
    directory: PathBuf,
    sources: Vec<Arc<dyn BlobSource>>,
    trees: Arc<TreeStore>,
    space: Arc<Space>,
    /// Bytes that one layer may have at most.
    limit: u64,
    open: Mutex<HashMap<Digest, Arc<File>>>,
    next: AtomicU64,
    metrics: LazyMetrics,
}

impl UnpackedSource {
    pub(crate) fn open(
        root: &Path,
        sources: Vec<Arc<dyn BlobSource>>,
        trees: Arc<TreeStore>,
        space: Arc<Space>,
        limit: u64,
        metrics: LazyMetrics,
    ) -> Result<Self, AttachError> {
        let directory = root.join("unpacked");
        create_private(&directory)?;
        for leftover in files(&directory)?.filter(|path| name_of(path).is_none()) {
            fs::remove_file(&leftover).map_err(|cause| disk(&leftover, cause))?;
        }
        space.look(files(&directory)?);
        Ok(Self {
            directory,
            sources,
            trees,
            space,
            limit,
            open: Mutex::default(),
            next: AtomicU64::new(0),
            metrics,
        })
    }

    /// Whether somebody may have the blob.
    pub(crate) fn may_fetch(&self, blob: &Blob) -> bool {
        let mut sources = self.sources.iter();
        sources.any(|source| matches!(source.may_hold(blob), Ok(true)))
    }

    /// Fetches and unpacks a layer unless it is there.
    pub(crate) fn unpack(&self, blob: &Blob) -> Result<Located, SourceError> {
        if let Some(located) = self.find(&blob.digest)? {
            return Ok(located);
        }
        let size = self.size(blob)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let temporary = self.directory.join(format!("{number}.new"));
        let unpacked = self.write(blob, size, &temporary);
        if unpacked.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        self.space.look([temporary]);
        let located = unpacked?;
        self.metrics.unpacked_layers.inc();
        self.metrics.unpacked_bytes.inc_by(size);
        Ok(located)
    }

    fn size(&self, blob: &Blob) -> Result<u64, SourceError> {
        let mut failed = None;
        for source in &self.sources {
            match source.size(blob) {
                Ok(Some(size)) => return Ok(size),
                Ok(None) => {}
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        Err(failed.unwrap_or_else(|| unavailable(format!("no source has blob {}", blob.digest))))
    }

    fn write(&self, blob: &Blob, size: u64, temporary: &Path) -> Result<Located, SourceError> {
        let file = File::create(temporary).map_err(|error| failed(temporary, &error))?;
        let mut tar = Tar {
            file,
            hash: Sha256::new(),
            written: 0,
            room: 0,
            limit: self.limit,
            space: &self.space,
            path: temporary,
        };
        let mut input = BufReader::with_capacity(
            128 << 10,
            Pieces::start(self.sources.clone(), blob.clone(), size)?,
        );
        let corrupt = |reason: String| SourceError::Corrupt {
            source_name: NAME.to_owned(),
            reason: format!("blob {}: {reason}", blob.digest),
        };
        let listed = image::layer_tar(&mut input)
            .map_err(|error| corrupt(error.to_string()))
            .and_then(|stream| {
                Toc::of_tar(Tee {
                    input: stream,
                    output: &mut tar,
                })
                .map_err(|error| corrupt(error.to_string()))
            });
        // What ended the reading says more than what the reader made of it.
        if let Some(error) = input.get_mut().failure() {
            return Err(error);
        }
        let toc = listed?;
        let rest = io::copy(&mut input, &mut io::sink());
        if let Some(error) = input.get_mut().failure() {
            return Err(error);
        }
        rest.map_err(|error| corrupt(error.to_string()))?;
        let found = input.get_mut().digest();
        if found != blob.digest {
            return Err(corrupt(format!("it has digest {found}")));
        }
        let diff_id = Digest::from_bytes(tar.hash.finalize().into());
        tar.file
            .sync_data()
            .map_err(|error| failed(temporary, &error))?;
        self.keep(blob, &toc, diff_id, temporary)
    }

    /// First the tree, then the tar: a tar without a tree would be taken for one that nobody needs.
    fn keep(
        &self,
        blob: &Blob,
        toc: &Toc,
        diff_id: Digest,
        temporary: &Path,
    ) -> Result<Located, SourceError> {
        let tree = tree_of(toc).map_err(|cause| SourceError::Tree {
            source_name: NAME.to_owned(),
            cause,
        })?;
        let size = toc.entries().map(|entry| entry.size()).sum();
        let located = located(diff_id, size);
        self.trees
            .put(&tree_key(&blob.digest, &located.identity), &tree)
            .map_err(|error| unavailable(error.to_string()))?;
        let path = self.path(&blob.digest, &diff_id);
        fs::rename(temporary, &path).map_err(|error| failed(&path, &error))?;
        self.space.look([path]);
        Ok(located)
    }

    fn path(&self, layer: &Digest, diff_id: &Digest) -> PathBuf {
        self.directory
            .join(format!("{}.{}", layer.hex(), diff_id.hex()))
    }

    /// The layer, if it is there.
    fn find(&self, layer: &Digest) -> Result<Option<Located>, SourceError> {
        let Some((path, diff_id)) = self.file_of(layer)? else {
            return Ok(None);
        };
        let metadata = fs::metadata(&path).map_err(|error| failed(&path, &error))?;
        Ok(Some(located(diff_id, metadata.len())))
    }

    fn file_of(&self, layer: &Digest) -> Result<Option<(PathBuf, Digest)>, SourceError> {
        let mut all = files(&self.directory).map_err(|error| unavailable(error.to_string()))?;
        let found = all.find_map(|path| {
            let (of, diff_id) = name_of(&path)?;
            (of == *layer).then_some((path, diff_id))
        });
        Ok(found)
    }

    fn opened(&self, layer: &Digest) -> Result<Arc<File>, SourceError> {
        let mut open = lock(&self.open);
        if let Some(file) = open.get(layer) {
            return Ok(Arc::clone(file));
        }
        let (path, _) = self
            .file_of(layer)?
            .ok_or_else(|| unavailable(format!("the unpacked layer {layer} is gone")))?;
        let file = Arc::new(File::open(&path).map_err(|error| failed(&path, &error))?);
        open.insert(*layer, Arc::clone(&file));
        Ok(file)
    }

    /// Removes what has no tree any more; whether there was something.
    pub(crate) fn retain(&self) -> Result<bool, AttachError> {
        let mut removed = false;
        for path in files(&self.directory)? {
            let Some((layer, diff_id)) = name_of(&path) else {
                continue;
            };
            if self.trees.contains(&tree_key(&layer, &identity(&diff_id))) {
                continue;
            }
            fs::remove_file(&path).map_err(|cause| disk(&path, cause))?;
            lock(&self.open).remove(&layer);
            self.space.look([path]);
            removed = true;
        }
        Ok(removed)
    }
}

impl LayerSource for UnpackedSource {
    fn name(&self) -> &str {
        NAME
    }

    fn locate(&self, wanted: &Wanted) -> Result<Option<Located>, SourceError> {
        self.find(&wanted.blob.digest)
    }

    fn build(&self, wanted: &Wanted, located: &Located) -> Result<Vec<u8>, SourceError> {
        let file = self.opened(&wanted.blob.digest)?;
        let tar = ReadAt { file, at: 0 };
        let toc = Toc::of_tar(BufReader::new(tar)).map_err(|error| SourceError::Corrupt {
            source_name: located.source.clone(),
            reason: error.to_string(),
        })?;
        tree_of(&toc).map_err(|cause| SourceError::Tree {
            source_name: located.source.clone(),
            cause,
        })
    }

    /// Everything is here.
    fn fetch(&self, _: &Layer, _: &[crate::source::OwnedExtent]) {}

    fn open(
        &self,
        layer: &Layer,
        extent: &tree::Extent<'_>,
        _: u64,
        _: u64,
    ) -> Result<Opened, SourceError> {
        let chunk = match decode(extent.content) {
            Some(ContentRef::Chunk(reference)) => {
                Chunk::from_reference(reference, extent.offset, extent.length)
            }
            _ => None,
        };
        let chunk = chunk.filter(|chunk| chunk.codec == Codec::Plain);
        let chunk = chunk.ok_or_else(|| SourceError::Corrupt {
            source_name: NAME.to_owned(),
            reason: "a tree refers to content of another kind".to_owned(),
        })?;
        Ok(Opened::File(self.opened(&layer.blob.digest)?, chunk.start))
    }
}

fn located(diff_id: Digest, size: u64) -> Located {
    Located {
        source: NAME.to_owned(),
        trusted: false,
        path: String::new(),
        identity: identity(&diff_id),
        diff_id: Some(diff_id),
        size,
    }
}

fn identity(diff_id: &Digest) -> String {
    format!("unpacked here {diff_id}")
}

/// Layer and diffID of a file; `None` for any other name.
fn name_of(path: &Path) -> Option<(Digest, Digest)> {
    let (layer, diff_id) = path.file_name()?.to_str()?.split_once('.')?;
    Some((
        Digest::from_hex(layer).ok()?,
        Digest::from_hex(diff_id).ok()?,
    ))
}

fn unavailable(reason: String) -> SourceError {
    SourceError::Unavailable {
        source_name: NAME.to_owned(),
        reason,
    }
}

fn failed(path: &Path, error: &io::Error) -> SourceError {
    unavailable(format!("{}: {error}", path.display()))
}

/// The tar while it is written.
struct Tar<'a> {
    file: File,
    hash: Sha256,
    written: u64,
    /// What the quota knows of.
    room: u64,
    limit: u64,
    space: &'a Space,
    path: &'a Path,
}

impl Tar<'_> {
    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        if self.written > self.limit {
            return Err(io::Error::other(format!(
                "the layer has more than {} bytes, the whole quota",
                self.limit
            )));
        }
        if self.written > self.room {
            self.room = self.written + ROOM;
            let room = usize::try_from(self.room).unwrap_or(usize::MAX);
            self.space.expect(self.path, room);
        }
        self.hash.update(bytes);
        self.file.write_all(bytes)
    }
}

/// Passes bytes on and keeps them.
struct Tee<'a, 'b, R> {
    input: R,
    output: &'a mut Tar<'b>,
}

impl<R: Read> Read for Tee<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.output.add(&buffer[..read])?;
        Ok(read)
    }
}

/// A file that others read, too.
struct ReadAt {
    file: Arc<File>,
    at: u64,
}

impl Read for ReadAt {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
