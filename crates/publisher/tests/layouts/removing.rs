//! Images out of a repository.

use image::Digest;
use image::repository_layout::{diff_pointer, layer_directory};
use publisher::Error;
use publisher::layouts::{Backend as _, Changes as _, Layout};
use publisher::publish::{NoProgress, publish};
use publisher::removal::remove;
use serde_json::json;
use testkit::{Entry, Image, ImageBuilder, Layer};

use crate::memory::Memory;
use crate::publishing::options;
use crate::support::MemorySource;

fn image(layers: &[usize]) -> Image {
    let layer = |number: &usize| Layer::new([Entry::file(format!("file{number}"), "x")]);
    let layers = layers.iter().map(layer);
    let builder = layers.fold(ImageBuilder::new(), ImageBuilder::layer);
    builder.build().unwrap()
}

/// Two images that share layer 1.
fn two_images() -> (Memory, [Digest; 3], [Digest; 3]) {
    let memory = Memory::new();
    let (one, two) = (image(&[1, 2]), image(&[1, 3]));
    for (image, name) in [(&one, "a.b/c:one"), (&two, "a.b/c:two")] {
        let source = MemorySource::of(image, name);
        publish(&memory, &source, &options(&Layout::ALL), &NoProgress).unwrap();
    }
    let blobs = [&one.layers[0], &one.layers[1], &two.layers[1]];
    (
        memory,
        blobs.map(|layer| layer.digest.parse().unwrap()),
        blobs.map(|layer| layer.diff_id.parse().unwrap()),
    )
}

fn reference(text: &str) -> image::Reference {
    text.parse().unwrap()
}

#[test]
fn what_only_the_image_needs_goes_with_it() {
    let (memory, layers, diff_ids) = two_images();
    let there = |path: &str| memory.paths().iter().any(|known| known == path);
    let dry = remove(&memory, &[reference("a.b/c:one")], true, None).unwrap();
    assert_eq!((dry.revision, &dry.layers[..]), (None, &layers[1..2]));
    assert!(there("/.metadata/a.b/c:one/manifest.json"));

    let summary = remove(&memory, &[reference("a.b/c:one")], false, None).unwrap();
    assert_eq!(summary.revision, Some(4));
    assert_eq!(summary.images, ["a.b/c:one"]);
    assert_eq!(summary.paths, dry.paths);
    assert!(!there("/.metadata/a.b/c:one"));
    assert!(!there(
        "/docker/registry/v2/repositories/c/_manifests/tags/one"
    ));
    assert!(there(
        "/docker/registry/v2/repositories/c/_manifests/tags/two/current/link"
    ));
    for (number, stays) in [(0, true), (1, false), (2, true)] {
        assert_eq!(there(&layer_directory(&layers[number])), stays);
        assert_eq!(there(&diff_pointer(&diff_ids[number])), stays);
        for layout in Layout::ALL
            .into_iter()
            .filter(|layout| !matches!(layout, Layout::Erofs | Layout::Flat))
        {
            assert_eq!(there(&layout.place(&layers[number])), stays, "{layout:?}");
        }
    }
    let flat = |name: &str| memory.symlink(&format!("/a.b/{name}"));
    assert!(flat("c:two").is_some_and(|target| there(&target[2..])));
    assert!(!there("/a.b/c:one"));
    let all_flat = |memory: &Memory| {
        let paths = memory.paths();
        let below = paths.iter().filter(|path| path.starts_with("/.flat/"));
        below
            .filter(|path| path.ends_with("/.singularity.d"))
            .count()
    };
    assert_eq!(all_flat(&memory), 1);
    remove(&memory, &[reference("a.b/c:two")], false, None).unwrap();
    assert_eq!(all_flat(&memory), 0);
    assert!(
        !memory
            .paths()
            .iter()
            .any(|path| path.contains("layerfs") || path.ends_with("/data"))
    );
    assert!(!there("/docker/registry/v2/repositories/c"));
}

/// An image that DUCC published keeps its layers, though its manifest is written in another way.
#[test]
fn manifests_of_ducc_count() {
    let (memory, layers, _) = two_images();
    let mut changes = memory.begin().unwrap();
    let manifest = json!({
        "SchemaVersion": 2, "Config": {"Size": 1, "Digest": Digest::of(b"config")},
        "Layers": [{"MediaType": "x", "Size": 1, "Digest": layers[1]}],
    });
    let path = "/.metadata/ducc.test/an/image:1/manifest.json";
    let entry = publisher::Entry::file(0o644, 0);
    changes
        .file(path, entry, manifest.to_string().as_bytes())
        .unwrap();
    changes.commit(None).unwrap();
    let summary = remove(&memory, &[reference("a.b/c:one")], false, None).unwrap();
    assert_eq!(summary.layers, []);
    assert!(memory.paths().contains(&layer_directory(&layers[1])));
}

#[test]
fn what_is_not_there_or_not_clear_changes_nothing() {
    let (memory, _, _) = two_images();
    let before = memory.paths();
    let both = [reference("a.b/c:one"), reference("a.b/c:three")];
    let error = remove(&memory, &both, false, None).unwrap_err();
    assert!(matches!(error, Error::NotFound(name) if name == "a.b/c:three"));
    assert_eq!(memory.paths(), before);

    // A manifest that nobody can read may name any layer.
    let mut changes = memory.begin().unwrap();
    let path = "/.metadata/somebody/else:1/manifest.json";
    changes
        .file(path, publisher::Entry::file(0o644, 0), b"{")
        .unwrap();
    changes.commit(None).unwrap();
    let error = remove(&memory, &both[..1], false, None).unwrap_err();
    assert!(matches!(error, Error::Corrupt { what, .. } if what == path));
}
