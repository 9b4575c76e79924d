//! Random layers, and what a tree shows written down plainly so that it can be compared.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use tree::{Entry, Kind, NodeId, Tree};

/// All that can be seen of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) size: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) rdev: u64,
    pub(crate) nlink: u32,
    pub(crate) target: Vec<u8>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The references of the extents; the tests put the file's bytes there.
    pub(crate) content: Vec<u8>,
    /// The first path of the same inode.
    pub(crate) first_name: Vec<u8>,
}

pub(crate) fn show<B: AsRef<[u8]>>(tree: &Tree<B>, path: &[u8], id: NodeId) -> Shown {
    let attributes = tree.attributes(id);
    Shown {
        kind: attributes.kind,
        mode: attributes.mode,
        owner: (attributes.uid, attributes.gid),
        size: attributes.size,
        mtime: (attributes.mtime, attributes.mtime_nanos),
        rdev: attributes.rdev,
        nlink: attributes.nlink,
        target: tree.symlink(id).to_vec(),
        xattrs: tree
            .xattrs(id)
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect(),
        content: tree
            .extents(id)
            .flat_map(|it| it.content.to_vec())
            .collect(),
        first_name: path.to_vec(),
    }
}

/// Everything below the root, by path.
pub(crate) fn show_all<B: AsRef<[u8]>>(tree: &Tree<B>) -> BTreeMap<Vec<u8>, Shown> {
    let paths: BTreeMap<_, _> = tree.walk().collect();
    let mut first_names = HashMap::new();
    let mut all = BTreeMap::new();
    for (path, id) in paths {
        let first: &Vec<u8> = first_names.entry(id).or_insert_with(|| path.clone());
        let shown = Shown {
            first_name: first.clone(),
            ..show(tree, &path, id)
        };
        all.insert(path, shown);
    }
    all
}

/// Few names, so that paths meet each other often.
pub(crate) fn any_name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(|it| it.as_bytes().to_vec()),
        1 => Just(vec![b'n'; 9]),
        1 => Just(b"\xff\xfe".to_vec()),
        1 => Just(b"B b".to_vec()),
    ]
}

pub(crate) fn any_path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any_name(), 1..5).prop_map(|names| names.join(&b'/'))
}

/// An entry of one of these kinds, with what belongs to its kind.
pub(crate) fn any_entry(kinds: &'static [Kind]) -> impl Strategy<Value = Entry> {
    let xattr = (
        prop::sample::select(vec!["user.a", "user.b", "trusted.c"]),
        prop::collection::vec(any::<u8>(), 0..6),
    );
    let xattrs = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec(xattr, 1..3),
    ];
    (
        prop::sample::select(kinds),
        (0_u32..=0o7777, 0_u32..70_000, 0_u32..70_000),
        (0_i64..4_000_000_000, 0_u32..1_000_000_000),
        prop::collection::vec(any::<u8>(), 0..20),
        xattrs,
        (1_u64..200, 0_u64..200),
    )
        .prop_map(
            |(kind, (mode, uid, gid), (mtime, mtime_nanos), bytes, xattrs, (major, minor))| {
                let is_file = kind == Kind::File;
                let length = bytes.len() as u64;
                Entry {
                    kind,
                    mode,
                    uid,
                    gid,
                    size: if is_file { length } else { 0 },
                    mtime,
                    mtime_nanos,
                    rdev: if kind == Kind::CharDevice {
                        major << 8 | minor
                    } else {
                        0
                    },
                    xattrs: xattrs
                        .into_iter()
                        .map(|(name, value)| (name.as_bytes().to_vec(), value))
                        .collect(),
                    symlink: if kind == Kind::Symlink {
                        target_from(&bytes)
                    } else {
                        Vec::new()
                    },
                    extents: if is_file && length > 0 {
                        vec![(0, length, bytes)]
                    } else {
                        Vec::new()
                    },
                    link_group: None,
                    implicit: false,
                }
            },
        )
}

/// Targets of all lengths, absolute ones and such with `$(…)` among them.
fn target_from(bytes: &[u8]) -> Vec<u8> {
    let mut target = if bytes.len().is_multiple_of(2) {
        b"../$(V)/".to_vec()
    } else {
        b"/".to_vec()
    };
    target.extend(bytes.iter().flat_map(|byte| [(*byte).max(1); 7]));
    target
}
