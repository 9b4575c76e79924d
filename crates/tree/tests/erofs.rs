//! EROFS images against plain `tar -x` of the same layer: the kernel mounts them, `fsck.erofs`
//! reads them.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail, and says why it did not run"
)]

mod generate;
mod mounted;
mod oracle;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};

use generate::Shown;
use mounted::{Mounted, fsck, obstacle};
use oracle::{any_steps, comparable, implicit, list, tar, tree_of, unpack};
use proptest::prelude::*;
use tree::erofs::{Options, Plan, PlanError, WriteError};
use tree::{Builder, Entry, Kind, NodeId, Tree};

/// The image of a tree whose extents' references are the bytes themselves.
fn image(tree: &Tree<Vec<u8>>, options: &Options) -> Vec<u8> {
    let plan = Plan::new(tree, options).unwrap();
    let mut image = Vec::new();
    let mut asked = Vec::new();
    plan.write(&mut image, |node| {
        asked.push(node);
        Ok(tree.extents(node).next().unwrap().content)
    })
    .unwrap();
    assert_eq!(image.len() as u64, plan.length());
    assert_eq!(asked, plan.files().collect::<Vec<_>>());
    image
}

fn file(content: &[u8]) -> Entry {
    let length = content.len() as u64;
    Entry {
        size: length,
        extents: match length {
            0 => Vec::new(),
            _ => vec![(0, length, content.to_vec())],
        },
        ..Entry::new(Kind::File, 0o644)
    }
}

fn parse(builder: Builder) -> Tree<Vec<u8>> {
    Tree::parse(builder.finish().unwrap()).unwrap()
}

fn layer(entries: &[(&[u8], Entry)]) -> Tree<Vec<u8>> {
    let mut builder = Builder::new();
    for (path, entry) in entries {
        builder.add(path, entry.clone()).unwrap();
    }
    parse(builder)
}

/// Runs a test that mounts, or says why not.
fn mounting(test: impl FnOnce()) {
    match obstacle().or_else(oracle::obstacle) {
        None => test(),
        Some(reason) => println!("skipped: {reason}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    fn every_image_agrees_with_tar(steps in any_steps(), inline_files in 0_u32..20) {
        let tree = tree_of(&steps);
        let implicit = implicit(&tree);
        let directory = tempfile::tempdir().unwrap();
        unpack(&tar(&steps), directory.path());
        let image = image(&tree, &Options { inline_files, ..Options::default() });
        fsck(&image);
        let mounted = Mounted::new(&image);
        let expected = comparable(list(&directory.path().join("root")), &implicit);
        prop_assert_eq!(comparable(list(mounted.path()), &implicit), expected);
    }
}

#[test]
fn a_mounted_image_agrees_with_tar() {
    mounting(every_image_agrees_with_tar);
}

proptest! {
    /// Sizes around every limit: of a slot, a block, inline content.
    #[test]
    fn contents_of_all_sizes_are_where_the_inode_says(
        sizes in prop::collection::vec(
            prop_oneof![0_usize..100, 1990_usize..2100, 3900_usize..4200, 8100_usize..8300, 0_usize..20_000],
            1..40,
        ),
        inline_files in prop_oneof![Just(0_u32), Just(2048), Just(4096), 0_u32..4096],
    ) {
        let contents: Vec<Vec<u8>> = sizes
            .iter()
            .enumerate()
            .map(|(number, size)| (0..*size).map(|at| (at * 31 + number) as u8).collect())
            .collect();
        let mut builder = Builder::new();
        for (number, content) in contents.iter().enumerate() {
            builder.add(format!("{number}").as_bytes(), file(content)).unwrap();
        }
        let tree = parse(builder);
        let image = image(&tree, &Options { inline_files, ..Options::default() });
        for (number, content) in contents.iter().enumerate() {
            prop_assert_eq!(&read(&image, format!("{number}").as_bytes()), content);
        }
    }
}

/// Reads a file of the root directory as the format's documentation says, with nothing of the
/// writer's.
fn read(image: &[u8], name: &[u8]) -> Vec<u8> {
    let root = u64::from(u16::from_le_bytes(image[1038..1040].try_into().unwrap()));
    let directory = content_of(image, root);
    let number = directory.chunks(4096).find_map(|block| {
        let at = |entry: usize| {
            usize::from(u16::from_le_bytes(
                block[entry + 8..entry + 10].try_into().unwrap(),
            ))
        };
        let count = at(0) / 12;
        (0..count).map(|it| it * 12).find_map(|entry| {
            let end = if entry + 12 < count * 12 {
                at(entry + 12)
            } else {
                block.len()
            };
            let found = block[at(entry)..end]
                .split(|byte| *byte == 0)
                .next()
                .unwrap();
            let number = u64::from_le_bytes(block[entry..entry + 8].try_into().unwrap());
            (found == name).then_some(number)
        })
    });
    content_of(image, number.unwrap())
}

fn content_of(image: &[u8], number: u64) -> Vec<u8> {
    let inode = number as usize * 32;
    let short =
        |at: usize| u16::from_le_bytes(image[inode + at..inode + at + 2].try_into().unwrap());
    let (format, xattrs) = (short(0), usize::from(short(2)));
    let size = u64::from_le_bytes(image[inode + 8..inode + 16].try_into().unwrap()) as usize;
    let block = u32::from_le_bytes(image[inode + 16..inode + 20].try_into().unwrap()) as usize;
    let behind = inode
        + 64
        + if xattrs == 0 {
            0
        } else {
            12 + 4 * (xattrs - 1)
        };
    let tail = if format >> 1 == 2 { size % 4096 } else { 0 };
    assert!(tail == 0 || inode / 4096 == (behind + tail - 1) / 4096);
    let mut content = Vec::new();
    if size > tail {
        content.extend_from_slice(&image[block * 4096..block * 4096 + size - tail]);
    }
    content.extend_from_slice(&image[behind..behind + tail]);
    content
}

#[test]
fn whiteouts_and_opaque_directories_are_overlayfs_own() {
    mounting(|| {
        let directory = Entry::new(Kind::Directory, 0o755);
        let lower = layer(&[
            (b"d/gone", file(b"1")),
            (b"d/stays", file(b"2")),
            (b"o/hidden", file(b"3")),
            (b"gone/deep/er", file(b"4")),
        ]);
        let upper = layer(&[
            (b"", directory.clone()),
            (b"d", directory.clone()),
            (b"d/.wh.gone", file(b"")),
            (b"o", directory),
            (b"o/.wh..wh..opq", file(b"")),
            (b"o/new", file(b"5")),
            (b".wh.gone", file(b"")),
        ]);
        let (lower, upper) = (
            image(&lower, &Options::default()),
            image(&upper, &Options::default()),
        );
        let (lower, upper) = (Mounted::new(&lower), Mounted::new(&upper));
        let whiteout = fs::symlink_metadata(upper.path().join("d/gone")).unwrap();
        assert_eq!(
            (whiteout.mode() & 0o170_000, whiteout.rdev()),
            (0o020_000, 0)
        );
        let xattr = |path: &str, name: &str| {
            let mut value = [0; 16];
            let length = rustix::fs::lgetxattr(upper.path().join(path), name, &mut value[..]);
            length.ok().map(|length| value[..length].to_vec())
        };
        assert_eq!(xattr("o", "trusted.overlay.opaque"), Some(b"y".to_vec()));
        assert_eq!(xattr("d", "trusted.overlay.opaque"), None);
        assert_eq!(xattr("d", "trusted.overlay.origin"), Some(Vec::new()));
        assert_eq!(xattr("", "trusted.overlay.origin"), Some(Vec::new()));
        assert_eq!(xattr("o", "trusted.overlay.origin"), None);

        let overlay = Mounted::overlay(&[upper.path(), lower.path()]);
        let seen: Vec<Vec<u8>> = list(overlay.path()).into_keys().collect();
        let expected: [&[u8]; 4] = [b"d", b"d/stays", b"o", b"o/new"];
        assert_eq!(seen, expected);
    });
}

#[test]
fn a_layers_own_overlay_attributes_are_left_out_and_counted() {
    let mut entry = file(b"x");
    entry.xattrs = vec![
        (
            b"trusted.overlay.redirect".to_vec(),
            b"/etc/shadow".to_vec(),
        ),
        (b"com.apple.provenance".to_vec(), b"1".to_vec()),
        (b"user.kept".to_vec(), b"1".to_vec()),
    ];
    let tree = layer(&[(b"f", entry)]);
    let plan = Plan::new(&tree, &Options::default()).unwrap();
    assert_eq!(plan.dropped_xattrs(), 2);
    mounting(|| {
        let mounted = Mounted::new(&image(&tree, &Options::default()));
        let shown = &list(mounted.path())[&b"f"[..]];
        assert_eq!(shown.xattrs, [(b"user.kept".to_vec(), b"1".to_vec())]);
    });
}

/// Capabilities, access lists, values of one length and another, sets that are shared.
#[test]
fn xattrs_are_what_was_given() {
    mounting(|| {
        let acl = [
            &[2, 0, 0, 0][..],
            &[1, 0, 6, 0, 255, 255, 255, 255],
            &[2, 0, 4, 0, 7, 0, 0, 0],
            &[4, 0, 4, 0, 255, 255, 255, 255],
            &[16, 0, 4, 0, 255, 255, 255, 255],
            &[32, 0, 4, 0, 255, 255, 255, 255],
        ]
        .concat();
        let capability = [&[0, 0, 0, 2, 0, 32, 0, 0][..], &[0; 12]].concat();
        let mut builder = Builder::new();
        for number in 0..300_usize {
            let mut entry = file(&vec![7; number * 20]);
            entry.xattrs = vec![
                (b"security.capability".to_vec(), capability.clone()),
                (b"system.posix_acl_access".to_vec(), acl.clone()),
                (b"user.length".to_vec(), vec![b'v'; number * 11]),
                (b"user.shared".to_vec(), vec![b's'; number / 3]),
            ];
            // More of the same than one inode can share.
            for many in 0..number {
                entry
                    .xattrs
                    .push((format!("user.m{many}").into_bytes(), b"m".to_vec()));
            }
            builder.add(format!("{number}").as_bytes(), entry).unwrap();
        }
        let tree = parse(builder);
        let image = image(&tree, &Options::default());
        fsck(&image);
        let mounted = Mounted::new(&image);
        for (_, name, node) in tree.children(NodeId::ROOT, 0) {
            let path = mounted.path().join(std::ffi::OsStr::from_bytes(name));
            for (name, value) in tree.xattrs(node) {
                let mut found = vec![0; 65536];
                let length = rustix::fs::lgetxattr(&path, name, &mut found[..]).unwrap();
                assert_eq!(&found[..length], value, "{}", name.escape_ascii());
            }
            let mut names = vec![0; 65536];
            let length = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
            let count = names[..length].split(|byte| *byte == 0).count() - 1;
            assert_eq!(count, tree.xattrs(node).len());
        }
    });
}

#[test]
fn a_directory_of_100_000_names_is_listed_and_searched() {
    mounting(|| {
        let mut builder = Builder::new();
        let name = |number: u32| match number % 1000 {
            0 => format!("{number:0>255}").into_bytes(),
            1 => [&b"\xff\xfe"[..], number.to_string().as_bytes()].concat(),
            _ => format!("n{number}").into_bytes(),
        };
        for number in 0..100_000 {
            let path = [&b"big/"[..], &name(number)].concat();
            builder.add(&path, file(b"")).unwrap();
        }
        let image = image(&parse(builder), &Options::default());
        fsck(&image);
        let mounted = Mounted::new(&image);
        let big = mounted.path().join("big");
        let mut seen: Vec<Vec<u8>> = fs::read_dir(&big)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
            .collect();
        seen.sort_unstable();
        let mut expected: Vec<Vec<u8>> = (0..100_000).map(name).collect();
        expected.sort_unstable();
        assert_eq!(seen, expected);
        for name in expected.iter().step_by(97) {
            assert!(big.join(std::ffi::OsStr::from_bytes(name)).exists());
        }
        assert!(!big.join("absent").exists());
    });
}

/// 5 GiB that are no bytes of anybody's memory: a pattern by offset.
#[test]
fn a_file_above_4_gib_is_read_at_its_ends() {
    const SIZE: u64 = (5 << 30) + 123;
    mounting(|| {
        let mut entry = file(b"");
        entry.size = SIZE;
        let tree = layer(&[(b"big", entry), (b"z", file(b"behind"))]);
        let plan = Plan::new(
            &tree,
            &Options {
                inline_files: 0,
                ..Options::default()
            },
        )
        .unwrap();
        let out = tempfile::NamedTempFile::new().unwrap();
        let mut sparse = Sparse {
            file: out.as_file(),
            at: 0,
        };
        plan.write(&mut sparse, |node| -> std::io::Result<Box<dyn Read>> {
            if tree.attributes(node).size == SIZE {
                Ok(Box::new(
                    b"first"
                        .chain(std::io::repeat(0).take(SIZE - 9))
                        .chain(&b"last"[..]),
                ))
            } else {
                Ok(Box::new(&b"behind"[..]))
            }
        })
        .unwrap();
        out.as_file().set_len(plan.length()).unwrap();
        let mounted = Mounted::of_file(out.path());
        let big = fs::File::open(mounted.path().join("big")).unwrap();
        assert_eq!(big.metadata().unwrap().len(), SIZE);
        let at = |offset: u64, length: usize| {
            let mut bytes = vec![0; length];
            big.read_exact_at(&mut bytes, offset).unwrap();
            bytes
        };
        assert_eq!(at(0, 6), b"first\0");
        assert_eq!(at(SIZE - 5, 5), b"\0last");
        assert_eq!(at(1 << 32, 4), [0; 4]);
        assert_eq!(fs::read(mounted.path().join("z")).unwrap(), b"behind");
    });
}

/// Writes a file with holes where there are zeros.
struct Sparse<'a> {
    file: &'a fs::File,
    at: u64,
}

impl std::io::Write for Sparse<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.iter().any(|byte| *byte != 0) {
            self.file.write_all_at(bytes, self.at)?;
        }
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn times_before_1970_and_after_2106_are_kept() {
    mounting(|| {
        let mut entries = Vec::new();
        for (name, mtime) in [("a", -1_i64), ("b", 5_000_000_000), ("c", 0)] {
            let mut entry = file(b"t");
            (entry.mtime, entry.mtime_nanos) = (mtime, 999_999_999);
            entries.push((name.as_bytes(), entry));
        }
        let mounted = Mounted::new(&image(&layer(&entries), &Options::default()));
        let shown: BTreeMap<Vec<u8>, Shown> = list(mounted.path());
        assert_eq!(shown[&b"a"[..]].mtime, (-1, 999_999_999));
        assert_eq!(shown[&b"b"[..]].mtime, (5_000_000_000, 999_999_999));
        assert_eq!(shown[&b"c"[..]].mtime, (0, 999_999_999));
    });
}

#[test]
fn equal_trees_give_equal_images_and_the_uuid_is_the_callers() {
    let make = || layer(&[(b"a/b", file(b"1")), (b"a/c", file(&[2; 9000]))]);
    let options = Options {
        uuid: *b"0123456789abcdef",
        ..Options::default()
    };
    let one = image(&make(), &options);
    assert_eq!(one, image(&make(), &options));
    assert_eq!(&one[1024 + 48..1024 + 64], b"0123456789abcdef");
    // The same bytes by the other way.
    let tree = make();
    let plan = Plan::new(&tree, &options).unwrap();
    let mut reader = plan.image(|node| Ok(tree.extents(node).next().unwrap().content));
    let mut read = Vec::new();
    let mut buffer = [0; 777];
    loop {
        match reader.read(&mut buffer).unwrap() {
            0 => break,
            count => read.extend_from_slice(&buffer[..count]),
        }
    }
    assert_eq!(read, one);
}

#[test]
fn what_no_image_can_hold_is_refused_by_name() {
    let mut huge = file(b"");
    huge.size = u64::MAX;
    let mut many = file(b"");
    many.size = 15 << 40;
    let mut device = Entry::new(Kind::CharDevice, 0o600);
    device.rdev = 1 << 40;
    let mut xattr = file(b"");
    xattr.xattrs = vec![(b"user.x".to_vec(), vec![0; 65536])];
    let path = |path: &str| path.as_bytes().to_vec();
    let table = [
        (
            layer(&[(b"d/huge", huge)]),
            PlanError::TooLarge {
                path: path("d/huge"),
            },
        ),
        (
            layer(&[(b"a", many.clone()), (b"b", many)]),
            PlanError::TooLarge { path: path("b") },
        ),
        (
            layer(&[(b"dev", device)]),
            PlanError::Device { path: path("dev") },
        ),
        (
            layer(&[(b"x", xattr)]),
            PlanError::XattrsTooLong { path: path("x") },
        ),
    ];
    for (tree, expected) in table {
        let error = Plan::new(&tree, &Options::default()).unwrap_err();
        assert_eq!(error, expected);
    }
    let mut builder = Builder::new();
    builder.hardlink(b"link", b"below").unwrap();
    let tree = parse(builder);
    let error = Plan::new(&tree, &Options::default()).unwrap_err();
    assert_eq!(error, PlanError::LinkToLowerLayer { path: path("link") });
}

#[test]
fn content_that_is_not_as_long_as_stated_is_an_error() {
    for size in [10, 10_000] {
        let tree = layer(&[(b"f", file(&vec![1; size]))]);
        let plan = Plan::new(&tree, &Options::default()).unwrap();
        let write = |length: usize| {
            let content = vec![1; length];
            plan.write(&mut Vec::new(), |_| Ok(&content[..]))
        };
        assert!(write(size).is_ok());
        assert!(matches!(write(size - 1), Err(WriteError::Short { .. })));
        assert!(matches!(write(0), Err(WriteError::Short { got: 0, .. })));
        assert!(matches!(write(size + 1), Err(WriteError::Long { .. })));
        let failed = plan.write(&mut Vec::new(), |_| -> std::io::Result<&[u8]> {
            Err(std::io::ErrorKind::NotFound.into())
        });
        assert!(matches!(failed, Err(WriteError::Content { .. })));
    }
}

#[test]
fn a_full_disk_is_the_outputs_error() {
    let tree = layer(&[(b"f", file(&[1; 10_000]))]);
    let plan = Plan::new(&tree, &Options::default()).unwrap();
    let mut small = [0; 5000];
    let failed = plan.write(&mut &mut small[..], |_| Ok(&[1; 10_000][..]));
    assert!(matches!(failed, Err(WriteError::Output(_))));
}
