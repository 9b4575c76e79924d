//! One containerd of its own: configuration, start, restart, and an end that leaves nothing behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{Child, Cri, Runtime, Version, child, sandbox_image, workspace};

/// How long `ctr` and the daemon's start may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Who keeps the snapshots.
#[derive(Clone, Debug)]
pub enum Plugin {
    /// containerd's own.
    Overlayfs,
    /// Ours, as the drop-in of `deploy/containerd` sets it up.
    Outcrop {
        /// Its socket.
        socket: PathBuf,
        /// Its state.
        root: PathBuf,
    },
    /// Another lazy snapshotter, set up as ours is.
    Other {
        /// As containerd is to call it.
        name: &'static str,
        /// Its socket.
        socket: PathBuf,
        /// Its state.
        root: PathBuf,
    },
}

impl Plugin {
    /// As `--snapshotter` wants it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Overlayfs => "overlayfs",
            Self::Outcrop { .. } => "outcrop",
            Self::Other { name, .. } => name,
        }
    }
}

/// What an instance is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The snapshotter.
    pub plugin: Plugin,
    /// URL of the registry that every host name leads to.
    pub registry: Option<String>,
}

/// A running containerd. Dropped: containers, shims, mounts and files are gone.
#[derive(Debug)]
pub struct Containerd {
    runtime: Runtime,
    settings: Settings,
    process: Child,
    folder: PathBuf,
    /// Removed last.
    _owned: Option<TempDir>,
}

impl Containerd {
    /// Makes a folder, starts the daemon there, and imports the sandbox image.
    pub fn start(runtime: &Runtime, settings: Settings) -> Result<Self> {
        let folder = new_folder()?;
        let mut containerd = Self::start_in(folder.path(), runtime, settings)?;
        containerd._owned = Some(folder);
        Ok(containerd)
    }

    /// As [`start`](Self::start), in a folder of the caller's, who needs the socket's path before: see [`socket_in`].
    pub fn start_in(folder: &Path, runtime: &Runtime, settings: Settings) -> Result<Self> {
        write_config(folder, runtime.version, &settings)?;
        let process = spawn(folder, runtime)?;
        let mut containerd = Self {
            runtime: runtime.clone(),
            settings,
            process,
            folder: folder.to_owned(),
            _owned: None,
        };
        containerd.wait()?;
        containerd.import_sandbox_image()?;
        Ok(containerd)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its runtime.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        socket_in(&self.folder)
    }

    /// A client of its CRI plugin.
    pub fn cri(&self) -> Result<Cri> {
        Cri::connect(&self.socket(), &self.folder.join("logs"))
    }

    /// Runs `ctr` in a namespace; its standard output.
    pub fn ctr(&self, namespace: &str, arguments: &[&str]) -> Result<String> {
        child::run(self.ctr_command("ctr", namespace).args(arguments), LIMIT)
    }

    /// `ctr`, or `ctr-remote`, which takes the same flags, without a subcommand yet.
    pub fn ctr_command(&self, program: &str, namespace: &str) -> Command {
        let mut command = self.runtime.command(program);
        command
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", namespace]);
        command
    }

    /// Pulls by hand with this instance's snapshotter: `ctr images pull`, or `ctr-remote images rpull` where `ctr` would fetch every layer before
    /// it asks a snapshotter.
    pub fn pull(&self, namespace: &str, image: &str) -> Result<()> {
        let stock = matches!(self.settings.plugin, Plugin::Overlayfs);
        let (program, verb) = match self.runtime.version {
            Version::V1_6 | Version::V1_7 if !stock => ("ctr-remote", "rpull"),
            _ => ("ctr", "pull"),
        };
        let mut command = self.ctr_command(program, namespace);
        command.args([
            "images",
            verb,
            "--snapshotter",
            self.settings.plugin.name(),
            "--hosts-dir",
        ]);
        child::run(command.arg(self.hosts_dir()).arg(image), LIMIT).map(drop)
    }

    /// As `--snapshotter` wants it.
    pub fn snapshotter(&self) -> &'static str {
        self.settings.plugin.name()
    }

    /// Starts a created container's task in the background; the first line of its output.
    pub fn start_task(&self, namespace: &str, container: &str) -> Result<String> {
        let log = self.folder.join(format!("{container}.out"));
        self.ctr(
            namespace,
            &[
                "tasks",
                "start",
                "--detach",
                "--log-uri",
                &format!("file://{}", log.display()),
                container,
            ],
        )?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            if let Some((line, _)) = text.split_once('\n') {
                return Ok(line.to_owned());
            }
            ensure!(
                Instant::now() < deadline,
                "no output of {container} after {LIMIT:?}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Labels of a snapshot, by its name or key.
    pub fn snapshot_labels(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, String>> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Info {
            labels: Option<BTreeMap<String, String>>,
        }
        let info = self.ctr(
            namespace,
            &[
                "snapshots",
                "--snapshotter",
                self.settings.plugin.name(),
                "info",
                name,
            ],
        )?;
        Ok(serde_json::from_str::<Info>(&info)?
            .labels
            .unwrap_or_default())
    }

    /// Mounts a new view of a committed snapshot, and hands its folder to `look`.
    pub fn with_view<T>(
        &self,
        namespace: &str,
        snapshot: &str,
        look: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<T> {
        let (snapshotter, key) = (
            self.settings.plugin.name(),
            format!("view-{}", snapshot.trim_start_matches("sha256:")),
        );
        let folder = self.folder.join(&key);
        fs::create_dir(&folder)?;
        let snapshots = |arguments: &[&str]| {
            self.ctr(
                namespace,
                &[&["snapshots", "--snapshotter", snapshotter], arguments].concat(),
            )
        };
        // Nothing but the label keeps it from containerd's garbage collection, which may come in between.
        let mut tries = 0;
        loop {
            snapshots(&["view", &key, snapshot])?;
            match snapshots(&["label", &key, "containerd.io/gc.root=1"]) {
                Ok(_) => break,
                Err(error) if tries == 10 => return Err(error),
                Err(_) => tries += 1,
            }
        }
        // It prints a mount command.
        let mount = snapshots(&["mounts", &folder.display().to_string(), &key])?;
        child::run(Command::new("sh").args(["-c", &mount]), LIMIT)?;
        let outcome = look(&folder);
        unmount(&folder, UnmountFlags::DETACH)?;
        snapshots(&["remove", &key])?;
        outcome
    }

    /// The folder of `hosts.toml`, for `--hosts-dir`.
    pub fn hosts_dir(&self) -> PathBuf {
        self.folder.join("certs.d")
    }

    /// A running container's root file system, as the host sees it.
    pub fn root_file_system(&self, namespace: &str, container: &str) -> PathBuf {
        let tasks = self.folder.join("state/io.containerd.runtime.v2.task");
        tasks.join(namespace).join(container).join("rootfs")
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends the daemon and starts it again; containers run on.
    pub fn restart(&mut self) -> Result<()> {
        self.process.stop(Signal::TERM);
        self.process = spawn(&self.folder, &self.runtime)?;
        self.wait()
    }

    /// Runs containerd's garbage collection now: removing a lease synchronously does.
    pub fn collect_garbage(&self, namespace: &str) -> Result<()> {
        let lease = self.ctr(namespace, &["leases", "create"])?;
        self.ctr(namespace, &["leases", "delete", "--sync", lease.trim()])?;
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        let cri = self.cri()?;
        self.process.wait_until(LIMIT, || cri.version().is_ok())
    }

    fn import_sandbox_image(&mut self) -> Result<()> {
        let archive = self.folder.join("pause.tar");
        sandbox_image::write(&archive)?;
        let archive = archive.display().to_string();
        self.ctr(
            "k8s.io",
            &[
                "images",
                "import",
                "--snapshotter",
                self.settings.plugin.name(),
                &archive,
            ],
        )?;
        let cri = self.cri()?;
        // CRI learns of it by an event.
        self.process.wait_until(LIMIT, || {
            cri.image(sandbox_image::NAME)
                .is_ok_and(|image| image.is_some())
        })
    }

    fn remove_tasks(&self) -> Result<()> {
        for namespace in self
            .ctr("default", &["namespaces", "list", "--quiet"])?
            .split_whitespace()
        {
            for task in self
                .ctr(namespace, &["tasks", "list", "--quiet"])?
                .split_whitespace()
            {
                // It may have ended by itself; what is left is ended with its shim.
                let _ = self.ctr(namespace, &["tasks", "delete", "--force", task]);
            }
        }
        Ok(())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.remove_tasks();
        self.process.stop(Signal::TERM);
        end_shims(&self.socket());
        unmount_below(&self.folder);
    }
}

/// A folder for an instance: on a disk file system, and with a short name, since sockets lie in it.
pub fn new_folder() -> Result<TempDir> {
    Ok(tempfile::Builder::new()
        .prefix("outcrop-e2e-")
        .tempdir_in("/var/tmp")?)
}

/// Where the socket of an instance in `folder` lies.
pub fn socket_in(folder: &Path) -> PathBuf {
    folder.join("containerd.sock")
}

fn spawn(folder: &Path, runtime: &Runtime) -> Result<Child> {
    let mut command = runtime.command("containerd");
    command.arg("--config").arg(folder.join("config.toml"));
    Child::start("containerd", command, &folder.join("containerd.log"))
}

fn write_config(folder: &Path, version: Version, settings: &Settings) -> Result<()> {
    fs::create_dir_all(folder.join("logs"))?;
    fs::create_dir_all(folder.join("certs.d/_default"))?;
    if let Some(url) = &settings.registry {
        let hosts = format!(
            "server = \"{url}\"\n[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\", \"push\"]\n"
        );
        fs::write(folder.join("certs.d/_default/hosts.toml"), hosts)?;
    }
    let mut config = base_config(folder, version);
    match &settings.plugin {
        Plugin::Overlayfs => {}
        Plugin::Outcrop { socket, root } => config += &drop_in(version, socket, root)?,
        Plugin::Other { name, socket, root } => {
            config += &other(&drop_in(version, socket, root)?, name);
        }
    }
    Ok(fs::write(folder.join("config.toml"), config)?)
}

/// What an instance beside others on this kind of machine needs; TOML lets the drop-in's tables simply follow.
fn base_config(folder: &Path, version: Version) -> String {
    let folder = folder.display();
    let pause = sandbox_image::NAME;
    let head = format!(
        "root = \"{folder}/root\"\nstate = \"{folder}/state\"\n\
         [grpc]\naddress = \"{folder}/containerd.sock\"\n[ttrpc]\naddress = \"{folder}/containerd.sock.ttrpc\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{folder}/opt\"\n"
    );
    // A negative oom_score_adj is refused without CAP_SYS_RESOURCE.
    match version {
        Version::V1_6 | Version::V1_7 => format!(
            "version = 2\n{head}\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{pause}\"\nrestrict_oom_score_adj = true\n\
             stream_server_port = \"0\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"{folder}/cni\"\nconf_dir = \"{folder}/cni\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"{folder}/certs.d\"\n"
        ),
        Version::V2_1 => format!(
            "version = 3\n{head}\
             [plugins.'io.containerd.cri.v1.runtime']\nrestrict_oom_score_adj = true\n\
             [plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = [\"{folder}/cni\"]\nconf_dir = \"{folder}/cni\"\n\
             [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = \"{pause}\"\n\
             [plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = \"{folder}/certs.d\"\n"
        ),
    }
}

/// The drop-in that users get, with this instance's paths.
fn drop_in(version: Version, socket: &Path, root: &Path) -> Result<String> {
    let file = workspace()
        .join("deploy/containerd")
        .join(format!("{version}.toml"));
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let text: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("version ="))
        .collect();
    let text = text.join("\n");
    let (default_socket, default_root) =
        ("\"/run/outcrop/snapshotter.sock\"", "\"/var/lib/outcrop\"");
    ensure!(
        text.contains(default_socket) && text.contains(default_root),
        "{} lacks socket or root",
        file.display()
    );
    Ok(text
        .replace(default_socket, &format!("\"{}\"", socket.display()))
        .replace(default_root, &format!("\"{}\"", root.display())))
}

/// Our drop-in as another snapshotter's, which has no differ of its own and does not say which mappings it can do.
fn other(drop_in: &str, name: &str) -> String {
    let mut text = String::new();
    let mut is_ours = false;
    for line in drop_in.lines() {
        if line.starts_with('[') {
            is_ours = line == "[proxy_plugins.outcrop-diff]" || line.contains("diff-service");
        }
        if !is_ours && !line.trim_start().starts_with("capabilities") {
            text += &line
                .replace("\"outcrop\"", &format!("\"{name}\""))
                .replace("proxy_plugins.outcrop", &format!("proxy_plugins.{name}"));
            text.push('\n');
        }
    }
    text
}

/// Ends the shims that serve the containerd at `socket`, and their containers.
fn end_shims(socket: &Path) {
    let socket = socket.display().to_string();
    for shim in processes().filter(|&id| {
        arguments(id).is_some_and(|all| all[0].contains("shim") && all.contains(&socket))
    }) {
        for process in processes().filter(|&id| parent(id) == Some(shim)) {
            end(process);
        }
        end(shim);
    }
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn arguments(process: i32) -> Option<Vec<String>> {
    let line = fs::read(format!("/proc/{process}/cmdline")).ok()?;
    let arguments: Vec<String> = line
        .split(|&byte| byte == 0)
        .map(|word| String::from_utf8_lossy(word).into())
        .collect();
    Some(arguments)
}

fn parent(process: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // "1 (name) S 0 …", where the name may hold anything.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

fn end(process: i32) {
    if let Some(id) = Pid::from_raw(process) {
        let _ = kill_process(id, Signal::KILL);
    }
}

/// Mount points at or below `folder`, innermost last.
pub fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(folder))
        .collect()
}

fn unmount_below(folder: &Path) {
    for point in mounts_below(folder).iter().rev() {
        let _ = unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_snapshotter_gets_our_settings_without_what_only_we_have() {
        for version in Version::ALL {
            let text = drop_in(version, Path::new("/one/socket"), Path::new("/one/root")).unwrap();
            let text = other(&text, "stargz");
            let code: Vec<&str> = text
                .lines()
                .filter(|line| !line.trim_start().starts_with('#'))
                .collect();
            assert!(code.contains(&"[proxy_plugins.stargz]"), "{text}");
            assert!(code.contains(&"  snapshotter = \"stargz\""), "{text}");
            assert!(code.contains(&"  address = \"/one/socket\""), "{text}");
            for word in ["outcrop", "diff-service", "capabilities"] {
                assert!(!code.iter().any(|line| line.contains(word)), "{text}");
            }
        }
    }
}
