//! A directory with keys, a repository and images, and the program on it.

use cvmfs::{Compression, ContentHash, Suffix};
use publisher::{Keys, Repository, open_storage};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;
use testkit::{Entry, Image, ImageBuilder, Layer};

pub(crate) const FQRN: &str = "images.test.local";
pub(crate) const NAME: &str = "registry.test.local/group/app";

pub(crate) fn outcrop() -> Command {
    Command::new(env!("CARGO_BIN_EXE_outcrop"))
}

/// How a command ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
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

    pub(crate) fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    pub(crate) fn json(self) -> Value {
        let out = self.success();
        assert_eq!(out.lines().count(), 1, "{out}");
        serde_json::from_str(&out).unwrap()
    }

    /// Failed with this code, and says all of these.
    pub(crate) fn failure(self, code: i32, said: &[&str]) {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        for text in said {
            assert!(self.err.contains(text), "{text:?} is not in {}", self.err);
        }
    }
}

/// A directory with keys, a repository and images.
pub(crate) struct Site {
    pub(crate) directory: TempDir,
}

impl Site {
    /// With a repository in it.
    pub(crate) fn new() -> Self {
        let site = Self::without_repository();
        site.repository(&["init", FQRN]).success();
        site
    }

    pub(crate) fn without_repository() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = outcrop();
        command.args(words);
        command.arg("--repository").arg(self.path("repository"));
        command.arg("--keys").arg(self.path("keys"));
        command
    }

    pub(crate) fn repository(&self, words: &[&str]) -> Ended {
        Ended::of(&mut self.command(&[&["repository"], words].concat()))
    }

    /// An image of a layer that all have and one of its own, as an image layout.
    pub(crate) fn layout(&self, tag: &str) -> String {
        let image = image(tag);
        let path = self.path(tag);
        let blobs = path.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let layers = image.layers.iter().map(|layer| &layer.blob);
        for blob in layers.chain([&image.config, &image.manifest]) {
            let digest = testkit::digest(blob);
            fs::write(blobs.join(&digest["sha256:".len()..]), blob).unwrap();
        }
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": image.media_type, "digest": image.digest, "size": image.manifest.len(),
        }]});
        fs::write(path.join("index.json"), index.to_string()).unwrap();
        format!("oci-layout:{}", path.display())
    }

    pub(crate) fn publish(&self, tag: &str) -> Ended {
        let source = self.layout(tag);
        let name = format!("{NAME}:{tag}");
        Ended::of(&mut self.command(&["publish", &source, "--name", &name]))
    }

    /// The same repository by the library.
    pub(crate) fn open(&self) -> Repository {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let location = self.path("repository");
        let storage = open_storage(location.to_str().unwrap(), runtime.handle(), None).unwrap();
        let keys = Keys::load(&self.path("keys"), FQRN).unwrap();
        Repository::open(storage, Some(keys), jiff::Timestamp::now()).unwrap()
    }

    /// Objects that end with a letter, or with none.
    pub(crate) fn objects(&self) -> Vec<PathBuf> {
        let mut objects = Vec::new();
        for folder in fs::read_dir(self.path("repository/data")).unwrap() {
            let folder = folder.unwrap();
            if folder.file_name().len() == 2 {
                let files = fs::read_dir(folder.path()).unwrap();
                objects.extend(files.map(|file| file.unwrap().path()));
            }
        }
        objects.sort();
        objects
    }

    /// The object with a file's content. Notes of our own would be another with each publication: they state its time.
    pub(crate) fn object_of(&self, content: &[u8]) -> PathBuf {
        let repository = self.open();
        let found = self.objects().into_iter().find(|path| {
            let name = path.strip_prefix(self.path("repository/data")).unwrap();
            let hash = name.to_str().unwrap().replace('/', "");
            let Ok(hash) = ContentHash::parse(&hash) else {
                return false;
            };
            let read = |encoding| repository.read_object(&hash, Suffix::Bulk, encoding, LIMIT);
            read(Compression::Zlib).is_ok_and(|bytes| bytes == content)
        });
        found.unwrap()
    }
}

/// Of an object that is looked at.
const LIMIT: u64 = 1 << 20;

/// A file that all images here have.
pub(crate) const SHARED: &str = concat!("for all\n", "for all, and a bit longer\n");

pub(crate) fn image(tag: &str) -> Image {
    let shared = Layer::new([Entry::directory("usr"), Entry::file("usr/shared", SHARED)]);
    let own = Layer::new([Entry::file("etc/own", format!("only {tag}\n").repeat(1000))]);
    ImageBuilder::new()
        .layer(shared)
        .layer(own)
        .build()
        .unwrap()
}

pub(crate) fn names(images: &Value) -> Vec<&str> {
    let images = images["images"].as_array().unwrap();
    images
        .iter()
        .map(|image| image["name"].as_str().unwrap())
        .collect()
}
