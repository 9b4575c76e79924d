//! Layout `erofs`: images under the names that containerd looks for.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod mounted;

use image::{Digest, Reference};
use publisher::layouts::erofs::image_path;
use publisher::layouts::{Backend, Changes, Layout};
use publisher::publish::{LayerState, NoProgress, PublishOptions, publish};
use publisher::removal::remove;
use testkit::{Entry, ImageBuilder, Layer};

use super::memory::Memory;
use super::support::{MemorySource, now};

const NAME: &str = "registry.test/library/mini:1.0";
/// Of a superblock, 1 KiB into an image.
const MAGIC: [u8; 4] = [0xe2, 0xe1, 0xf5, 0xe0];

fn options(layouts: &[Layout]) -> PublishOptions {
    PublishOptions {
        layouts: layouts.to_vec(),
        ..PublishOptions::new(now())
    }
}

fn two_layers() -> testkit::Image {
    let layer = |text: &str| Layer::new([Entry::file("dir/file", text)]);
    let image = ImageBuilder::new();
    image
        .layer(layer("one"))
        .layer(layer("two"))
        .build()
        .unwrap()
}

/// What is at a name of containerd's, symlinks followed.
fn image_at(memory: &Memory, diff_id: &Digest) -> Option<Vec<u8>> {
    let path = image_path(diff_id);
    let target = memory.symlink(&path)?;
    let below = target.strip_prefix("../../").unwrap();
    memory.read(&format!("/erofs/{below}"))
}

fn diff_ids(image: &testkit::Image) -> Vec<Digest> {
    let layers = image.layers.iter();
    layers.map(|layer| layer.diff_id.parse().unwrap()).collect()
}

#[test]
fn each_layer_has_an_image_beside_its_files_and_the_second_time_nothing_is_read() {
    let image = two_layers();
    let source = MemorySource::of(&image, NAME);
    let memory = Memory::new();
    let both = options(&[Layout::Layers, Layout::Erofs]);
    publish(&memory, &source, &both, &NoProgress).unwrap();
    for (number, diff_id) in diff_ids(&image).iter().enumerate() {
        let found = image_at(&memory, diff_id).unwrap();
        assert_eq!(found[1024..1028], MAGIC);
        let text: &[u8] = [b"one", b"two"][number];
        assert!(found.windows(3).any(|window| window == text));
        let layer: Digest = image.layers[number].digest.parse().unwrap();
        let files = Layout::Layers.place(&layer);
        assert_eq!(memory.read(&format!("{files}/dir/file")).unwrap(), text);
    }

    let alone = Memory::new();
    publish(&alone, &source, &options(&[Layout::Erofs]), &NoProgress).unwrap();
    let diff_id = diff_ids(&image)[0];
    assert_eq!(image_at(&alone, &diff_id), image_at(&memory, &diff_id));
    assert!(
        !alone
            .paths()
            .iter()
            .any(|path| path.starts_with("/.layers"))
    );

    let mut closed = source;
    closed.closed = true;
    let again = publish(&memory, &closed, &both, &NoProgress).unwrap();
    assert!(
        again
            .layers
            .iter()
            .all(|layer| layer.state == LayerState::Present)
    );
}

#[test]
fn a_layer_with_a_link_into_another_is_published_without_an_image() {
    let mut image = ImageBuilder::new();
    image = image.layer(Layer::new([Entry::hardlink("name", "of/a/lower/layer")]));
    let image = image.build().unwrap();
    let source = MemorySource::of(&image, NAME);
    let memory = Memory::new();
    let both = options(&[Layout::Layers, Layout::Erofs]);
    let summary = publish(&memory, &source, &both, &NoProgress).unwrap();
    assert_eq!(summary.layers[0].lower_hardlinks, 1);
    assert_eq!(image_at(&memory, &diff_ids(&image)[0]), None);
    let layer: Digest = image.layers[0].digest.parse().unwrap();
    let files = Layout::Layers.place(&layer);
    assert!(memory.paths().contains(&files));
}

#[test]
fn a_removed_image_leaves_neither_images_nor_names() {
    let image = two_layers();
    let source = MemorySource::of(&image, NAME);
    let memory = Memory::new();
    publish(&memory, &source, &options(&[Layout::Erofs]), &NoProgress).unwrap();
    let name: Reference = NAME.parse().unwrap();
    remove(&memory, &[name], false, None).unwrap();
    let left = memory.paths();
    assert!(
        !left.iter().any(|path| path.ends_with(".erofs")),
        "{left:?}"
    );
}

#[test]
fn a_name_that_leads_nowhere_is_made_anew() {
    let image = two_layers();
    let source = MemorySource::of(&image, NAME);
    let memory = Memory::new();
    let erofs = options(&[Layout::Erofs]);
    publish(&memory, &source, &erofs, &NoProgress).unwrap();
    let layer: Digest = image.layers[0].digest.parse().unwrap();
    let mut changes = memory.begin().unwrap();
    changes.remove(&Layout::Erofs.place(&layer)).unwrap();
    changes.commit(None).unwrap();
    let diff_id = diff_ids(&image)[0];
    assert_eq!(image_at(&memory, &diff_id), None);
    publish(&memory, &source, &erofs, &NoProgress).unwrap();
    assert!(image_at(&memory, &diff_id).is_some());
}
