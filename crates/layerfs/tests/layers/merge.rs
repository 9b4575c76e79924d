//! What a chain shows, against layers applied to a map.

use testkit::{DuccOptions, Entry, EntryKind, Field, Layer, LayerBlob, Storage};

use crate::model::{Kept, merged};
use crate::outside::walk;
use crate::world::{World, attach, blob, mounts_possible};

/// Three layers with everything that a layer can hold.
fn image() -> Vec<LayerBlob> {
    vec![bottom(), middle(), top()]
}

fn bottom() -> LayerBlob {
    let long: Vec<u8> = (0..300_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    blob([
        Entry::directory("bin"),
        Entry::file("bin/ping", "ping")
            .mode(0o755)
            .xattr("security.capability", capability),
        Entry::file("bin/su", "su").mode(0o4755),
        Entry::hardlink("bin/sudo", "bin/su"),
        Entry::directory("etc")
            .mode(0o750)
            .owner(0, 1000)
            .mtime(1_650_000_000, 5),
        Entry::file("etc/shadow", "secret").mode(0o600),
        Entry::file("etc/passwd", "root").mode(0o644),
        Entry::file("etc/private", "mine")
            .mode(0o600)
            .owner(1000, 1000),
        Entry::file("etc/gone", "gone"),
        Entry::directory("dev"),
        Entry::new("dev/null", EntryKind::CharDevice(1, 3)).mode(0o666),
        Entry::new("dev/disk", EntryKind::BlockDevice(259, 70_000)).mode(0o640),
        Entry::new("dev/fifo", EntryKind::Fifo).mode(0o600),
        Entry::directory("opaque"),
        Entry::file("opaque/old", "old"),
        Entry::file("becomes-directory", "file"),
        Entry::directory("becomes-file/below"),
        Entry::file("becomes-file/below/x", "x"),
        Entry::file("large/chunked", &long).storage(Storage::Chunked(70_000)),
        Entry::file("large/plain", &long[..100_000]).storage(Storage::Plain),
        Entry::file("large/external", &long[3..]).storage(Storage::External),
        Entry::file("large/external-parts", &long[5..]).storage(Storage::ExternalChunked(65_536)),
        Entry::file("empty", ""),
        Entry::file(b"n\xe4me/\xff\xfe", "not UTF-8"),
        Entry::symlink("link", "bin/ping"),
        Entry::symlink("variable", "/x/$(ARCH)/y"),
        Entry::directory("tmp").mode(0o1777),
    ])
}

fn middle() -> LayerBlob {
    blob([
        Entry::whiteout("etc/gone"),
        Entry::whiteout("etc/never-was"),
        // The directory has no entry: it keeps what the layer below states.
        Entry::file("etc/new", "new"),
        Entry::file("tmp/keep", "kept"),
        Entry::directory("becomes-directory").mode(0o711),
        Entry::file("becomes-directory/inside", "inside"),
        Entry::file("becomes-file", "now a file"),
        Entry::directory("opaque").mode(0o700),
        Entry::opaque("opaque"),
        Entry::file("opaque/new", "new"),
        Entry::file("implicit/deep/er", "er"),
        Entry::whiteout("bin/ping"),
        Entry::file("bin/ping", "another ping"),
        Entry::whiteout("bin/sudo"),
    ])
}

fn top() -> LayerBlob {
    blob([
        Entry::directory("implicit")
            .mode(0o555)
            .owner(7, 8)
            .mtime(-5, 250_000_000),
        Entry::whiteout("implicit/deep"),
        Entry::file("etc/new", "newer")
            .xattr("user.a", "1")
            .xattr("user.b", ""),
        Entry::file("a", "one file"),
        Entry::hardlink("b", "a"),
        Entry::hardlink("c/d", "a"),
    ])
}

fn layers(blobs: &[LayerBlob]) -> Vec<Layer> {
    blobs.iter().map(|blob| blob.layer.clone()).collect()
}

#[test]
fn a_chain_shows_what_its_layers_make() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let world = World::serving(&image, 1);
    let node = world.layers();
    for length in 1..=image.len() {
        let (_, path) = attach(&node, &image[..length]);
        let expected = merged(&layers(&image[..length]), Kept::ALL);
        if let Err(difference) = expected.compare(&walk(&path, 0), &[]) {
            panic!("{length} layers: {difference}");
        }
    }
    assert_eq!(node.metrics().failed_reads.get(), 0);
    world.servers[0].assert_strict();
}

#[test]
fn another_user_reads_what_modes_allow() {
    if !mounts_possible() {
        return;
    }
    // Not the opaque layer: its 0700 directory ends the walk of a user.
    let image = &image()[..1];
    let world = World::serving(image, 1);
    let node = world.layers();
    let (_, path) = attach(&node, image);
    let seen = walk(&path, 1000);
    let content = |path: &str| seen.rows[path].get(Field::Sha256).to_owned();
    let sha256 = |content: &str| testkit::digest(content.as_bytes()).split_off(7);
    assert_eq!(content("/etc/shadow"), "EIO:13");
    assert_eq!(content("/etc/passwd"), sha256("root"));
    assert_eq!(content("/etc/private"), sha256("mine"));
    let mut expected = merged(&layers(image), Kept::ALL);
    expected
        .rows
        .get_mut("/etc/shadow")
        .unwrap()
        .set(Field::Sha256, "EIO:13");
    expected
        .compare(&seen, &[])
        .unwrap_or_else(|difference| panic!("{difference}"));
}

#[test]
fn what_ducc_loses_is_lost_and_nothing_more() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let mut world = World::new();
    world.options = DuccOptions::default();
    for layer in &image {
        world.add(layer);
    }
    world.publish();
    world.start(1);
    let node = world.layers();
    let (_, path) = attach(&node, &image);
    let seen = walk(&path, 0);
    let expected = merged(&layers(&image), Kept::DUCC);
    expected
        .compare(&seen, &[])
        .unwrap_or_else(|difference| panic!("{difference}"));
    assert!(seen.rows.values().all(|row| row.get(Field::Xattrs) == "-"));
    assert!(!seen.rows.contains_key("/.cvmfscatalog"));
}

/// A tar made by `tar -C directory .` names its root, with a time of the build's, and the publisher
/// gives that time to the root directory.
#[test]
fn an_explicit_root_does_not_make_explicit_directories_implicit() {
    if !mounts_possible() {
        return;
    }
    let bottom = blob([
        Entry::directory("a").mode(0o1777),
        Entry::directory("b").mode(0o1777),
    ]);
    let top = blob([
        Entry::directory("").mtime(1_600_000_000, 0),
        Entry::directory("a").mtime(1_600_000_005, 0),
        Entry::file("b/c", "c"),
    ]);
    let image = [bottom, top];
    let world = World::serving(&image, 1);
    let node = world.layers();
    let (_, path) = attach(&node, &image);
    let seen = walk(&path, 0);
    assert_eq!(seen.rows["/a"].get(Field::Mode), "0755");
    assert_eq!(seen.rows["/b"].get(Field::Mode), "1777");
    let expected = merged(&layers(&image), Kept::ALL);
    expected
        .compare(&seen, &[])
        .unwrap_or_else(|difference| panic!("{difference}"));
}

/// Only the root's marker is the publisher's; one below is the layer's own.
#[test]
fn only_the_stray_marker_at_the_root_is_hidden() {
    if !mounts_possible() {
        return;
    }
    let image = [blob([
        Entry::directory("srv"),
        Entry::file("srv/.cvmfscatalog", "mine"),
        Entry::file("srv/x", "x"),
    ])];
    let world = World::serving(&image, 1);
    let node = world.layers();
    let (_, path) = attach(&node, &image);
    let expected = merged(&layers(&image), Kept::ALL);
    let seen = walk(&path, 0);
    expected
        .compare(&seen, &[])
        .unwrap_or_else(|difference| panic!("{difference}"));
}
