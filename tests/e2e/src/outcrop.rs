//! The daemon under test, as users run it: a binary, a configuration file, a socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::containerd::mounts_below;
use crate::{Child, Plugin, child};

/// How long the daemon's start and `outcrop release` may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A repository of the daemon's configuration.
#[derive(Clone, Debug)]
pub struct Repository {
    /// Its full name.
    pub name: String,
    /// How the daemon reads it.
    pub access: Access,
}

/// Who fetches a repository's objects.
#[derive(Clone, Debug)]
pub enum Access {
    /// The daemon's own client.
    Embedded(Servers),
    /// Another client, which keeps it mounted at this directory.
    Mounted(PathBuf),
}

/// Where a client finds a repository.
#[derive(Clone, Debug)]
pub struct Servers {
    /// Stratum 1s with the repository's path, in order.
    pub urls: Vec<String>,
    /// The master key.
    pub public_key: PathBuf,
}

impl Repository {
    /// One that the daemon reads by itself.
    pub fn embedded(name: &str, urls: Vec<String>, public_key: &Path) -> Self {
        let public_key = public_key.to_owned();
        Self {
            name: name.to_owned(),
            access: Access::Embedded(Servers { urls, public_key }),
        }
    }

    /// As an entry of the configuration file.
    fn entry(&self) -> String {
        let access = match &self.access {
            Access::Embedded(servers) => format!(
                "kind = \"embedded\"\nserver_urls = {:?}\npublic_keys = [{:?}]\n",
                servers.urls, servers.public_key,
            ),
            Access::Mounted(directory) => {
                format!("kind = \"mounted\"\ndirectory = {directory:?}\n")
            }
        };
        format!("[[repository]]\nname = {:?}\n{access}", self.name)
    }
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
        Self::start_with(folder, containerd_socket, repositories, "")
    }

    /// As [`start`](Self::start), with more tables for its configuration.
    pub fn start_with(
        folder: &Path,
        containerd_socket: &Path,
        repositories: &[Repository],
        more: &str,
    ) -> Result<Self> {
        let mut config = format!(
            "root = \"{folder}/outcrop\"\nsocket = \"{folder}/run/snapshotter.sock\"\n[containerd]\nsocket = \"{}\"\n",
            containerd_socket.display(),
            folder = folder.display(),
        );
        // Long for a client on the same machine, short for a test.
        config += "[layers]\nmounted_deadline = \"3s\"\n";
        config += more;
        for one in repositories {
            config += &one.entry();
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

    /// The daemon's process.
    pub fn id(&self) -> u32 {
        self.process.id()
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

/// `outcrop mount` in a process of its own: what a host's CVMFS client is to the daemon. Dropped: unmounted.
#[derive(Debug)]
pub struct Mount {
    directory: PathBuf,
    process: Child,
}

impl Mount {
    /// Mounts repository `name` below `folder`, which must exist.
    pub fn start(folder: &Path, name: &str, servers: &Servers) -> Result<Self> {
        let directory = folder.join(name);
        fs::create_dir_all(&directory)?;
        let mut command = Command::new(binary("outcrop")?);
        command.arg("mount").arg(name).arg(&directory);
        for url in &servers.urls {
            command.args(["--server-url", url]);
        }
        command.arg("--public-key").arg(&servers.public_key);
        command.arg("--cache").arg(folder.join("client-cache"));
        command.args(["--proxy", "DIRECT"]);
        let mut process = Child::start("outcrop mount", command, &folder.join("mount.log"))?;
        process.wait_until(LIMIT, || !mounts_below(&directory).is_empty())?;
        Ok(Self { directory, process })
    }

    /// Where the repository is mounted.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Stops (SIGSTOP) or goes on (SIGCONT) with serving: a client that hangs.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = Pid::from_raw(self.process.id().cast_signed()).context("no process")?;
        Ok(kill_process(id, signal)?)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.signal(Signal::CONT);
        self.process.stop(Signal::TERM);
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
