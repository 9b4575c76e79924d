//! Which containerd, and where its programs lie.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A release line of containerd with configuration and behaviour of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Debian 12's.
    V1_6,
    /// Debian 13's.
    V1_7,
    /// Debian 14's.
    V2_1,
}

impl Version {
    /// All that tests run on, oldest first.
    pub const ALL: [Self; 3] = [Self::V1_6, Self::V1_7, Self::V2_1];

    /// As it stands in file names: `1.6`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1_6 => "1.6",
            Self::V1_7 => "1.7",
            Self::V2_1 => "2.1",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// containerd, its shim, `ctr` and runc, ready to run on this machine.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The release line.
    pub version: Version,
    /// Value of PATH for the daemon: its own programs first.
    path: String,
    folder: PathBuf,
}

impl Runtime {
    /// The one that `xtask packages` unpacked below `target/containerd`, else the machine's own if it is of that version.
    pub fn find(version: Version) -> Option<Self> {
        let unpacked = workspace()
            .join("target/containerd")
            .join(version.name())
            .join("usr/bin");
        [unpacked, PathBuf::from("/usr/bin")]
            .into_iter()
            .find_map(|folder| Self::at(version, folder))
    }

    fn at(version: Version, folder: PathBuf) -> Option<Self> {
        let says = Command::new(folder.join("containerd"))
            .arg("--version")
            .output()
            .ok()?;
        let says = String::from_utf8_lossy(&says.stdout).into_owned();
        // "containerd github.com/containerd/containerd 1.6.20~ds1 …"
        let number = says.split_whitespace().nth(2)?.trim_start_matches('v');
        let sbin = folder.with_file_name("sbin");
        let path = format!(
            "{}:{}:/usr/sbin:/usr/bin:/sbin:/bin",
            folder.display(),
            sbin.display()
        );
        number.starts_with(&format!("{version}.")).then_some(Self {
            version,
            path,
            folder,
        })
    }

    /// A command that runs this runtime's program `name` with this runtime's PATH.
    pub fn command(&self, name: &str) -> Command {
        let own = self.folder.join(name);
        let mut command = Command::new(if own.exists() { own } else { name.into() });
        command.env("PATH", &self.path);
        command
    }
}

/// The folder that holds the workspace's Cargo.toml.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}
