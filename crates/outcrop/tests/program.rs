//! The program as a whole: exit codes and messages, a mount of the fixture, a daemon's start and end.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use testkit::{FIXTURE_FQRN, Fixture, Running, Stratum1};

fn outcrop() -> Command {
    Command::new(env!("CARGO_BIN_EXE_outcrop"))
}

fn output(arguments: &[&str]) -> Output {
    outcrop().args(arguments).output().unwrap()
}

fn failure(arguments: &[&str]) -> (Option<i32>, String) {
    let output = output(arguments);
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// Ends with the test, whatever happens: a mount must not stay behind.
struct Process(Child);

impl Process {
    fn terminate(&mut self) -> ExitStatus {
        let id = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended in the good case.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Mounts need root and a device; anything else needs neither.
fn can_mount() -> bool {
    let root = rustix::process::getuid().is_root();
    let device = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .is_ok();
    if !root || !device {
        eprintln!("skipped: needs root and /dev/fuse");
    }
    root && device
}

struct Site {
    fixture: Fixture,
    server: Running<Stratum1>,
    directory: TempDir,
}

impl Site {
    fn new() -> Self {
        let fixture = testkit::fixture();
        let server = Stratum1::serving(&fixture.repository())
            .external(&fixture.external())
            .start()
            .unwrap();
        Self {
            fixture,
            server,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn mount(&self, arguments: &[&str]) -> (Process, PathBuf, String) {
        let mount_point = self.path("mount");
        fs::create_dir_all(&mount_point).unwrap();
        let child = outcrop()
            .arg("mount")
            .arg(FIXTURE_FQRN)
            .arg(&mount_point)
            .args(["--server-url", &self.server.repository_url(FIXTURE_FQRN)])
            .arg("--public-key")
            .arg(self.fixture.public_key())
            .arg("--cache")
            .arg(self.path("cache"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut process = Process(child);
        let mut line = String::new();
        BufReader::new(process.0.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        (process, mount_point, line)
    }

    fn config(&self) -> PathBuf {
        let text = format!(
            "root = {:?}\nsocket = {:?}\n[containerd]\nsocket = \"\"\n[[repository]]\nname = {FIXTURE_FQRN:?}\nkind = \"embedded\"\nserver_urls = [{:?}]\npublic_keys = [{:?}]\n",
            self.path("root"),
            self.path("run/snapshotter.sock"),
            self.server.repository_url(FIXTURE_FQRN),
            self.fixture.public_key(),
        );
        let path = self.path("config.toml");
        fs::write(&path, text).unwrap();
        path
    }

    /// Starts a daemon and waits until it says that it is ready.
    fn serve(&self, config: &Path) -> Process {
        let notify = self.path("notify");
        let _ = fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let child = outcrop()
            .args(["serve", "--config"])
            .arg(config)
            .env("NOTIFY_SOCKET", &notify)
            .spawn()
            .unwrap();
        let process = Process(child);
        let mut state = [0; 64];
        let length = socket
            .recv(&mut state)
            .expect("the daemon must say that it is ready");
        assert_eq!(&state[..length], b"READY=1");
        process
    }
}

fn is_mounted(path: &Path) -> bool {
    !fuse::mounts_below(path).unwrap().is_empty()
}

#[test]
fn exit_codes_tell_who_has_to_act() {
    let (code, text) = failure(&["check", "--config", "/no/such.toml"]);
    assert_eq!(code, Some(3));
    assert_eq!(
        text,
        "error: cannot read configuration /no/such.toml\n  cause: No such file or directory (os error 2)\n  hint: create it: outcrop config show > /no/such.toml\n"
    );
    assert_eq!(failure(&["mount", "unpacked", "/tmp"]).0, Some(2));
    assert_eq!(
        failure(&["mount", "a.b", "/tmp", "--date", "soon"]).0,
        Some(2)
    );
    assert_eq!(failure(&["frobnicate"]).0, Some(2));
}

#[test]
fn the_default_configuration_is_printed_and_accepted() {
    let shown = output(&["config", "show"]);
    assert!(shown.status.success());
    assert_eq!(
        String::from_utf8(shown.stdout).unwrap(),
        outcrop::config::DEFAULT
    );
}

#[test]
fn a_mounted_repository_is_read_and_sigterm_unmounts() {
    if !can_mount() {
        return;
    }
    let site = Site::new();
    let (mut process, mount_point, line) = site.mount(&[]);
    assert_eq!(
        line,
        format!(
            "mounted {FIXTURE_FQRN} revision 59 on {}\n",
            mount_point.display()
        )
    );
    assert_eq!(fs::read(mount_point.join("added_in_v2")).unwrap(), b"v2\n");
    assert!(process.terminate().success());
    assert!(!is_mounted(&mount_point));
}

#[test]
fn an_old_revision_is_mounted_by_tag_and_an_unmount_ends_the_process() {
    if !can_mount() {
        return;
    }
    let site = Site::new();
    let (mut process, mount_point, line) = site.mount(&["--tag", "v1"]);
    assert!(line.contains("revision 2 on"), "{line}");
    assert!(!mount_point.join("added_in_v2").exists());
    fuse::detach_path(&mount_point).unwrap();
    assert!(process.0.wait().unwrap().success());
}

#[test]
fn without_its_server_a_repository_is_mounted_from_the_cache() {
    if !can_mount() {
        return;
    }
    let site = Site::new();
    let (mut process, mount_point, _) = site.mount(&[]);
    fs::read(mount_point.join("added_in_v2")).unwrap();
    process.terminate();
    let Site {
        fixture,
        server,
        directory,
    } = site;
    let gone = server.repository_url(FIXTURE_FQRN);
    drop(server);
    let mount_point = directory.path().join("mount");
    let child = outcrop()
        .args(["mount", FIXTURE_FQRN])
        .arg(&mount_point)
        .args(["--server-url", &gone, "--public-key"])
        .arg(fixture.public_key())
        .arg("--cache")
        .arg(directory.path().join("cache"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut process = Process(child);
    let mut line = String::new();
    BufReader::new(process.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.starts_with("mounted"), "{line}");
    assert_eq!(fs::read(mount_point.join("added_in_v2")).unwrap(), b"v2\n");
    assert!(process.terminate().success());
}

#[test]
fn a_tag_that_does_not_exist_is_a_usage_error() {
    if !can_mount() {
        return;
    }
    let site = Site::new();
    let mount_point = site.path("mount");
    fs::create_dir(&mount_point).unwrap();
    let url = site.server.repository_url(FIXTURE_FQRN);
    let (key, cache) = (site.fixture.public_key(), site.path("cache"));
    let arguments = [
        "mount",
        FIXTURE_FQRN,
        mount_point.to_str().unwrap(),
        "--server-url",
        &url,
        "--public-key",
        key.to_str().unwrap(),
        "--cache",
        cache.to_str().unwrap(),
        "--tag",
        "nonesuch",
    ];
    let (code, text) = failure(&arguments);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("nonesuch"), "{text}");
    assert!(!is_mounted(&mount_point));
}

#[test]
fn a_daemon_serves_alone_and_ends_on_sigterm() {
    let site = Site::new();
    let config = site.config();
    let mut daemon = site.serve(&config);
    let socket = site.path("run/snapshotter.sock");
    UnixStream::connect(&socket).unwrap();
    assert_eq!(
        fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::metadata(site.path("root"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o700
    );

    let second = outcrop()
        .args(["serve", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(4));
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(
        text.starts_with("error: a living daemon answers at"),
        "{text}"
    );
    UnixStream::connect(&socket).expect("the first one is not disturbed");

    assert!(daemon.terminate().success());
    // Its socket's file is still there, and is replaced.
    assert!(site.serve(&config).terminate().success());
}

#[test]
fn a_daemon_starts_without_its_servers() {
    let mut site = Site::new();
    let config = site.config();
    let other = testkit::fixture();
    // The old server, and with it the address in the configuration, goes.
    site.server = Stratum1::serving(&other.repository()).start().unwrap();
    assert!(site.serve(&config).terminate().success());
}

#[test]
fn release_unmounts_what_lies_below_the_root_and_nothing_else() {
    if !can_mount() {
        return;
    }
    let site = Site::new();
    let (mut process, mount_point, _) = site.mount(&[]);
    let config = site.path("config.toml");
    fs::write(&config, format!("root = {:?}\n", site.path("elsewhere"))).unwrap();
    let released = outcrop()
        .args(["release", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert!(released.status.success());
    assert!(is_mounted(&mount_point), "not below that root");

    fs::write(&config, format!("root = {:?}\n", site.directory.path())).unwrap();
    let released = outcrop()
        .args(["release", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    let text = String::from_utf8(released.stdout).unwrap();
    assert!(
        text.starts_with(&format!("unmounted {}\n1 unmounted", mount_point.display())),
        "{text}"
    );
    assert!(!is_mounted(&mount_point));
    assert!(process.0.wait().unwrap().success());
}

#[test]
fn check_opens_what_is_configured() {
    if !can_mount() {
        return;
    }
    let site = Site::new();
    let checked = outcrop()
        .args(["check", "--json", "--config"])
        .arg(site.config())
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    let line = |subject: &str| {
        let lines = report["lines"].as_array().unwrap();
        lines
            .iter()
            .find(|line| line["subject"] == subject)
            .unwrap_or_else(|| panic!("no {subject}: {report}"))
            .clone()
    };
    assert_eq!(line("FUSE protocol")["status"], "ok");
    assert_eq!(line("overlayfs")["status"], "ok");
    assert_eq!(line(&format!("repository {FIXTURE_FQRN}"))["status"], "ok");
    assert!(!is_mounted(site.directory.path()), "trial mounts are gone");
}
