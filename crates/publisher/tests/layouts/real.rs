//! The same on a real repository: signed, checked, read by the client library.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cvmfs::{Content, WalkEntry};
use image::Digest;
use publisher::layer::{LayerBlob, LayerLimits, Sink as _, unpack};
use publisher::layouts::{Backend as _, Layout};
use publisher::publish::{LayerState, NoProgress, PublishOptions, publish};
use publisher::removal::remove;
use publisher::storage::LocalStorage;
use publisher::{
    CheckOptions, InitOptions, Keys, ObjectStore, Options, Repository, RepositoryBackend,
};
use testkit::{Entry, FIXTURE_FQRN, ImageBuilder, Layer, fixture};

use crate::ducc::{Client, source};
use crate::memory::{Memory, Nodes};
use crate::publishing::{self, NAME, options};
use crate::support::{MemorySource, NOW, descriptor, gzip, now};
use crate::tars::{Raw, archive};

pub(crate) struct Real {
    pub(crate) directory: tempfile::TempDir,
    _scratch: tempfile::TempDir,
    pub(crate) backend: RepositoryBackend,
}

impl Real {
    pub(crate) fn new() -> Self {
        let directory = tempfile::TempDir::new().unwrap();
        let scratch = tempfile::TempDir::new().unwrap();
        let keys = Keys::load(&fixture().root().join("keys"), FIXTURE_FQRN).unwrap();
        let storage = Arc::new(LocalStorage::new(directory.path()));
        let repository = Repository::init(storage, keys, &InitOptions::default(), now()).unwrap();
        let backend = RepositoryBackend {
            objects: store(&repository, scratch.path()),
            repository,
            wait: Duration::from_secs(5),
            now: now(),
            max_rows: 200_000,
        };
        Self {
            directory,
            _scratch: scratch,
            backend,
        }
    }

    fn assert_clean(&self) {
        let options = CheckOptions {
            content: true,
            tags: true,
        };
        assert_eq!(self.backend.repository.check(options).unwrap().findings, []);
    }

    fn client(&self) -> Client {
        Client::new(self.directory.path())
    }
}

fn store(repository: &Repository, scratch: &Path) -> ObjectStore {
    ObjectStore::new(
        Arc::clone(repository.storage()),
        repository.algorithm(),
        Options::new(2, scratch),
    )
    .unwrap()
}

#[test]
fn every_layout_in_one_revision_and_nothing_the_second_time() {
    let real = Real::new();
    let (mut source, manifest) = source();
    let every = options(&Layout::ALL);
    let summary = publish(&real.backend, &source, &every, &NoProgress).unwrap();
    assert_eq!(summary.revision, Some(2));
    real.assert_clean();
    source.closed = true;
    let summary = publish(&real.backend, &source, &every, &NoProgress).unwrap();
    assert_eq!(summary.revision, None, "nothing has changed");
    assert_eq!(real.backend.repository.head().revision, 2);
    assert!(
        summary
            .layers
            .iter()
            .all(|layer| layer.state == LayerState::Present)
    );
    real.assert_clean();
    let client = real.client();
    for layer in &manifest.layers {
        for layout in [Layout::Stargz, Layout::Registry] {
            let place = layout.place(&layer.digest);
            let blob = client.read(&format!("{place}/data"));
            assert_eq!(Digest::of(&blob), layer.digest);
        }
        let count = |layout: Layout| client.walk(&layout.place(&layer.digest)).len();
        assert!(count(Layout::Layers) > 1);
        assert_eq!(count(Layout::Layers), count(Layout::Unpacked));
    }
}

/// What a client sees is what the seam's model in memory says: the one that plain `tar` and DUCC were compared with.
#[test]
fn the_real_repository_shows_what_the_model_shows() {
    let real = Real::new();
    let memory = Memory::new();
    let (source, _) = source();
    let mini = MemorySource::of(&publishing::image(&[1, 2]), NAME);
    let layouts = [
        Layout::Layers,
        Layout::Unpacked,
        Layout::Stargz,
        Layout::Registry,
    ];
    for source in [&source, &mini] {
        publish(&real.backend, source, &options(&layouts), &NoProgress).unwrap();
        publish(&memory, source, &options(&layouts), &NoProgress).unwrap();
    }
    publish(
        &real.backend,
        &source,
        &options(&[Layout::Flat]),
        &NoProgress,
    )
    .unwrap();
    publish(&memory, &source, &options(&[Layout::Flat]), &NoProgress).unwrap();
    real.assert_clean();
    let written = tempfile::TempDir::new().unwrap();
    memory.write(written.path(), FIXTURE_FQRN, NOW);
    let (found, expected) = (real.client().walk(""), Client::new(written.path()).walk(""));
    for path in found.keys().chain(expected.keys()) {
        assert!(found.contains_key(path), "{path} is missing");
        assert!(expected.contains_key(path), "{path} should not be there");
    }
    let (groups, other_groups) = (link_groups(&found), link_groups(&expected));
    for (path, entry) in &found {
        assert_eq!(shown(path, entry), shown(path, &expected[path]), "{path}");
        assert_eq!(groups.get(path), other_groups.get(path), "{path}");
    }
}

/// The first name of each hardlinked file, by each of its names.
fn link_groups(files: &BTreeMap<String, WalkEntry>) -> BTreeMap<&String, &String> {
    let mut first = BTreeMap::new();
    let mut groups = BTreeMap::new();
    for (path, entry) in files {
        if entry.dirent.link_group != 0 {
            let group = (entry.catalog, entry.dirent.link_group);
            let name = *first.entry(group).or_insert(path);
            groups.insert(path, name);
        }
    }
    groups
}

fn shown(path: &str, entry: &WalkEntry) -> String {
    let dirent = &entry.dirent;
    // The root, and directories above what is published, are as old as their repository.
    let mtime = match dirent.kind {
        cvmfs::Kind::Directory if dirent.mtime == NOW || dirent.mtime == 0 || path.is_empty() => 0,
        _ if path.ends_with(".cvmfscatalog") => 0,
        _ => dirent.mtime,
    };
    let content = match &entry.content {
        Content::Chunked(chunks) => chunks
            .iter()
            .map(|chunk| format!("{:?}", chunk.object))
            .collect(),
        content => format!("{content:?}"),
    };
    let mut xattrs = entry.xattrs.clone();
    xattrs.sort();
    let mode = if path.is_empty() { 0 } else { dirent.mode };
    let size = match dirent.kind {
        cvmfs::Kind::Directory => 0,
        _ => dirent.size,
    };
    format!(
        "{:?} {mode:o} {} {} {size} {mtime}.{} {} {:?} {xattrs:?} {content}",
        dirent.kind, dirent.uid, dirent.gid, dirent.mtime_nanos, dirent.rdev, dirent.symlink
    )
}

/// Duplicates, replaced hardlinks, late directories, forward links: the builder does as the model.
#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn a_difficult_layer() {
    let tar = archive(&[
        Raw::file("replaced/by/file", "x"),
        Raw::file("replaced", "now a file"),
        Raw::file("file", "x"),
        Raw::new("file/", b'5'),
        Raw::file("file/below", "x"),
        Raw::file("a", "old"),
        Raw::link("b", b'1', "a"),
        Raw::file("a", "new"),
        Raw::link("c", b'1', "a"),
        Raw::link("z/forward", b'1', "z/last"),
        Raw::link("s", b'2', "a"),
        Raw::link("hard to s", b'1', "s"),
        Raw::link("over/a/link", b'2', "x"),
        Raw::file("over/a/link", "a file"),
        Raw {
            mode: 0o700,
            ..Raw::new("late/", b'5')
        },
        Raw::file("late/x/y", ""),
        Raw {
            mode: 0o2711,
            owner: (1, 2),
            ..Raw::new("late/x", b'5')
        },
        Raw {
            device: (259, 70_000),
            ..Raw::new("disk", b'4')
        },
        Raw::new("fifo", b'6'),
        Raw::file(b"\xff\n%", "x")
            .record("SCHILY.xattr.user.k", b"\0v")
            .record("mtime", "-1.5"),
        Raw::file("z/last", vec![7; 9 << 20]),
    ]);
    let real = Real::new();
    let blob = gzip(&tar);
    let media_type = image::MediaType::OciLayer(image::LayerCompression::Gzip);
    let descriptor = descriptor(&blob, media_type);
    let layer = || LayerBlob {
        reader: Box::new(std::io::Cursor::new(blob.clone())),
        descriptor: &descriptor,
        diff_id: Some(Digest::of(&tar)),
    };
    let limits = LayerLimits::default();
    let mut builder = real.backend.subtree(NOW).unwrap();
    unpack(layer(), limits, &mut builder, &mut |_| {}).unwrap();
    let mut model = Nodes::new(NOW);
    unpack(layer(), limits, &mut model, &mut |_| {}).unwrap();
    let implicit = builder.implicit_directories().unwrap();
    assert_eq!(implicit, model.implicit_directories().unwrap());
    let subtree = real.backend.finish(builder).unwrap();
    let mut changes = real.backend.begin().unwrap();
    changes.graft(b"/layer", &subtree).unwrap();
    changes.commit(None).unwrap();
    real.assert_clean();
    let found = real.client().walk("/layer");
    let names = model
        .nodes
        .keys()
        .map(|path| path.escape_ascii().to_string());
    let mut names: Vec<String> = names.chain([".cvmfscatalog".to_owned()]).collect();
    names.sort();
    assert_eq!(found.keys().cloned().collect::<Vec<_>>(), names);
    let groups = link_groups(&found);
    for (path, node) in &model.nodes {
        let name = path.escape_ascii().to_string();
        let (dirent, entry) = (&found[&name].dirent, &node.entry);
        assert_eq!(dirent.kind, entry.kind, "{name}");
        assert_eq!(dirent.mode & 0o7777, entry.mode, "{name}");
        assert_eq!((dirent.uid, dirent.gid), (entry.uid, entry.gid), "{name}");
        assert_eq!(
            (dirent.mtime, dirent.mtime_nanos),
            (entry.mtime, entry.mtime_nanos),
            "{name}"
        );
        assert_eq!(dirent.rdev, entry.rdev, "{name}");
        assert_eq!(dirent.symlink, entry.symlink, "{name}");
        assert_eq!(found[&name].xattrs, entry.xattrs, "{name}");
        let links = model
            .nodes
            .values()
            .filter(|other| other.inode == node.inode)
            .count();
        let first = model.first_name(node.inode).escape_ascii().to_string();
        let expected = (links > 1).then_some(&first);
        assert_eq!(groups.get(&name).copied(), expected, "{name}");
        if entry.kind == cvmfs::Kind::File {
            assert_eq!(dirent.size, node.content.len() as u64, "{name}");
        }
    }
}

#[test]
fn removal_leaves_a_clean_repository() {
    let real = Real::new();
    let layer = |name: &str| Layer::new([Entry::file(name, name)]);
    for (name, top) in [("a.b/c:one", "one"), ("a.b/c:two", "two")] {
        let image = ImageBuilder::new().layer(layer("base")).layer(layer(top));
        let source = MemorySource::of(&image.build().unwrap(), name);
        publish(&real.backend, &source, &options(&Layout::ALL), &NoProgress).unwrap();
    }
    let images = [real_reference("a.b/c:one")];
    let summary = remove(&real.backend, &images, false, None).unwrap();
    assert_eq!(summary.layers.len(), 1);
    real.assert_clean();
    let left = real.client().walk("/.layers");
    let layers = left
        .keys()
        .filter(|path| path.ends_with("/layerfs"))
        .count();
    assert_eq!(layers, 2);
}

fn real_reference(text: &str) -> image::Reference {
    text.parse().unwrap()
}

/// A damaged layer among good ones: the revision stays, the check is clean, and the next publish works.
#[test]
fn a_refused_image_leaves_the_revision() {
    let real = Real::new();
    let image = publishing::image(&[1, 2]);
    let good = MemorySource::of(&image, NAME);
    let mut bad = good.clone();
    let victim: Digest = image.layers[1].digest.parse().unwrap();
    bad.blobs.get_mut(&victim).unwrap().truncate(100);
    let before = real.backend.repository.head();
    let layers = PublishOptions::new(now());
    publish(&real.backend, &bad, &layers, &NoProgress).unwrap_err();
    assert_eq!(
        real.backend.repository.head().root_catalog,
        before.root_catalog
    );
    real.assert_clean();
    // With the same store: what it has stored for the bad image, the next lock removes as left over.
    let summary = publish(&real.backend, &good, &layers, &NoProgress).unwrap();
    assert_eq!(summary.revision, Some(2));
    real.assert_clean();
}
