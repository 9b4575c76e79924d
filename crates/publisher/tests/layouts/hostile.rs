//! Layers that must not be published, each refused by name.

use image::{Descriptor, Digest, LayerCompression, MediaType};
use publisher::layer::{LayerError, LayerLimits};
use publisher::publish::{NoProgress, PublishError, PublishOptions, publish};
use testkit::{Entry, ImageBuilder, Layer};

use crate::memory::Memory;
use crate::support::{MemorySource, descriptor, gzip, now, unpack_as, unpack_blob, unpack_tar};
use crate::tars::{Raw, archive};

/// What is wrong, the entries, and what the refusal says.
type Case = (&'static str, Vec<Raw>, &'static str);

fn names() -> Vec<Case> {
    let long = "n".repeat(256);
    let deep = "d/".repeat(2100);
    vec![
        (
            "escape",
            vec![Raw::file("../evil", "x")],
            "\"../evil\" is refused: its name contains `..`",
        ),
        (
            "escape inside",
            vec![Raw::file("a/../../evil", "x")],
            "`..`",
        ),
        ("dots at the end", vec![Raw::new("a/..", b'5')], "`..`"),
        (
            "absolute",
            vec![Raw::file("/etc/passwd", "x")],
            "\"/etc/passwd\" is refused: its name is absolute",
        ),
        (
            "absolute by record",
            vec![Raw::file("a", "x").record("path", "/etc/passwd")],
            "absolute",
        ),
        (
            "NUL by record",
            vec![Raw::file("a", "x").record("path", b"a\0b")],
            "NUL",
        ),
        ("long name", vec![Raw::file(&long, "x")], "longer than 255"),
        ("long path", vec![Raw::file(&deep, "x")], "longer than 4095"),
        ("empty name", vec![Raw::file("", "x")], "empty"),
        (
            "root as file",
            vec![Raw::file("./", "x").kind(b'7')],
            "no directory",
        ),
        (
            "root as symlink",
            vec![Raw::link(".", b'2', "/")],
            "no directory",
        ),
    ]
}

fn symlinks() -> Vec<Case> {
    vec![
        (
            "below a symlink",
            vec![Raw::link("s", b'2', "/etc"), Raw::file("s/passwd", "x")],
            "\"s/passwd\" is refused: it lies below a symlink",
        ),
        (
            "deep below a symlink",
            vec![Raw::link("a/s", b'2', ".."), Raw::file("a/s/b/c", "x")],
            "below a symlink",
        ),
        (
            "below a symlink that came late",
            vec![
                Raw::file("s/a", "x"),
                Raw::link("s", b'2', "/etc"),
                Raw::file("s/b", "x"),
            ],
            "below a symlink",
        ),
        (
            "below a hardlink to a symlink",
            vec![
                Raw::link("s", b'2', "/etc"),
                Raw::link("h", b'1', "s"),
                Raw::file("h/passwd", "x"),
            ],
            "below a symlink",
        ),
    ]
}

fn links() -> Vec<Case> {
    let target = "t".repeat(4096);
    vec![
        (
            "hardlink through a symlink",
            vec![
                Raw::link("s", b'2', "/etc"),
                Raw::link("h", b'1', "s/shadow"),
            ],
            "\"h\" is refused: it is a hardlink to what lies below a symlink",
        ),
        (
            "hardlink out",
            vec![Raw::link("h", b'1', "../../etc/shadow")],
            "\"h\" is refused: it is a hardlink whose target is refused",
        ),
        (
            "hardlink to itself",
            vec![Raw::link("h", b'1', "./h")],
            "to itself",
        ),
        (
            "hardlink to the root",
            vec![Raw::link("h", b'1', "/")],
            "to the root",
        ),
        (
            "hardlink to a directory",
            vec![Raw::new("d", b'5'), Raw::link("h", b'1', "d")],
            "hardlink to a directory",
        ),
        (
            "below a file",
            vec![Raw::file("f", "x"), Raw::file("f/g", "x")],
            "no directory",
        ),
        (
            "symlink without target",
            vec![Raw::new("s", b'2')],
            "without a target",
        ),
        (
            "symlink with a long target",
            vec![Raw::link("s", b'2', &target)],
            "too long",
        ),
    ]
}

fn values() -> Vec<Case> {
    vec![
        (
            "unknown type",
            vec![Raw::new("m", b'M')],
            "type 'M' is unknown",
        ),
        (
            "time",
            vec![Raw::file("t", "x").record("mtime", "soon")],
            "\"t\" is refused: its time",
        ),
        (
            "owner",
            vec![Raw::file("o", "x").record("uid", "4294967296")],
            "owner",
        ),
        (
            "size by record",
            vec![Raw::file("z", "x").record("size", "-1")],
            "size is no number",
        ),
        (
            "sparse beyond its size",
            vec![sparse("0,1", "0", "x")],
            "map of holes",
        ),
        (
            "sparse overlap",
            vec![sparse("0,2,1,2", "9", "abcd")],
            "map of holes",
        ),
        (
            "sparse of more than is there",
            vec![sparse("0,9", "9", "x")],
            "speaks of 9 bytes",
        ),
        (
            "sparse overflow",
            vec![sparse("18446744073709551615,2", "9", "ab")],
            "map of holes",
        ),
        (
            "sparse half a pair",
            vec![sparse("0,1,2", "9", "x")],
            "malformed",
        ),
    ]
}

#[test]
fn entries_that_are_refused_by_name() {
    let cases = [names(), symlinks(), links(), values()].concat();
    for (what, entries, complaint) in cases {
        let error = unpack_tar(&archive(&entries)).unwrap_err();
        assert!(
            matches!(error, LayerError::Entry { .. } | LayerError::Store(_)),
            "{what}: {error}"
        );
        assert!(error.to_string().contains(complaint), "{what}: {error}");
    }
}

fn sparse(map: &str, size: &str, content: &str) -> Raw {
    Raw::file("sparse", content)
        .record("GNU.sparse.map", map)
        .record("GNU.sparse.size", size)
}

impl Raw {
    fn kind(self, kind: u8) -> Self {
        Self { kind, ..self }
    }
}

#[test]
fn limits() {
    let small = LayerLimits {
        inflated_bytes: 100_000,
        entries: 3,
        header_bytes: 2000,
        sparse_pieces: 2,
        waiting_links: 2,
        ..LayerLimits::default()
    };
    let files: Vec<Raw> = (0..4)
        .map(|number| Raw::file(format!("f{number}"), ""))
        .collect();
    let links: Vec<Raw> = (0..3)
        .map(|number| Raw::link(format!("l{number}"), b'1', "none"))
        .collect();
    let huge_name = Raw {
        gnu: true,
        ..Raw::file("n/".repeat(1500), "")
    };
    for (what, tar, complaint) in [
        ("entries", archive(&files), "3 entries"),
        ("links", archive(&links), "2 hardlinks"),
        (
            "tar",
            archive(&[Raw::file("f", vec![0; 150_000])]),
            "100000 bytes of content",
        ),
        (
            "stated size",
            archive(&[Raw {
                size: Some(1 << 40),
                ..Raw::file("f", "")
            }]),
            "100000 bytes of content",
        ),
        (
            "holes",
            archive(&[sparse("0,1", "99999999999999", "x")]),
            "100000 bytes of content",
        ),
        (
            "record",
            archive(&[Raw::file("f", "").record("comment", vec![b'c'; 3000])]),
            "2000 bytes of headers",
        ),
        ("long name", archive(&[huge_name]), "2000 bytes of headers"),
        ("padding", vec![0; 200_000], "100000 uncompressed bytes"),
    ] {
        let error = unpack_blob(&tar, None, small).unwrap_err();
        assert!(matches!(error, LayerError::Limit { .. }), "{what}: {error}");
        assert!(error.to_string().contains(complaint), "{what}: {error}");
    }
    let pieces = archive(&[sparse("0,1,2,1,4,1", "9", "abc")]);
    let error = unpack_blob(&pieces, None, small).unwrap_err();
    assert!(error.to_string().contains("more than 2 pieces"), "{error}");
}

/// A gigabyte of zeros in a few kilobytes of zstd; the reader stops long before its end.
#[test]
fn a_decompression_bomb() {
    let mut tar = Raw {
        size: Some(1 << 30),
        ..Raw::file("zeros", "")
    }
    .bytes();
    tar.resize(tar.len() + (1 << 30), 0);
    let bomb = zstd::encode_all(tar.as_slice(), 3).unwrap();
    drop(tar);
    assert!(bomb.len() < 200_000);
    let error = unpack_blob(&bomb, None, LayerLimits::default()).unwrap_err();
    assert!(
        matches!(error, LayerError::Limit { what, limit: 400 } if what.contains("compressed")),
        "{error}"
    );
}

#[test]
fn damaged_blobs() {
    let tar = archive(&[Raw::file("a", vec![b'a'; 30_000]), Raw::file("b", "x")]);
    let zipped = gzip(&tar);
    let frame = zstd::encode_all(tar.as_slice(), 3).unwrap();
    let mut flipped = zipped.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let mut header = tar.clone();
    header[0] ^= 1;
    let zeros = [&[0; 512][..], &tar].concat();
    for (what, blob, complaint) in [
        (
            "truncated gzip",
            zipped[..zipped.len() - 9].to_vec(),
            "damaged",
        ),
        (
            "truncated zstd",
            frame[..frame.len() - 5].to_vec(),
            "damaged",
        ),
        ("damaged gzip", flipped, "damaged"),
        (
            "garbage after gzip",
            [zipped.as_slice(), b"garbage"].concat(),
            "damaged",
        ),
        (
            "garbage after zstd",
            [frame.as_slice(), b"garbage"].concat(),
            "damaged",
        ),
        (
            "truncated tar",
            tar[..20_000].to_vec(),
            "ends within an entry",
        ),
        (
            "truncated header",
            tar[..300].to_vec(),
            "ends within a header",
        ),
        ("checksum", header, "checksum"),
        ("entries after the end", zeros, "follow a block of zeros"),
        ("no tar", vec![b'x'; 2000], "checksum"),
    ] {
        let error = unpack_blob(&blob, None, LayerLimits::default()).unwrap_err();
        assert!(
            matches!(error, LayerError::Blob(_) | LayerError::Tar { .. }),
            "{what}: {error:?}"
        );
        assert!(error.to_string().contains(complaint), "{what}: {error}");
    }
}

#[test]
fn blobs_that_are_not_the_stated_ones() {
    let tar = archive(&[Raw::file("a", "content")]);
    let blob = gzip(&tar);
    let media_type = MediaType::OciLayer(LayerCompression::Gzip);
    let right = descriptor(&blob, media_type);
    let limits = LayerLimits::default();
    for (what, stated, complaint) in [
        (
            "digest",
            Descriptor {
                digest: Digest::of(b"other"),
                ..right.clone()
            },
            "digest",
        ),
        (
            "longer",
            Descriptor {
                size: right.size - 1,
                ..right.clone()
            },
            "damaged",
        ),
        (
            "shorter",
            Descriptor {
                size: right.size + 1,
                ..right.clone()
            },
            "damaged",
        ),
    ] {
        let error = unpack_as(&blob, &stated, None, limits).unwrap_err();
        assert!(matches!(error, LayerError::Blob(_)), "{what}: {error}");
        assert!(error.to_string().contains(complaint), "{what}: {error}");
    }
    let expected = Digest::of(b"another tar");
    let error = unpack_as(&blob, &right, Some(expected), limits).unwrap_err();
    assert!(matches!(error, LayerError::DiffId { expected: stated, .. } if stated == expected));
}

/// The good layer of an image with a bad one is not published either, nor is anything else of it.
#[test]
fn nothing_of_a_hostile_image_is_published() {
    let layer = |text: &str| Layer::new([Entry::file("file", text)]);
    let image = ImageBuilder::new()
        .layer(layer("one"))
        .layer(layer("two"))
        .build()
        .unwrap();
    let good = MemorySource::of(&image, "registry.test/library/mini:1.0");
    let victim: Digest = image.layers[1].digest.parse().unwrap();
    let memory = Memory::new();
    let before = memory.paths();
    let damage: [fn(&mut Vec<u8>); 4] = [
        |blob| blob[20] ^= 1,
        |blob| blob.truncate(blob.len() - 1),
        |blob| blob.push(0),
        |blob| *blob = gzip(&archive(&[Raw::file("../evil", "x")])),
    ];
    for damage in damage {
        let mut source = good.clone();
        damage(source.blobs.get_mut(&victim).unwrap());
        let error =
            publish(&memory, &source, &PublishOptions::new(now()), &NoProgress).unwrap_err();
        assert!(
            matches!(&error, PublishError::Layer { digest, .. } if *digest == victim),
            "{error}"
        );
        assert_eq!(memory.paths(), before);
        assert_eq!(memory.state().revision, 1);
    }
    let lies = ImageBuilder::new()
        .layer(layer("one"))
        .stated_diff_ids([Digest::of(b"trusted").to_string()])
        .build()
        .unwrap();
    let source = MemorySource::of(&lies, "registry.test/library/mini:1.0");
    let error = publish(&memory, &source, &PublishOptions::new(now()), &NoProgress).unwrap_err();
    assert!(
        error.to_string().contains("the configuration states"),
        "{error}"
    );
    assert_eq!(memory.paths(), before);
}
