//! Layers against plain `tar`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use image::Digest;
use proptest::prelude::*;
use publisher::layer::{LayerLimits, LowerLink};
use testkit::{Entry, Field, Layer};

use crate::support::{compare, gzip, implicit, nodes_truth, tar_truth, unpack_blob, unpack_tar};

/// An entry's bytes, made by hand: also those that no tool writes.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: i64,
    pub(crate) content: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) records: Vec<(String, Vec<u8>)>,
    /// Long names as GNU writes them, else as PAX records.
    pub(crate) gnu: bool,
    /// Size in the header, if it lies.
    pub(crate) size: Option<u64>,
}

impl Raw {
    pub(crate) fn new(path: impl AsRef<[u8]>, kind: u8) -> Self {
        Self {
            path: path.as_ref().to_vec(),
            kind,
            link: Vec::new(),
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            owner: (0, 0),
            mtime: 1_700_000_000,
            content: Vec::new(),
            device: (0, 0),
            records: Vec::new(),
            gnu: false,
            size: None,
        }
    }

    pub(crate) fn link(path: impl AsRef<[u8]>, kind: u8, link: impl AsRef<[u8]>) -> Self {
        Self {
            link: link.as_ref().to_vec(),
            ..Self::new(path, kind)
        }
    }

    pub(crate) fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        Self {
            content: content.as_ref().to_vec(),
            ..Self::new(path, b'0')
        }
    }

    pub(crate) fn record(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.records.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Headers and content.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut records = self.records.clone();
        let mut bytes = Vec::new();
        for (text, key, kind) in [(&self.path, "path", b'L'), (&self.link, "linkpath", b'K')] {
            if text.len() > 100 && self.gnu {
                let content = [text.as_slice(), b"\0"].concat();
                let long = Self {
                    content,
                    ..Self::new("././@LongLink", kind)
                };
                bytes.extend(long.bytes());
            } else if text.len() > 100 {
                records.push((key.to_owned(), text.clone()));
            }
        }
        if !records.is_empty() {
            let content = records.iter().flat_map(|(key, value)| record(key, value));
            let extended = Self {
                content: content.collect(),
                ..Self::new("PaxHeaders/x", b'x')
            };
            bytes.extend(extended.bytes());
        }
        bytes.extend(self.header());
        bytes.extend(&self.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn header(&self) -> Vec<u8> {
        let mut header = match self.gnu {
            true => tar::Header::new_gnu(),
            false => tar::Header::new_ustar(),
        };
        header.set_mode(self.mode);
        header.set_uid(self.owner.0.into());
        header.set_gid(self.owner.1.into());
        header.set_size(self.size.unwrap_or(self.content.len() as u64));
        header.set_mtime(u64::try_from(self.mtime).unwrap_or(0));
        header.set_entry_type(tar::EntryType::new(self.kind));
        if matches!(self.kind, b'3' | b'4') {
            header.set_device_major(self.device.0).unwrap();
            header.set_device_minor(self.device.1).unwrap();
        }
        let old = header.as_old_mut();
        let put = |field: &mut [u8], text: &[u8]| {
            let length = text.len().min(field.len());
            field[..length].copy_from_slice(&text[..length]);
        };
        put(&mut old.name, &self.path);
        put(&mut old.linkname, &self.link);
        header.set_cksum();
        header.as_bytes().to_vec()
    }
}

/// `length key=value\n`, the length counting itself.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    let mut bytes = format!("{length} {key}=").into_bytes();
    bytes.extend_from_slice(value);
    bytes.push(b'\n');
    bytes
}

pub(crate) fn archive(entries: &[Raw]) -> Vec<u8> {
    let mut tar: Vec<u8> = entries.iter().flat_map(Raw::bytes).collect();
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn assert_equals_tar(tar: &[u8]) {
    let (nodes, _) = unpack_tar(tar).unwrap();
    compare(tar_truth(tar), nodes_truth(&nodes), &implicit(&nodes)).unwrap();
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn every_kind_of_entry() {
    let long = [b"dir/".as_slice(), &[b'n'; 200]].concat();
    for gnu in [false, true] {
        let entries = vec![
            Raw::new("./", b'5'),
            Raw {
                mode: 0o1777,
                owner: (7, 8),
                ..Raw::new("./dir/", b'5')
            },
            Raw {
                mode: 0o4755,
                owner: (1000, 100),
                ..Raw::file("dir/file", "content")
            },
            Raw::file("dir/empty", ""),
            Raw::file(b"dir/\xff\xfe\n", "not UTF-8"),
            Raw {
                gnu,
                ..Raw::file(&long, "long")
            },
            Raw {
                gnu,
                ..Raw::link("dir/to the long one", b'1', &long)
            },
            Raw {
                gnu,
                ..Raw::link("dir/long target", b'2', "t/".repeat(90))
            },
            Raw::link("dir/absolute", b'2', "/etc/passwd"),
            Raw::link("dir/up", b'2', "../../.."),
            Raw::link("dir/hard", b'1', "./dir/file"),
            Raw::link("hard to a symlink", b'1', "dir/up"),
            Raw {
                device: (1, 3),
                mode: 0o666,
                ..Raw::new("dir/null", b'3')
            },
            Raw {
                device: (259, 70_000),
                ..Raw::new("dir/disk", b'4')
            },
            Raw::new("dir/fifo", b'6'),
            Raw::file("implicit/below/file", "x"),
            Raw::file("dir/.wh.gone", ""),
            Raw::file("dir/.wh..wh..opq", ""),
            Raw::file("dir/file twice", "first"),
            Raw::file("./dir//file twice", "second"),
            Raw::new("old directory/", b'0'),
            Raw::file("caps", "x").record(
                "SCHILY.xattr.security.capability",
                b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ),
            Raw::file("attributes", "x")
                .record("SCHILY.xattr.user.a", "1")
                .record("SCHILY.xattr.user.b", b"\0\xff="),
            Raw::file("times", "x").record("mtime", "1234567890.123456789"),
            Raw::file("before 1970", "x").record("mtime", "-1.5"),
            Raw::file("owner", "x")
                .record("uid", "3000000")
                .record("gid", "4000000"),
        ];
        assert_equals_tar(&archive(&entries));
    }
}

#[test]
fn compressions_and_ways_to_end() {
    let tar = archive(&[Raw::file("a", "content"), Raw::file("b", vec![7; 3000])]);
    let unmarked = tar[..tar.len() - 1024].to_vec();
    let padded = [tar.as_slice(), &[0; 9000]].concat();
    let members = [gzip(&tar[..700]), gzip(b""), gzip(&tar[700..])].concat();
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    let skippable = [b"\x50\x2a\x4d\x18\x03\0\0\0abc".as_slice(), &zstd(&tar)].concat();
    let frames = [zstd(&tar[..700]), zstd(&tar[700..])].concat();
    for (blob, tar) in [
        (tar.clone(), &tar),
        (gzip(&tar), &tar),
        (members, &tar),
        (zstd(&tar), &tar),
        (frames, &tar),
        (skippable, &tar),
        (unmarked.clone(), &unmarked),
        (gzip(&padded), &padded),
    ] {
        let limits = LayerLimits::default();
        let (nodes, unpacked) = unpack_blob(&blob, Some(Digest::of(tar)), limits).unwrap();
        assert_eq!(unpacked.diff_id, Digest::of(tar));
        assert_eq!(unpacked.uncompressed, tar.len() as u64);
        assert_eq!(unpacked.compressed, blob.len() as u64);
        assert_eq!(unpacked.entries, 2);
        assert_eq!(&*nodes.nodes[&b"b"[..]].content, [7; 3000]);
    }
}

#[test]
fn an_empty_layer_is_an_empty_directory() {
    for tar in [vec![0; 1024], Vec::new()] {
        let (nodes, unpacked) = unpack_tar(&tar).unwrap();
        assert_eq!(nodes.nodes.len(), 1);
        assert_eq!(unpacked.entries, 0);
    }
}

#[test]
fn hardlinks_forward_through_each_other_and_to_lower_layers() {
    let tar = archive(&[
        Raw::link("a", b'1', "b"),
        Raw::link("b", b'1', "z/c"),
        Raw::link("lower", b'1', "not/in/this/layer"),
        Raw::link("lower too", b'1', "lower"),
        Raw::link("replaced", b'1', "also/not"),
        Raw::link("gone/with/its/directory", b'1', "z/c"),
        Raw::file("gone", "now a file"),
        Raw::file("replaced", "later"),
        Raw::file("z/c", "content"),
    ]);
    let (nodes, unpacked) = unpack_tar(&tar).unwrap();
    let inode = |path: &str| nodes.nodes[path.as_bytes()].inode;
    assert_eq!(inode("a"), inode("z/c"));
    assert_eq!(inode("b"), inode("z/c"));
    assert_eq!(&*nodes.nodes[&b"replaced"[..]].content, b"later");
    assert_eq!(&*nodes.nodes[&b"gone"[..]].content, b"now a file");
    let link = |path: &str| LowerLink {
        path: path.into(),
        target: "not/in/this/layer".into(),
    };
    assert_eq!(unpacked.lower_links, [link("lower"), link("lower too")]);
    assert!(!nodes.nodes.contains_key(&b"lower"[..]));
}

#[test]
fn a_hardlink_keeps_the_file_that_its_target_was() {
    let tar = archive(&[
        Raw::file("a", "old"),
        Raw::link("b", b'1', "a"),
        Raw::file("a", "new"),
        Raw::link("c", b'1', "a"),
    ]);
    assert_equals_tar(&tar);
    let (nodes, _) = unpack_tar(&tar).unwrap();
    assert_eq!(&*nodes.nodes[&b"b"[..]].content, b"old");
    assert_eq!(&*nodes.nodes[&b"c"[..]].content, b"new");
}

#[test]
fn implicit_directories_are_known() {
    let tar = archive(&[
        Raw::file("a/b/c/file", "x"),
        Raw::new("a/b", b'5'),
        Raw::new("explicit", b'5'),
    ]);
    let (nodes, _) = unpack_tar(&tar).unwrap();
    assert_eq!(implicit(&nodes), ["/", "/a", "/a/b/c"]);
}

#[test]
fn of_two_directories_the_later_counts_and_keeps_what_is_in_it() {
    let tar = archive(&[
        Raw {
            mode: 0o700,
            owner: (1, 1),
            ..Raw::new("d/", b'5')
        },
        Raw::file("d/file", "x"),
        Raw {
            mode: 0o711,
            owner: (2, 3),
            ..Raw::new("./d", b'5')
        },
    ]);
    let (nodes, _) = unpack_tar(&tar).unwrap();
    let entry = &nodes.nodes[&b"d"[..]].entry;
    assert_eq!((entry.mode, entry.uid, entry.gid), (0o711, 2, 3));
    assert!(nodes.nodes.contains_key(&b"d/file"[..]));
}

#[test]
fn attributes_that_cannot_be_kept_are_counted() {
    let tar = archive(&[Raw::file("a", "x")
        .record("SCHILY.xattr.user.long", vec![b'v'; 256])
        .record("SCHILY.xattr.user.kept", vec![b'v'; 255])
        .record("SCHILY.xattr.trusted.overlay.redirect", "/etc")
        .record("SCHILY.xattr.user.overlay.opaque", "y")]);
    let (nodes, unpacked) = unpack_tar(&tar).unwrap();
    assert_eq!(unpacked.dropped_xattrs, 3);
    assert_eq!(nodes.nodes[&b"a"[..]].entry.xattrs.len(), 1);
}

/// Written by the tool itself, in each of its four ways.
#[test]
fn sparse_files() {
    let directory = tempfile::TempDir::new().unwrap();
    let file = fs::File::create(directory.path().join("sparse")).unwrap();
    file.set_len(9 << 20).unwrap();
    for piece in 0..60 {
        file.write_all_at(&[piece as u8 + 1; 5000], (piece * 128) << 10)
            .unwrap();
    }
    fs::File::create(directory.path().join("only a hole"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    fs::write(directory.path().join("dense"), "dense").unwrap();
    for options in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let output = Command::new("tar")
            .args(["-c", "--sparse", "-C"])
            .arg(directory.path())
            .args(options)
            .arg(".")
            .output()
            .unwrap();
        assert!(output.status.success());
        assert!(output.stdout.len() < 1 << 20, "the tar has holes");
        let (nodes, _) = unpack_tar(&output.stdout).unwrap();
        assert_eq!(
            nodes.nodes[&b"sparse"[..]].content.len(),
            9 << 20,
            "{options:?}"
        );
        compare(tar_truth(&output.stdout), nodes_truth(&nodes), &[]).unwrap();
    }
}

#[test]
fn layers_as_the_test_kit_makes_them() {
    let layer = Layer::new([
        Entry::directory("etc").owner(3, 4),
        Entry::file("etc/hosts", "127.0.0.1").xattr("user.k", "v"),
        Entry::hardlink("etc/hosts.link", "etc/hosts"),
        Entry::whiteout("etc/gone"),
        Entry::opaque("etc"),
    ]);
    assert_equals_tar(&layer.tar().unwrap());
}

fn directory() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"".to_vec()),
        Just(b"d1/".to_vec()),
        Just(b"d1/d2/".to_vec()),
        Just(b"d\xff/".to_vec()),
        Just([&[b'd'; 150][..], b"/"].concat()),
        Just([&[b'd'; 255][..], b"/d/"].concat()),
    ]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0..4u8).prop_map(|number| vec![b'f', b'0' + number]),
        Just(b".wh.f0".to_vec()),
        Just(b".wh..wh..opq".to_vec()),
        Just(b"f \xe4\n%".to_vec()),
        Just(vec![b'f'; 255]),
    ]
}

fn record_of_time() -> impl Strategy<Value = Option<String>> {
    prop::option::of(
        (-2_000_000_000..4_000_000_000i64, 0..1_000_000_000u32).prop_map(|(seconds, nanos)| {
            match seconds < 0 {
                true => format!("{seconds}"),
                false => format!("{seconds}.{nanos:09}"),
            }
        }),
    )
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        (0..1300usize, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
        Just(vec![b'h'; 200_000]),
    ]
}

fn raw() -> impl Strategy<Value = Raw> {
    let what = prop_oneof![
        4 => content().prop_map(|content| (b'0', content)),
        1 => Just((b'5', Vec::new())),
        1 => prop::collection::vec(1..=255u8, 1..120).prop_map(|target| (b'2', target)),
        2 => Just((b'1', Vec::new())),
        1 => Just((b'3', Vec::new())),
        1 => Just((b'4', Vec::new())),
        1 => Just((b'6', Vec::new())),
    ];
    let attributes = (0..0o10000u32, 0..70_000u32, 0..70_000u32, record_of_time());
    let xattrs = prop::collection::vec(
        ("[a-z]{1,8}", prop::collection::vec(any::<u8>(), 1..40)),
        0..3,
    );
    (
        directory(),
        name(),
        what,
        attributes,
        xattrs,
        any::<(bool, bool)>(),
    )
        .prop_map(
            |(directory, name, (kind, bytes), (mode, uid, gid, time), xattrs, (gnu, dotted))| {
                let path = match kind {
                    b'5' if directory.is_empty() => b"./".to_vec(),
                    b'5' => directory,
                    _ => [directory, name].concat(),
                };
                let path = match dotted && path != b"./" {
                    true => [b"./", path.as_slice()].concat(),
                    false => path,
                };
                let mut raw = Raw {
                    mode,
                    owner: (uid, gid),
                    device: (mode % 4096, uid),
                    gnu,
                    ..Raw::new(path, kind)
                };
                match kind {
                    b'0' => raw.content = bytes,
                    _ => raw.link = bytes,
                }
                if let Some(time) = time {
                    raw = raw.record("mtime", time);
                }
                if matches!(kind, b'0' | b'5') {
                    for (name, value) in xattrs {
                        raw = raw.record(&format!("SCHILY.xattr.user.{name}"), value);
                    }
                }
                raw
            },
        )
}

/// Gives hardlinks targets that `tar` can link to at that point; those without any become files.
fn with_targets(mut entries: Vec<Raw>, choices: &[prop::sample::Index]) -> Vec<Raw> {
    let clean = |path: &[u8]| path.strip_prefix(b"./").unwrap_or(path).to_vec();
    // Of a directory that is named twice, or after what lies in it, `tar` mixes both sets of attributes: that is no oracle.
    let mut known = BTreeSet::from([Vec::new()]);
    entries.retain(|entry| {
        let mut path = clean(&entry.path);
        let directory = path.strip_suffix(b"/").map(<[u8]>::to_vec);
        let wanted =
            directory.is_none_or(|directory| !known.contains(&directory) || directory.is_empty());
        while let Some(slash) = path.iter().rposition(|byte| *byte == b'/') {
            path.truncate(slash);
            known.insert(path.clone());
        }
        wanted
    });
    let mut files: BTreeMap<Vec<u8>, Raw> = BTreeMap::new();
    for (entry, choice) in entries.iter_mut().zip(choices) {
        let path = clean(&entry.path);
        if entry.kind == b'1' {
            let others: Vec<_> = files.iter().filter(|(other, _)| **other != path).collect();
            if others.is_empty() {
                entry.kind = b'0';
            } else {
                let (target, original) = others[choice.index(others.len())];
                entry.link.clone_from(target);
                (entry.mode, entry.owner) = (original.mode, original.owner);
                entry.records.clone_from(&original.records);
                let original = original.clone();
                files.insert(path, original);
                continue;
            }
        }
        if entry.kind != b'5' {
            files.insert(path, entry.clone());
        }
    }
    entries
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_layer_equals_what_tar_makes_of_it(
        entries in prop::collection::vec(raw(), 0..24),
        choices in prop::collection::vec(any::<prop::sample::Index>(), 24),
    ) {
        let entries = with_targets(entries, &choices);
        let tar = archive(&entries);
        let (nodes, unpacked) = unpack_tar(&tar).unwrap();
        prop_assert_eq!(unpacked.entries, entries.len() as u64);
        prop_assert_eq!(unpacked.lower_links, []);
        let compared = compare(tar_truth(&tar), nodes_truth(&nodes), &implicit(&nodes));
        prop_assert!(compared.is_ok(), "{}", compared.unwrap_err());
    }

    /// Whatever is damaged, the reader neither panics nor takes it for the layer that was stated.
    #[test]
    fn damage_is_noticed(at in any::<prop::sample::Index>(), flip in 1u8.., zip in any::<bool>()) {
        let tar = archive(&[
            Raw::file("a", "content").record("SCHILY.xattr.user.a", "1"),
            Raw::link("b", b'1', "a"),
            Raw { gnu: true, ..Raw::file([b'n'; 150], "long") },
        ]);
        let mut blob = if zip { gzip(&tar) } else { tar.clone() };
        let at = at.index(blob.len());
        blob[at] ^= flip;
        // The descriptor is right for the damaged bytes: the diffID alone tells.
        let found = unpack_blob(&blob, Some(Digest::of(&tar)), LayerLimits::default());
        if let Ok((nodes, _)) = found {
            prop_assert!(zip, "no plain byte may differ");
            prop_assert_eq!(&*nodes.nodes[&b"a"[..]].content, b"content");
        }
    }
}

#[test]
fn the_comparison_notices_each_column() {
    let tar = archive(&[Raw::file("a", "x")]);
    let truth = tar_truth(&tar);
    for field in [
        Field::Mode,
        Field::Uid,
        Field::Mtime,
        Field::Xattrs,
        Field::Sha256,
    ] {
        let mut other = truth.clone();
        other.rows.get_mut("/a").unwrap().set(field, "?");
        assert!(compare(truth.clone(), other, &[]).is_err());
    }
}
