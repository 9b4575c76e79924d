//! Images as OCI layouts, and the program that publishes them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use e2e::child;
use e2e::outcrop::binary;
use serde_json::json;
use tempfile::TempDir;
use testkit::{Entry, Image, ImageBuilder, Layer};

pub(crate) const FQRN: &str = "published.test.local";

const LIMIT: Duration = Duration::from_secs(300);

/// A folder with images, keys and a repository's directory.
pub(crate) struct World {
    folder: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            folder: e2e::containerd::new_folder().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn public_key(&self) -> PathBuf {
        self.path("keys").join(format!("{FQRN}.pub"))
    }

    /// Makes an empty repository there, a directory or a URL.
    pub(crate) fn init(&self, repository: &str) {
        let output = self.run(&["repository", "init", FQRN], repository);
        assert!(output.status.success(), "{output:?}");
    }

    /// Publishes an image that [`World::add`] wrote, as `registry.test/group/NAME:1`.
    pub(crate) fn publish(&self, image: &str, layouts: &str, repository: &str) -> Output {
        self.run(&self.arguments(image, layouts), repository)
    }

    pub(crate) fn arguments(&self, image: &str, layouts: &str) -> [String; 6] {
        let source = format!("oci-layout:{}", self.path(image).display());
        let name = format!("registry.test/group/{image}:1");
        ["publish", &source, "--name", &name, "--layout", layouts].map(str::to_owned)
    }

    fn run<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S], repository: &str) -> Output {
        child::output(&mut self.command(arguments, repository), LIMIT).unwrap()
    }

    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: &[S],
        repository: &str,
    ) -> Command {
        let mut command = Command::new(binary("outcrop").unwrap());
        command.args(arguments).args(["--repository", repository]);
        command.arg("--keys").arg(self.path("keys"));
        command.env("TMPDIR", self.folder.path());
        // For backends that want signatures.
        command.env("AWS_ACCESS_KEY_ID", "test-key");
        command.env("AWS_SECRET_ACCESS_KEY", "very-secret");
        command
    }

    /// Writes an image as an OCI layout.
    pub(crate) fn add(&self, name: &str, layers: impl IntoIterator<Item = Layer>) -> Image {
        let image = layers
            .into_iter()
            .fold(ImageBuilder::new(), ImageBuilder::layer);
        let image = image.build().unwrap();
        write_layout(&self.path(name), &image);
        image
    }
}

fn write_layout(target: &Path, image: &Image) {
    let blobs = target.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let write =
        |digest: &str, bytes: &[u8]| std::fs::write(blobs.join(&digest[7..]), bytes).unwrap();
    write(&image.digest, &image.manifest);
    write(&testkit::digest(&image.config), &image.config);
    for layer in &image.layers {
        write(&layer.digest, &layer.blob);
    }
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": image.media_type, "digest": image.digest, "size": image.manifest.len(),
    }]});
    std::fs::write(target.join("index.json"), index.to_string()).unwrap();
    let version = r#"{"imageLayoutVersion":"1.0.0"}"#;
    std::fs::write(target.join("oci-layout"), version).unwrap();
}

/// A shell and some programs.
pub(crate) fn base() -> Layer {
    let busybox = std::fs::read("/bin/busybox")
        .or_else(|_| std::fs::read("/usr/bin/busybox"))
        .unwrap();
    let links =
        ["sh", "cat", "tail"].map(|applet| Entry::symlink(format!("bin/{applet}"), "busybox"));
    let files = [
        Entry::directory("bin"),
        Entry::file("bin/busybox", busybox).mode(0o755),
    ];
    Layer::new(files.into_iter().chain(links))
}

/// A layer of so many megabytes that no deflater makes much smaller.
pub(crate) fn incompressible(seed: u64, megabytes: usize) -> Layer {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let file = |number: usize| {
        let bytes: Vec<u8> = (0..1 << 17).flat_map(|_| next()).collect();
        Entry::file(format!("seed{seed}/file{number}"), bytes)
    };
    Layer::new((0..megabytes).map(file))
}

/// Everything the program said on standard error.
pub(crate) fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
