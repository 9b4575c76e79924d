//! One image by every way in: a layout, an archive, a registry.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use image::{Descriptor, Digest, ManifestOrIndex, MediaType};
use publisher::{ImageSource, SourceError, SourceOptions, open_source};
use serde_json::json;
use testkit::{Access, Entry, Fault, Image, ImageBuilder, Layer, Registry, When};

fn image() -> Image {
    ImageBuilder::new()
        .layer(Layer::new([Entry::file("a", vec![7; 100_000])]))
        .layer(Layer::new([Entry::file("b", "small")]))
        .build()
        .unwrap()
}

fn unpack(tar: &[u8], directory: &Path) {
    tar::Archive::new(tar).unpack(directory).unwrap();
}

fn open(text: &str) -> Result<Box<dyn ImageSource>, SourceError> {
    open_source(text, &SourceOptions::default())
}

fn message(text: &str) -> String {
    let error = open(text).err().unwrap_or_else(|| panic!("{text} opened"));
    let mut message = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        message.push_str(&format!(": {source}"));
    }
    message
}

fn read(source: &dyn ImageSource, blob: &Descriptor) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source
        .blob(blob)
        .map_err(std::io::Error::other)?
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Configuration and layers of the source's only image.
fn blobs(source: &dyn ImageSource) -> Vec<Vec<u8>> {
    let document = source.manifest(None).unwrap();
    let ManifestOrIndex::Manifest(manifest) = document.parse().unwrap() else {
        panic!("an index")
    };
    let all = [&manifest.config].into_iter().chain(&manifest.layers);
    all.map(|blob| read(source, blob).unwrap()).collect()
}

fn expected(image: &Image) -> Vec<Vec<u8>> {
    let layers = image.layers.iter().map(|layer| layer.blob.clone());
    [image.config.clone()].into_iter().chain(layers).collect()
}

struct LayoutDirectory(tempfile::TempDir);

impl LayoutDirectory {
    fn new(image: &Image, name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        unpack(&image.oci_archive(name).unwrap(), directory.path());
        Self(directory)
    }

    fn text(&self) -> String {
        format!("oci-layout:{}", self.0.path().display())
    }

    fn index(&self, manifests: &serde_json::Value) {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.0.path().join("index.json"), index.to_string()).unwrap();
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.0.path().join("blobs").join(digest.replace(':', "/"))
    }
}

#[test]
fn a_layout() {
    let image = image();
    let layout = LayoutDirectory::new(&image, "registry.test/group/app:1");
    for text in [layout.text(), format!("{}:1", layout.text())] {
        let source = open(&text).unwrap();
        assert_eq!(source.name(), text);
        assert_eq!(
            source.reference().unwrap().to_string(),
            "registry.test/group/app:1"
        );
        assert_eq!(source.manifest(None).unwrap().bytes, image.manifest);
        let digest: Digest = image.digest.parse().unwrap();
        assert_eq!(source.manifest(Some(&digest)).unwrap().digest, digest);
        assert!(matches!(
            source.manifest(Some(&Digest::of(b""))),
            Err(SourceError::Missing { .. })
        ));
        assert_eq!(blobs(&*source), expected(&image));
    }
    assert!(message(&format!("{}:2", layout.text())).contains("has no image \"2\" (it has 1)"));
    assert!(message("oci-layout:/no/such").contains("cannot read /no/such/index.json"));
}

#[test]
fn layouts_of_several_images() {
    let image = image();
    let layout = LayoutDirectory::new(&image, "x");
    let entry = |platform: Option<&str>, name: Option<&str>| {
        let mut entry = json!({"mediaType": image.media_type, "digest": image.digest, "size": image.manifest.len()});
        if let Some(architecture) = platform {
            entry["platform"] = json!({"os": "linux", "architecture": architecture});
        }
        if let Some(name) = name {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        entry
    };
    layout.index(&json!([
        entry(Some("amd64"), None),
        entry(Some("arm64"), None)
    ]));
    let source = open(&layout.text()).unwrap();
    let document = source.manifest(None).unwrap();
    assert_eq!(document.media_type, MediaType::OciIndex);
    let digest: Digest = image.digest.parse().unwrap();
    assert_eq!(
        source.manifest(Some(&digest)).unwrap().bytes,
        image.manifest
    );
    layout.index(&json!([entry(None, Some("a")), entry(None, Some("b"))]));
    assert!(message(&layout.text()).contains("several images: append :TAG (it has a, b)"));
    open(&format!("{}:b", layout.text())).unwrap();
    layout.index(&json!([]));
    assert!(message(&layout.text()).contains("is empty"));
}

#[test]
fn damaged_layouts() {
    let image = image();
    let layer: Descriptor = {
        let document =
            publisher::source::Document::new(image.manifest.clone(), None, None).unwrap();
        match document.parse().unwrap() {
            ManifestOrIndex::Manifest(manifest) => manifest.layers[0].clone(),
            ManifestOrIndex::Index(_) => panic!("an index"),
        }
    };
    let layout = LayoutDirectory::new(&image, "x");
    let path = layout.blob(&image.layers[0].digest);
    let good = fs::read(&path).unwrap();
    for (bytes, complaint) in [
        (good[..good.len() - 1].to_vec(), "ends after"),
        ([&good[..], b"x"].concat(), "longer"),
        (vec![0; good.len()], "has digest"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = read(&*open(&layout.text()).unwrap(), &layer).unwrap_err();
        assert!(error.to_string().contains(complaint), "{error}");
    }
    fs::remove_file(&path).unwrap();
    let missing = open(&layout.text()).unwrap().blob(&layer).err().unwrap();
    assert!(
        matches!(missing, SourceError::Missing { .. }),
        "{missing:?}"
    );
    // Whoever opened this would wait for ever.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    assert!(open(&layout.text()).unwrap().blob(&layer).is_err());
    fs::write(layout.blob(&image.digest), b"{}").unwrap();
    assert!(message(&layout.text()).contains("sha256:"));
    fs::write(
        layout.0.path().join("index.json"),
        vec![b' '; (4 << 20) + 1],
    )
    .unwrap();
    assert!(message(&layout.text()).contains("exceeds the limit"));
}

/// An archive as `docker save` wrote it: before version 25 with directories and links, later as a layout too.
struct Saved {
    entries: Vec<(String, Vec<u8>)>,
    links: Vec<(String, String)>,
}

impl Saved {
    fn of(image: &Image, compressed: bool, tags: &[&str]) -> Self {
        let layers = image.layers.iter().enumerate();
        let names: Vec<_> = layers
            .clone()
            .map(|(index, _)| format!("{index}/layer.tar"))
            .collect();
        let manifest = json!([{"Config": "config.json", "RepoTags": tags, "Layers": names}]);
        let mut entries = vec![("config.json".to_owned(), image.config.clone())];
        entries.extend(layers.map(|(index, layer)| {
            let bytes = if compressed { &layer.blob } else { &layer.tar };
            (format!("{index}/layer.tar"), bytes.clone())
        }));
        entries.push((
            "manifest.json".to_owned(),
            manifest.to_string().into_bytes(),
        ));
        Self {
            entries,
            links: Vec::new(),
        }
    }

    fn tar(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in &self.entries {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, &bytes[..]).unwrap();
        }
        for (name, target) in &self.links {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, name, target).unwrap();
        }
        builder.into_inner().unwrap()
    }
}

fn archive(bytes: &[u8]) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("saved.tar");
    fs::write(&path, bytes).unwrap();
    let text = format!("docker-archive:{}", path.display());
    (directory, text)
}

#[test]
fn archives_give_the_same_manifest_each_time() {
    let image = image();
    for compressed in [false, true] {
        let saved = Saved::of(
            &image,
            compressed,
            &["registry.test/app:1", "registry.test/app:2"],
        );
        let (_directory, text) = archive(&saved.tar());
        let source = open(&text).unwrap();
        assert_eq!(
            source.reference().unwrap().to_string(),
            "registry.test/app:1"
        );
        let second = open(&format!("{text}:registry.test/app:2")).unwrap();
        assert_eq!(
            second.reference().unwrap().to_string(),
            "registry.test/app:2"
        );
        let document = source.manifest(None).unwrap();
        assert_eq!(second.manifest(None).unwrap(), document);
        assert_eq!(source.manifest(Some(&document.digest)).unwrap(), document);
        let parts = blobs(&*source);
        assert_eq!(parts[0], image.config);
        for (layer, part) in image.layers.iter().zip(&parts[1..]) {
            assert_eq!(part, if compressed { &layer.blob } else { &layer.tar });
        }
        let kind = if compressed {
            "tar+gzip\""
        } else {
            "layer.v1.tar\""
        };
        assert!(String::from_utf8(document.bytes).unwrap().contains(kind));
        assert!(
            message(&format!("{text}:other"))
                .contains("has no image \"other\" (it has registry.test/app:1")
        );
    }
}

#[test]
fn archives_compressed_as_a_whole_and_with_links() {
    let image = image();
    let mut saved = Saved::of(&image, false, &[]);
    saved.entries[1].0 = "store/real.tar".to_owned();
    saved.links = vec![("0/layer.tar".to_owned(), "../store/real.tar".to_owned())];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&saved.tar()).unwrap();
    for bytes in [
        gzip.finish().unwrap(),
        zstd::encode_all(&saved.tar()[..], 1).unwrap(),
    ] {
        let (directory, text) = archive(&bytes);
        let options = SourceOptions {
            scratch: directory.path().to_owned(),
            ..SourceOptions::default()
        };
        let source = open_source(&text, &options).unwrap();
        assert_eq!(source.reference(), None);
        assert_eq!(blobs(&*source)[1], image.layers[0].tar);
        // Nothing stays behind.
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

#[test]
fn damaged_archives() {
    let image = image();
    let good = || Saved::of(&image, false, &["a:1"]);
    let replaced = |name: &str, bytes: &[u8]| {
        let mut saved = good();
        for entry in &mut saved.entries {
            if entry.0 == name {
                entry.1 = bytes.to_vec();
            }
        }
        saved.tar()
    };
    let without = |name: &str| {
        let mut saved = good();
        saved.entries.retain(|entry| entry.0 != name);
        saved
    };
    let mut circle = without("0/layer.tar");
    circle.links = vec![
        ("0/layer.tar".to_owned(), "../x".to_owned()),
        ("x".to_owned(), "0/layer.tar".to_owned()),
    ];
    let two = json!([{"Config": "config.json", "RepoTags": null, "Layers": []}, {"Config": "x", "RepoTags": ["b:2"], "Layers": []}]);
    let one = json!([{"Config": "config.json", "RepoTags": null, "Layers": ["0/layer.tar"]}]);
    for (bytes, complaint) in [
        (Vec::new(), "lacks manifest.json"),
        (vec![7; 5000], "malformed"),
        (good().tar()[..60_000].to_vec(), "cut off"),
        (without("manifest.json").tar(), "lacks manifest.json"),
        (without("config.json").tar(), "lacks config.json"),
        (without("1/layer.tar").tar(), "lacks 1/layer.tar"),
        (circle.tar(), "circles"),
        (replaced("manifest.json", b"{"), "manifest.json: "),
        (replaced("config.json", b"{}"), "image configuration"),
        (
            replaced("config.json", &vec![b' '; (4 << 20) + 1]),
            "longer than",
        ),
        (
            replaced("manifest.json", two.to_string().as_bytes()),
            "has 2 images: append :NAME (b:2)",
        ),
        (
            replaced("manifest.json", one.to_string().as_bytes()),
            "lists 1 layers, its configuration 2",
        ),
    ] {
        let (_directory, text) = archive(&bytes);
        assert!(
            message(&text).contains(complaint),
            "{complaint}: {}",
            message(&text)
        );
    }
    assert!(message("docker-archive:/dev/zero").contains("cannot read"));
}

#[test]
fn a_registry() {
    let image = image();
    let directory = tempfile::tempdir().unwrap();
    image.write_to(directory.path(), "group/app", "1").unwrap();
    let access = Access::gitlab().anonymous_pull();
    let server = Registry::serving(directory.path())
        .access(&access)
        .start()
        .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = registry::Client::new(
        registry::Config::default(),
        registry::Metrics::default(),
        runtime.handle().clone(),
    );
    let options = SourceOptions {
        registry: Some(client),
        ..SourceOptions::default()
    };
    let name = server.reference("group/app", "1");
    for text in [name.clone(), format!("docker://{name}")] {
        let source = open_source(&text, &options).unwrap();
        assert_eq!(source.name(), name);
        assert_eq!(source.reference().unwrap().to_string(), name);
        assert_eq!(source.manifest(None).unwrap().bytes, image.manifest);
        assert_eq!(blobs(&*source), expected(&image));
        access.revoke();
    }
    let source = open_source(&name, &options).unwrap();
    server.fault(When::path("/blobs/"), Fault::FlipByte(9));
    let document = source.manifest(None).unwrap();
    let ManifestOrIndex::Manifest(manifest) = document.parse().unwrap() else {
        panic!("an index")
    };
    let error = read(&*source, &manifest.layers[0]).unwrap_err();
    assert!(error.to_string().contains("has digest"), "{error}");
    assert!(message(&name).contains("not available here"));
    assert!(open_source("UPPER/case", &options).is_err());
}
