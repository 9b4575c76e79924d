//! `docker-archive:FILE[:NAME[:TAG]]`: what `docker save` writes. `manifest.json` lists configuration and layers by path.
//!
//! Such an archive has no manifest of the image, so one is made: OCI, with the layers' bytes as they lie in the archive.
//! The same archive always gives the same manifest.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{
    Descriptor, Digest, ImageConfig, LayerCompression, MAX_DOCUMENT_BYTES, MAX_ENTRIES, Manifest,
    MediaType, Reference,
};
use registry::Verified;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{Document, ImageSource, SourceError, SourceOptions, split_place};

/// More entries in an archive are refused.
const MAX_ARCHIVE_ENTRIES: usize = 100_000;
/// `manifest.json` of an archive of many images may be longer than a document.
const MAX_LIST_BYTES: u64 = 16 << 20;
/// Links from layer to layer in old archives.
const MAX_LINKS: usize = 8;

/// An image in an archive of `docker save`.
pub(crate) struct DockerArchive {
    name: String,
    file: Arc<File>,
    manifest: Document,
    places: HashMap<Digest, Place>,
    reference: Option<Reference>,
}

/// Where bytes lie in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    offset: u64,
    length: u64,
}

enum Member {
    File(Place),
    /// Old archives name a layer of several images once.
    Link(PathBuf),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An archive that is being opened.
struct Archive {
    name: String,
    file: File,
    members: HashMap<PathBuf, Member>,
}

impl DockerArchive {
    /// Finds the image; reads each of its layers once, for their digests.
    pub(crate) fn open(place: &str, options: &SourceOptions) -> Result<Self, SourceError> {
        let (path, wanted) = split_place(place);
        let archive = Archive::open(format!("docker-archive:{place}"), &path, options)?;
        let saved = archive.choose(wanted)?;
        let config_place = archive.place(&saved.config)?;
        let config = archive.read(config_place, MAX_DOCUMENT_BYTES as u64)?;
        let parsed = ImageConfig::parse(&config).map_err(|source| SourceError::Document {
            what: saved.config.clone(),
            name: archive.name.clone(),
            source,
        })?;
        let (listed, stated) = (saved.layers.len(), parsed.rootfs.diff_ids.len());
        if listed != stated || listed > MAX_ENTRIES {
            let reason = format!("lists {listed} layers, its configuration {stated}");
            return Err(archive.malformed(reason));
        }
        let mut places = HashMap::new();
        let digest = *parsed.digest();
        places.insert(digest, config_place);
        let config = descriptor(MediaType::OciConfig, digest, config_place.length);
        let mut layers = Vec::new();
        for layer in &saved.layers {
            let (descriptor, place) = archive.layer(layer)?;
            places.insert(descriptor.digest, place);
            layers.push(descriptor);
        }
        let manifest = synthesised(config, layers).map_err(|source| SourceError::Document {
            what: "the manifest".to_owned(),
            name: archive.name.clone(),
            source,
        })?;
        let tag = saved.repo_tags.unwrap_or_default().into_iter();
        let mut tags = tag.filter(|tag| wanted.is_none_or(|wanted| same_name(tag, wanted)));
        Ok(Self {
            name: archive.name,
            file: Arc::new(archive.file),
            manifest,
            places,
            reference: tags.next().and_then(|tag| tag.parse().ok()),
        })
    }
}

fn descriptor(media_type: MediaType, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type,
        digest,
        size,
        annotations: BTreeMap::new(),
        platform: None,
    }
}

fn synthesised(
    config: Descriptor,
    layers: Vec<Descriptor>,
) -> Result<Document, image::DocumentError> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OciManifest),
        config,
        layers,
        annotations: BTreeMap::new(),
    };
    // Numbers and strings always serialise.
    let bytes = serde_json::to_vec(&manifest).unwrap_or_default();
    Document::new(bytes, None, None)
}

/// `a`, `a:latest` and `docker.io/library/a:latest` are one.
fn same_name(one: &str, other: &str) -> bool {
    let full = |text: &str| text.parse::<Reference>().ok();
    one == other || (full(one).is_some() && full(one) == full(other))
}

impl Archive {
    fn open(name: String, path: &Path, options: &SourceOptions) -> Result<Self, SourceError> {
        let metadata = path.metadata().map_err(SourceError::io(path))?;
        if !metadata.is_file() {
            let refused = io::Error::other("not a regular file");
            return Err(SourceError::io(path)(refused));
        }
        let file = File::open(path).map_err(SourceError::io(path))?;
        let file = plain(file, options).map_err(SourceError::io(path))?;
        let members = members(&file).map_err(|error| SourceError::Malformed {
            name: name.clone(),
            reason: error.to_string(),
        })?;
        Ok(Self {
            name,
            file,
            members,
        })
    }

    fn malformed(&self, reason: String) -> SourceError {
        SourceError::Malformed {
            name: self.name.clone(),
            reason,
        }
    }

    /// Links in archives are relative to the entry's directory.
    fn place(&self, path: &str) -> Result<Place, SourceError> {
        let mut path = normal(Path::new(path));
        for _ in 0..MAX_LINKS {
            match self.members.get(&path) {
                Some(Member::File(place)) => return Ok(*place),
                Some(Member::Link(target)) => {
                    path = normal(&path.parent().unwrap_or(Path::new("")).join(target));
                }
                None => return Err(self.malformed(format!("lacks {}", path.display()))),
            }
        }
        Err(self.malformed(format!("{} is linked in circles", path.display())))
    }

    fn read(&self, place: Place, limit: u64) -> Result<Vec<u8>, SourceError> {
        if place.length > limit {
            return Err(self.malformed(format!("a document is longer than {limit} bytes")));
        }
        let mut bytes = vec![0; usize::try_from(place.length).unwrap_or_default()];
        self.file
            .read_exact_at(&mut bytes, place.offset)
            .map_err(|error| self.malformed(error.to_string()))?;
        Ok(bytes)
    }

    fn choose(&self, wanted: Option<&str>) -> Result<Saved, SourceError> {
        let list = self.read(self.place("manifest.json")?, MAX_LIST_BYTES)?;
        let mut images: Vec<Saved> = serde_json::from_slice(&list)
            .map_err(|error| self.malformed(format!("manifest.json: {error}")))?;
        let names: Vec<_> = images
            .iter()
            .flat_map(|image| image.repo_tags.iter().flatten())
            .take(10)
            .cloned()
            .collect();
        let found = match wanted {
            None if images.len() == 1 => Some(0),
            None => None,
            Some(wanted) => images.iter().position(|image| {
                let mut tags = image.repo_tags.iter().flatten();
                tags.any(|tag| same_name(tag, wanted))
            }),
        };
        found
            .map(|index| images.swap_remove(index))
            .ok_or_else(|| SourceError::Name {
                name: self.name.clone(),
                reason: match wanted {
                    Some(wanted) => {
                        format!("has no image {wanted:?} (it has {})", names.join(", "))
                    }
                    None => format!(
                        "has {} images: append :NAME ({})",
                        images.len(),
                        names.join(", ")
                    ),
                },
            })
    }

    fn layer(&self, path: &str) -> Result<(Descriptor, Place), SourceError> {
        let place = self.place(path)?;
        let mut reader = Section::new(&self.file, place);
        let mut head = [0; 4];
        let mut hasher = Sha256::new();
        let (mut buffer, mut length) = (vec![0; 256 << 10], 0_u64);
        loop {
            let count = reader
                .read(&mut buffer)
                .map_err(|error| self.malformed(format!("{path}: {error}")))?;
            if count == 0 {
                break;
            }
            if length == 0 {
                let known = count.min(head.len());
                head[..known].copy_from_slice(&buffer[..known]);
            }
            hasher.update(&buffer[..count]);
            length += count as u64;
        }
        if length != place.length {
            return Err(self.malformed(format!("{path} is cut off")));
        }
        let digest = Digest::from_bytes(hasher.finalize().into());
        let kind = MediaType::OciLayer(compression(head));
        Ok((descriptor(kind, digest, length), place))
    }
}

fn compression(head: [u8; 4]) -> LayerCompression {
    match head {
        [0x1f, 0x8b, ..] => LayerCompression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => LayerCompression::Zstd,
        _ => LayerCompression::None,
    }
}

/// The archive itself may be compressed; then it is unpacked into a file without a name.
fn plain(mut file: File, options: &SourceOptions) -> io::Result<File> {
    let mut head = [0; 4];
    let known = file.read_at(&mut head, 0)?;
    let kind = if known == head.len() {
        compression(head)
    } else {
        LayerCompression::None
    };
    file.seek(SeekFrom::Start(0))?;
    let input = BufReader::with_capacity(256 << 10, file);
    let mut reader: Box<dyn Read> = match kind {
        LayerCompression::None => return Ok(input.into_inner()),
        LayerCompression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(input)),
        LayerCompression::Zstd => Box::new(zstd::stream::read::Decoder::new(input)?),
    };
    let mut output = match options.scratch.as_os_str().is_empty() {
        true => tempfile::tempfile()?,
        false => tempfile::tempfile_in(&options.scratch)?,
    };
    io::copy(&mut reader, &mut output)?;
    output.flush()?;
    Ok(output)
}

fn members(file: &File) -> io::Result<HashMap<PathBuf, Member>> {
    let mut input = file.try_clone()?;
    let end = input.seek(SeekFrom::End(0))?;
    input.seek(SeekFrom::Start(0))?;
    let mut archive = tar::Archive::new(BufReader::new(input));
    let mut members = HashMap::new();
    for (index, entry) in archive.entries_with_seek()?.enumerate() {
        let entry = entry?;
        if index >= MAX_ARCHIVE_ENTRIES {
            return Err(io::Error::other(format!(
                "more than {MAX_ARCHIVE_ENTRIES} entries"
            )));
        }
        let path = normal(&entry.path()?);
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name()?.unwrap_or_default().into_owned();
            // Hard links name a path of the archive, symlinks one beside them.
            let target = if kind.is_hard_link() {
                Path::new("/").join(target)
            } else {
                target
            };
            members.insert(path, Member::Link(target));
        } else if kind.is_file() {
            let place = Place {
                offset: entry.raw_file_position(),
                length: entry.size(),
            };
            if place
                .offset
                .checked_add(place.length)
                .is_none_or(|last| last > end)
            {
                return Err(io::Error::other(format!("{} is cut off", path.display())));
            }
            members.insert(path, Member::File(place));
        }
    }
    Ok(members)
}

/// Without `.`, `..` and root: only a key, never opened.
fn normal(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => result.push(name),
            std::path::Component::ParentDir => drop(result.pop()),
            std::path::Component::RootDir => result.clear(),
            _ => {}
        }
    }
    result
}

/// A part of a file; several may be read at the same time.
struct Section<F> {
    file: F,
    place: Place,
}

impl<F: std::borrow::Borrow<File>> Section<F> {
    fn new(file: F, place: Place) -> Self {
        Self { file, place }
    }
}

impl<F: std::borrow::Borrow<File>> Read for Section<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer
            .len()
            .min(usize::try_from(self.place.length).unwrap_or(usize::MAX));
        let count = self
            .file
            .borrow()
            .read_at(&mut buffer[..room], self.place.offset)?;
        self.place.offset += count as u64;
        self.place.length -= count as u64;
        Ok(count)
    }
}

struct Shared(Arc<File>);

impl std::borrow::Borrow<File> for Shared {
    fn borrow(&self) -> &File {
        &self.0
    }
}

impl ImageSource for DockerArchive {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn manifest(&self, digest: Option<&Digest>) -> Result<Document, SourceError> {
        match digest {
            Some(digest) if *digest != self.manifest.digest => Err(SourceError::Missing {
                name: self.name.clone(),
                digest: *digest,
            }),
            _ => Ok(self.manifest.clone()),
        }
    }

    fn blob(&self, wanted: &Descriptor) -> Result<Box<dyn Read + Send>, SourceError> {
        let place = self
            .places
            .get(&wanted.digest)
            .ok_or_else(|| SourceError::Missing {
                name: self.name.clone(),
                digest: wanted.digest,
            })?;
        let section = Section::new(Shared(Arc::clone(&self.file)), *place);
        let reader = BufReader::with_capacity(256 << 10, section);
        Ok(Box::new(Verified::new(reader, wanted)))
    }

    fn reference(&self) -> Option<Reference> {
        self.reference.clone()
    }
}
