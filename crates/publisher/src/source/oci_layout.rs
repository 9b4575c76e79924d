//! `oci-layout:DIR[:TAG]`: index.json and blobs/sha256/… (image-spec, "image layout").

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use image::{Descriptor, Digest, Document as Parsed, Index, MAX_DOCUMENT_BYTES, Reference};

use super::{Document, ImageSource, SourceError, split_place};
use registry::Verified;

/// Short name of an image within a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Full name, as containerd exports it.
const IMAGE_NAME: &str = "io.containerd.image.name";

/// An image in a layout on disk.
pub(crate) struct OciLayout {
    name: String,
    directory: PathBuf,
    top: Document,
    reference: Option<Reference>,
}

impl OciLayout {
    /// Finds the image that `DIR[:TAG]` names.
    pub(crate) fn open(place: &str) -> Result<Self, SourceError> {
        let name = format!("oci-layout:{place}");
        let (directory, tag) = split_place(place);
        let bytes = read_document(&directory.join("index.json"))?;
        let index = Index::parse(&bytes).map_err(|source| SourceError::Document {
            what: "index.json".to_owned(),
            name: name.clone(),
            source,
        })?;
        let (top, reference) = match choose(&index, tag, &name)? {
            Some(descriptor) => (
                read_blob_document(&directory, &name, &descriptor.digest)?,
                full_name(descriptor),
            ),
            None => (
                Document {
                    media_type: image::MediaType::OciIndex,
                    digest: *index.digest(),
                    bytes,
                },
                None,
            ),
        };
        Ok(Self {
            name,
            directory,
            top,
            reference,
        })
    }
}

impl ImageSource for OciLayout {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn manifest(&self, digest: Option<&Digest>) -> Result<Document, SourceError> {
        match digest {
            Some(digest) if *digest != self.top.digest => {
                read_blob_document(&self.directory, &self.name, digest)
            }
            _ => Ok(self.top.clone()),
        }
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, SourceError> {
        let file = open_blob(&self.directory, &self.name, &descriptor.digest)?;
        Ok(Box::new(Verified::new(BufReader::new(file), descriptor)))
    }

    fn reference(&self) -> Option<Reference> {
        self.reference.clone()
    }
}

/// The entry that is meant; None: all of them, one per platform.
fn choose<'a>(
    index: &'a Parsed<Index>,
    tag: Option<&str>,
    name: &str,
) -> Result<Option<&'a Descriptor>, SourceError> {
    let is = |descriptor: &Descriptor, tag: &str| {
        [REF_NAME, IMAGE_NAME].iter().any(|key| {
            descriptor
                .annotations
                .get(*key)
                .is_some_and(|text| text == tag)
        })
    };
    let mut entries = index.manifests.iter();
    let problem = match (tag, index.manifests.as_slice()) {
        (Some(tag), _) => match entries.find(|entry| is(entry, tag)) {
            Some(found) => return Ok(Some(found)),
            None => format!("has no image {tag:?}"),
        },
        (None, [only]) => return Ok(Some(only)),
        (None, []) => "is empty".to_owned(),
        (None, [first, ..]) => {
            let alike = |entry: &Descriptor| {
                entry.platform.is_some()
                    && entry.annotations.get(REF_NAME) == first.annotations.get(REF_NAME)
            };
            if entries.all(alike) {
                return Ok(None);
            }
            "has several images: append :TAG".to_owned()
        }
    };
    let names: Vec<_> = index
        .manifests
        .iter()
        .filter_map(|entry| entry.annotations.get(REF_NAME))
        .take(10)
        .map(String::as_str)
        .collect();
    let reason = match names.is_empty() {
        true => problem,
        false => format!("{problem} (it has {})", names.join(", ")),
    };
    Err(SourceError::Name {
        name: name.to_owned(),
        reason,
    })
}

/// Short names alone would be completed to something of docker.io.
fn full_name(descriptor: &Descriptor) -> Option<Reference> {
    let text = descriptor
        .annotations
        .get(IMAGE_NAME)
        .or_else(|| descriptor.annotations.get(REF_NAME))?;
    text.contains('/').then(|| text.parse().ok()).flatten()
}

fn open_blob(directory: &Path, name: &str, digest: &Digest) -> Result<File, SourceError> {
    let path = directory.join("blobs/sha256").join(digest.hex());
    match open_regular(&path) {
        Err(SourceError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Err(SourceError::Missing {
                name: name.to_owned(),
                digest: *digest,
            })
        }
        result => result,
    }
}

/// A fifo or device in a layout would be waited for for ever.
fn open_regular(path: &Path) -> Result<File, SourceError> {
    let metadata = path.metadata().map_err(SourceError::io(path))?;
    if !metadata.is_file() {
        let refused = std::io::Error::other("not a regular file");
        return Err(SourceError::io(path)(refused));
    }
    File::open(path).map_err(SourceError::io(path))
}

/// At most one byte more than any document may have: the parser then refuses it.
fn read_document(path: &Path) -> Result<Vec<u8>, SourceError> {
    let file = open_regular(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(SourceError::io(path))?;
    Ok(bytes)
}

fn read_blob_document(
    directory: &Path,
    name: &str,
    digest: &Digest,
) -> Result<Document, SourceError> {
    open_blob(directory, name, digest)?;
    let bytes = read_document(&directory.join("blobs/sha256").join(digest.hex()))?;
    Document::new(bytes, None, Some(digest)).map_err(|source| SourceError::Document {
        what: digest.to_string(),
        name: name.to_owned(),
        source,
    })
}
