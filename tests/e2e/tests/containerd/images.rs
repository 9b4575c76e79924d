//! Images that run, and repositories that hold some of their layers.

use std::path::{Path, PathBuf};

use testkit::{
    DuccOptions, Entry, FIXTURE_FQRN, Image, ImageBuilder, Keys, Layer, LayerBlob,
    RepositoryBuilder, Storage,
};

/// The name of all repositories here: the fixture's, whose keys sign them.
pub(crate) const FQRN: &str = FIXTURE_FQRN;

/// When these repositories were published: now, or their whitelists would be expired.
fn now() -> i64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

/// A shell and some programs.
pub(crate) fn base() -> Layer {
    let busybox = std::fs::read("/bin/busybox")
        .or_else(|_| std::fs::read("/usr/bin/busybox"))
        .unwrap();
    let applets = ["sh", "cat", "echo", "ls", "sleep", "tail", "true"];
    let links = applets.map(|applet| Entry::symlink(format!("bin/{applet}"), "busybox"));
    let files = [
        Entry::directory("bin"),
        Entry::file("bin/busybox", busybox).mode(0o755),
    ];
    Layer::new(files.into_iter().chain(links))
}

/// A layer with one file that no other has.
pub(crate) fn layer(name: &str) -> Layer {
    let text = format!("this is {name}\n").repeat(100);
    Layer::new([
        Entry::directory("layers"),
        Entry::file(format!("layers/{name}"), text),
    ])
}

/// Several layers, bottom first.
pub(crate) fn image(layers: impl IntoIterator<Item = Layer>) -> Image {
    layers
        .into_iter()
        .fold(ImageBuilder::new(), ImageBuilder::layer)
        .build()
        .unwrap()
}

/// A folder with a registry's images and a repository.
pub(crate) struct World {
    folder: tempfile::TempDir,
}

impl World {
    /// Images by name (tag `1`), and the layers that the repository holds.
    pub(crate) fn new<'a>(
        images: &[(&str, &Image)],
        unpacked: impl IntoIterator<Item = (&'a LayerBlob, DuccOptions)>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self { folder };
        for (name, image) in images {
            image.write_to(&world.images(), name, "1").unwrap();
        }
        std::fs::create_dir_all(world.repository()).unwrap();
        let mut repository = RepositoryBuilder::new(&world.repository(), FQRN);
        for (layer, options) in unpacked {
            if !repository.contains(&layer_path(layer)) {
                repository.add_layer(layer, &options).unwrap();
            }
        }
        repository.publish(now()).unwrap();
        std::fs::write(world.public_key(), Keys::fixture().public_key().unwrap()).unwrap();
        world
    }

    /// Publishes the repository anew, with layers unpacked and blobs as they are.
    pub(crate) fn publish(&self, unpacked: &[LayerBlob], blobs: &[String]) {
        let mut repository = RepositoryBuilder::new(&self.repository(), FQRN);
        for layer in unpacked {
            repository
                .add_layer(layer, &DuccOptions::default())
                .unwrap();
        }
        for digest in blobs {
            let hex = digest.trim_start_matches("sha256:");
            let blob = std::fs::read(self.images().join("blobs").join(digest)).unwrap();
            let path = format!("stargz/blobs/sha256/{}/{hex}/data", &hex[..2]);
            repository.add(Entry::file(path, blob).storage(Storage::PlainChunked(128 << 10)));
        }
        repository.publish(now()).unwrap();
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.folder.path().join("images")
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    pub(crate) fn public_key(&self) -> PathBuf {
        self.folder.path().join("master.pub")
    }
}

/// Where DUCC unpacks a layer.
fn layer_path(layer: &LayerBlob) -> String {
    let hex = layer.digest.trim_start_matches("sha256:");
    Path::new("/.layers")
        .join(&hex[..2])
        .join(hex)
        .join("layerfs")
        .display()
        .to_string()
}
