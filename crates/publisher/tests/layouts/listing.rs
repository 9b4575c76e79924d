//! Which images a repository says that it has.

use std::sync::Arc;

use image::Digest;
use publisher::layouts::Layout;
use publisher::publish::{NoProgress, publish};
use publisher::removal::remove;
use publisher::storage::LocalStorage;
use publisher::{Error, ListedImage, Repository};
use testkit::{Entry, Image, ImageBuilder, Layer, fixture};

use crate::publishing::{NAME, multi_platform, options};
use crate::real::Real;
use crate::support::MemorySource;

fn images(real: &Real) -> Vec<ListedImage> {
    // As another process that has no keys.
    let storage = Arc::new(LocalStorage::new(real.directory.path()));
    Repository::open_expired(storage, None)
        .unwrap()
        .images()
        .unwrap()
}

fn image(numbers: &[usize]) -> Image {
    let layer = |number: &usize| Layer::new([Entry::file(format!("file{number}"), "x")]);
    let layers = numbers.iter().map(layer);
    let builder = layers.fold(ImageBuilder::new(), ImageBuilder::layer);
    builder.build().unwrap()
}

fn bytes(layers: &[&testkit::LayerBlob]) -> u64 {
    layers.iter().map(|layer| layer.blob.len() as u64).sum()
}

#[test]
fn an_empty_repository_has_none() {
    assert_eq!(images(&Real::new()), []);
}

#[test]
fn an_index_with_an_attestation_is_one_image_of_two_platforms() {
    let real = Real::new();
    let (source, [amd64, arm64], index) = multi_platform();
    publish(
        &real.backend,
        &source,
        &options(&[Layout::Layers, Layout::Registry]),
        &NoProgress,
    )
    .unwrap();
    let listed = images(&real);
    let layers = [&amd64.layers[0], &amd64.layers[1], &arm64.layers[1]];
    assert_eq!(
        listed,
        [ListedImage {
            name: NAME.to_owned(),
            digest: Digest::of(&index),
            // The test's images all say the same of themselves.
            platforms: vec!["linux/amd64".to_owned()],
            layers: 3,
            bytes: bytes(&layers),
            layouts: vec![Layout::Layers, Layout::Registry],
        }]
    );
}

#[test]
fn layouts_are_those_that_have_all_layers() {
    let real = Real::new();
    let names = ["a.b/c:one", "a.b/c:two", "a.b/deep/er/d:1"];
    let numbers: [&[usize]; 3] = [&[1, 2], &[1, 3], &[4]];
    let layouts = [
        &Layout::ALL[..],
        &[Layout::Layers],
        &[Layout::Erofs, Layout::Stargz],
    ];
    for ((name, numbers), layouts) in names.iter().zip(numbers).zip(layouts) {
        let source = MemorySource::of(&image(numbers), name);
        publish(&real.backend, &source, &options(layouts), &NoProgress).unwrap();
    }
    let listed = images(&real);
    let found: Vec<_> = listed
        .iter()
        .map(|image| (image.name.as_str(), &image.layouts[..]))
        .collect();
    let mut all = Layout::ALL.to_vec();
    all.sort();
    let sorted = |layouts: &[Layout]| {
        let mut layouts = layouts.to_vec();
        layouts.sort();
        layouts
    };
    assert_eq!(
        found.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        names
    );
    assert_eq!(sorted(found[0].1), all);
    // One of its two layers has them all; the image has not.
    assert_eq!(found[1].1, [Layout::Layers]);
    assert_eq!(sorted(found[2].1), sorted(layouts[2]));

    remove(&real.backend, &[names[0].parse().unwrap()], false, None).unwrap();
    let left: Vec<_> = images(&real).into_iter().map(|image| image.name).collect();
    assert_eq!(left, &names[1..]);
}

#[test]
fn what_ducc_has_published_is_listed_too() {
    let fixture = fixture();
    let storage = Arc::new(LocalStorage::new(&fixture.repository()));
    let listed = Repository::open_expired(storage, None)
        .unwrap()
        .images()
        .unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].name, "localhost:15000/library/mini:1.0");
    assert_eq!(listed[0].layers, 3);
    assert_eq!(listed[0].layouts, [Layout::Layers, Layout::Flat]);
}

#[test]
fn a_damaged_document_is_an_error_and_no_shorter_list() {
    let real = Real::new();
    let source = MemorySource::of(&image(&[1]), NAME);
    publish(
        &real.backend,
        &source,
        &options(&[Layout::Layers]),
        &NoProgress,
    )
    .unwrap();
    let client = crate::ducc::Client::new(real.directory.path());
    let path = format!("/.metadata/{NAME}/manifest.json");
    assert_eq!(client.read(&path), image(&[1]).manifest);
    let mut damaged = 0;
    for object in walk(real.directory.path().join("data")) {
        // Catalogs and certificates have a letter at the end: all but them are files' contents.
        let name = object.to_string_lossy().into_owned();
        if !name.ends_with(|last: char| last.is_ascii_uppercase()) && !name.contains("txn") {
            std::fs::write(&object, "x").unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    let storage = Arc::new(LocalStorage::new(real.directory.path()));
    let error = Repository::open_expired(storage, None)
        .unwrap()
        .images()
        .unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

fn walk(directory: std::path::PathBuf) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(walk(path)),
            false => files.push(path),
        }
    }
    files
}
