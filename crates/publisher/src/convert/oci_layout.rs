//! `oci-layout:DIR[:TAG]`: image-spec, "image layout".

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use image::{Digest, Index};
use registry::Document;
use serde_json::{Value, json};

use super::{ConvertError, Target};

const REF_NAME: &str = "org.opencontainers.image.ref.name";

pub(super) struct OciLayout {
    directory: PathBuf,
    tag: Option<String>,
}

impl OciLayout {
    pub(super) fn open(directory: &Path, tag: Option<&str>) -> Result<Self, ConvertError> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(failed(&blobs))?;
        let layout = Self {
            directory: directory.to_owned(),
            tag: tag.map(str::to_owned),
        };
        layout.replace(
            &directory.join("oci-layout"),
            &mut &br#"{"imageLayoutVersion":"1.0.0"}"#[..],
        )?;
        Ok(layout)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.hex())
    }

    /// The whole file or none of it.
    fn replace(&self, path: &Path, content: &mut dyn Read) -> Result<(), ConvertError> {
        let mut write = || -> io::Result<()> {
            let mut file = tempfile::Builder::new()
                .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
                .tempfile_in(&self.directory)?;
            io::copy(content, &mut file)?;
            file.flush()?;
            file.persist(path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(failed(path))
    }

    fn put(&self, digest: &Digest, size: u64, content: &mut dyn Read) -> Result<(), ConvertError> {
        let path = self.blob_path(digest);
        if fs::metadata(&path).is_ok_and(|there| there.len() == size) {
            return Ok(());
        }
        self.replace(&path, content)
    }

    /// The index with this image in the place of the one that had its name.
    fn index(&self, top: &Document) -> Result<Value, ConvertError> {
        let path = self.directory.join("index.json");
        let mut index = match fs::read(&path) {
            Ok(raw) => Index::parse(&raw)
                .ok()
                .and_then(|_| serde_json::from_slice(&raw).ok())
                .ok_or_else(|| failed(&path)(io::ErrorKind::InvalidData.into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                json!({"schemaVersion": 2, "manifests": []})
            }
            Err(error) => return Err(failed(&path)(error)),
        };
        let mut entry = json!({
            "mediaType": top.media_type,
            "digest": top.digest,
            "size": top.bytes.len(),
        });
        if let Some(tag) = &self.tag {
            entry["annotations"] = json!({REF_NAME: tag});
        }
        if let Some(entries) = index["manifests"].as_array_mut() {
            entries.retain(|there| {
                let name = there["annotations"][REF_NAME].as_str();
                name != self.tag.as_deref() && there["digest"] != entry["digest"]
            });
            entries.push(entry);
        }
        Ok(index)
    }
}

pub(super) fn failed(path: &Path) -> impl Fn(io::Error) -> ConvertError + use<> {
    let path = path.display().to_string();
    move |source| ConvertError::Target {
        path: path.clone(),
        source,
    }
}

impl Target for OciLayout {
    fn put_blob(&self, digest: &Digest, size: u64, content: &mut File) -> Result<(), ConvertError> {
        self.put(digest, size, content)
    }

    fn put_bytes(&self, digest: &Digest, mut bytes: &[u8]) -> Result<(), ConvertError> {
        self.put(digest, bytes.len() as u64, &mut bytes)
    }

    fn put_document(&self, document: &Document) -> Result<(), ConvertError> {
        self.put_bytes(&document.digest, &document.bytes)
    }

    fn finish(&self, top: &Document) -> Result<(), ConvertError> {
        let index = self.index(top)?.to_string();
        self.replace(&self.directory.join("index.json"), &mut index.as_bytes())
    }
}
