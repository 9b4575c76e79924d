//! `testkit serve` as a child: a Stratum 1 and a registry with the fixture, and what they were asked for.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::Child;
use e2e::outcrop::{Repository, binary};
use serde::Deserialize;

const LIMIT: Duration = Duration::from_secs(60);

/// Both servers, until dropped.
#[derive(Debug)]
pub(super) struct Servers {
    _process: Child,
    ready: Ready,
}

/// The line that `testkit serve` prints when it is ready.
#[derive(Debug, Deserialize)]
struct Ready {
    stratum1: String,
    repository_url: String,
    fqrn: String,
    public_key: PathBuf,
    registry: String,
    images: PathBuf,
}

/// An entry of `/_testkit/log`.
#[derive(Debug, Deserialize)]
struct Request {
    path: String,
    bytes: u64,
}

impl Servers {
    /// Serves the fixture.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let mut command = Command::new(binary("testkit")?);
        command.args(["serve", "--fixture"]);
        let mut process = Child::start("testkit", command, &folder.join("testkit.log"))?;
        let log = folder.join("testkit.log");
        process.wait_until(LIMIT, || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.contains('\n'))
        })?;
        let ready = serde_json::from_str(process.log().lines().next().unwrap_or_default())?;
        Ok(Self {
            _process: process,
            ready,
        })
    }

    pub(super) fn registry(&self) -> &str {
        &self.ready.registry
    }

    /// Its files: manifests and blobs.
    pub(super) fn images(&self) -> &Path {
        &self.ready.images
    }

    pub(super) fn repository(&self) -> Repository {
        Repository::embedded(
            &self.ready.fqrn,
            vec![self.ready.repository_url.clone()],
            &self.ready.public_key,
        )
    }

    /// Bytes that the registry has sent of these layers.
    pub(super) fn layer_bytes(&self, layers: &[String]) -> Result<u64> {
        let is_layer = |request: &&Request| layers.iter().any(|layer| request.path.contains(layer));
        Ok(log(&self.ready.registry)?
            .iter()
            .filter(is_layer)
            .map(|request| request.bytes)
            .sum())
    }

    /// All bytes that the Stratum 1 has sent: manifest, whitelist, certificate, catalogs, objects.
    pub(super) fn bytes_from_cvmfs(&self) -> Result<u64> {
        Ok(log(&self.ready.stratum1)?
            .iter()
            .map(|request| request.bytes)
            .sum())
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
