//! Any bytes as a tree file: refused, or readable to the last field without leaving them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tree::{Kind, NodeId, Tree};

/// Length of the header and of a node, dirent, part and xattr, as the module `tree::format` draws them.
const HEADER: usize = 64;
const RECORDS: [usize; 4] = [64, 12, 24, 16];

fuzz_target!(|bytes: &[u8]| {
    read_all(bytes);
    // Most mutations change the length, which the header gives away at once. With the header made
    // to fit, the rest is looked at.
    if let Some(fitting) = fit(bytes) {
        read_all(&fitting);
    }
});

fn fit(bytes: &[u8]) -> Option<Vec<u8>> {
    let header = bytes.get(..HEADER)?;
    let mut left = bytes.len() - HEADER;
    let mut fitting = bytes.to_vec();
    fitting[..12].copy_from_slice(b"OUTCROPT\x01\0\0\0");
    fitting[12..16].copy_from_slice(&[header[12] & 1, 0, 0, 0]);
    fitting[48..64].fill(0);
    for (number, record) in RECORDS.into_iter().enumerate() {
        let at = 16 + number * 4;
        let wanted = usize::from(header[at]);
        let count = wanted.min(left / record);
        left -= count * record;
        fitting[at..at + 4].copy_from_slice(&(count as u32).to_le_bytes());
    }
    let sizes = fitting[HEADER..]
        .chunks(RECORDS[0])
        .take(usize::from(fitting[16]));
    let files = sizes.filter(|node| node[0] == 1 && node.len() == RECORDS[0]);
    let size = |node: &[u8]| u64::from_le_bytes(std::array::from_fn(|at| node[32 + at]));
    let sum = files.map(size).fold(0, u64::wrapping_add);
    fitting[40..48].copy_from_slice(&sum.to_le_bytes());
    fitting[32..40].copy_from_slice(&(left as u64).to_le_bytes());
    Some(fitting)
}

fn read_all(bytes: &[u8]) {
    let Ok(tree) = Tree::parse(bytes) else {
        return;
    };
    let count = tree.node_count();
    for id in (0..count).chain([count, u32::MAX]).map(NodeId) {
        read(&tree, id, count);
    }
    let mut named = 0;
    for (path, id) in tree.walk() {
        assert_eq!(tree.lookup_path(&path), Some(id));
        named += 1;
    }
    assert!(named + 1 >= count);
    if let Ok(merged) = tree::merge(&[&tree, &tree]) {
        Tree::parse(merged).unwrap_or_else(|error| panic!("a merge wrote: {error}"));
    }
}

fn read(tree: &Tree<&[u8]>, id: NodeId, count: u32) {
    let attributes = tree.attributes(id);
    assert_eq!(tree.node_id(id.0.into()).is_some(), id.0 < count);
    assert!(attributes.mode <= 0o7777 && attributes.mtime_nanos < 1_000_000_000);
    for (index, name, child) in tree.children(id, 0) {
        assert!(child.0 < count && child != NodeId::ROOT);
        assert!(!name.is_empty() && !name.contains(&b'/') && !name.contains(&0));
        assert_eq!(tree.lookup(id, name), Some(child));
        assert!(index < count as usize * 256);
        assert!(tree.kind(child) != Kind::Directory || tree.parent(child) == id);
    }
    for extent in tree.extents(id) {
        assert!(extent.offset + extent.length <= attributes.size);
        assert_eq!(tree.extent_at(id, extent.offset), Some(extent));
    }
    for (name, value) in tree.xattrs(id).take(64) {
        assert!(!name.is_empty() && value.len() <= 65_536);
    }
    let target = matches!(attributes.kind, Kind::Symlink | Kind::Link);
    assert_eq!(target, !tree.symlink(id).is_empty());
    let _ = (tree.layer(id), tree.is_opaque(id), tree.is_implicit(id));
}
