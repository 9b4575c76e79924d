//! Images into layouts, and what a client reads of them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use image::estargz::Format;
use image::repository_layout::{
    EscapedPath, LayerNotes, LayerStatement, chain_pointer, diff_pointer, layer_notes,
    pointer_target,
};
use image::{Digest, chain_ids};
use publisher::layouts::{Backend as _, Changes as _, Layout};
use publisher::publish::{
    LayerPhase, LayerState, NoProgress, Progress, PublishError, PublishOptions, publish,
};
use serde_json::{Value, json};
use testkit::{Entry, Image, ImageBuilder, Layer};

use crate::memory::Memory;
use crate::support::{MemorySource, NOW, now};

pub(crate) const NAME: &str = "registry.test:5000/library/mini:1.0";

pub(crate) fn layer(number: usize) -> Layer {
    Layer::new([
        Entry::directory("etc"),
        Entry::file("etc/same", "same"),
        Entry::file(format!("etc/own{number}"), format!("content {number}")).xattr("user.k", "v"),
        Entry::file("implicit/deep/file", "x"),
        Entry::hardlink("etc/link", "etc/same"),
        Entry::hardlink("lower\u{e4}", "below/this"),
        Entry::whiteout("etc/gone"),
    ])
}

pub(crate) fn image(layers: &[usize]) -> Image {
    let builder = ImageBuilder::new();
    let builder = layers
        .iter()
        .fold(builder, |builder, number| builder.layer(layer(*number)));
    builder.build().unwrap()
}

pub(crate) fn options(layouts: &[Layout]) -> PublishOptions {
    PublishOptions {
        layouts: layouts.to_vec(),
        ..PublishOptions::new(now())
    }
}

fn digest(text: &str) -> Digest {
    text.parse().unwrap()
}

fn directory(layer: &testkit::LayerBlob) -> String {
    let hex = digest(&layer.digest).hex();
    format!("/.layers/{}/{hex}", &hex[..2])
}

#[test]
fn everything_of_layout_layers_lies_where_it_should() {
    let memory = Memory::new();
    let image = image(&[1, 2]);
    let source = MemorySource::of(&image, NAME);
    let summary = publish(&memory, &source, &options(&[Layout::Layers]), &NoProgress).unwrap();
    assert_eq!(summary.revision, Some(2));
    let diff_ids: Vec<Digest> = image
        .layers
        .iter()
        .map(|layer| digest(&layer.diff_id))
        .collect();
    for (layer, chain_id) in image.layers.iter().zip(chain_ids(&diff_ids)) {
        let directory = directory(layer);
        let blob = digest(&layer.digest);
        let read = |path: &str| memory.read(&format!("{directory}/{path}"));
        assert_eq!(read("layerfs/etc/link").unwrap(), b"same");
        assert_eq!(read("layerfs/etc/.wh.gone").unwrap(), b"");
        assert_eq!(read("layerfs/.cvmfscatalog").unwrap(), b"");
        assert_eq!(read("layerfs/lower\u{e4}"), None);
        let statement =
            LayerStatement::parse(&read(".metadata/layers.json").unwrap(), &blob).unwrap();
        assert_eq!(statement.diff_id, digest(&layer.diff_id));
        assert_eq!(statement.diff_size, layer.tar.len() as u64);
        let origin: Value =
            serde_json::from_slice(&read(".metadata/origin.json").unwrap()).unwrap();
        assert_eq!(origin, json!({"origin": [Digest::of(&image.config)]}));
        let notes = LayerNotes::parse(&memory.read(&layer_notes(&blob)).unwrap()).unwrap();
        let implicit = ["", "implicit", "implicit/deep"].map(|path| EscapedPath(path.into()));
        assert_eq!(notes.implicit_directories, implicit);
        assert_eq!(notes.hardlinks.len(), 1);
        assert_eq!(notes.hardlinks[0].path.0, "lower\u{e4}".as_bytes());
        assert_eq!(notes.hardlinks[0].target.0, b"below/this");
        for pointer in [
            diff_pointer(&digest(&layer.diff_id)),
            chain_pointer(&chain_id),
        ] {
            assert_eq!(memory.symlink(&pointer), Some(pointer_target(&blob)));
        }
        let shard = directory.rsplit_once('/').unwrap().0;
        let state = memory.state();
        for catalog in [
            "/.layers",
            shard,
            &format!("{directory}/layerfs"),
            "/.outcrop",
        ] {
            assert!(state.catalogs.contains(catalog), "{catalog}");
        }
    }
    let metadata = format!("/.metadata/{NAME}");
    assert_eq!(
        memory.read(&format!("{metadata}/manifest.json")).unwrap(),
        image.manifest
    );
    assert_eq!(
        memory.read(&format!("{metadata}/config.json")).unwrap(),
        image.config
    );
    assert_eq!(memory.read(&format!("{metadata}/index.json")), None);
}

/// Through the signed repository and the client library: names, attributes, hardlinks, catalogs.
#[test]
fn a_client_reads_what_was_published() {
    let memory = Memory::new();
    let image = image(&[1]);
    let source = MemorySource::of(&image, NAME);
    publish(
        &memory,
        &source,
        &options(&[Layout::Layers, Layout::Unpacked]),
        &NoProgress,
    )
    .unwrap();
    let published = tempfile::TempDir::new().unwrap();
    memory.write(published.path(), testkit::FIXTURE_FQRN, NOW);
    let client = crate::ducc::Client::new(published.path());
    let layer = &image.layers[0];
    let hex = digest(&layer.digest).hex();
    let files = client.walk(&format!("{}/layerfs", directory(layer)));
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "",
            ".cvmfscatalog",
            "etc",
            "etc/.wh.gone",
            "etc/link",
            "etc/own1",
            "etc/same",
            "implicit",
            "implicit/deep",
            "implicit/deep/file"
        ]
    );
    assert_ne!(files["etc/link"].dirent.link_group, 0);
    assert_eq!(
        files["etc/link"].dirent.link_group,
        files["etc/same"].dirent.link_group
    );
    assert_eq!(
        files["etc/own1"].xattrs,
        [(b"user.k".to_vec(), b"v".to_vec())]
    );
    let unpacked = client.walk(&format!("/unpacked/{}/{hex}", &hex[..2]));
    assert_eq!(
        unpacked.keys().collect::<Vec<_>>(),
        files.keys().collect::<Vec<_>>()
    );
}

#[test]
fn layers_that_are_there_are_not_read_again() {
    let memory = Memory::new();
    let first = MemorySource::of(&image(&[1, 2]), NAME);
    publish(&memory, &first, &options(&[Layout::Layers]), &NoProgress).unwrap();
    let second = image(&[1, 2]);
    let mut source = MemorySource::of(&second, "registry.test/other:2");
    source.closed = true;
    let summary = publish(&memory, &source, &options(&[Layout::Layers]), &NoProgress).unwrap();
    assert!(
        summary
            .layers
            .iter()
            .all(|layer| layer.state == LayerState::Present)
    );
    let again = PublishOptions {
        again: true,
        ..options(&[Layout::Layers])
    };
    assert!(matches!(
        publish(&memory, &source, &again, &NoProgress),
        Err(PublishError::Layer { .. })
    ));
}

#[test]
#[allow(clippy::result_large_err, reason = "a test")]
fn layers_are_not_trusted_to_be_there() {
    let image = image(&[1]);
    let source = MemorySource::of(&image, NAME);
    let publish =
        |memory: &Memory| publish(memory, &source, &options(&[Layout::Layers]), &NoProgress);
    let published = || {
        let memory = Memory::new();
        publish(&memory).unwrap();
        memory
    };
    let directory = directory(&image.layers[0]);

    let memory = published();
    memory.state.lock().unwrap().damaged = true;
    assert_eq!(
        publish(&memory).unwrap().layers[0].state,
        LayerState::Published
    );

    let memory = published();
    let mut changes = memory.begin().unwrap();
    changes.remove(&format!("{directory}/.metadata")).unwrap();
    changes.commit(None).unwrap();
    assert_eq!(
        publish(&memory).unwrap().layers[0].state,
        LayerState::Published
    );

    let memory = published();
    let lies = json!([{"compressed-diff-digest": image.layers[0].digest, "diff-digest": Digest::of(b"x")}]);
    let mut changes = memory.begin().unwrap();
    changes
        .file(
            &format!("{directory}/.metadata/layers.json"),
            publisher::Entry::file(0o644, 0),
            lies.to_string().as_bytes(),
        )
        .unwrap();
    changes.commit(None).unwrap();
    let error = publish(&memory).unwrap_err();
    assert!(
        error.to_string().contains("the configuration states"),
        "{error}"
    );
}

#[test]
fn a_shared_layer_names_all_its_origins() {
    let memory = Memory::new();
    let (one, two) = (image(&[1]), image(&[1, 2]));
    for (image, name) in [(&one, "a.b/c:1"), (&two, "a.b/c:2"), (&one, "a.b/c:1")] {
        let source = MemorySource::of(image, name);
        publish(&memory, &source, &options(&[Layout::Layers]), &NoProgress).unwrap();
    }
    let origin = memory.read(&format!(
        "{}/.metadata/origin.json",
        directory(&one.layers[0])
    ));
    let origin: Value = serde_json::from_slice(&origin.unwrap()).unwrap();
    let configurations = [Digest::of(&one.config), Digest::of(&two.config)];
    assert_eq!(origin, json!({"origin": configurations}));
}

#[test]
fn a_dry_run_changes_nothing() {
    let memory = Memory::new();
    let mut source = MemorySource::of(&image(&[1, 2]), NAME);
    source.closed = true;
    let options = PublishOptions {
        dry_run: true,
        ..options(&Layout::ALL)
    };
    let before = memory.paths();
    let summary = publish(&memory, &source, &options, &NoProgress).unwrap();
    assert_eq!(summary.revision, None);
    assert!(
        summary
            .layers
            .iter()
            .all(|layer| layer.state == LayerState::Missing)
    );
    assert_eq!(memory.paths(), before);
}

/// A manifest for each of two platforms that share a layer, and an attestation.
pub(crate) fn multi_platform() -> (MemorySource, [Image; 2], Vec<u8>) {
    let images = [image(&[1, 2]), image(&[1, 3])];
    let mut source = MemorySource::of(&images[0], NAME);
    source.add(&images[1]);
    let statement = b"{\"_type\":\"https://in-toto.io/Statement/v0.1\"}".to_vec();
    let config = json!({"architecture": "unknown", "os": "unknown", "rootfs": {"type": "layers", "diff_ids": [Digest::of(&statement)]}});
    let config = config.to_string().into_bytes();
    let attestation = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.in-toto+json", "digest": Digest::of(&statement), "size": statement.len()}],
    });
    let attestation = attestation.to_string().into_bytes();
    let entry = |bytes: &[u8], architecture: &str| {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(bytes),
            "size": bytes.len(), "platform": {"os": "linux", "architecture": architecture}})
    };
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry(&images[1].manifest, "arm64"), entry(&images[0].manifest, "amd64"), entry(&attestation, "unknown")],
    });
    let index = index.to_string().into_bytes();
    source.top = Digest::of(&index);
    for blob in [&statement, &config] {
        source.blobs.insert(Digest::of(blob), blob.clone());
    }
    for document in [&attestation, &index] {
        source
            .documents
            .insert(Digest::of(document), document.clone());
    }
    (source, images, index)
}

#[test]
fn every_platform_of_an_index() {
    let memory = Memory::new();
    let (source, images, index) = multi_platform();
    let all = options(&[Layout::Layers, Layout::Registry]);
    let summary = publish(&memory, &source, &all, &NoProgress).unwrap();
    assert_eq!(summary.platforms, 3);
    assert_eq!(summary.layers.len(), 4, "the shared one once");
    let metadata = format!("/.metadata/{NAME}");
    assert_eq!(
        memory.read(&format!("{metadata}/index.json")).unwrap(),
        index
    );
    for image in &images {
        let hex = Digest::of(&image.manifest).hex();
        let kept = memory.read(&format!("{metadata}/platforms/{hex}/manifest.json"));
        assert_eq!(kept.unwrap(), image.manifest);
        for layer in &image.layers {
            assert!(
                memory
                    .read(&format!("{}/layerfs/etc/same", directory(layer)))
                    .is_some()
            );
        }
    }
    // The attestation is no file system, but a registry serves it.
    let statement = summary
        .layers
        .iter()
        .find(|layer| layer.diff_id.is_none())
        .unwrap();
    let hex = statement.digest.hex();
    let path = format!("/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    assert!(memory.read(&path).unwrap().starts_with(b"{\"_type\""));

    // The tag moves to an image for one platform: nothing of the index stays.
    let single = MemorySource::of(&images[0], NAME);
    publish(&memory, &single, &all, &NoProgress).unwrap();
    assert!(
        !memory
            .paths()
            .iter()
            .any(|path| path.starts_with(&format!("{metadata}/platforms")))
    );
    assert_eq!(memory.read(&format!("{metadata}/index.json")), None);
}

#[test]
fn a_registry_tree() {
    let memory = Memory::new();
    let image = image(&[1]);
    let publish_as = |image: &Image, name: &str| {
        let source = MemorySource::of(image, name);
        publish(&memory, &source, &options(&[Layout::Registry]), &NoProgress).unwrap();
    };
    publish_as(&image, NAME);
    let root = "/docker/registry/v2";
    for bytes in [&image.manifest, &image.config, &image.layers[0].blob] {
        let hex = Digest::of(bytes).hex();
        let path = format!("{root}/blobs/sha256/{}/{hex}/data", &hex[..2]);
        assert_eq!(memory.read(&path).as_ref(), Some(bytes));
    }
    let manifest = Digest::of(&image.manifest);
    let layer = digest(&image.layers[0].digest);
    for name in ["library/mini", "registry.test_5000/library/mini"] {
        for (path, target) in [
            (format!("_layers/sha256/{}/link", layer.hex()), layer),
            (
                format!("_manifests/revisions/sha256/{}/link", manifest.hex()),
                manifest,
            ),
            ("_manifests/tags/1.0/current/link".to_owned(), manifest),
            (
                format!("_manifests/tags/1.0/index/sha256/{}/link", manifest.hex()),
                manifest,
            ),
        ] {
            let link = memory.read(&format!("{root}/repositories/{name}/{path}"));
            assert_eq!(
                link.unwrap(),
                target.to_string().into_bytes(),
                "{name}/{path}"
            );
        }
    }
    // Another registry's repository of the same name never shadows it.
    let other = crate::publishing::image(&[2]);
    publish_as(&other, "elsewhere.test/library/mini:1.0");
    let tag = |name: &str| {
        let path = format!("{root}/repositories/{name}/_manifests/tags/1.0/current/link");
        memory
            .read(&path)
            .map(|link| String::from_utf8(link).unwrap())
    };
    assert_eq!(tag("library/mini"), Some(manifest.to_string()));
    assert_eq!(tag("elsewhere.test/library/mini"), Some(other.digest));
}

#[test]
fn estargz_blobs_are_cut_at_their_members() {
    let layer = Layer::new((0..20).map(|number| {
        // Random enough not to be deflated away.
        let mut state = number + 1_u32;
        let content = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        Entry::file(
            format!("f{number}"),
            content.take(60_000).collect::<Vec<u8>>(),
        )
    }));
    let tar = layer.tar().unwrap();
    let mut blob = Vec::new();
    let writer = image::estargz::Options::new(Format::Estargz);
    let written = image::estargz::write(&mut tar.as_slice(), &mut blob, &writer).unwrap();
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [written.diff_id]}});
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": Digest::of(&blob), "size": blob.len()}],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut source = MemorySource::of(&image(&[1]), NAME);
    source.top = Digest::of(&manifest);
    source.documents.insert(source.top, manifest);
    for bytes in [&config, &blob] {
        source.blobs.insert(Digest::of(bytes), bytes.clone());
    }
    let memory = Memory::new();
    publish(
        &memory,
        &source,
        &options(&[Layout::Stargz, Layout::Layers]),
        &NoProgress,
    )
    .unwrap();
    let hex = Digest::of(&blob).hex();
    let path = format!("/stargz/blobs/sha256/{}/{hex}/data", &hex[..2]);
    assert_eq!(memory.read(&path).unwrap(), blob);
    let cuts = memory.state().cuts.pop().unwrap().unwrap();
    assert!((5..20).contains(&cuts.len()), "{cuts:?}");
    for cut in cuts {
        // Each object begins a gzip member.
        assert_eq!(blob[cut as usize..][..3], [0x1f, 0x8b, 8], "{cut}");
    }
}

#[test]
fn other_blobs_are_cut_anyhow() {
    let memory = Memory::new();
    let image = image(&[1]);
    let source = MemorySource::of(&image, NAME);
    publish(&memory, &source, &options(&[Layout::Stargz]), &NoProgress).unwrap();
    assert_eq!(memory.state().cuts, [None]);
}

#[derive(Default)]
struct Heard {
    phases: Mutex<Vec<(Digest, LayerPhase)>>,
    bytes: Mutex<BTreeMap<Digest, u64>>,
}

impl Progress for Heard {
    fn phase(&self, layer: &Digest, _: u64, phase: LayerPhase) {
        self.phases.lock().unwrap().push((*layer, phase));
    }

    fn bytes(&self, layer: &Digest, read: u64) {
        let before = self.bytes.lock().unwrap().insert(*layer, read);
        assert!(before.is_none_or(|before| before <= read));
    }
}

#[test]
fn progress_and_summary_tell_the_same() {
    let memory = Memory::new();
    let image = image(&[1, 2, 3]);
    let source = MemorySource::of(&image, NAME);
    let heard = Heard::default();
    let summary = publish(&memory, &source, &options(&[Layout::Layers]), &heard).unwrap();
    let phases = heard.phases.into_inner().unwrap();
    let bytes = heard.bytes.into_inner().unwrap();
    for (layer, blob) in summary.layers.iter().zip(&image.layers) {
        assert_eq!(layer.digest, digest(&blob.digest));
        assert_eq!(layer.compressed, blob.blob.len() as u64);
        assert_eq!(layer.uncompressed, Some(blob.tar.len() as u64));
        assert_eq!(layer.entries, Some(blob.layer.entries.len() as u64));
        assert_eq!(layer.lower_hardlinks, 1);
        assert_eq!(bytes[&layer.digest], layer.compressed);
        let own: Vec<LayerPhase> = phases
            .iter()
            .filter(|(digest, _)| *digest == layer.digest)
            .map(|(_, phase)| *phase)
            .collect();
        assert_eq!(
            own,
            [
                LayerPhase::Storing,
                LayerPhase::Finishing,
                LayerPhase::Done(LayerState::Published)
            ]
        );
    }
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(json["layers"][0]["state"], "published");
}

#[test]
fn inconsistent_images() {
    let memory = Memory::new();
    let good = MemorySource::of(&image(&[1]), NAME);
    let nameless = MemorySource {
        reference: None,
        ..good
    };
    let error = publish(&memory, &nameless, &options(&[Layout::Layers]), &NoProgress).unwrap_err();
    assert!(matches!(error, PublishError::NoName(_)));

    let two = ImageBuilder::new()
        .layer(layer(1))
        .stated_diff_ids([1, 2].map(|number: u8| Digest::of(&[number]).to_string()))
        .build()
        .unwrap();
    let source = MemorySource::of(&two, NAME);
    let error = publish(&memory, &source, &options(&[Layout::Layers]), &NoProgress).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("lists 1 layers, the configuration 2"),
        "{error}"
    );

    let image = image(&[1]);
    let mut damaged = MemorySource::of(&image, NAME);
    damaged.blobs.get_mut(&Digest::of(&image.config)).unwrap()[3] ^= 1;
    let error = publish(&memory, &damaged, &options(&[Layout::Layers]), &NoProgress).unwrap_err();
    assert!(
        matches!(error, PublishError::Configuration { .. }),
        "{error}"
    );
    assert_eq!(memory.state().revision, 1);
}
