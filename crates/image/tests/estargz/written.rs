//! What we write holds what the tar held, for plain tar readers and for ours.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::process::{Command, Stdio};

use image::estargz::{
    EntryKind, Footer, Format, Landmark, Options, WriteError, Written, write, write_prioritized,
};
use image::{Digest, EMPTY_LAYER};
use proptest::prelude::*;

use crate::fixtures::sample;
use crate::oracle::{gunzip, of_tar, of_toc, toc_of};

const FORMATS: [Format; 2] = [Format::Estargz, Format::ZstdChunked];

fn options(format: Format, chunk_size: u64) -> Options {
    Options {
        chunk_size,
        ..Options::new(format)
    }
}

fn written(tar: &[u8], options: &Options) -> (Vec<u8>, Written) {
    let mut blob = Vec::new();
    let written = write(tar, &mut blob, options).unwrap();
    assert_eq!(written.digest, Digest::of(&blob));
    assert_eq!(written.size, blob.len() as u64);
    let inside = unpack(&blob, options.format);
    assert_eq!(written.diff_id, Digest::of(&inside));
    assert_eq!(written.uncompressed_size, inside.len() as u64);
    (blob, written)
}

fn unpack(blob: &[u8], format: Format) -> Vec<u8> {
    match format {
        Format::Estargz => gunzip(blob),
        Format::ZstdChunked => zstd::decode_all(blob).unwrap(),
    }
}

#[test]
fn the_sample_comes_back_in_all_forms() {
    let tar = sample();
    let expected = of_tar(&tar);
    for format in FORMATS {
        for (chunk_size, min_chunk_size) in [(4096, 0), (1000, 0), (4 << 20, 0), (4096, 20_000)] {
            if format == Format::ZstdChunked && min_chunk_size > 0 {
                continue;
            }
            let options = Options {
                min_chunk_size,
                ..options(format, chunk_size)
            };
            let (blob, written) = written(&tar, &options);
            let toc = toc_of(&blob, &written.annotations).unwrap();
            assert_eq!(toc.digest(), &written.toc_digest);
            assert_eq!(of_toc(&blob, &toc), expected, "{options:?}");
            assert_eq!(of_tar(&unpack(&blob, format)), expected, "{options:?}");
        }
    }
}

#[test]
fn zstd_chunked_keeps_the_tar() {
    let tar = sample();
    let (blob, written) = written(&tar, &options(Format::ZstdChunked, 4096));
    assert_eq!(unpack(&blob, Format::ZstdChunked), tar);
    assert_eq!(written.diff_id, Digest::of(&tar));
}

#[test]
fn threads_change_nothing() {
    for format in FORMATS {
        let (one, first) = written(&sample(), &options(format, 512));
        for threads in [2, 7] {
            let several = Options {
                threads,
                ..options(format, 512)
            };
            let (other, second) = written(&sample(), &several);
            assert!(
                one == other && first == second,
                "{format:?}, {threads} threads"
            );
        }
    }
}

#[test]
fn plain_tar_reads_it() {
    let (blob, _) = written(&sample(), &options(Format::Estargz, 4096));
    let mut list = Command::new("tar")
        .args(["-tz", "--quoting-style=literal", "--absolute-names"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    list.stdin.take().unwrap().write_all(&blob).unwrap();
    let names = list.wait_with_output().unwrap();
    assert!(names.status.success());
    let listed = String::from_utf8(names.stdout).unwrap();
    assert_eq!(listed.lines().next(), Some(".no.prefetch.landmark"));
    assert_eq!(listed.lines().last(), Some("stargz.index.json"));
    assert_eq!(listed.lines().count(), of_tar(&sample()).len() + 2);
}

#[test]
fn large_files_in_chunks_of_four_mebibytes() {
    let chunk = 4 << 20;
    for (size, last) in [(chunk, chunk), (2 * chunk, chunk), (2 * chunk + 1, 1)] {
        let content: Vec<u8> = (0..size).map(|at| (at / 977) as u8).collect();
        let tar = tar_of(&[Made::file("large", &content), Made::file("after", b"x")]);
        let (blob, written) = written(
            &tar,
            &Options {
                level: 1,
                ..Options::new(Format::Estargz)
            },
        );
        let toc = toc_of(&blob, &written.annotations).unwrap();
        let large = toc
            .entries()
            .find(|entry| entry.path() == b"large")
            .unwrap();
        assert_eq!(large.chunks().last().unwrap().size, last as u64);
        assert_eq!(of_toc(&blob, &toc), of_tar(&tar));
    }
}

#[test]
fn prioritized_files_and_what_they_need() {
    let tar = sample();
    let files = [
        "/usr/bin/alias2",
        "twice",
        "exact",
        "nowhere",
        "./usr/bin/tool",
    ]
    .map(str::to_owned);
    for format in FORMATS {
        let mut blob = Vec::new();
        let written =
            write_prioritized(Cursor::new(&tar), &mut blob, &options(format, 4096), &files)
                .unwrap();
        // Which of the two is meant depends on the order.
        assert_eq!(written.missing, ["twice", "nowhere"]);
        let toc = toc_of(&blob, &written.annotations).unwrap();
        let lines = of_toc(&blob, &toc);
        let names: Vec<_> = lines
            .iter()
            .map(|line| String::from_utf8_lossy(&line.path))
            .collect();
        let first = [
            "",
            "usr",
            "usr/bin",
            "usr/bin/tool",
            "usr/bin/alias",
            "usr/bin/alias2",
            "exact",
        ];
        assert_eq!(names[..first.len()], first);
        let Landmark::Prefetch { end } = toc.landmark() else {
            panic!("{:?}", toc.landmark())
        };
        for entry in toc.entries() {
            let early = ["usr/bin/tool", "exact"]
                .map(str::as_bytes)
                .contains(&entry.path());
            assert!(
                entry
                    .chunks()
                    .iter()
                    .all(|chunk| (chunk.start < end) == early)
            );
        }
        // The others stay in their order.
        let others: Vec<_> = of_tar(&tar)
            .into_iter()
            .filter(|line| !first.map(str::as_bytes).contains(&&line.path[..]))
            .collect();
        assert_eq!(lines[first.len()..], others);
        // Written again, landmarks and TOC are not doubled.
        if format == Format::Estargz {
            let (again, _) = self::written(&gunzip(&blob), &options(format, 4096));
            let inside = String::from_utf8_lossy(&gunzip(&again)).into_owned();
            assert_eq!(inside.matches("stargz.index.json").count(), 1);
            assert_eq!(
                inside.matches(".prefetch.landmark").count(),
                2,
                "its header and its line in the TOC"
            );
        }
    }
}

#[test]
fn files_with_holes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("holes");
    let file = std::fs::File::create(&path).unwrap();
    use std::os::unix::fs::FileExt;
    for piece in 0..30 {
        file.write_all_at(b"data", piece * 100_000).unwrap();
    }
    file.set_len(5_000_000).unwrap();
    let tar = Command::new("tar")
        .args(["-c", "-S", "--format=gnu", "-C"])
        .arg(directory.path())
        .arg("holes")
        .output()
        .unwrap();
    assert!(tar.status.success());
    if tar.stdout.len() > 4_000_000 {
        println!("not run: this file system has no holes");
        return;
    }
    for format in FORMATS {
        let (blob, written) = written(&tar.stdout, &options(format, 1 << 20));
        let toc = toc_of(&blob, &written.annotations).unwrap();
        assert_eq!(
            of_toc(&blob, &toc)[0].content,
            std::fs::read(&path).unwrap()
        );
        assert_eq!(
            of_tar(&unpack(&blob, format))[0].content,
            std::fs::read(&path).unwrap()
        );
        let mut blob = Vec::new();
        let files = ["holes".to_owned()];
        write_prioritized(
            Cursor::new(&tar.stdout),
            &mut blob,
            &options(format, 1 << 20),
            &files,
        )
        .unwrap();
        assert_eq!(of_tar(&unpack(&blob, format))[0].content.len(), 5_000_000);
    }
}

#[test]
fn the_empty_layer() {
    let (blob, written) = written(&[0; 1024], &Options::new(Format::ZstdChunked));
    assert_eq!(written.diff_id, EMPTY_LAYER);
    assert_eq!(
        toc_of(&blob, &written.annotations).unwrap().entries().len(),
        0
    );
    let (blob, written) = self::written(&[], &Options::new(Format::Estargz));
    assert_eq!(
        toc_of(&blob, &written.annotations).unwrap().entries().len(),
        0
    );
}

#[test]
fn what_cannot_be_written() {
    let mut not_utf8 = Made::file("name", b"");
    not_utf8.name = b"n\xffme".to_vec();
    let mut lost = Made::file("name", b"");
    lost.name = "n\u{fffd}me".as_bytes().to_vec();
    for made in [not_utf8, lost] {
        let result = write(
            &tar_of(&[made])[..],
            Vec::new(),
            &Options::new(Format::Estargz),
        );
        assert!(matches!(result, Err(WriteError::NotUtf8(_))), "{result:?}");
    }
    let tar = sample();
    for length in [100, 700, 40_000] {
        let result = write(&tar[..length], Vec::new(), &Options::new(Format::Estargz));
        assert!(
            matches!(result, Err(WriteError::Input(_))),
            "{length}: {result:?}"
        );
    }
    let mut damaged = tar.clone();
    damaged[0] ^= 1;
    let result = write(&damaged[..], Vec::new(), &Options::new(Format::ZstdChunked));
    assert!(matches!(result, Err(WriteError::Input(_))), "{result:?}");
    let result = write(&tar[..], &mut [0; 1000][..], &Options::new(Format::Estargz));
    assert!(matches!(result, Err(WriteError::Output(_))), "{result:?}");
    for bad in [
        Options {
            level: 0,
            ..Options::new(Format::Estargz)
        },
        Options {
            chunk_size: 0,
            ..Options::new(Format::Estargz)
        },
        Options {
            min_chunk_size: 1,
            ..Options::new(Format::ZstdChunked)
        },
    ] {
        let result = write(&tar[..], Vec::new(), &bad);
        assert!(matches!(result, Err(WriteError::Options(_))), "{bad:?}");
    }
}

/// An entry to make.
#[derive(Clone, Debug)]
struct Made {
    name: Vec<u8>,
    kind: tar::EntryType,
    target: String,
    mode: u32,
    xattr: Option<(String, Vec<u8>)>,
    mtime: i64,
    content: Vec<u8>,
}

impl Made {
    fn file(name: &str, content: &[u8]) -> Self {
        Self {
            name: name.as_bytes().to_vec(),
            kind: tar::EntryType::Regular,
            target: String::new(),
            mode: 0o644,
            xattr: None,
            mtime: 1_700_000_000,
            content: content.to_vec(),
        }
    }
}

fn tar_of(entries: &[Made]) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    let mut builder = tar::Builder::new(Vec::new());
    for made in entries {
        if let Some((name, value)) = &made.xattr {
            let name = format!("SCHILY.xattr.user.{name}");
            builder
                .append_pax_extensions([(name.as_str(), &value[..])])
                .unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(made.kind);
        header.set_mode(made.mode);
        header.set_mtime(made.mtime as u64);
        header.set_uid(7);
        header.set_gid(70_000);
        header.set_size(made.content.len() as u64);
        let name = std::ffi::OsStr::from_bytes(&made.name);
        if made.target.is_empty() {
            builder
                .append_data(&mut header, name, &made.content[..])
                .unwrap();
        } else {
            builder
                .append_link(&mut header, name, &made.target)
                .unwrap();
        }
    }
    builder.into_inner().unwrap()
}

fn made() -> impl Strategy<Value = Made> {
    let name = prop_oneof![
        "[a-e]{1,2}(/[a-e]{1,2}){0,3}",
        "[a-z]{90,120}/[a-z]{90,120}",
        "\\PC{1,20}",
    ];
    let content = prop_oneof![
        Just(0usize),
        Just(1),
        Just(511),
        Just(512),
        Just(1000),
        Just(2000),
        0usize..9000
    ];
    let xattr = proptest::option::of((
        "[a-z]{1,8}",
        // The oracle cuts PAX values at line ends.
        proptest::collection::vec(
            any::<u8>().prop_filter("line end", |byte| *byte != b'\n'),
            0..40,
        ),
    ));
    (
        name,
        0..5,
        content,
        xattr,
        0o0u32..0o10000,
        0i64..4_000_000_000,
        any::<u8>(),
    )
        .prop_map(|(name, kind, length, xattr, mode, mtime, seed)| {
            // Names that the tar builder refuses, and those that a TOC cannot hold.
            let mut name = name.replace(['\0', '\u{fffd}'], "_").replace("..", "__");
            name = name.trim_matches('/').to_owned();
            if name.is_empty() || name == "." {
                "root-like".clone_into(&mut name);
            }
            let (kind, target) = match kind {
                0 => (tar::EntryType::Directory, String::new()),
                1 => (tar::EntryType::Symlink, format!("../{name}")),
                2 => (tar::EntryType::Link, "some/file".to_owned()),
                _ => (tar::EntryType::Regular, String::new()),
            };
            let length = if kind == tar::EntryType::Regular {
                length
            } else {
                0
            };
            Made {
                name: name.into_bytes(),
                kind,
                target,
                mode,
                xattr,
                mtime,
                content: (0..length)
                    .map(|at| (at as u8).wrapping_mul(seed))
                    .collect(),
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn layers_equal_plain_tar(
        entries in proptest::collection::vec(made(), 0..30),
        chunk_size in prop_oneof![Just(1000u64), Just(512), 1u64..5000],
        min_chunk_size in prop_oneof![Just(0u64), 1u64..5000],
        first in proptest::collection::vec(0usize..30, 0..4),
    ) {
        let tar = tar_of(&entries);
        let mut expected = of_tar(&tar);
        // A link to a directory or to itself is refused, and the oracle does not know.
        if expected.iter().any(|line| line.path == b"some/file") {
            return Ok(());
        }
        let files: Vec<String> = first
            .iter()
            .filter_map(|index| entries.get(*index))
            .map(|made| String::from_utf8(made.name.clone()).unwrap())
            .collect();
        for format in FORMATS {
            let min_chunk_size = if format == Format::Estargz { min_chunk_size } else { 0 };
            let options = Options { level: 1, min_chunk_size, ..options(format, chunk_size) };
            let (blob, written) = written(&tar, &options);
            let toc = toc_of(&blob, &written.annotations).unwrap();
            prop_assert_eq!(&of_toc(&blob, &toc), &expected);

            let mut blob = Vec::new();
            let written = write_prioritized(Cursor::new(&tar), &mut blob, &options, &files).unwrap();
            let toc = toc_of(&blob, &written.annotations).unwrap();
            let mut lines = of_toc(&blob, &toc);
            prop_assert_eq!(&of_tar(&unpack(&blob, format)), &lines);
            let by_path = |line: &crate::oracle::Line| line.path.clone();
            // Stable: of one path, the order stays.
            lines.sort_by_key(by_path);
            expected.sort_by_key(by_path);
            prop_assert_eq!(&lines, &expected);
            expected = of_tar(&tar);
        }
    }
}

/// To containers/storage a file without a time is of now.
#[test]
fn the_epoch_is_a_time() {
    let tar = tar_of(&[Made {
        mtime: 0,
        ..Made::file("f", b"f")
    }]);
    for format in FORMATS {
        let (blob, _) = written(&tar, &Options::new(format));
        let range = Footer::parse(&blob, blob.len() as u64)
            .unwrap()
            .toc_range()
            .unwrap();
        let toc = unpack(&blob[range.start as usize..range.end as usize], format);
        let toc = String::from_utf8_lossy(&toc);
        let stated = "\"modtime\":\"1970-01-01T00:00:00Z\"";
        assert!(toc.contains(stated), "{toc}");
    }
}

#[test]
fn annotations_as_the_tools_write_them() {
    let (blob, estargz) = written(&sample(), &Options::new(Format::Estargz));
    let expected = BTreeMap::from(
        [
            (
                "containerd.io/snapshot/stargz/toc.digest",
                estargz.toc_digest.to_string(),
            ),
            (
                "io.containers.estargz.uncompressed-size",
                gunzip(&blob).len().to_string(),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    assert_eq!(estargz.annotations, expected);
    let (_, zstd) = written(&sample(), &Options::new(Format::ZstdChunked));
    let names: Vec<_> = zstd.annotations.keys().collect();
    assert_eq!(
        names,
        [
            "io.github.containers.zstd-chunked.manifest-checksum",
            "io.github.containers.zstd-chunked.manifest-position",
            "io.github.containers.zstd-chunked.tarsplit-position",
        ]
    );
}

#[test]
fn kinds_of_old_tars() {
    // A name with a slash at its end was a directory before there was a type for it.
    let mut header = tar::Header::new_old();
    header.set_path("old/").unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o755);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    let tar = [header.as_bytes(), &[0; 1024][..]].concat();
    let (blob, written) = written(&tar, &Options::new(Format::Estargz));
    let toc = toc_of(&blob, &written.annotations).unwrap();
    assert_eq!(toc.entries().next().unwrap().kind(), EntryKind::Directory);
}

#[test]
fn attributes_with_line_ends() {
    let value = b"a\n20 path=smuggled/in\n".to_vec();
    let mut made = Made::file("file", b"x");
    made.xattr = Some(("lines".to_owned(), value.clone()));
    let (blob, written) = written(&tar_of(&[made]), &Options::new(Format::Estargz));
    let toc = toc_of(&blob, &written.annotations).unwrap();
    let file = toc.entries().next().unwrap();
    assert_eq!(file.path(), b"file");
    let xattrs: Vec<_> = file.xattrs().collect();
    assert_eq!(xattrs, [(&b"user.lines"[..], &value[..])]);
}

#[test]
fn a_tar_that_states_two_sizes() {
    let mut builder = tar::Builder::new(Vec::new());
    // The crate `tar` stops at the line end and does not see the size.
    let extensions = [("SCHILY.xattr.user.a", &b"\n"[..]), ("size", b"600")];
    builder.append_pax_extensions(extensions).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    builder.append_data(&mut header, "f", &b"abc"[..]).unwrap();
    let tar = builder.into_inner().unwrap();
    let result = write(&tar[..], Vec::new(), &Options::new(Format::Estargz));
    assert!(matches!(result, Err(WriteError::Input(_))), "{result:?}");
}
