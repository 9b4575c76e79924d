//! Bytes that no builder wrote: never a panic, and what parses can be read to its end.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a test may fail, and tables are long"
)]

mod generate;

use generate::{any_entry, any_path};
use proptest::prelude::*;
use tree::{Builder, Entry, FormatError, Kind, NodeId, Tree, merge};

/// Calls every accessor for every node, and for some that are not there.
fn read_all(tree: &Tree<&[u8]>) {
    let count = tree.node_count();
    let numbers = (0..count).chain([count, count + 1, u32::MAX]);
    for id in numbers.map(NodeId) {
        let attributes = tree.attributes(id);
        let there = tree.node_id(id.0.into()).is_some();
        assert_eq!(there, id.0 < count);
        assert_eq!(attributes.nlink > 0, there);
        assert!(tree.parent(id).0 < count);
        assert_eq!(
            !tree.symlink(id).is_empty(),
            matches!(attributes.kind, Kind::Symlink | Kind::Link)
        );
        let names: Vec<_> = tree.children(id, 0).collect();
        for (index, name, child) in &names {
            assert_eq!(tree.lookup(id, name), Some(*child));
            assert!(child.0 < count);
            assert_eq!(
                tree.children(id, *index).next(),
                Some((*index, *name, *child))
            );
            if tree.kind(*child) == Kind::Directory {
                assert_eq!(tree.parent(*child), id);
            }
        }
        assert!(tree.children(id, names.len()).next().is_none());
        assert!(tree.children(id, usize::MAX).next().is_none());
        assert_eq!(tree.lookup(id, b"no such name"), None);
        for extent in tree.extents(id) {
            let last = extent.offset + extent.length - 1;
            assert_eq!(tree.extent_at(id, extent.offset), Some(extent));
            assert_eq!(tree.extent_at(id, last), Some(extent));
            assert!(last < attributes.size);
        }
        assert_eq!(tree.extent_at(id, attributes.size), None);
        assert!(tree.xattrs(id).all(|(name, _)| !name.is_empty()));
        assert!(!tree.has_xattrs() || tree.xattr(id, b"").is_none());
        let _ = (tree.layer(id), tree.is_opaque(id), tree.is_implicit(id));
    }
    // Each node but the root has a name; the walk ends.
    let mut named: Vec<_> = tree
        .walk()
        .map(|(path, id)| {
            assert_eq!(tree.lookup_path(&path), Some(id));
            id
        })
        .collect();
    named.sort_unstable();
    named.dedup();
    assert_eq!(named.len(), count as usize - 1);
    if let Ok(merged) = merge(&[tree, tree]) {
        Tree::parse(merged).unwrap();
    }
}

const KINDS: &[Kind] = &[
    Kind::File,
    Kind::Directory,
    Kind::Symlink,
    Kind::CharDevice,
    Kind::Fifo,
];

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let entries = prop::collection::vec((any_path(), any_entry(KINDS), any::<bool>()), 0..12);
    (entries, any::<bool>()).prop_map(|(entries, merged)| {
        let mut builder = Builder::new();
        for (path, entry, whiteout) in entries {
            let _ = match whiteout {
                true => builder.whiteout(&path),
                false => builder.add(&path, entry),
            };
        }
        let _ = builder.hardlink(b"link", b"a");
        let bytes = builder
            .finish()
            .unwrap_or_else(|_| Builder::new().finish().unwrap());
        if !merged {
            return bytes;
        }
        let tree = Tree::parse(&bytes[..]).unwrap();
        merge(&[&tree]).unwrap_or(bytes.clone())
    })
}

#[derive(Clone, Debug)]
enum Damage {
    Byte(prop::sample::Index, u8),
    /// A small number in place of a field, as indices are.
    Field(prop::sample::Index, u32),
    /// One field's bytes over another's.
    Copy(prop::sample::Index, prop::sample::Index),
}

fn any_damage() -> impl Strategy<Value = Damage> {
    use prop::sample::Index;
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        (any::<Index>(), prop_oneof![0_u32..30, Just(u32::MAX)])
            .prop_map(|(at, value)| Damage::Field(at, value)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Copy(from, to)),
    ]
}

fn damage(bytes: &mut [u8], damage: &Damage) {
    let fields = bytes.len() / 4;
    match damage {
        Damage::Byte(at, value) => bytes[at.index(bytes.len())] = *value,
        Damage::Field(at, value) => {
            let at = at.index(fields) * 4;
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        Damage::Copy(from, to) => {
            let (from, to) = (from.index(fields) * 4, to.index(fields) * 4);
            bytes.copy_within(from..from + 4, to);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn damaged_trees_are_refused_or_read_safely(
        mut bytes in any_bytes(),
        damages in prop::collection::vec(any_damage(), 0..4),
    ) {
        damages.iter().for_each(|it| damage(&mut bytes, it));
        if let Ok(tree) = Tree::parse(&bytes[..]) {
            read_all(&tree);
        }
    }

    #[test]
    fn shorter_and_longer_trees_are_refused(bytes in any_bytes(), at: prop::sample::Index) {
        prop_assert!(Tree::parse(&bytes[..at.index(bytes.len())]).is_err());
        prop_assert!(Tree::parse([&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn random_bytes_are_no_tree(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Tree::parse(bytes).is_err());
    }
}

/// `d/` with `a` (a file of 3 bytes in two parts) and `b` (a symlink), and `e/`.
fn sample() -> Vec<u8> {
    let mut builder = Builder::new();
    let file = Entry {
        size: 3,
        extents: vec![(0, 1, b"one".to_vec()), (1, 2, b"two".to_vec())],
        xattrs: vec![(b"user.x".to_vec(), b"1".to_vec())],
        ..Entry::new(Kind::File, 0o644)
    };
    builder.add(b"d/a", file).unwrap();
    let link = Entry {
        symlink: b"a".to_vec(),
        ..Entry::new(Kind::Symlink, 0o777)
    };
    builder.add(b"d/b", link).unwrap();
    builder
        .add(b"e", Entry::new(Kind::Directory, 0o755))
        .unwrap();
    builder.finish().unwrap()
}

// Nodes of the sample: 0 root, 1 d, 2 e, 3 d/a, 4 d/b. Places as drawn in `format`.
const fn node(number: usize, field: usize) -> usize {
    64 + number * 64 + field
}

const fn dirent(number: usize, field: usize) -> usize {
    64 + 5 * 64 + number * 12 + field
}

const fn part(number: usize, field: usize) -> usize {
    dirent(4, 0) + number * 24 + field
}

const fn xattr(field: usize) -> usize {
    part(2, 0) + field
}

#[test]
fn every_rule_of_the_format_is_checked() {
    // Past the end of the blob.
    const FAR: &[u8] = &[0xff, 0xff];
    let bytes = sample();
    assert!(Tree::parse(&bytes[..]).is_ok());
    let table: &[(&str, usize, &[u8])] = &[
        ("magic", 0, b"X"),
        ("version", 8, &[2]),
        ("flags", 12, &[2]),
        ("number of nodes", 16, &[0]),
        ("number of nodes", 16, &[4]),
        ("number of names", 20, &[3]),
        ("number of extents", 24, &[1]),
        ("number of xattrs", 28, &[9]),
        ("length of the blob", 32, FAR),
        ("length of the blob", 36, &[1]),
        ("sum of sizes", 40, &[4]),
        ("reserved", 63, &[1]),
        ("kind of the root", node(0, 0), &[1]),
        ("kind", node(3, 0), &[0]),
        ("kind", node(3, 0), &[10]),
        ("flags of a file", node(3, 1), &[2]),
        ("flags", node(1, 1), &[4]),
        ("layer in a layer's tree", node(1, 2), &[1]),
        ("type bits in the mode", node(1, 5), &[0x41]),
        ("reserved", node(1, 6), &[1]),
        ("links of a file", node(3, 16), &[0]),
        ("links of a directory", node(1, 16), &[3]),
        ("nanoseconds", node(1, 20), &[0, 0xca, 0x9a, 0x3b]),
        ("size below the extents", node(3, 32), &[2]),
        ("size of a symlink", node(4, 32), &[2]),
        ("first name", node(1, 40), &[1]),
        ("names of two directories", node(2, 40), &[2]),
        ("number of names", node(1, 48), &[1]),
        ("number of names", node(1, 48), &[9]),
        ("first extent", node(3, 40), &[1]),
        ("number of extents", node(3, 48), &[1]),
        ("place of a target", node(4, 40), FAR),
        ("length of a target", node(4, 48), &[0]),
        ("parent of the root", node(0, 52), &[1]),
        ("parent", node(1, 52), &[2]),
        ("parent of a file", node(3, 52), &[1]),
        ("xattrs of a node", node(1, 60), &[2]),
        ("place of a name", dirent(0, 0), FAR),
        ("order of names", dirent(1, 0), &[0]),
        ("empty name", dirent(0, 8), &[0]),
        ("reserved", dirent(0, 10), &[1]),
        ("the root as a child", dirent(0, 4), &[0]),
        ("a directory twice", dirent(1, 4), &[1]),
        ("a child that comes too early", dirent(0, 4), &[2]),
        ("a child that is not there", dirent(3, 4), &[5]),
        ("a circle", dirent(2, 4), &[1]),
        ("offset of an extent", part(1, 0), &[0]),
        ("length of an extent", part(0, 8), &[0]),
        ("extent without end", part(1, 8), &[0xff; 8]),
        ("place of a reference", part(0, 16), FAR),
        ("length of a reference", part(0, 20), FAR),
        ("name of an xattr", xattr(0), FAR),
        ("value of an xattr", xattr(4), FAR),
        ("value of an xattr", xattr(8), FAR),
        ("empty name of an xattr", xattr(12), &[0]),
        ("reserved", xattr(14), &[1]),
    ];
    for (rule, at, value) in table {
        let mut bytes = bytes.clone();
        bytes[*at..at + value.len()].copy_from_slice(value);
        assert!(Tree::parse(&bytes[..]).is_err(), "{rule} at {at}");
    }
}

fn patched(mut bytes: Vec<u8>, patches: &[(usize, u8)]) -> Result<(), FormatError> {
    assert!(Tree::parse(&bytes[..]).is_ok());
    for (at, value) in patches {
        bytes[*at] = *value;
    }
    Tree::parse(&bytes[..]).map(drop)
}

#[test]
fn a_directory_that_holds_itself_is_refused() {
    let mut builder = Builder::new();
    builder
        .add(b"d", Entry::new(Kind::Directory, 0o755))
        .unwrap();
    // The only name moves from the root to the directory that it names.
    let root = [(node(0, 48), 0), (node(0, 16), 2)];
    let own = [
        (node(1, 40), 0),
        (node(1, 48), 1),
        (node(1, 16), 3),
        (node(1, 52), 1),
    ];
    let error = patched(builder.finish().unwrap(), &[&root[..], &own].concat());
    let what = "place: no directory above names it";
    assert_eq!(error, Err(FormatError::Node { node: 1, what }));
}

#[test]
fn nodes_are_numbered_in_the_order_of_their_names() {
    let mut builder = Builder::new();
    builder.add(b"a", Entry::default()).unwrap();
    builder.add(b"b", Entry::default()).unwrap();
    builder.hardlink(b"c", b"a").unwrap();
    let dirent = |number: usize| 64 + 3 * 64 + number * 12 + 4;
    let swapped = [(dirent(0), 2), (dirent(1), 1), (dirent(2), 2)];
    let what = "node number";
    let expected = FormatError::Dirent {
        directory: 0,
        index: 0,
        what,
    };
    assert_eq!(patched(builder.finish().unwrap(), &swapped), Err(expected));
}

#[test]
fn a_merged_tree_holds_nothing_that_only_layers_have() {
    let layer = |path: &[u8]| {
        let mut builder = Builder::new();
        builder.add(path, Entry::default()).unwrap();
        builder.hardlink(b"l/x", b"l/y").unwrap();
        builder.finish().unwrap()
    };
    // The header's flag alone makes a merged tree of it.
    for path in [&b"a/.wh..wh..opq"[..], b".wh.x", b"a"] {
        let error = patched(layer(path), &[(12, 1)]);
        assert!(matches!(error, Err(FormatError::Node { .. })), "{path:?}");
    }
    let plain = Builder::new().finish().unwrap();
    assert_eq!(patched(plain, &[(12, 1)]), Ok(()));
}

#[test]
fn names_that_would_escape_are_refused() {
    let bytes = sample();
    let at = bytes.len() - bytes.iter().rev().position(|byte| *byte == b'd').unwrap() - 1;
    for bad in [b'/', 0, b'.'] {
        let mut bytes = bytes.clone();
        bytes[at] = bad;
        let error = Tree::parse(&bytes[..]).unwrap_err();
        let expected = FormatError::Dirent {
            directory: 0,
            index: 0,
            what: "name",
        };
        assert_eq!(error, expected);
    }
}

#[test]
fn errors_say_what_to_do() {
    let mut bytes = sample();
    bytes[8] = 9;
    let error = Tree::parse(&bytes[..]).unwrap_err();
    assert_eq!(error, FormatError::Version { found: 9 });
    assert!(error.to_string().contains("build it again"));
    assert_eq!(
        Tree::parse(&b"OUTCROPT"[..]).unwrap_err(),
        FormatError::NotATree
    );
}

#[test]
fn bytes_that_change_under_the_view_cannot_make_it_panic() {
    use std::cell::RefCell;
    use std::rc::Rc;
    /// Hands out other bytes each time: what a map of a file that somebody else writes would do.
    struct Shifting(Vec<Vec<u8>>, Rc<RefCell<usize>>);
    impl AsRef<[u8]> for Shifting {
        fn as_ref(&self) -> &[u8] {
            let mut turn = self.1.borrow_mut();
            *turn += 1;
            let settled = *turn < 20_000;
            if settled {
                &self.0[0]
            } else {
                &self.0[*turn % self.0.len()]
            }
        }
    }
    let bytes = sample();
    let broken = vec![0xff; bytes.len()];
    let turn = Rc::new(RefCell::new(0));
    let all = vec![bytes.clone(), broken, Vec::new(), bytes[..100].to_vec()];
    let tree = Tree::parse(Shifting(all, Rc::clone(&turn))).unwrap();
    *turn.borrow_mut() = 20_000;
    for round in 0..400 {
        let id = NodeId(round % 6);
        let _ = (
            tree.attributes(id),
            tree.symlink(id),
            tree.lookup(id, b"a"),
            tree.parent(id),
        );
        let _ = (
            tree.children(id, 0).count(),
            tree.extents(id).count(),
            tree.xattrs(id).count(),
        );
        let _ = (tree.extent_at(id, 1), tree.walk().take(9).count());
    }
}
