//! What a builder makes of entries in any order.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "a test may fail, and tables are long"
)]

mod generate;

use std::collections::BTreeMap;

use generate::{any_entry, any_path, show_all};
use proptest::prelude::*;
use tree::{BuildError, Builder, Entry, Extent, Kind, NodeId, Tree};

fn tree(builder: Builder) -> Tree<Vec<u8>> {
    Tree::parse(builder.finish().unwrap()).unwrap()
}

fn file(number: i64) -> Entry {
    Entry {
        mtime: number,
        ..Entry::new(Kind::File, 0o644)
    }
}

fn directory(number: i64) -> Entry {
    Entry {
        mtime: number,
        ..Entry::new(Kind::Directory, 0o700)
    }
}

fn paths(tree: &Tree<Vec<u8>>) -> Vec<String> {
    tree.walk()
        .map(|(path, _)| String::from_utf8(path).unwrap())
        .collect()
}

const KINDS: &[Kind] = &[
    Kind::File,
    Kind::Directory,
    Kind::Symlink,
    Kind::CharDevice,
    Kind::Fifo,
    Kind::Socket,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_was_added_is_there(
        entries in prop::collection::btree_map(any_path(), any_entry(KINDS), 0..20),
    ) {
        let files: Vec<_> = entries
            .iter()
            .filter(|(_, entry)| entry.kind != Kind::Directory)
            .map(|(path, _)| [path, &b"/"[..]].concat())
            .collect();
        let entries: BTreeMap<_, _> = entries
            .into_iter()
            .filter(|(path, _)| !files.iter().any(|file| path.starts_with(file)))
            .collect();
        // Children before parents in one, after them in the other.
        let mut builders = [Builder::new(), Builder::new()];
        for (path, entry) in &entries {
            builders[0].add(path, entry.clone()).unwrap();
        }
        for (path, entry) in entries.iter().rev() {
            builders[1].add(&[b"/", &path[..]].concat(), entry.clone()).unwrap();
        }
        let [first, second] = builders.map(|builder| builder.finish().unwrap());
        let tree = Tree::parse(&first[..]).unwrap();
        let shown = show_all(&tree);
        prop_assert_eq!(&shown, &show_all(&Tree::parse(&second[..]).unwrap()));
        for (path, entry) in &entries {
            let seen = &shown[path];
            let xattrs: BTreeMap<_, _> = entry.xattrs.iter().cloned().collect();
            prop_assert_eq!(seen.kind, entry.kind);
            prop_assert_eq!(seen.mode, entry.mode);
            prop_assert_eq!(seen.owner, (entry.uid, entry.gid));
            prop_assert_eq!(seen.mtime, (entry.mtime, entry.mtime_nanos));
            prop_assert_eq!(seen.rdev, entry.rdev);
            prop_assert_eq!(&seen.target, &entry.symlink);
            prop_assert_eq!(&seen.xattrs, &xattrs.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(&seen.first_name, path);
        }
        let implicit = tree.walk().filter(|(path, id)| {
            assert_eq!(tree.is_implicit(*id), !entries.contains_key(path));
            tree.is_implicit(*id)
        });
        prop_assert_eq!(implicit.count() + entries.len(), shown.len());
        let bytes: u64 = entries.values().map(|entry| entry.size).sum();
        prop_assert_eq!(tree.content_bytes(), bytes);
    }
}

#[test]
fn an_empty_layer_is_an_implicit_root() {
    let tree = tree(Builder::new());
    assert_eq!((tree.node_count(), tree.content_bytes()), (1, 0));
    assert!(tree.is_implicit(NodeId::ROOT) && !tree.has_xattrs() && !tree.is_merged());
    let root = tree.attributes(NodeId::ROOT);
    assert_eq!((root.st_mode(), root.nlink), (0o040_755, 2));
    assert_eq!(tree.lookup_path(b"/"), Some(NodeId::ROOT));
}

#[test]
fn of_one_path_the_later_entry_wins() {
    let table: &[(&str, &[(&str, Entry)], &[&str], i64)] = &[
        ("file, file", &[("a", file(1)), ("a", file(2))], &["a"], 2),
        (
            "directory, directory",
            &[("a", directory(1)), ("a/x", file(5)), ("a", directory(2))],
            &["a", "a/x"],
            2,
        ),
        (
            "directory, file",
            &[("a", directory(1)), ("a/x/y", file(5)), ("a", file(2))],
            &["a"],
            2,
        ),
        (
            "file, directory",
            &[("a", file(1)), ("a", directory(2))],
            &["a"],
            2,
        ),
        (
            "directory, file, below again",
            &[
                ("a/b", file(1)),
                ("a", file(2)),
                ("a", directory(3)),
                ("a/c", file(4)),
            ],
            &["a", "a/c"],
            3,
        ),
        (
            "child, parent",
            &[("a/b", file(1)), ("a", directory(2))],
            &["a", "a/b"],
            2,
        ),
        (
            "spellings",
            &[
                ("./a/", directory(1)),
                ("/a/.//b", file(3)),
                ("a/.", directory(2)),
            ],
            &["a", "a/b"],
            2,
        ),
    ];
    for (case, entries, expected, mtime) in table {
        let mut builder = Builder::new();
        for (path, entry) in *entries {
            builder.add(path.as_bytes(), entry.clone()).unwrap();
        }
        let tree = tree(builder);
        assert_eq!(paths(&tree), *expected, "{case}");
        let a = tree.lookup_path(b"a").unwrap();
        assert_eq!(tree.attributes(a).mtime, *mtime, "{case}");
    }
}

#[test]
fn an_explicit_directory_stays_explicit() {
    let implicit = |number| Entry {
        implicit: true,
        ..directory(number)
    };
    let mut builder = Builder::new();
    builder.add(b"a", implicit(1)).unwrap();
    builder.add(b"a", directory(2)).unwrap();
    builder.add(b"a", implicit(3)).unwrap();
    builder.add(b"b/c", file(1)).unwrap();
    builder.add(b"b", implicit(4)).unwrap();
    builder.add(b"", implicit(5)).unwrap();
    let tree = tree(builder);
    let seen = |path: &[u8]| {
        let id = tree.lookup_path(path).unwrap();
        (tree.is_implicit(id), tree.attributes(id).mtime)
    };
    assert_eq!(
        [seen(b"a"), seen(b"b"), seen(b"")],
        [(false, 2), (true, 4), (true, 5)]
    );
}

#[test]
fn links_are_names_of_one_file() {
    let mut builder = Builder::new();
    // Before its target, through another link, and onto its own path.
    builder.hardlink(b"0", b"1").unwrap();
    builder.hardlink(b"1", b"d/2").unwrap();
    builder.add(b"d/2", file(7)).unwrap();
    builder.hardlink(b"d/2", b"./d/2").unwrap();
    builder.hardlink(b"3", b"/d/2").unwrap();
    let tree = tree(builder);
    assert_eq!(tree.node_count(), 3);
    let id = tree.lookup_path(b"0").unwrap();
    for path in ["1", "d/2", "3"] {
        assert_eq!(tree.lookup_path(path.as_bytes()), Some(id), "{path}");
    }
    assert_eq!(
        (tree.attributes(id).nlink, tree.attributes(id).mtime),
        (4, 7)
    );
}

#[test]
fn a_link_keeps_the_file_that_its_target_was_then() {
    let mut builder = Builder::new();
    builder.add(b"a", file(1)).unwrap();
    builder.hardlink(b"b", b"a").unwrap();
    builder.add(b"a", file(2)).unwrap();
    let tree = tree(builder);
    let seen = |path: &[u8]| {
        let attributes = tree.attributes(tree.lookup_path(path).unwrap());
        (attributes.mtime, attributes.nlink)
    };
    assert_eq!((seen(b"a"), seen(b"b")), ((2, 1), (1, 1)));
}

#[test]
fn a_link_out_of_the_layer_is_kept() {
    let mut builder = Builder::new();
    builder.hardlink(b"a", b"/lower//file").unwrap();
    // A circle leads nowhere in this layer, so it can only mean the layers below.
    builder.hardlink(b"x", b"y").unwrap();
    builder.hardlink(b"y", b"x").unwrap();
    let tree = tree(builder);
    let id = tree.lookup_path(b"a").unwrap();
    assert_eq!(
        (tree.kind(id), tree.symlink(id)),
        (Kind::Link, &b"lower/file"[..])
    );
    assert_eq!(tree.kind(tree.lookup_path(b"x").unwrap()), Kind::Link);
}

#[test]
fn groups_are_names_of_one_file() {
    let member = |number, group| Entry {
        link_group: Some(group),
        ..file(number)
    };
    let mut builder = Builder::new();
    builder.add(b"a", member(1, 1)).unwrap();
    builder.add(b"b", member(1, 1)).unwrap();
    builder.add(b"c", member(2, 2)).unwrap();
    // The only name of group 2 goes; the next member starts anew.
    builder.add(b"c", file(3)).unwrap();
    builder.add(b"d", member(4, 2)).unwrap();
    let tree = tree(builder);
    let seen: Vec<_> = tree
        .walk()
        .map(|(_, id)| (tree.attributes(id).mtime, tree.attributes(id).nlink))
        .collect();
    assert_eq!(seen, [(1, 2), (1, 2), (3, 1), (4, 1)]);
}

#[test]
fn whiteouts_are_read_from_names_and_settled_within_the_layer() {
    let mut builder = Builder::new();
    builder.add(b"d/.wh.gone", file(0)).unwrap();
    builder.add(b"d/.wh.kept", file(0)).unwrap();
    builder.add(b"d/kept/x", file(0)).unwrap();
    builder.add(b"o/.wh..wh..opq", file(0)).unwrap();
    builder.add(b".wh..wh.plnk/7", file(0)).unwrap();
    builder.add(b".wh..wh.aufs", file(0)).unwrap();
    builder.add(b"w", Entry::new(Kind::Whiteout, 0)).unwrap();
    builder.hardlink(b".wh.linked", b".wh..wh.aufs").unwrap();
    let tree = tree(builder);
    assert_eq!(
        paths(&tree),
        ["d", "d/gone", "d/kept", "d/kept/x", "linked", "o", "w"]
    );
    let kind = |path: &[u8]| tree.kind(tree.lookup_path(path).unwrap());
    for path in [&b"d/gone"[..], b"linked", b"w"] {
        assert_eq!(kind(path), Kind::Whiteout);
    }
    let opaque = |path: &[u8]| tree.is_opaque(tree.lookup_path(path).unwrap());
    assert!(opaque(b"o") && opaque(b"d/kept") && !opaque(b"d") && !opaque(b""));
}

#[test]
fn what_no_file_system_could_show_is_refused() {
    let bad_path = |path: &[u8]| BuildError::BadPath { path: path.into() };
    let bad = |path: &str, entry: Entry| Builder::new().add(path.as_bytes(), entry).unwrap_err();
    for path in [
        "..", "a/../b", "/..", "a\0", ".wh.", ".wh..", ".wh...", ".wh.a/b",
    ] {
        assert_eq!(bad(path, file(0)), bad_path(path.as_bytes()), "{path}");
    }
    assert_eq!(bad(".wh.d", directory(0)), bad_path(b".wh.d"));
    assert!(matches!(
        bad(&"a/".repeat(2100), file(0)),
        BuildError::PathTooLong { .. }
    ));
    assert_eq!(bad("/", file(0)), BuildError::BadRoot);
    assert_eq!(Builder::new().whiteout(b""), Err(BuildError::BadRoot));
    assert_eq!(Builder::new().hardlink(b"", b"a"), Err(BuildError::BadRoot));
    let entries = [
        Entry {
            kind: Kind::Link,
            ..file(0)
        },
        Entry {
            kind: Kind::Symlink,
            ..file(0)
        },
        Entry {
            kind: Kind::Symlink,
            symlink: b"a\0".to_vec(),
            ..file(0)
        },
        Entry {
            kind: Kind::Symlink,
            symlink: vec![b'a'; 4096],
            ..file(0)
        },
        Entry {
            mtime_nanos: 1_000_000_000,
            ..file(0)
        },
        Entry {
            extents: vec![(0, 1, Vec::new())],
            ..file(0)
        },
        Entry {
            size: 9,
            extents: vec![(0, 0, Vec::new())],
            ..file(0)
        },
        Entry {
            size: 9,
            extents: vec![(4, 2, Vec::new()), (5, 1, Vec::new())],
            ..file(0)
        },
        Entry {
            size: 9,
            extents: vec![(u64::MAX, 2, Vec::new())],
            ..file(0)
        },
        Entry {
            size: 9,
            extents: vec![(0, 9, vec![0; 65_537])],
            ..file(0)
        },
        Entry {
            xattrs: vec![(Vec::new(), Vec::new())],
            ..file(0)
        },
        Entry {
            xattrs: vec![(b"a".to_vec(), vec![0; 65_537])],
            ..file(0)
        },
        Entry {
            xattrs: vec![(b"a".to_vec(), Vec::new()); 4097],
            ..file(0)
        },
    ];
    for (number, entry) in entries.into_iter().enumerate() {
        let error = bad("a", entry);
        assert!(
            matches!(error, BuildError::BadEntry { .. }),
            "{number}: {error}"
        );
    }
}

#[test]
fn nothing_lies_below_a_file() {
    let mut builder = Builder::new();
    builder.add(b"a", file(1)).unwrap();
    let error = builder.add(b"a/b", file(1)).unwrap_err();
    assert_eq!(
        error,
        BuildError::NotADirectory {
            path: b"a/b".to_vec()
        }
    );
    assert_eq!(
        error.to_string(),
        "a/b: lies below something that is no directory"
    );
}

#[test]
fn links_through_too_many_links_are_refused() {
    let mut builder = Builder::new();
    for number in 0..100 {
        let (path, target) = (format!("l{number}"), format!("l{}", number + 1));
        builder
            .hardlink(path.as_bytes(), target.as_bytes())
            .unwrap();
    }
    builder.add(b"l100", file(1)).unwrap();
    assert!(matches!(
        builder.finish(),
        Err(BuildError::LinkChain { .. })
    ));
}

#[test]
fn extents_are_found_by_offset() {
    let mut builder = Builder::new();
    let entry = Entry {
        size: 100,
        extents: vec![
            (0, 10, b"p".to_vec()),
            (10, 20, b"q".to_vec()),
            (50, 1, b"r".to_vec()),
        ],
        ..file(0)
    };
    builder.add(b"f", entry).unwrap();
    let tree = tree(builder);
    let id = tree.lookup_path(b"f").unwrap();
    let q = Extent {
        offset: 10,
        length: 20,
        content: b"q",
    };
    assert_eq!(tree.extents(id).len(), 3);
    assert_eq!(tree.extent_at(id, 10), Some(q));
    assert_eq!(tree.extent_at(id, 29), Some(q));
    for hole in [30, 49, 51, 99, 100, u64::MAX] {
        assert_eq!(tree.extent_at(id, hole), None, "{hole}");
    }
    assert_eq!(tree.extent_at(NodeId::ROOT, 0), None);
}

#[test]
fn equal_attribute_sets_are_stored_once_and_later_values_win() {
    let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let xattrs = vec![
        pair("user.b", "1"),
        pair("user.a", "2"),
        pair("user.b", "3"),
    ];
    let size_of = |files: usize| {
        let mut builder = Builder::new();
        for number in 0..files {
            let entry = Entry {
                xattrs: xattrs.clone(),
                ..file(0)
            };
            builder
                .add(format!("{number:03}").as_bytes(), entry)
                .unwrap();
        }
        builder.finish().unwrap()
    };
    let bytes = size_of(10);
    assert_eq!(size_of(11).len() - bytes.len(), 64 + 12 + 3);
    let tree = Tree::parse(&bytes[..]).unwrap();
    let id = tree.lookup_path(b"005").unwrap();
    let seen: Vec<_> = tree.xattrs(id).collect();
    assert_eq!(seen, [(&b"user.a"[..], &b"2"[..]), (b"user.b", b"3")]);
    assert_eq!(tree.xattr(id, b"user.b"), Some(&b"3"[..]));
    assert!(tree.has_xattrs());
}

/// Prints what a large layer costs: `cargo test --release -- --ignored --nocapture large`.
#[test]
#[ignore = "measures, says nothing about correctness"]
fn large_layers_in_numbers() {
    let start = std::time::Instant::now();
    let mut builder = Builder::new();
    for number in 0..500_000_u64 {
        let path = format!(
            "usr/lib/package-{}/sub-{}/module-{number}.py",
            number / 1000,
            number / 25 % 40
        );
        let entry = Entry {
            size: 1000,
            extents: vec![(0, 1000, vec![0; 22])],
            ..file(1)
        };
        builder.add(path.as_bytes(), entry).unwrap();
    }
    let added = start.elapsed();
    let bytes = builder.finish().unwrap();
    let built = start.elapsed();
    let tree = Tree::parse(&bytes[..]).unwrap();
    let parsed = start.elapsed() - built;
    let merged = tree::merge(&[&tree, &tree, &tree]).unwrap();
    let all = start.elapsed() - built - parsed;
    println!(
        "add {added:?}, build {built:?}, {} bytes, parse {parsed:?}, merge of 3 {all:?} ({} bytes)",
        bytes.len(),
        merged.len()
    );
}
