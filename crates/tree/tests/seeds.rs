//! The fuzzer's seeds on the ordinary toolchain: all of them are trees.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::path::Path;

use tree::{Tree, merge};

#[test]
fn the_seeds_are_trees_of_this_version() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/tree_file");
    let mut seen = 0;
    for seed in fs::read_dir(seeds).unwrap() {
        let path = seed.unwrap().path();
        let tree = Tree::parse(fs::read(&path).unwrap()).unwrap();
        let broken = tree.walk().any(|(_, id)| tree.kind(id) == tree::Kind::Link);
        assert_eq!(merge(&[&tree]).is_err(), broken, "{path:?}");
        seen += 1;
    }
    assert_eq!(seen, 4);
}
