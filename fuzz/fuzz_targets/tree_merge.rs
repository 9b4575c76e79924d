//! Layers as text, one entry a line: whatever can be built can be merged and read again, and
//! nothing of what only layers have is left.
//!
//! `path` is a file, `path/` a directory, `path=target` a hardlink, `path>target` a symlink,
//! `path*n` a file of link group n, `--` begins the next layer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tree::{BuildError, Builder, Entry, Kind, MergeError, NodeId, Tree, merge};

fuzz_target!(|text: &[u8]| {
    let mut trees = Vec::new();
    for layer in text
        .split(|byte| *byte == b'\n')
        .collect::<Vec<_>>()
        .split(|line| *line == b"--")
    {
        let Ok(bytes) = build(layer) else {
            return;
        };
        let tree = Tree::parse(bytes);
        trees.push(tree.unwrap_or_else(|error| panic!("a builder wrote: {error}")));
    }
    let bytes = match merge(&trees.iter().collect::<Vec<_>>()) {
        Ok(bytes) => bytes,
        Err(MergeError::BrokenLink { .. } | MergeError::NoLayers) => return,
        Err(error) => panic!("{error}"),
    };
    let merged = Tree::parse(bytes).unwrap_or_else(|error| panic!("a merge wrote: {error}"));
    for id in (0..merged.node_count()).map(NodeId) {
        assert!(!matches!(merged.kind(id), Kind::Whiteout | Kind::Link));
        assert!(usize::from(merged.layer(id)) < trees.len() && !merged.is_opaque(id));
    }
    // The topmost layer is all there, but for its marks.
    let top = &trees[trees.len() - 1];
    for (path, id) in top.walk().filter(|(_, id)| top.kind(*id) != Kind::Whiteout) {
        let found = merged.lookup_path(&path);
        let found = found.unwrap_or_else(|| panic!("{} is lost", path.escape_ascii()));
        assert!(top.kind(id) == Kind::Link || merged.kind(found) == top.kind(id));
    }
    // Merging once more changes nothing that can be seen.
    let again = merge(&[&merged]).expect("a merged tree is a layer");
    let again = Tree::parse(again).expect("a merge of one");
    assert!(
        merged
            .walk()
            .map(|(path, _)| path)
            .eq(again.walk().map(|(path, _)| path))
    );
});

fn build(lines: &[&[u8]]) -> Result<Vec<u8>, BuildError> {
    let mut builder = Builder::new();
    for line in lines.iter().filter(|line| !line.is_empty()) {
        let mark = line
            .iter()
            .position(|byte| matches!(byte, b'=' | b'>' | b'*'));
        let (path, rest) = line.split_at(mark.unwrap_or(line.len()));
        let entry = match rest {
            [b'=', target @ ..] => {
                builder.hardlink(path, target)?;
                continue;
            }
            [b'>', target @ ..] => Entry {
                symlink: target.to_vec(),
                ..Entry::new(Kind::Symlink, 0o777)
            },
            [b'*', group @ ..] => {
                let group = group.first().map(|byte| u64::from(*byte));
                Entry {
                    link_group: group,
                    ..Entry::new(Kind::File, 0o600)
                }
            }
            _ if path.ends_with(b"/") => Entry::new(Kind::Directory, 0o700),
            _ => Entry::new(Kind::File, 0o644),
        };
        builder.add(path, entry)?;
    }
    builder.finish()
}
