//! The program, as end-to-end tests use it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use testkit::client::{get, request};

const PROGRAM: &str = env!("CARGO_BIN_EXE_testkit");

/// A running `testkit serve` and what it said when it was ready.
struct Serving {
    child: Child,
    ready: serde_json::Value,
}

impl Serving {
    fn start(log: &Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .args([
                "serve",
                "--fixture",
                "--proxy",
                "--blobs-fail",
                "--latency",
                "1ms",
            ])
            .args(["--bandwidth", "10Gbit", "--log"])
            .arg(log)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        Self {
            child,
            ready: serde_json::from_str(&line).unwrap(),
        }
    }

    fn said(&self, key: &str) -> String {
        let said = self.ready[key].as_str();
        said.unwrap_or_else(|| panic!("no {key} in {}", self.ready))
            .to_owned()
    }

    fn status(&self, server: &str, path: &str) -> u16 {
        get(&format!("{}{path}", self.said(server))).unwrap().status
    }

    fn terminate(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn serve_until_sigterm_then_leave_the_log() {
    let directory = TempDir::new().unwrap();
    let log = directory.path().join("log.json");
    let serving = Serving::start(&log);
    let public_key = serving.said("public_key");
    assert_eq!(serving.said("fqrn"), "unpacked.test.local");
    assert!(
        fs::read_to_string(&public_key)
            .unwrap()
            .contains("PUBLIC KEY")
    );
    assert_eq!(serving.status("repository_url", "/.cvmfspublished"), 200);
    assert_eq!(
        serving.status("registry", "/v2/library/mini/manifests/1.0"),
        200
    );
    let blob = "sha256:1538ea16bebced527436beddfdccd65236aa840458f393353a795571ec996292";
    assert_eq!(
        serving.status("registry", &format!("/v2/library/mini/blobs/{blob}")),
        500
    );
    let fault = br#"{"fault":"status","value":503,"nth":1}"#;
    let control = format!("{}/_testkit/fault", serving.said("stratum1"));
    assert_eq!(request("POST", &control, &[], fault).unwrap().status, 200);
    assert_eq!(serving.status("repository_url", "/.cvmfspublished"), 503);
    assert_eq!(serving.status("repository_url", "/.cvmfspublished"), 200);

    serving.terminate();
    let log: serde_json::Value = serde_json::from_slice(&fs::read(log).unwrap()).unwrap();
    let logged = |server: &str| log[server].as_array().unwrap().len();
    assert_eq!(
        (logged("stratum1"), logged("registry"), logged("proxy")),
        (3, 2, 0)
    );
    assert!(
        !fs::exists(public_key).unwrap(),
        "temporary files are removed"
    );
}

fn run(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(PROGRAM).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

#[test]
fn truth_of_a_directory() {
    let directory = TempDir::new().unwrap();
    let tree = directory.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("a"), "a").unwrap();
    let tree = tree.to_str().unwrap();
    let (code, text) = run(&["walk", tree]);
    assert_eq!(code, 0);
    let truth = directory.path().join("truth.tsv");
    fs::write(&truth, text).unwrap();
    let truth = truth.to_str().unwrap();
    assert_eq!(
        run(&["compare-truth", tree, truth]),
        (0, "2 paths as they should be\n".to_owned())
    );
    fs::write(format!("{tree}/a"), "b").unwrap();
    let (code, text) = run(&["compare-truth", tree, truth, "--ignore", "mtime_ns"]);
    assert_eq!(code, 1);
    assert!(text.starts_with("/a: sha256 should be "), "{text}");
    assert_eq!(run(&["compare-truth", tree, truth, "--without", "/a"]).0, 0);
    assert_eq!(
        run(&["compare-truth", tree, truth, "--ignore", "colour"]).0,
        2
    );
    assert_eq!(run(&["compare-truth", tree, "fixture"]).0, 1);
}

#[test]
fn images_and_their_repository() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (code, text) = run(&[
        "image",
        &path("images"),
        "--repository",
        &path("repository"),
        "--files",
        "1000",
        "--blob-bytes",
        "5000",
    ]);
    assert_eq!(code, 0, "{text}");
    let described: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(described["layers"].as_array().unwrap().len(), 3);
    assert!(fs::exists(path("images/manifests/library_demo:1.0")).unwrap());
    assert!(
        fs::read(path("repository/.cvmfspublished"))
            .unwrap()
            .starts_with(b"C")
    );
    assert_eq!(run(&["pause-image", &path("pause.tar")]).0, 0);
    let listing = Command::new("tar")
        .args(["-tf", &path("pause.tar")])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&listing.stdout).contains("oci-layout"));
}
