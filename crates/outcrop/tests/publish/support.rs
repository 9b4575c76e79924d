use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use testkit::{Entry, Image, ImageBuilder, Layer, Registry, Running};

pub(crate) const FQRN: &str = "images.test.local";

/// No wait of a test is longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// How a command ended.
pub(crate) struct Ended {
    code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn success(self) -> Self {
        self.code(0)
    }

    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        self
    }

    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{}{}", self.out, self.err);
        serde_json::from_str(&self.out).unwrap()
    }

    pub(crate) fn says(&self, text: &str) {
        let all = format!("{}{}", self.out, self.err);
        assert!(all.contains(text), "{text:?} is not in {all}");
    }
}

/// A program that still runs. Ends with the test, whatever happens.
pub(crate) struct Started(Child);

impl Started {
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let id = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        self.wait()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Already ended in the good case.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory with keys and a repository, and a registry.
pub(crate) struct Site {
    directory: TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        let site = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(site.images().join("manifests")).unwrap();
        fs::create_dir_all(site.images().join("blobs")).unwrap();
        Ended::of(&mut site.command(&["repository", "init", FQRN])).success();
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.path("images")
    }

    pub(crate) fn registry(&self) -> Running<Registry> {
        Registry::serving(&self.images()).start().unwrap()
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outcrop"));
        command.args(words);
        command.arg("--repository").arg(self.path("repository"));
        command.arg("--keys").arg(self.path("keys"));
        command.env("DOCKER_CONFIG", self.path("no-docker"));
        for proxy in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
            command.env_remove(proxy);
        }
        command
    }

    pub(crate) fn publish(&self, registry: &Running<Registry>, words: &[&str]) -> Ended {
        Ended::of(&mut self.publishing(registry, words))
    }

    pub(crate) fn publishing(&self, registry: &Running<Registry>, words: &[&str]) -> Command {
        let address = registry.address().to_string();
        self.command(&[&["publish", "--plain-http", &address], words].concat())
    }

    pub(crate) fn start(&self, command: &mut Command) -> Started {
        let out = fs::File::create(self.path("out")).unwrap();
        let err = fs::File::create(self.path("err")).unwrap();
        Started(
            command
                .stdout(out)
                .stderr(err)
                .stdin(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }

    /// What the started program has written.
    pub(crate) fn written(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn push(&self, name: &str, tag: &str, image: &Image) {
        image.write_to(&self.images(), name, tag).unwrap();
    }

    /// Names of the images in the repository.
    pub(crate) fn published(&self) -> Vec<String> {
        let listed = self.list();
        let images = listed["images"].as_array().unwrap().iter();
        let names = images.map(|image| image["name"].as_str().unwrap().to_owned());
        names.collect()
    }

    fn list(&self) -> Value {
        Ended::of(&mut self.command(&["repository", "list", "--json"]))
            .success()
            .json()
    }

    pub(crate) fn revision(&self) -> u64 {
        let manifest = fs::read(self.path("repository").join(".cvmfspublished")).unwrap();
        let text = String::from_utf8_lossy(&manifest);
        let line = text.lines().find_map(|line| line.strip_prefix('S'));
        line.unwrap().parse().unwrap()
    }

    pub(crate) fn wishlist(&self, entries: &[String]) -> String {
        let input: String = entries
            .iter()
            .map(|entry| format!("  - '{entry}'\n"))
            .collect();
        let text = match entries {
            [] => format!("version: 1\nuser: robot\ncvmfs_repo: {FQRN}\ninput: []\n"),
            _ => format!("version: 1\nuser: robot\ncvmfs_repo: {FQRN}\ninput:\n{input}"),
        };
        let file = self.path("recipe.yaml");
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// `outcrop repository check` finds nothing.
    pub(crate) fn check(&self) {
        Ended::of(&mut self.command(&["repository", "check", "--content"])).success();
    }

    /// Every file of the repository with its modification time.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, (u64, i64, i64)> {
        let mut files = BTreeMap::new();
        below(&self.path("repository"), &mut files);
        files
    }
}

fn below(directory: &Path, files: &mut BTreeMap<PathBuf, (u64, i64, i64)>) {
    use std::os::unix::fs::MetadataExt;
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let stamp = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        files.insert(entry.path(), stamp);
        if metadata.is_dir() {
            below(&entry.path(), files);
        }
    }
}

/// A layer that all images have and one of its own.
pub(crate) fn image(word: &str) -> Image {
    ImageBuilder::new()
        .layer(Layer::new([
            Entry::directory("usr"),
            Entry::file("usr/common", vec![7; 50_000]),
        ]))
        .layer(Layer::new([Entry::file("word", word)]))
        .build()
        .unwrap()
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
