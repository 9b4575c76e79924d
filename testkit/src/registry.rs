use std::fs;
use std::path::{Path, PathBuf};

use crate::builder::{Running, ServerBuilder};
use crate::http::{Answer, Incoming};
use crate::image::digest;
use crate::server::{Handler, Request};

/// An OCI registry, as far as pulling needs it.
///
/// The directory holds `blobs/sha256:<hex>` and `manifests/<name with / replaced by _>:<tag>`; see
/// [`crate::Image::write_to`]. It is read at each request.
#[derive(Clone, Debug)]
pub struct Registry {
    directory: PathBuf,
    blobs_fail: bool,
}

impl Registry {
    /// Serves the images of a directory.
    #[must_use]
    pub fn serving(directory: &Path) -> ServerBuilder<Self> {
        ServerBuilder::new(Self {
            directory: directory.to_owned(),
            blobs_fail: false,
        })
    }

    fn manifest(&self, name: &str, reference: &str) -> Answer {
        let found = if reference.starts_with("sha256:") {
            self.manifest_by_digest(reference)
        } else {
            fs::read(
                self.directory
                    .join("manifests")
                    .join(format!("{}:{reference}", name.replace('/', "_"))),
            )
            .ok()
        };
        let Some(raw) = found else {
            return unknown("MANIFEST_UNKNOWN");
        };
        let media_type = serde_json::from_slice::<serde_json::Value>(&raw)
            .ok()
            .and_then(|manifest| Some(manifest.get("mediaType")?.as_str()?.to_owned()))
            .unwrap_or_else(|| "application/vnd.oci.image.manifest.v1+json".to_owned());
        Answer::bytes(&media_type, &raw).with("Docker-Content-Digest", &digest(&raw))
    }

    fn manifest_by_digest(&self, wanted: &str) -> Option<Vec<u8>> {
        let manifests = fs::read_dir(self.directory.join("manifests")).ok()?;
        manifests
            .filter_map(|entry| fs::read(entry.ok()?.path()).ok())
            .find(|raw| digest(raw) == wanted)
            .or_else(|| fs::read(self.directory.join("blobs").join(wanted)).ok())
    }

    fn blob(&self, name: &str) -> Answer {
        if self.blobs_fail {
            return Answer::status(500);
        }
        let hex = name.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return unknown("BLOB_UNKNOWN");
        }
        let answer = Answer::file(
            "application/octet-stream",
            self.directory.join("blobs").join(name),
        );
        if answer.status == 404 {
            unknown("BLOB_UNKNOWN")
        } else {
            answer.with("Docker-Content-Digest", name)
        }
    }
}

impl ServerBuilder<Registry> {
    /// Answers 500 to every request for a layer or configuration.
    #[must_use]
    pub fn blobs_fail(mut self) -> Self {
        self.handler.blobs_fail = true;
        self
    }
}

impl Running<Registry> {
    /// `127.0.0.1:<port>/<name>:<tag>`, as a client names the image.
    #[must_use]
    pub fn reference(&self, name: &str, tag: &str) -> String {
        format!("{}/{name}:{tag}", self.address())
    }

    /// The requests for blobs (configurations and layers).
    #[must_use]
    pub fn blob_requests(&self) -> Vec<Request> {
        self.requests_for("/blobs/")
    }
}

impl Handler for Registry {
    fn answer(&self, request: &Incoming) -> Answer {
        let path = String::from_utf8_lossy(&request.decoded_path()).into_owned();
        let version =
            |answer: Answer| answer.with("Docker-Distribution-Api-Version", "registry/2.0");
        let Some(rest) = path.strip_prefix("/v2") else {
            return Answer::status(404);
        };
        let rest = rest.trim_start_matches('/');
        if rest.is_empty() {
            return version(Answer::bytes("application/json", b"{}"));
        }
        if let Some((_, blob)) = rest.rsplit_once("/blobs/") {
            return version(self.blob(blob));
        }
        match rest.rsplit_once("/manifests/") {
            Some((name, reference)) if !reference.contains('/') => {
                version(self.manifest(name, reference))
            }
            _ => unknown("NAME_UNKNOWN"),
        }
    }

    fn object(&self, path: &str) -> Option<String> {
        let (_, blob) = path.split_once("/blobs/")?;
        Some(blob.split('?').next().unwrap_or_default().to_owned())
    }
}

fn unknown(code: &str) -> Answer {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"unknown"}}]}}"#);
    Answer {
        status: 404,
        ..Answer::bytes("application/json", body.as_bytes())
    }
}
