//! Merged trees against a naive model of the rules, and a table of the rules by themselves.
#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a test may fail, and tables are long"
)]

mod generate;

use std::collections::{BTreeMap, BTreeSet};

use generate::{any_entry, any_path, show, show_all};
use proptest::prelude::*;
use tree::{BuildError, Builder, Entry, Kind, MergeError, NodeId, Tree, merge};

/// What a layer has at one path.
#[derive(Clone, Debug)]
enum Item {
    Entry(Entry),
    Link(Vec<u8>),
    Implicit,
}

fn implicit_directory() -> Entry {
    Entry {
        implicit: true,
        ..Entry::new(Kind::Directory, 0o755)
    }
}

#[derive(Clone, Debug, Default)]
struct Layer {
    root: Option<Entry>,
    items: BTreeMap<Vec<u8>, Item>,
    whiteouts: BTreeSet<Vec<u8>>,
    opaques: BTreeSet<Vec<u8>>,
}

fn parent_of(path: &[u8]) -> Option<&[u8]> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    Some(&path[..slash])
}

fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(parent_of(path), |path| parent_of(path))
}

impl Layer {
    /// The directories that this layer has without an entry of their own.
    fn implicit(&self) -> BTreeSet<Vec<u8>> {
        let whiteouts = self.whiteouts.iter().flat_map(|path| ancestors(path));
        let opaques = self
            .opaques
            .iter()
            .flat_map(|path| std::iter::once(&path[..]).chain(ancestors(path)));
        let items = self.items.keys().flat_map(|path| ancestors(path));
        whiteouts
            .chain(opaques)
            .chain(items)
            .filter(|path| !path.is_empty() && !self.items.contains_key(*path))
            .map(<[u8]>::to_vec)
            .collect()
    }

    /// Leaves out what lies below something that is no directory.
    fn consistent(mut self) -> Self {
        let files: BTreeSet<Vec<u8>> = self
            .items
            .iter()
            .filter(
                |(_, item)| !matches!(item, Item::Entry(entry) if entry.kind == Kind::Directory),
            )
            .map(|(path, _)| path.clone())
            .collect();
        let possible = |path: &Vec<u8>| !ancestors(path).any(|above| files.contains(above));
        self.items.retain(|path, _| possible(path));
        self.whiteouts.retain(possible);
        self.opaques
            .retain(|path| possible(path) && !files.contains(path));
        self
    }

    fn build(&self) -> Vec<u8> {
        let mut builder = Builder::new();
        let marker = || Entry::new(Kind::File, 0);
        // Markers first, last, or between: the order must not count.
        for path in &self.opaques {
            let name = [path, &b"/.wh..wh..opq"[..]].concat();
            builder.add(&name, marker()).unwrap();
        }
        for (path, item) in self.items.iter().rev() {
            match item {
                Item::Entry(entry) => builder.add(path, entry.clone()).unwrap(),
                Item::Link(target) => builder.hardlink(path, target).unwrap(),
                Item::Implicit => {}
            }
        }
        for path in &self.whiteouts {
            let start = parent_of(path).map_or(0, |parent| parent.len() + 1);
            let name = [&path[..start], b".wh.", &path[start..]].concat();
            builder.add(&name, marker()).unwrap();
        }
        if let Some(root) = &self.root {
            builder.add(b"./", root.clone()).unwrap();
        }
        builder.finish().unwrap()
    }
}

/// The model: the merged files by path. A file's identity is (layer, group or own path).
#[derive(Clone, Debug, Default)]
struct Model(BTreeMap<Vec<u8>, ModelNode>);

#[derive(Clone, Debug)]
struct ModelNode {
    entry: Entry,
    identity: (usize, Vec<u8>),
}

impl Model {
    fn is_directory(&self, path: &[u8]) -> bool {
        self.0
            .get(path)
            .is_some_and(|node| node.entry.kind == Kind::Directory)
    }

    fn remove_below(&mut self, path: &[u8]) {
        let prefix = [path, b"/"].concat();
        self.0.retain(|other, _| {
            path.is_empty() && other.is_empty() || !other.starts_with(&prefix) && !path.is_empty()
        });
    }

    /// Lays one layer over what is there; says which links of the layer lead nowhere.
    fn apply(&mut self, number: usize, layer: &Layer) -> Vec<Vec<u8>> {
        let before = self.clone();
        let mut broken = Vec::new();
        for path in &layer.whiteouts {
            self.0.remove(path);
            self.remove_below(path);
        }
        for path in layer
            .opaques
            .iter()
            .filter(|path| before.is_directory(path))
        {
            self.remove_below(path);
        }
        let mut items = layer.items.clone();
        items.extend(
            layer
                .implicit()
                .into_iter()
                .map(|path| (path, Item::Implicit)),
        );
        for (path, item) in &items {
            match item {
                Item::Implicit if self.is_directory(path) => {}
                Item::Implicit => self.put(path, implicit_directory(), (number, path.clone())),
                Item::Entry(entry) => {
                    let group = entry.link_group.filter(|_| entry.kind != Kind::Directory);
                    let key = group.map_or_else(|| path.clone(), |group| vec![0, group as u8]);
                    self.put(path, entry.clone(), (number, key));
                }
                Item::Link(target) => match (layer.items.get(target), before.0.get(target)) {
                    (Some(Item::Entry(entry)), _) => {
                        let group = entry.link_group;
                        let key =
                            group.map_or_else(|| target.clone(), |group| vec![0, group as u8]);
                        self.put(path, entry.clone(), (number, key));
                    }
                    (None, Some(node)) if node.entry.kind != Kind::Directory => {
                        self.put(path, node.entry.clone(), node.identity.clone());
                    }
                    _ => broken.push(path.clone()),
                },
            }
        }
        if let Some(root) = &layer.root {
            self.put(b"", root.clone(), (number, Vec::new()));
        }
        broken
    }

    fn put(&mut self, path: &[u8], entry: Entry, identity: (usize, Vec<u8>)) {
        if !(entry.kind == Kind::Directory && self.is_directory(path)) {
            self.remove_below(path);
        }
        self.0.insert(path.to_vec(), ModelNode { entry, identity });
    }
}

const KINDS: &[Kind] = &[
    Kind::File,
    Kind::File,
    Kind::Directory,
    Kind::Directory,
    Kind::Symlink,
    Kind::CharDevice,
    Kind::Fifo,
    Kind::Socket,
];

fn any_layer() -> impl Strategy<Value = Layer> {
    let item = (any_entry(KINDS), any_path(), 0_u8..8);
    (
        prop::option::of(any_entry(&[Kind::Directory])),
        prop::collection::btree_map(any_path(), item, 0..12),
        prop::collection::btree_set(any_path(), 0..4),
        prop::collection::btree_set(prop_oneof![9 => any_path(), 1 => Just(Vec::new())], 0..2),
    )
        .prop_map(|(root, items, whiteouts, opaques)| {
            let items = items.into_iter().map(|(path, (entry, target, choice))| {
                let item = if choice == 0 {
                    Item::Link(target)
                } else {
                    Item::Entry(entry)
                };
                (path, item)
            });
            let layer = Layer {
                root,
                items: items.collect(),
                whiteouts,
                opaques,
            };
            with_groups(layer.consistent())
        })
}

/// Makes some files of the layer names of one file.
fn with_groups(mut layer: Layer) -> Layer {
    let mut members = layer.items.values_mut().filter_map(|item| match item {
        Item::Entry(entry) if entry.kind == Kind::File && entry.uid % 3 == 0 => Some(entry),
        _ => None,
    });
    if let Some(first) = members.next() {
        first.link_group = Some(7);
        let first = first.clone();
        members.for_each(|other| *other = first.clone());
    }
    layer
}

/// Leaves out links which lead nowhere, and those to names of their own layer that are no file.
fn apply_all(layers: &mut [Layer]) -> Model {
    let mut model = Model::default();
    model.put(b"", implicit_directory(), (0, Vec::new()));
    for (number, layer) in layers.iter_mut().enumerate() {
        let implicit = layer.implicit();
        let items = layer.items.clone();
        layer.items.retain(|_, item| match item {
            Item::Entry(_) | Item::Implicit => true,
            Item::Link(target) => {
                let own = items.get(target);
                !implicit.contains(target)
                    && own.is_none_or(
                        |own| matches!(own, Item::Entry(entry) if entry.kind != Kind::Directory),
                    )
            }
        });
        loop {
            let mut next = model.clone();
            let broken = next.apply(number, layer);
            if broken.is_empty() {
                model = next;
                break;
            }
            layer.items.retain(|path, _| !broken.contains(path));
        }
    }
    model
}

fn compare(layers: &[Layer], model: &Model) -> Result<(), TestCaseError> {
    let trees: Vec<_> = layers
        .iter()
        .map(|layer| Tree::parse(layer.build()).unwrap())
        .collect();
    let merged = Tree::parse(merge(&trees.iter().collect::<Vec<_>>()).unwrap()).unwrap();
    prop_assert!(merged.is_merged());
    let mut shown = show_all(&merged);
    shown.insert(Vec::new(), show(&merged, b"", NodeId::ROOT));
    let paths: Vec<_> = shown.keys().collect();
    prop_assert_eq!(paths, model.0.keys().collect::<Vec<_>>());
    for (path, node) in &model.0 {
        let is_directory = node.entry.kind == Kind::Directory;
        let names: Vec<_> = if is_directory {
            vec![path]
        } else {
            let same = model.0.iter().filter(|(_, other)| {
                other.identity == node.identity && other.entry.kind != Kind::Directory
            });
            same.map(|(path, _)| path).collect()
        };
        let nlink = if is_directory {
            let above = |child: &&Vec<u8>| {
                !child.is_empty()
                    && parent_of(child).unwrap_or_default() == &path[..]
                    && model.is_directory(child)
            };
            2 + model.0.keys().filter(above).count()
        } else {
            names.len()
        };
        let seen = &shown[path];
        let entry = &node.entry;
        prop_assert_eq!(seen.kind, entry.kind, "{:?}", path);
        prop_assert_eq!(seen.mode, entry.mode, "{:?}", path);
        prop_assert_eq!(seen.owner, (entry.uid, entry.gid), "{:?}", path);
        prop_assert_eq!(seen.mtime, (entry.mtime, entry.mtime_nanos), "{:?}", path);
        prop_assert_eq!(seen.rdev, entry.rdev, "{:?}", path);
        prop_assert_eq!(&seen.target, &entry.symlink, "{:?}", path);
        let xattrs: BTreeMap<_, _> = entry.xattrs.iter().cloned().collect();
        prop_assert_eq!(
            &seen.xattrs,
            &xattrs.into_iter().collect::<Vec<_>>(),
            "{:?}",
            path
        );
        let content: Vec<u8> = entry
            .extents
            .iter()
            .flat_map(|(_, _, it)| it.clone())
            .collect();
        prop_assert_eq!(&seen.content, &content, "{:?}", path);
        prop_assert_eq!(&seen.first_name, names[0], "{:?}", path);
        prop_assert_eq!(seen.nlink as usize, nlink, "{:?}", path);
        let id = merged.lookup_path(path).unwrap();
        if !entry.implicit {
            prop_assert_eq!(usize::from(merged.layer(id)), node.identity.0, "{:?}", path);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_merged_tree_is_what_the_model_says(mut layers in prop::collection::vec(any_layer(), 1..5)) {
        let model = apply_all(&mut layers);
        compare(&layers, &model)?;
    }
}

/// Builds a layer: `path` a file, `path/` a directory, `path=target` a hardlink.
fn layer(entries: &[&str]) -> Tree<Vec<u8>> {
    let mut builder = Builder::new();
    for (number, path) in (1..).zip(entries) {
        let (path, target) = path.split_once('=').unwrap_or((path, ""));
        if !target.is_empty() {
            builder
                .hardlink(path.as_bytes(), target.as_bytes())
                .unwrap();
            continue;
        }
        let kind = if path.ends_with('/') {
            Kind::Directory
        } else {
            Kind::File
        };
        let entry = Entry {
            mtime: number,
            ..Entry::new(kind, 0o700)
        };
        builder.add(path.as_bytes(), entry).unwrap();
    }
    Tree::parse(builder.finish().unwrap()).unwrap()
}

/// The paths of a merge, in order, each with its layer and its number of links.
fn merged(layers: &[&[&str]]) -> Result<String, MergeError> {
    let trees: Vec<_> = layers.iter().map(|entries| layer(entries)).collect();
    let bytes = merge(&trees.iter().collect::<Vec<_>>())?;
    let merged = Tree::parse(bytes).unwrap();
    let lines = merged.walk().map(|(path, id)| {
        let attributes = merged.attributes(id);
        let slash = if attributes.kind == Kind::Directory {
            "/"
        } else {
            ""
        };
        let path = String::from_utf8(path).unwrap();
        format!("{path}{slash}:{}:{}", merged.layer(id), attributes.nlink)
    });
    Ok(lines.collect::<Vec<_>>().join(" "))
}

#[test]
fn the_rules_one_by_one() {
    let table: &[(&str, &[&[&str]], &str)] = &[
        ("one layer", &[&["a/b"]], "a/:0:2 a/b:0:1"),
        (
            "explicit above implicit",
            &[&["a/b"], &["a/"]],
            "a/:1:2 a/b:0:1",
        ),
        (
            "implicit above explicit",
            &[&["a/"], &["a/b"]],
            "a/:0:2 a/b:1:1",
        ),
        (
            "a file between directories",
            &[&["a/x"], &["a"], &["a/y"]],
            "a/:2:2 a/y:2:1",
        ),
        ("a file over a directory", &[&["a/b/c"], &["a"]], "a:1:1"),
        ("a directory over a file", &[&["a"], &["a/"]], "a/:1:2"),
        ("whiteout of a file", &[&["a", "b"], &[".wh.a"]], "b:0:1"),
        (
            "whiteout of a directory",
            &[&["a/b/c", "d"], &[".wh.a"]],
            "d:0:1",
        ),
        ("whiteout of nothing", &[&["a"], &[".wh.b"]], "a:0:1"),
        ("whiteout in the lowest layer", &[&[".wh.a", "b"]], "b:0:1"),
        (
            "whiteout does not reach up",
            &[&["a"], &[".wh.a"], &["a"]],
            "a:2:1",
        ),
        (
            "whiteout beside its file",
            &[&["a"], &["a", ".wh.a"]],
            "a:1:1",
        ),
        (
            "whiteout beside its directory",
            &[&["a/x"], &[".wh.a", "a/"]],
            "a/:1:2",
        ),
        (
            "whiteout beside an implicit directory",
            &[&["a/", "a/x"], &["a/y", ".wh.a"]],
            "a/:1:2 a/y:1:1",
        ),
        (
            "opaque",
            &[&["a/", "a/x"], &["a/y", "a/.wh..wh..opq"]],
            "a/:0:2 a/y:1:1",
        ),
        ("opaque root", &[&["a/x"], &[".wh..wh..opq", "b"]], "b:1:1"),
        (
            "opaque does not reach up",
            &[&["a/x"], &["a/.wh..wh..opq"], &["a/y"]],
            "a/:0:2 a/y:2:1",
        ),
        (
            "nlink of what is left",
            &[&["a", "b=a", "c=a"], &[".wh.b"]],
            "a:0:2 c:0:2",
        ),
        (
            "subdirectories",
            &[&["a/b/"], &["a/c/"]],
            "a/:0:4 a/b/:0:2 a/c/:1:2",
        ),
        (
            "a layer twice is two",
            &[&["a", "b=a"], &["b", "c=b"]],
            "a:0:1 b:1:2 c:1:2",
        ),
        ("link below", &[&["a"], &["b=a"]], "a:0:2 b:0:2"),
        (
            "link below to what its layer hides",
            &[&["a"], &["b=a", ".wh.a"]],
            "b:0:1",
        ),
        (
            "link below through a link",
            &[&["a"], &["b=a"], &["c=b"]],
            "a:0:3 b:0:3 c:0:3",
        ),
        ("link to its own path", &[&["a"], &["a=a"]], "a:0:1"),
        (
            "broken link that is hidden",
            &[&["x"], &["b=nowhere"], &["b"]],
            "b:2:1 x:0:1",
        ),
    ];
    for (rule, layers, expected) in table {
        assert_eq!(merged(layers).as_deref(), Ok(*expected), "{rule}");
    }
}

#[test]
fn the_same_tree_twice_is_two_layers() {
    let tree = layer(&["a", "b=a"]);
    let upper = layer(&[".wh.a"]);
    let bytes = merge(&[&tree, &upper, &tree]).unwrap();
    let merged = Tree::parse(bytes).unwrap();
    let a = merged.lookup_path(b"a").unwrap();
    assert_eq!((merged.layer(a), merged.attributes(a).nlink), (2, 2));
    let bytes = merge(&[&tree, &layer(&["c=a"]), &tree]).unwrap();
    let merged = Tree::parse(bytes).unwrap();
    let c = merged.lookup_path(b"c").unwrap();
    assert_eq!((merged.layer(c), merged.attributes(c).nlink), (0, 1));
}

#[test]
fn the_root_is_the_topmost_explicit_one() {
    let table: &[(&[&[&str]], u16)] = &[
        (&[&["./", "a"], &["b"]], 0),
        (&[&["a"], &["./"], &["b"]], 1),
        (&[&["./"], &["./"]], 1),
        (&[&["a"], &["b"]], 0),
        (&[&["./"], &[".wh..wh..opq"]], 0),
    ];
    for (layers, expected) in table {
        let trees: Vec<_> = layers.iter().map(|entries| layer(entries)).collect();
        let bytes = merge(&trees.iter().collect::<Vec<_>>()).unwrap();
        let merged = Tree::parse(bytes).unwrap();
        assert_eq!(merged.layer(NodeId::ROOT), *expected, "{layers:?}");
    }
}

#[test]
fn what_cannot_be_merged_is_an_error() {
    let none: [&Tree<Vec<u8>>; 0] = [];
    assert_eq!(merge(&none), Err(MergeError::NoLayers));
    let broken = |layer, target: &str| {
        Err(MergeError::BrokenLink {
            layer,
            target: target.into(),
        })
    };
    assert_eq!(merged(&[&["a=b"]]), broken(0, "b"));
    assert_eq!(merged(&[&["b/"], &["a=b"]]), broken(1, "b"));
    assert_eq!(merged(&[&["b"], &["a=b/c"]]), broken(1, "b/c"));
    assert_eq!(merged(&[&["b"], &[".wh.b"], &["a=b"]]), broken(2, "b"));
    let tree = layer(&["a"]);
    let many = vec![&tree; 65_536];
    assert_eq!(
        merge(&many),
        Err(MergeError::TooManyLayers { layers: 65_536 })
    );
}

#[test]
fn a_link_to_a_directory_of_its_layer_is_an_error() {
    let mut builder = Builder::new();
    builder.hardlink(b"a", b"d").unwrap();
    builder.add(b"d/x", Entry::default()).unwrap();
    assert_eq!(
        builder.finish(),
        Err(BuildError::LinkToDirectory {
            path: b"d".to_vec()
        })
    );
}
