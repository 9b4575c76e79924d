//! `oci-archive:FILE[:NAME]`: an image layout as a tar, with docker's `manifest.json` beside it where there is one platform.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use image::{Digest, Manifest, MediaType};
use registry::Document;
use serde_json::json;
use tempfile::TempDir;

use super::oci_layout::{OciLayout, failed};
use super::{ConvertError, Target};

pub(super) struct Archive {
    file: PathBuf,
    name: Option<String>,
    /// The layout as long as it grows, beside the file.
    directory: TempDir,
    layout: OciLayout,
}

impl Archive {
    pub(super) fn create(file: &Path, name: Option<&str>) -> Result<Self, ConvertError> {
        let beside = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = TempDir::new_in(beside).map_err(failed(file))?;
        Ok(Self {
            layout: OciLayout::open(directory.path(), name)?,
            file: file.to_owned(),
            name: name.map(str::to_owned),
            directory,
        })
    }

    /// As `docker load` before version 25 wants it.
    fn docker_manifest(&self, top: &Document) -> Option<String> {
        if top.media_type != MediaType::OciManifest {
            return None;
        }
        let manifest = Manifest::parse(&top.bytes).ok()?;
        let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let layers = manifest.layers.iter().map(|layer| path(&layer.digest));
        let image = json!([{
            "Config": path(&manifest.config.digest),
            "RepoTags": self.name.iter().collect::<Vec<_>>(),
            "Layers": layers.collect::<Vec<_>>(),
        }]);
        Some(image.to_string())
    }

    fn pack(&self, docker: Option<String>) -> io::Result<()> {
        let beside = self.directory.path().parent().unwrap_or(Path::new("."));
        let mut output = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(beside)?;
        let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, output.as_file_mut()));
        for name in ["oci-layout", "index.json"] {
            append(&mut tar, self.directory.path(), name)?;
        }
        if let Some(docker) = docker {
            let mut header = header(docker.len() as u64);
            tar.append_data(&mut header, "manifest.json", docker.as_bytes())?;
        }
        let mut blobs: Vec<_> = fs::read_dir(self.directory.path().join("blobs/sha256"))?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()?;
        blobs.sort();
        for blob in blobs {
            append(
                &mut tar,
                self.directory.path(),
                &format!("blobs/sha256/{}", blob.display()),
            )?;
        }
        tar.into_inner()?.flush()?;
        output.persist(&self.file).map_err(|error| error.error)?;
        Ok(())
    }
}

fn append(tar: &mut tar::Builder<impl Write>, directory: &Path, name: &str) -> io::Result<()> {
    let file = File::open(directory.join(name))?;
    let mut header = header(file.metadata()?.len());
    tar.append_data(&mut header, name, file)
}

/// The same for everything and everyone, so that the same image gives the same archive.
fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

impl Target for Archive {
    fn put_blob(&self, digest: &Digest, size: u64, content: &mut File) -> Result<(), ConvertError> {
        self.layout.put_blob(digest, size, content)
    }

    fn put_bytes(&self, digest: &Digest, bytes: &[u8]) -> Result<(), ConvertError> {
        self.layout.put_bytes(digest, bytes)
    }

    fn put_document(&self, document: &Document) -> Result<(), ConvertError> {
        self.layout.put_document(document)
    }

    fn finish(&self, top: &Document) -> Result<(), ConvertError> {
        self.layout.finish(top)?;
        self.pack(self.docker_manifest(top))
            .map_err(failed(&self.file))
    }
}
