//! `testkit serve` as a child: a Stratum 1 and a registry, and what they were asked for.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::Child;
use e2e::outcrop::binary;
use serde::Deserialize;

use super::image::Image;

const LIMIT: Duration = Duration::from_secs(60);

/// Both servers, until dropped.
#[derive(Debug)]
pub(super) struct Servers {
    process: Child,
    ready: Ready,
}

/// The line that `testkit serve` prints when it is ready.
#[derive(Debug, Deserialize)]
struct Ready {
    stratum1: String,
    repository_url: String,
    registry: String,
}

/// An entry of `/_testkit/log`.
#[derive(Debug, Deserialize)]
struct Request {
    path: String,
    bytes: u64,
}

/// Bytes that the servers have sent: bodies of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) layers_by_registry: u64,
    /// Manifest, whitelist, certificate, catalogs, objects.
    pub(super) by_stratum1: u64,
    pub(super) all: u64,
}

impl Servers {
    /// Serves a repository's directory and a registry's.
    pub(super) fn start(folder: &Path, repository: &Path, images: &Path) -> Result<Self> {
        Self::start_with(folder, repository, images, &[])
    }

    /// As [`start`](Self::start), with more options.
    pub(super) fn start_with(
        folder: &Path,
        repository: &Path,
        images: &Path,
        more: &[&str],
    ) -> Result<Self> {
        let mut command = Command::new(binary("testkit")?);
        command.arg("serve").arg("--repository").arg(repository);
        command.arg("--images").arg(images).args(more);
        let log = folder.join("testkit.log");
        let mut process = Child::start("testkit", command, &log)?;
        process.wait_until(LIMIT, || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.contains('\n'))
        })?;
        let ready = serde_json::from_str(process.log().lines().next().unwrap_or_default())?;
        Ok(Self { process, ready })
    }

    pub(super) fn process(&self) -> u32 {
        self.process.id()
    }

    pub(super) fn registry(&self) -> &str {
        &self.ready.registry
    }

    pub(super) fn repository_url(&self) -> &str {
        &self.ready.repository_url
    }

    /// Since the start.
    pub(super) fn sent(&self, image: &Image) -> Result<Sent> {
        Ok(sum(
            &log(&self.ready.registry)?,
            &log(&self.ready.stratum1)?,
            image,
        ))
    }
}

fn sum(registry: &[Request], stratum1: &[Request], image: &Image) -> Sent {
    let bytes = |requests: &[Request]| requests.iter().map(|request| request.bytes).sum::<u64>();
    let is_layer = |request: &&Request| {
        let mut layers = image.layers.iter();
        layers.any(|layer| request.path.contains(layer))
    };
    let layers = registry.iter().filter(is_layer);
    let by_stratum1 = bytes(stratum1);
    Sent {
        layers_by_registry: layers.map(|request| request.bytes).sum(),
        by_stratum1,
        all: bytes(registry) + by_stratum1,
    }
}

fn log(server: &str) -> Result<Vec<Request>> {
    let host = server.strip_prefix("http://").context("no http URL")?;
    let mut connection = TcpStream::connect(host)?;
    connection.set_read_timeout(Some(LIMIT))?;
    write!(
        connection,
        "GET /_testkit/log HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    Ok(serde_json::from_str(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_told_from_the_rest() {
        let requests = |text: &str| serde_json::from_str::<Vec<Request>>(text).unwrap();
        let registry = requests(
            r#"[{"path":"/v2/one/manifests/1","bytes":100,"status":200},
                {"path":"/v2/one/blobs/sha256:aa","bytes":20},{"path":"/v2/one/blobs/sha256:cc","bytes":3},
                {"path":"/v2/one/blobs/sha256:aa","bytes":1}]"#,
        );
        let stratum1 = requests(r#"[{"path":"/cvmfs/x/data/sha256:aa","bytes":4000}]"#);
        let image = Image {
            layers: vec!["sha256:aa".to_owned(), "sha256:bb".to_owned()],
            bytes: 0,
        };
        let expected = Sent {
            layers_by_registry: 21,
            by_stratum1: 4000,
            all: 4124,
        };
        assert_eq!(sum(&registry, &stratum1, &image), expected);
    }
}
