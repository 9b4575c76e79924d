//! The daemon under test, as users run it: a binary, a configuration file, a socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::{Child, Plugin, child};

/// How long the daemon's start and `outcrop release` may take.
const LIMIT: Duration = Duration::from_secs(60);

/// An embedded repository of the daemon's configuration.
#[derive(Clone, Debug)]
pub struct Repository {
    /// Its full name.
    pub name: String,
    /// Stratum 1s with the repository's path, in order.
    pub servers: Vec<String>,
    /// Its master key.
    pub public_key: PathBuf,
}

/// `outcrop serve`. Dropped: the daemon ends and what it mounted is released.
#[derive(Debug)]
pub struct Outcrop {
    folder: PathBuf,
    process: Child,
}

impl Outcrop {
    /// Starts it with all its state below `folder`, which must exist.
    pub fn start(
        folder: &Path,
        containerd_socket: &Path,
        repositories: &[Repository],
    ) -> Result<Self> {
        let mut config = format!(
            "root = \"{folder}/outcrop\"\nsocket = \"{folder}/run/snapshotter.sock\"\n[containerd]\nsocket = \"{}\"\n",
            containerd_socket.display(),
            folder = folder.display(),
        );
        for one in repositories {
            config += &format!(
                "[[repository]]\nname = {:?}\nkind = \"embedded\"\nserver_urls = {:?}\npublic_keys = [{:?}]\n",
                one.name, one.servers, one.public_key,
            );
        }
        fs::write(folder.join("outcrop.toml"), config)?;
        let process = spawn(folder)?;
        let mut outcrop = Self {
            folder: folder.to_owned(),
            process,
        };
        outcrop.wait()?;
        Ok(outcrop)
    }

    /// As containerd's configuration needs it.
    pub fn plugin(folder: &Path) -> Plugin {
        Plugin::Outcrop {
            socket: folder.join("run/snapshotter.sock"),
            root: folder.join("outcrop"),
        }
    }

    /// The daemon's state.
    pub fn root(&self) -> PathBuf {
        self.folder.join("outcrop")
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("run/snapshotter.sock")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it by `signal` and starts it again.
    pub fn restart(&mut self, signal: Signal) -> Result<()> {
        self.process.stop(signal);
        self.process = spawn(&self.folder)?;
        self.wait()
    }

    /// Unmounts everything of its root on purpose.
    pub fn release(&self) -> Result<String> {
        let mut command = Command::new(binary("outcrop")?);
        child::run(
            command
                .arg("release")
                .arg("--config")
                .arg(self.folder.join("outcrop.toml")),
            LIMIT,
        )
    }

    fn wait(&mut self) -> Result<()> {
        let socket = self.folder.join("run/snapshotter.sock");
        self.process.wait_until(LIMIT, || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        })
    }
}

impl Drop for Outcrop {
    fn drop(&mut self) {
        // Release needs no daemon; the daemon ends first, so that nothing is attached anew.
        self.process.stop(Signal::TERM);
        let _ = self.release();
    }
}

fn spawn(folder: &Path) -> Result<Child> {
    let runtime_directory = folder.join("run");
    fs::create_dir_all(&runtime_directory)?;
    fs::set_permissions(
        &runtime_directory,
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )?;
    let mut command = Command::new(binary("outcrop")?);
    command
        .arg("serve")
        .arg("--config")
        .arg(folder.join("outcrop.toml"));
    Child::start("outcrop", command, &folder.join("outcrop.log"))
}

/// A binary of this workspace, built before: the release build if there is one, as users get it, else the one beside this test.
pub fn binary(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let folders = here
        .ancestors()
        .flat_map(|folder| [folder.join("release"), folder.join("debug")]);
    let found = folders
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    found.with_context(|| {
        format!(
            "no binary {name} near {}: run `cargo build --release -p {name}`",
            here.display()
        )
    })
}
