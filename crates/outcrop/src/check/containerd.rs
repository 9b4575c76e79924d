//! What containerd is and how it is configured.

use super::child;
use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// For `containerd --version` and `containerd config dump`.
const DEADLINE: Duration = Duration::from_secs(10);

/// Configuration files are small; whatever is larger is something else.
const LARGEST_FILE: u64 = 1 << 20;

/// `major.minor` of a containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Version {
    /// The first word that looks like a version: `1.6.20~ds1`, `v2.1.9`.
    pub fn find(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| {
            let mut parts = word.trim_start_matches('v').split(['.', '-', '~', '+']);
            let major = parts.next()?.parse().ok()?;
            Some(Self(major, parts.next()?.parse().ok()?))
        })
    }
}

/// What matters to us in containerd's configuration, whichever version wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Name of the proxy plugin with our socket's address.
    pub plugin: Option<Plugin>,
    /// Snapshotter of CRI, if CRI is configured.
    pub cri_snapshotter: Option<String>,
    /// `disable_snapshot_annotations` of CRI, if stated.
    pub cri_annotations_disabled: Option<bool>,
    /// `use_local_image_pull` of CRI (2.1 and later).
    pub cri_local_pull: bool,
    /// `disabled_plugins` names CRI.
    pub cri_disabled: bool,
    /// Snapshotters that the transfer service unpacks for.
    pub unpack: Vec<String>,
}

/// A proxy plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// The name by which clients ask for it.
    pub name: String,
    /// `type = "snapshot"`.
    pub is_snapshotter: bool,
    /// `exports.root`.
    pub root: Option<String>,
    /// `exports.enable_remote_snapshot_annotations`.
    pub annotations: bool,
}

impl Configuration {
    /// Reads what concerns the snapshotter at `socket` from a configuration of format 1, 2 or 3, one text per file; later
    /// files win.
    ///
    /// # Errors
    /// The message of the TOML parser.
    pub fn parse<'a>(
        texts: impl IntoIterator<Item = &'a str>,
        socket: &Path,
    ) -> Result<Self, String> {
        let mut configuration = Self::default();
        for text in texts {
            let table: toml::Table = text
                .parse()
                .map_err(|error: toml::de::Error| error.message().to_owned())?;
            configuration.read(&table, socket);
        }
        Ok(configuration)
    }

    fn read(&mut self, table: &toml::Table, socket: &Path) {
        self.plugin = plugin(table, socket).or(self.plugin.take());
        let disabled = table
            .get("disabled_plugins")
            .and_then(toml::Value::as_array);
        let cri = |name: &toml::Value| {
            name.as_str()
                .is_some_and(|name| name == "cri" || name.contains(".cri"))
        };
        self.cri_disabled |= disabled.is_some_and(|names| names.iter().any(cri));
        let Some(plugins) = table.get("plugins").and_then(toml::Value::as_table) else {
            return;
        };
        // Format 1, format 2, format 3.
        let places = [
            plugins.get("cri").and_then(|cri| cri.get("containerd")),
            plugins
                .get("io.containerd.grpc.v1.cri")
                .and_then(|cri| cri.get("containerd")),
            plugins.get("io.containerd.cri.v1.images"),
        ];
        for images in places.into_iter().flatten() {
            self.read_images(images);
        }
        let transfer = plugins
            .get("io.containerd.transfer.v1.local")
            .and_then(|transfer| transfer.get("unpack_config"));
        if let Some(entries) = transfer.and_then(toml::Value::as_array) {
            self.unpack = entries
                .iter()
                .filter_map(|entry| text(entry, "snapshotter"))
                .collect();
        }
    }

    fn read_images(&mut self, images: &toml::Value) {
        self.cri_snapshotter = text(images, "snapshotter").or(self.cri_snapshotter.take());
        self.cri_annotations_disabled =
            flag(images, "disable_snapshot_annotations").or(self.cri_annotations_disabled);
        self.cri_local_pull = flag(images, "use_local_image_pull").unwrap_or(self.cri_local_pull);
    }
}

fn plugin(table: &toml::Table, socket: &Path) -> Option<Plugin> {
    let plugins = table.get("proxy_plugins")?.as_table()?;
    plugins.iter().find_map(|(name, plugin)| {
        let address = text(plugin, "address")?;
        let exports = plugin.get("exports");
        (Path::new(address.trim_start_matches("unix://")) == socket).then(|| Plugin {
            name: name.clone(),
            is_snapshotter: text(plugin, "type").as_deref() == Some("snapshot"),
            root: exports.and_then(|exports| text(exports, "root")),
            annotations: exports
                .and_then(|exports| text(exports, "enable_remote_snapshot_annotations"))
                .as_deref()
                == Some("true"),
        })
    })
}

fn text(value: &toml::Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(str::to_owned)
}

fn flag(value: &toml::Value, key: &str) -> Option<bool> {
    value.get(key)?.as_bool()
}

/// A containerd that answers on its socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its version, if it could be learnt.
    pub version: Option<Version>,
    /// Its configuration, or why it could not be read.
    pub configuration: Result<Configuration, String>,
}

/// Asks the process behind `socket` for version and configuration: its own executable, with the configuration file of its
/// own command line, so that several containerds on one host are told apart.
///
/// # Errors
/// Nobody answers at the socket.
pub fn ask(socket: &Path, ours: &Path) -> io::Result<Running> {
    let stream = UnixStream::connect(socket)?;
    let process = rustix::net::sockopt::socket_peercred(&stream)?.pid;
    let process = PathBuf::from(format!("/proc/{}", process.as_raw_nonzero()));
    let executable = process.join("exe");
    let version = child::output(Command::new(&executable).arg("--version"), DEADLINE)
        .ok()
        .and_then(|output| Version::find(&String::from_utf8_lossy(&output)));
    let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
    let file = config_argument(&arguments).unwrap_or_else(|| "/etc/containerd/config.toml".into());
    Ok(Running {
        version,
        configuration: configuration(&executable, &file, ours),
    })
}

fn configuration(executable: &Path, file: &Path, ours: &Path) -> Result<Configuration, String> {
    let dump = child::output(
        Command::new(executable)
            .arg("--config")
            .arg(file)
            .args(["config", "dump"]),
        DEADLINE,
    );
    if let Ok(dump) = dump {
        return Configuration::parse([&*String::from_utf8_lossy(&dump)], ours);
    }
    let texts = read_with_imports(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Configuration::parse(texts.iter().map(String::as_str), ours)
        .map_err(|message| format!("{}: {message}", file.display()))
}

/// `-c FILE`, `--config FILE`, `--config=FILE` in a NUL-separated command line.
fn config_argument(arguments: &[u8]) -> Option<PathBuf> {
    let mut arguments = arguments
        .split(|&byte| byte == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned());
    while let Some(argument) = arguments.next() {
        match argument.split_once('=') {
            Some(("-c" | "--config" | "-config", file)) => return Some(file.into()),
            _ if ["-c", "--config", "-config"].contains(&&*argument) => {
                return arguments.next().map(PathBuf::from);
            }
            _ => {}
        }
    }
    None
}

/// The file after the files that it imports (one level; a `*` in the last component).
fn read_with_imports(file: &Path) -> io::Result<Vec<String>> {
    let main = read(file)?;
    let table: toml::Table = main.parse().unwrap_or_default();
    let imports = table
        .get("imports")
        .and_then(toml::Value::as_array)
        .cloned()
        .unwrap_or_default();
    let mut texts = vec![main];
    for pattern in imports.iter().filter_map(toml::Value::as_str) {
        let pattern = file.parent().unwrap_or(Path::new("/")).join(pattern);
        for import in expand(&pattern)? {
            texts.push(read(&import)?);
        }
    }
    Ok(texts)
}

fn expand(pattern: &Path) -> io::Result<Vec<PathBuf>> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy();
    let Some((prefix, suffix)) = name.split_once('*') else {
        return Ok(vec![pattern.to_owned()]);
    };
    let directory = pattern.parent().unwrap_or(Path::new("/"));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.len() >= prefix.len() + suffix.len()
            && name.starts_with(prefix)
            && name.ends_with(suffix)
        {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(file)?
        .take(LARGEST_FILE)
        .read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests;
