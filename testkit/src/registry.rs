mod access;
mod store;
mod tags;
mod upload;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use access::Access;
pub use store::{BlobStore, RangeMode};
use upload::Uploads;

use crate::builder::{Running, ServerBuilder};
use crate::http::{Answer, Incoming};
use crate::image::digest;
use crate::server::{Handler, Request};

/// An OCI registry: pull, push, lists of tags. By default everybody may do everything.
///
/// The directory holds `blobs/sha256:<hex>` and `manifests/<name with / replaced by _>:<tag>`; see
/// [`crate::Image::write_to`]. It is read at each request.
#[derive(Clone, Debug)]
pub struct Registry {
    directory: PathBuf,
    blobs_fail: bool,
    access: Option<Access>,
    redirect: Option<(String, BlobStore)>,
    ranges: RangeMode,
    page: usize,
    uploads: Arc<Uploads>,
}

impl Registry {
    /// Serves the images of a directory.
    #[must_use]
    pub fn serving(directory: &Path) -> ServerBuilder<Self> {
        ServerBuilder::new(Self {
            directory: directory.to_owned(),
            blobs_fail: false,
            access: None,
            redirect: None,
            ranges: RangeMode::default(),
            page: 100,
            uploads: Arc::default(),
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

    fn blob(&self, request: &Incoming, repository: &str, name: &str) -> Answer {
        if self.blobs_fail {
            return Answer::status(500);
        }
        if !is_digest(name) || !self.uploads.shows(repository, name) {
            return unknown("BLOB_UNKNOWN");
        }
        if let Some((url, store)) = self.redirect.as_ref().filter(|_| request.method == "GET") {
            return Answer::status(307).with("Location", &store.sign(url, name));
        }
        let answer = Answer::file(
            "application/octet-stream",
            self.directory.join("blobs").join(name),
        );
        if answer.status == 404 {
            unknown("BLOB_UNKNOWN")
        } else {
            let answer = answer.with("Docker-Content-Digest", name);
            self.ranges.apply(request, answer)
        }
    }

    fn route(&self, request: &Incoming, rest: &str) -> Answer {
        if let Some((name, upload)) = rest.rsplit_once("/blobs/uploads/") {
            return self.uploads.answer(&self.directory, request, name, upload);
        }
        if let Some((name, blob)) = rest.rsplit_once("/blobs/") {
            return self.blob(request, name, blob);
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return tags::list(&self.directory, request, name, self.page);
        }
        match rest.rsplit_once("/manifests/") {
            Some((name, reference)) if !reference.contains('/') && request.method == "PUT" => {
                upload::put_manifest(&self.directory, request, name, reference)
            }
            Some((name, reference)) if !reference.contains('/') => self.manifest(name, reference),
            _ => unknown("NAME_UNKNOWN"),
        }
    }
}

fn is_digest(name: &str) -> bool {
    let hex = name.strip_prefix("sha256:").unwrap_or_default();
    hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl ServerBuilder<Registry> {
    /// Answers 500 to every request for a layer or configuration.
    #[must_use]
    pub fn blobs_fail(mut self) -> Self {
        self.handler.blobs_fail = true;
        self
    }

    /// Wants credentials.
    #[must_use]
    pub fn access(mut self, access: &Access) -> Self {
        self.handler.access = Some(access.clone());
        self
    }

    /// Redirects blobs to signed URLs of a store that is served at `url`.
    #[must_use]
    pub fn redirect_blobs(mut self, url: &str, store: &BlobStore) -> Self {
        self.handler.redirect = Some((url.to_owned(), store.clone()));
        self
    }

    /// What several ranges in one request lead to.
    #[must_use]
    pub fn ranges(mut self, ranges: RangeMode) -> Self {
        self.handler.ranges = ranges;
        self
    }

    /// Lists at most so many tags at once.
    #[must_use]
    pub fn page(mut self, tags: usize) -> Self {
        self.handler.page = tags.max(1);
        self
    }

    /// Shows blobs only in repositories into which they were pushed or mounted.
    #[must_use]
    pub fn scoped(self) -> Self {
        self.handler.uploads.scope();
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
            let access = self.access.as_ref();
            let token = access.and_then(|access| access.token(request, &path));
            return token.unwrap_or_else(|| Answer::status(404));
        };
        let rest = rest.trim_start_matches('/');
        if let Some(refused) = self
            .access
            .as_ref()
            .and_then(|access| access.refuses(request, rest))
        {
            return version(refused);
        }
        if rest.is_empty() {
            return version(Answer::bytes("application/json", b"{}"));
        }
        version(self.route(request, rest))
    }

    fn takes_writes(&self) -> bool {
        true
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
