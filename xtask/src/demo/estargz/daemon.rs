//! The two snapshotters as they are compared: a process, a configuration file, a socket.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::{Child, Outcrop, Plugin, child, containerd};
use rustix::process::Signal;
use serde::Serialize;

/// How long a daemon may take to be ready: the peer fetches again before it is.
const LIMIT: Duration = Duration::from_secs(120);

/// Host of the image's name, which leads to the test kit's registry.
pub(super) const HOST: &str = "registry.test";

/// Who reads the image's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mode {
    /// Ours.
    RegistryLazy,
    /// The peer.
    StargzSnapshotter,
}

impl Mode {
    pub(super) const ALL: [Self; 2] = [Self::RegistryLazy, Self::StargzSnapshotter];
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::RegistryLazy => "registry-lazy",
            Self::StargzSnapshotter => "stargz-snapshotter",
        })
    }
}

/// A running snapshotter with its state below a folder.
#[derive(Debug)]
pub(super) enum Daemon {
    Ours(Outcrop),
    Peer(Peer),
}

/// What a process has used since its start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Used {
    pub(super) cpu_seconds: f64,
    pub(super) memory_peak_bytes: u64,
}

impl Daemon {
    /// Ours if there is no `peer`.
    pub(super) fn start(
        folder: &Path,
        peer: Option<&Path>,
        registry: &str,
        background_fetch: bool,
    ) -> Result<Self> {
        if let Some(program) = peer {
            return Ok(Self::Peer(Peer::start(
                folder,
                program,
                &peer_configuration(registry, background_fetch)?,
            )?));
        }
        let configuration = format!(
            "[registry]\nhosts_directories = [{:?}]\n[lazy]\nbackground_fetch = {background_fetch}\n",
            folder.join("certs.d")
        );
        let socket = containerd::socket_in(folder);
        Ok(Self::Ours(Outcrop::start_with(
            folder,
            &socket,
            &[],
            &configuration,
        )?))
    }

    pub(super) fn plugin(&self, folder: &Path) -> Plugin {
        match self {
            Self::Ours(_) => Outcrop::plugin(folder),
            Self::Peer(_) => Plugin::Other {
                name: "stargz",
                socket: Peer::socket(folder),
                root: Peer::root(folder),
            },
        }
    }

    /// SIGTERM, and a new process with the old one's state.
    pub(super) fn restart(&mut self) -> Result<()> {
        match self {
            Self::Ours(daemon) => daemon.restart(Signal::TERM),
            Self::Peer(daemon) => daemon.restart(),
        }
    }

    pub(super) fn log(&self) -> String {
        match self {
            Self::Ours(daemon) => daemon.log(),
            Self::Peer(daemon) => daemon.process.log(),
        }
    }

    pub(super) fn used(&self) -> Result<Used> {
        let id = match self {
            Self::Ours(daemon) => daemon.id(),
            Self::Peer(daemon) => daemon.process.id(),
        };
        let process = PathBuf::from(format!("/proc/{id}"));
        let read = |name: &str| fs::read_to_string(process.join(name));
        parse(&read("stat")?, &read("status")?)
            .context("/proc says nothing of the snapshotter's process")
    }
}

/// The real stargz-snapshotter's daemon. Dropped: the process ends; its mounts are whoever's the folder is.
#[derive(Debug)]
pub(super) struct Peer {
    folder: PathBuf,
    program: PathBuf,
    process: Child,
}

impl Peer {
    fn start(folder: &Path, program: &Path, configuration: &str) -> Result<Self> {
        fs::create_dir_all(Self::root(folder))?;
        fs::write(folder.join("peer.toml"), configuration)?;
        let mut peer = Self {
            folder: folder.to_owned(),
            program: program.to_owned(),
            process: Self::spawn(folder, program)?,
        };
        peer.wait()?;
        Ok(peer)
    }

    fn socket(folder: &Path) -> PathBuf {
        folder.join("peer.sock")
    }

    fn root(folder: &Path) -> PathBuf {
        folder.join("peer")
    }

    fn spawn(folder: &Path, program: &Path) -> Result<Child> {
        let mut command = Command::new(program);
        command.arg("--address").arg(Self::socket(folder));
        command.arg("--root").arg(Self::root(folder));
        command.arg("--config").arg(folder.join("peer.toml"));
        command.args(["--log-level", "info"]);
        Child::start("the peer", command, &folder.join("peer.log"))
    }

    fn restart(&mut self) -> Result<()> {
        self.process.stop(Signal::TERM);
        let _ = fs::remove_file(Self::socket(&self.folder));
        self.process = Self::spawn(&self.folder, &self.program)?;
        self.wait()
    }

    fn wait(&mut self) -> Result<()> {
        let socket = Self::socket(&self.folder);
        self.process.wait_until(LIMIT, || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        })
    }
}

fn peer_configuration(registry: &str, background_fetch: bool) -> Result<String> {
    let host = registry.strip_prefix("http://").context("no http URL")?;
    Ok(format!(
        "no_background_fetch = {}\n[[resolver.host.\"{HOST}\".mirrors]]\nhost = \"{host}\"\ninsecure = true\n",
        !background_fetch
    ))
}

/// What the program says of its version, in one line.
pub(super) fn version(program: &Path) -> Result<String> {
    let says = child::run(Command::new(program).arg("--version"), LIMIT)?;
    Ok(says.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// proc_pid_stat(5) and proc_pid_status(5).
fn parse(stat: &str, status: &str) -> Option<Used> {
    // "1 (name) S 0 …", where the name may hold anything: the third field is the first of these.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = (14..=17).map(|number| fields.get(number - 3)?.parse::<u64>().ok());
    let ticks: u64 = ticks.sum::<Option<u64>>()?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = peak.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Used {
        cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        memory_peak_bytes: kibibytes * 1024,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_written_as_they_are_shown() {
        for mode in Mode::ALL {
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.to_string());
        }
    }

    #[test]
    fn processor_time_is_that_of_ended_children_too() {
        let stat = "4242 (a) S (x y) S 17 1 1 0 -1 4194560 100 200 0 0 11 22 33 34 20 0 9 0 5000 1000000 777";
        let status = "Name:\tone\nVmPeak:\t  99 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 10 kB\n";
        let hundred = rustix::param::clock_ticks_per_second() as f64;
        let used = parse(stat, status).unwrap();
        assert_eq!(used.cpu_seconds, 100.0 / hundred);
        assert_eq!(used.memory_peak_bytes, 2 << 20);
        assert_eq!(parse("1 (a) S 1", status), None);
        assert_eq!(parse(stat, "Name:\tone\n"), None);
    }

    #[test]
    fn the_peer_finds_the_registry() {
        let text = peer_configuration("http://127.0.0.1:5000", false).unwrap();
        assert!(text.contains("no_background_fetch = true\n"), "{text}");
        assert!(text.contains("host = \"127.0.0.1:5000\"\n"), "{text}");
        assert!(peer_configuration("127.0.0.1:5000", true).is_err());
    }
}
