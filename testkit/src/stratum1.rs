use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::builder::{Running, ServerBuilder};
use crate::http::{Answer, Incoming};
use crate::server::Handler;

/// A Stratum 1: serves repositories below `/<fqrn>/` and `/cvmfs/<fqrn>/`, and external content below `/_external/`.
#[derive(Clone, Debug)]
pub struct Stratum1 {
    /// A repository's directory, or a directory of such directories named by fqrn.
    directory: PathBuf,
    external: Option<PathBuf>,
}

impl Stratum1 {
    /// Serves a repository (a directory with `.cvmfspublished`, served under any name) or a directory of repositories.
    #[must_use]
    pub fn serving(directory: &Path) -> ServerBuilder<Self> {
        ServerBuilder::new(Self {
            directory: directory.to_owned(),
            external: None,
        })
    }

    fn repository(&self, fqrn: &str) -> PathBuf {
        // A repository that is not published yet has at least its data.
        if [".cvmfspublished", "data"]
            .iter()
            .any(|name| self.directory.join(name).exists())
        {
            self.directory.clone()
        } else {
            self.directory.join(fqrn)
        }
    }
}

impl ServerBuilder<Stratum1> {
    /// Serves `directory` below [`Running::external_url`]: the file of repository path `/a/b` is `directory/a/b`.
    #[must_use]
    pub fn external(mut self, directory: &Path) -> Self {
        self.handler.external = Some(directory.to_owned());
        self
    }
}

impl Running<Stratum1> {
    /// For `CVMFS_SERVER_URL`: `http://127.0.0.1:<port>/cvmfs/<fqrn>`.
    #[must_use]
    pub fn repository_url(&self, fqrn: &str) -> String {
        format!("{}/cvmfs/{fqrn}", self.url())
    }

    /// For `CVMFS_EXTERNAL_URL`.
    #[must_use]
    pub fn external_url(&self) -> String {
        format!("{}/_external", self.url())
    }
}

impl Handler for Stratum1 {
    fn answer(&self, request: &Incoming) -> Answer {
        let path = request.decoded_path();
        let Some(path) = safe(&path) else {
            return Answer::status(404);
        };
        let mut parts = path.components().map(|part| part.as_os_str());
        let mut first = parts.next();
        if first == Some(OsStr::new("_external")) {
            let Some(external) = &self.external else {
                return Answer::status(404);
            };
            return Answer::file(
                "application/octet-stream",
                external.join(parts.collect::<PathBuf>()),
            );
        }
        if first == Some(OsStr::new("cvmfs")) {
            first = parts.next();
        }
        let Some(fqrn) = first.and_then(OsStr::to_str) else {
            return Answer::status(404);
        };
        let rest: PathBuf = parts.collect();
        let (kind, age) = match rest.starts_with("data") {
            true => ("application/octet-stream", "max-age=259200"),
            false => ("application/x-cvmfs", "max-age=61"),
        };
        Answer::file(kind, self.repository(fqrn).join(rest)).with("Cache-Control", age)
    }

    fn object(&self, path: &str) -> Option<String> {
        let (_, object) = path.split_once("/data/")?;
        Some(object.replace('/', ""))
    }
}

/// The path without its leading slash, if it cannot leave the directory that is served.
fn safe(path: &[u8]) -> Option<&Path> {
    let path = Path::new(OsStr::from_bytes(path)).strip_prefix("/").ok()?;
    path.components()
        .all(|part| matches!(part, std::path::Component::Normal(_)))
        .then_some(path)
}
