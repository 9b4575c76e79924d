//! Layers unpack with plain tar into what they were made of, and the truth about directories is told.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use testkit::{
    Entry, EntryKind, Field, Format, ImageBuilder, Layer, LayerBlob, digest, fixture, truth,
    truth_v1, walk,
};

fn untar(archive: &[u8], directory: &Path, flags: &[&str]) {
    let path = directory.with_extension("tar");
    fs::write(&path, archive).unwrap();
    let mut tar = Command::new("tar");
    tar.args([
        "--extract",
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=*",
        "--same-owner",
        "-p",
    ]);
    let output = tar
        .args(flags)
        .arg("-C")
        .arg(directory)
        .arg("-f")
        .arg(&path)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::remove_file(path).unwrap();
}

fn layer() -> Layer {
    let long = format!("{}/{}", "directory-name".repeat(10), "file-name".repeat(20));
    Layer::new([
        Entry::directory("").mode(0o750),
        Entry::directory("d").mode(0o2775).owner(3, 4),
        Entry::file("d/f", "content")
            .mode(0o4711)
            .owner(70_000, 80_000)
            .mtime(1_234_567_890, 123_456_789),
        Entry::hardlink("d/same", "d/f"),
        Entry::symlink("d/link", "../target ".repeat(30)),
        Entry::file(&long, "deep"),
        Entry::file("d/latin1-\u{e9}", "x").xattr("user.comment", b"a\0b=\nc"),
        Entry::new("d/fifo", EntryKind::Fifo),
        Entry::whiteout("d/gone"),
        Entry::opaque("d"),
        Entry::file("twice", "first"),
        Entry::file("twice", "second"),
    ])
}

#[test]
fn plain_tar_unpacks_what_was_put_in() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: owners can be set by root only");
    }
    let directory = TempDir::new().unwrap();
    let target = directory.path().join("target");
    fs::create_dir(&target).unwrap();
    let blob = LayerBlob::new(layer()).unwrap();
    untar(&blob.blob, &target, &["--gzip"]);
    let found = walk(&target).unwrap();
    let get = |path: &str, field| {
        found
            .rows
            .get(path)
            .unwrap_or_else(|| panic!("no {path}"))
            .get(field)
            .to_owned()
    };
    assert_eq!(get("/", Field::Mode), "0750");
    assert_eq!(
        (get("/d", Field::Mode), get("/d", Field::Gid)),
        ("2775".into(), "4".into())
    );
    assert_eq!(
        (get("/d/f", Field::Mode), get("/d/f", Field::Uid)),
        ("4711".into(), "70000".into())
    );
    assert_eq!(get("/d/f", Field::Mtime), "1234567890123456789");
    assert_eq!(
        (
            get("/d/same", Field::Nlink),
            get("/d/same", Field::HardlinkGroup)
        ),
        ("2".into(), "/d/f".into())
    );
    assert_eq!(get("/d/link", Field::Symlink), "../target ".repeat(30));
    assert_eq!(get("/d/latin1-é", Field::Xattrs), "user.comment=YQBiPQpj");
    assert_eq!(get("/d/fifo", Field::Kind), "p");
    assert_eq!(get("/d/.wh.gone", Field::Size), "0");
    assert_eq!(get("/d/.wh..wh..opq", Field::Size), "0");
    assert_eq!(get("/twice", Field::Size), "6");
    assert_eq!(found.rows.len(), 12);
}

#[test]
fn devices_have_their_numbers() {
    let tar = Layer::new([
        Entry::new("null", EntryKind::CharDevice(1, 3)),
        Entry::new("disk", EntryKind::BlockDevice(8, 17)),
    ]);
    let tar = tar.tar().unwrap();
    let mut archive = tar::Archive::new(tar.as_slice());
    let numbers: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (
                entry.header().device_major().unwrap(),
                entry.header().device_minor().unwrap(),
            )
        })
        .collect();
    assert_eq!(numbers, [(Some(1), Some(3)), (Some(8), Some(17))]);
    assert!(
        Layer::new([Entry::new("s", EntryKind::Socket)])
            .tar()
            .is_err()
    );
}

#[test]
fn hardlinks_repeat_the_attributes_of_their_target() {
    let layer = Layer::new([
        Entry::file("a", "a").mode(0o4755).owner(1, 2),
        Entry::hardlink("b", "a"),
        Entry::hardlink("c", "b"),
        Entry::hardlink("d", "of/a/lower/layer").mode(0o600),
    ]);
    let tar = layer.tar().unwrap();
    let mut archive = tar::Archive::new(tar.as_slice());
    let entries = archive.entries().unwrap().map(Result::unwrap);
    let found: Vec<_> = entries
        .map(|entry| {
            (
                entry.header().mode().unwrap(),
                entry.header().uid().unwrap(),
            )
        })
        .collect();
    assert_eq!(found, [(0o4755, 1), (0o4755, 1), (0o4755, 1), (0o600, 0)]);
}

#[test]
fn an_image_is_consistent_and_the_same_each_time() {
    let build = || {
        ImageBuilder::new()
            .format(Format::Docker)
            .layer(layer())
            .layer(Layer::default())
            .entrypoint(&["/x"])
    };
    let image = build().build().unwrap();
    assert_eq!(image.digest, build().build().unwrap().digest);
    let manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    assert_eq!(manifest["config"]["digest"], digest(&image.config));
    let config: serde_json::Value = serde_json::from_slice(&image.config).unwrap();
    for (index, layer) in image.layers.iter().enumerate() {
        assert_eq!(manifest["layers"][index]["digest"], digest(&layer.blob));
        assert_eq!(manifest["layers"][index]["size"], layer.blob.len());
        assert_eq!(config["rootfs"]["diff_ids"][index], digest(&layer.tar));
    }
    // An empty layer is the two zero blocks that everybody knows.
    assert_eq!(
        image.layers[1].diff_id,
        "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
    );
    let liar = build()
        .stated_diff_ids(["sha256:0".to_owned()])
        .build()
        .unwrap();
    let config: serde_json::Value = serde_json::from_slice(&liar.config).unwrap();
    assert_eq!(
        config["rootfs"]["diff_ids"],
        serde_json::json!(["sha256:0"])
    );
}

#[test]
fn an_archive_holds_all_blobs() {
    let image = ImageBuilder::new().layer(layer()).build().unwrap();
    let archive = image.oci_archive("docker.io/library/x:y").unwrap();
    let mut archive = tar::Archive::new(archive.as_slice());
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    for blob in [
        &image.digest,
        &image.layers[0].digest,
        &digest(&image.config),
    ] {
        assert!(
            names.contains(&format!("blobs/{}", blob.replace(':', "/"))),
            "{names:?}"
        );
    }
    assert_eq!(names[..2], ["oci-layout", "index.json"]);
}

#[test]
fn the_fixtures_truth() {
    assert_eq!(truth().rows.len(), 21_698);
    assert!(truth_v1().rows.len() < truth().rows.len());
    assert!(truth().compare(&truth_v1(), &[]).is_err());
    let names = truth().below("/names");
    assert!(names.rows.contains_key("/latin1-%E9%FF") && names.rows.contains_key("/"));
    let links = truth().below("/hardlinks_true");
    assert_eq!(links.rows["/b"].get(Field::HardlinkGroup), "/a");
    assert!(truth().below("/name").rows.is_empty());
    let text = truth().to_tsv();
    assert_eq!(testkit::Truth::parse(text.as_bytes()).unwrap(), truth());
}

#[test]
fn differences_are_named_and_counted() {
    let expected = truth().below("/xattrs");
    let mut found = expected.clone();
    found.rows.remove("/user");
    found
        .rows
        .get_mut("/caps")
        .unwrap()
        .set(Field::Mode, "0700");
    found.rows.insert("/zz".into(), found.rows["/caps"].clone());
    let difference = expected.compare(&found, &[]).unwrap_err();
    assert_eq!(
        (
            difference.missing,
            difference.unexpected,
            difference.changed
        ),
        (1, 1, 1)
    );
    assert_eq!(difference.first, "/caps: mode should be 0755 but is 0700");
    let difference = expected.compare(&found, &[Field::Mode]).unwrap_err();
    assert_eq!(difference.changed, 0);
    assert!(
        difference
            .to_string()
            .starts_with("/user is missing (in all: 1 missing"),
        "{difference}"
    );
    assert_eq!(expected.compare(&expected, &[]), Ok(()));
}

#[test]
fn a_walk_tells_the_same_as_the_real_clients_truth() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: owners can be set by root only");
    }
    // The image's lowest layer by plain tar, against what the client showed of its chain 1.
    let fixture = fixture();
    let blob = fs::read(
        fixture
            .images()
            .join("blobs/sha256:b96067f2d3b4e055e370b9351d701652bd2f93f3eea0499b5f43bcb99e023b23"),
    )
    .unwrap();
    let directory = TempDir::new().unwrap();
    let target = directory.path().join("target");
    fs::create_dir(&target).unwrap();
    untar(&blob, &target, &["--gzip"]);
    assert!(fs::metadata(target.join("bin/busybox")).unwrap().nlink() > 20);
    let layer =
        "/.layers/b9/b96067f2d3b4e055e370b9351d701652bd2f93f3eea0499b5f43bcb99e023b23/layerfs";
    let expected = truth()
        .below(layer)
        .filtered(|path, _| path != "/.cvmfscatalog" && path != "/");
    let found = walk(&target).unwrap().filtered(|path, _| path != "/");
    // What DUCC loses: hardlinks and capabilities. What file systems differ in: sizes and links of directories.
    let kind = |row: &testkit::Row| row.get(Field::Kind) == "d";
    let files = |truth: testkit::Truth| truth.filtered(|_, row| !kind(row));
    let lost = [Field::Nlink, Field::HardlinkGroup, Field::Xattrs];
    files(expected.clone())
        .compare(&files(found.clone()), &lost)
        .unwrap();
    assert!(
        files(expected)
            .compare(&files(found), &[])
            .unwrap_err()
            .changed
            >= 27
    );
}
