//! S3 by a server of another's making, a process of its own: published to, killed midway, published to again, and read through its HTTP.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use e2e::outcrop::{Mount, Servers};
use e2e::{Child, child, workspace};
use rustix::process::Signal;
use testkit::{Entry, Layer};

use crate::world::{FQRN, World, complaint, incompressible};

/// The newest that our compiler builds.
const VERSION: &str = "0.14.1";
const KEY: &str = "test-key";
const SECRET: &str = "very-secret";
const PREFIX: &str = "bucket/some/prefix";

/// Installed once, below `target`; `None`, with the reason printed, where that does not work.
fn program() -> Option<PathBuf> {
    let folder = workspace().join("target/s3s-fs").join(VERSION);
    let program = folder.join("bin/s3s-fs");
    if program.is_file() {
        return Some(program);
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Without optimisation it is there in half the time.
    cargo.args(["install", "s3s-fs", "--version", VERSION]);
    cargo.args(["--locked", "--quiet", "--debug", "--features", "binary"]);
    cargo.arg("--root").arg(&folder);
    cargo.env("CARGO_TARGET_DIR", folder.join("build"));
    let installed = child::run(&mut cargo, Duration::from_secs(1800));
    // Some hundred megabytes that nobody needs again.
    let _ = fs::remove_dir_all(folder.join("build"));
    match installed {
        Ok(_) => Some(program),
        Err(error) => {
            eprintln!("skipped: no s3s-fs: {error:#}");
            None
        }
    }
}

/// One server on a folder of buckets.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    /// With keys it wants signatures; without, whoever asks may read.
    fn start(program: &Path, folder: &Path, port: u16, keys: bool) -> Self {
        let mut command = Command::new(program);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        if keys {
            command.args(["--access-key", KEY, "--secret-key", SECRET]);
        }
        command.arg(folder.join("buckets"));
        let mut process = Child::start("s3s-fs", command, &folder.join("s3s-fs.log")).unwrap();
        let address = format!("127.0.0.1:{port}");
        let answers = || TcpStream::connect(&address).is_ok();
        process
            .wait_until(Duration::from_secs(30), answers)
            .unwrap();
        Self { process, address }
    }
}

/// One that was free a moment ago.
fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// What a client reads in the newest revision, through the server's own HTTP.
fn shown(world: &World, program: &Path, file: &str) -> Vec<String> {
    let reading = Server::start(program, &world.path(""), port(), false);
    let servers = Servers {
        urls: vec![format!("http://{}/{PREFIX}", reading.address)],
        public_key: world.public_key(),
    };
    let folder = tempfile::tempdir_in(world.path("")).unwrap();
    let mount = Mount::start(folder.path(), FQRN, &servers).unwrap();
    let find = Command::new("find")
        .arg(mount.directory().join(".layers"))
        .args(["-name", file, "-exec", "cat", "{}", ";"])
        .output()
        .unwrap();
    assert!(find.status.success(), "{}", complaint(&find));
    let text = String::from_utf8_lossy(&find.stdout).into_owned();
    text.lines().map(str::to_owned).collect()
}

fn objects(data: &Path) -> usize {
    let folders = fs::read_dir(data).into_iter().flatten().flatten();
    folders
        .filter_map(|folder| fs::read_dir(folder.path()).ok())
        .map(Iterator::count)
        .sum()
}

#[test]
fn a_server_killed_midway_leaves_the_old_revision() {
    let Some(program) = program() else { return };
    let world = World::new();
    let bucket = world.path("buckets");
    fs::create_dir_all(bucket.join("bucket")).unwrap();
    let text = |text: &str| Layer::new([Entry::file("greeting", text)]);
    world.add("old", [text("old\n")]);
    world.add(
        "new",
        [text("new\n"), incompressible(1, 40), incompressible(2, 40)],
    );
    let port = port();
    let server = Server::start(&program, &world.path(""), port, true);
    let location = format!("s3+http://{}/{PREFIX}", server.address);
    world.init(&location);
    let output = world.publish("old", "layers,registry", &location);
    assert!(output.status.success(), "{}", complaint(&output));
    assert_eq!(shown(&world, &program, "greeting"), ["old"]);

    killed_midway(&world, server, &location);
    let _server = Server::start(&program, &world.path(""), port, true);
    assert_eq!(shown(&world, &program, "greeting"), ["old"]);
    // The dead publication's lease must end first.
    let mut arguments = world.arguments("new", "layers,registry").to_vec();
    arguments.extend(["--wait", "10m"].map(str::to_owned));
    let output = child::output(
        &mut world.command(&arguments, &location),
        Duration::from_secs(900),
    );
    let output = output.unwrap();
    assert!(output.status.success(), "{}", complaint(&output));
    let mut found = shown(&world, &program, "greeting");
    found.sort();
    assert_eq!(found, ["new", "old"]);
}

/// Publishes, and ends the server as soon as some objects have come.
fn killed_midway(world: &World, mut server: Server, location: &str) {
    let data = world.path("buckets").join(PREFIX).join("data");
    let before = objects(&data);
    let mut publication = world
        .command(&world.arguments("new", "layers,registry"), location)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(300);
    while objects(&data) < before + 5 {
        assert!(publication.try_wait().unwrap().is_none(), "too fast");
        assert!(Instant::now() < deadline, "no object comes");
        std::thread::sleep(Duration::from_millis(1));
    }
    server.process.stop(Signal::KILL);
    let output = publication.wait_with_output().unwrap();
    let complaint = complaint(&output);
    assert!(!output.status.success(), "{complaint}");
    assert!(complaint.contains(&server.address), "{complaint}");
    assert!(complaint.contains("intact"), "{complaint}");
    assert!(!complaint.contains(SECRET), "{complaint}");
    assert!(!complaint.contains("panicked"), "{complaint}");
}
