//! Our `.layers` against what the real cvmfs_ducc made of the same image.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use cvmfs::{RepositoryConfig, WalkEntry};
use image::repository_layout::LayerStatement;
use image::{Digest, Manifest};
use publisher::layouts::Layout;
use publisher::publish::{NoProgress, publish};
use serde_json::Value;
use testkit::{FIXTURE_FQRN, Stratum1, fixture};

use crate::memory::Memory;
use crate::publishing::options;
use crate::support::{MemorySource, NOW, now};

/// The client library on a directory that is served by HTTP.
pub(crate) struct Client {
    repository: cvmfs::Repository,
    _served: testkit::Running<Stratum1>,
    _runtime: tokio::runtime::Runtime,
    _directory: tempfile::TempDir,
}

impl Client {
    pub(crate) fn new(published: &Path) -> Self {
        let served = Stratum1::serving(published).start().unwrap();
        let directory = tempfile::TempDir::new().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let key = directory.path().join("key.pub");
        std::fs::copy(fixture().public_key(), &key).unwrap();
        let cache = cache::Cache::open(cache::Config {
            directory: directory.path().join("cache"),
            quota: 1 << 30,
            boot_id: "boot".to_owned(),
        });
        let state = directory.path().join("state");
        let mut config = RepositoryConfig::new(
            FIXTURE_FQRN,
            vec![served.repository_url(FIXTURE_FQRN)],
            state,
        );
        config.public_keys = vec![key];
        let handle = runtime.handle().clone();
        let repository =
            cvmfs::Repository::open(config, Arc::new(cache.unwrap()), handle, now).unwrap();
        Self {
            repository,
            _served: served,
            _runtime: runtime,
            _directory: directory,
        }
    }

    pub(crate) fn symlink(&self, path: &str) -> String {
        let found = self.repository.current().lookup(path.as_bytes());
        String::from_utf8(found.unwrap().unwrap().symlink).unwrap()
    }

    /// Everything below a path, by its path relative to it.
    pub(crate) fn walk(&self, path: &str) -> BTreeMap<String, WalkEntry> {
        let mut entries = BTreeMap::new();
        let revision = self.repository.current();
        revision
            .walk(path.as_bytes(), &mut |path, entry| {
                entries.insert(path.escape_ascii().to_string(), entry.clone());
                ControlFlow::Continue(())
            })
            .unwrap();
        entries
    }

    pub(crate) fn read(&self, path: &str) -> Vec<u8> {
        let content = self
            .repository
            .current()
            .read_small(path.as_bytes(), 1 << 24);
        content
            .unwrap()
            .unwrap_or_else(|| panic!("{path} is missing"))
    }
}

/// The image that DUCC unpacked.
pub(crate) fn source() -> (MemorySource, Manifest) {
    let fixture = fixture();
    let images = fixture.images();
    let manifest = std::fs::read(images.join("manifests/library_mini:1.0")).unwrap();
    let mut source = MemorySource {
        top: Digest::of(&manifest),
        documents: BTreeMap::from([(Digest::of(&manifest), manifest.clone())]),
        blobs: BTreeMap::new(),
        reference: Some("localhost:15000/library/mini:1.0".parse().unwrap()),
        closed: false,
    };
    for blob in std::fs::read_dir(images.join("blobs")).unwrap() {
        let blob = std::fs::read(blob.unwrap().path()).unwrap();
        source.blobs.insert(Digest::of(&blob), blob);
    }
    (source, Manifest::parse(&manifest).unwrap().into_value())
}

fn directory(layer: &Digest) -> String {
    let hex = layer.hex();
    format!("/.layers/{}/{hex}", &hex[..2])
}

/// What must be equal. Times of directories that both made themselves differ, and of the marker.
fn described(path: &str, entry: &WalkEntry, made_since: i64) -> String {
    let dirent = &entry.dirent;
    let made = dirent.mtime >= made_since;
    let mtime = if made { 0 } else { dirent.mtime };
    // The real ingestion makes its marker 0664.
    let mode = if path == ".cvmfscatalog" {
        0
    } else {
        dirent.mode
    };
    let content = match dirent.kind {
        cvmfs::Kind::File => format!("{:?}", entry.content),
        _ => String::new(),
    };
    format!(
        "{:?} {mode:o} {} {} {} {mtime} {} {content} {:?}",
        dirent.kind,
        dirent.uid,
        dirent.gid,
        dirent.size,
        dirent.rdev,
        String::from_utf8_lossy(&dirent.symlink),
    )
}

#[test]
fn our_layers_are_ducc_s_and_more() {
    let (source, manifest) = source();
    let memory = Memory::new();
    publish(&memory, &source, &options(&[Layout::Layers]), &NoProgress).unwrap();
    let published = tempfile::TempDir::new().unwrap();
    memory.write(published.path(), FIXTURE_FQRN, NOW);
    let theirs = fixture();
    let (ours, theirs) = (
        Client::new(published.path()),
        Client::new(&theirs.repository()),
    );
    let (mut links, mut attributes) = (0, 0);
    for layer in &manifest.layers {
        let directory = directory(&layer.digest);
        let files = format!("{directory}/layerfs");
        let (our_files, their_files) = (ours.walk(&files), theirs.walk(&files));
        assert_eq!(
            our_files.keys().collect::<Vec<_>>(),
            their_files.keys().collect::<Vec<_>>()
        );
        // DUCC ran in November 2026; the image's own files are older.
        for (path, entry) in &our_files {
            let expected = described(path, &their_files[path], 1_795_000_000);
            assert_eq!(described(path, entry, 1_795_000_000), expected, "{path}");
            links += usize::from(entry.dirent.link_group != 0);
            attributes += entry.xattrs.len();
        }
        assert!(
            their_files
                .values()
                .all(|entry| entry.dirent.link_group == 0 && entry.xattrs.is_empty())
        );
        compare_metadata(&ours, &theirs, &directory, &layer.digest);
    }
    // What DUCC loses of this image.
    assert!(links >= 28, "{links} names of hardlinked files");
    assert!(attributes >= 1, "the capability of ping");
    let manifest_path = "/.metadata/localhost:15000/library/mini:1.0/manifest.json";
    let (our_manifest, their_manifest) = (ours.read(manifest_path), theirs.read(manifest_path));
    assert_eq!(Digest::of(&our_manifest), source.top);
    // DUCC's own has capital letters; Go, which reads it, does not care.
    let lower = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap().to_lowercase();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    assert_eq!(lower(our_manifest), lower(their_manifest));
    for catalog in ["/.layers", "/.layers/b9"] {
        for client in [&ours, &theirs] {
            let nested = client
                .repository
                .current()
                .nested_catalog(catalog.as_bytes());
            assert!(nested.unwrap().is_some(), "{catalog}");
        }
    }
}

/// The same files, the same texts but for the time.
fn compare_metadata(ours: &Client, theirs: &Client, directory: &str, layer: &Digest) {
    let metadata = format!("{directory}/.metadata");
    let mut names: Vec<String> = ours.walk(&metadata).into_keys().collect();
    names.retain(|name| name != "outcrop.json");
    assert_eq!(
        names,
        theirs.walk(&metadata).into_keys().collect::<Vec<_>>()
    );
    let path = format!("{metadata}/layers.json");
    let without_time = |json: Vec<u8>| {
        LayerStatement::parse(&json, layer).unwrap();
        let text = String::from_utf8(json).unwrap();
        let lines = text.lines().filter(|line| !line.contains("\"created\""));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        without_time(ours.read(&path)),
        without_time(theirs.read(&path))
    );
    let path = format!("{metadata}/origin.json");
    let json = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).unwrap();
    assert_eq!(json(ours.read(&path)), json(theirs.read(&path)));
}
