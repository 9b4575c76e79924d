//! A layer's tree against what plain `tar -x` makes of the same entries, as root.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod generate;
mod oracle;

use generate::show_all;
use oracle::{any_steps, comparable, implicit, list, obstacle, tar, tree_of, unpack};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    fn every_tree_agrees_with_tar(steps in any_steps()) {
        let tree = tree_of(&steps);
        let implicit = implicit(&tree);
        let directory = tempfile::tempdir().unwrap();
        unpack(&tar(&steps), directory.path());
        let expected = comparable(list(&directory.path().join("root")), &implicit);
        let ours = comparable(show_all(&tree), &implicit);
        prop_assert_eq!(ours, expected);
    }
}

#[test]
fn a_tree_agrees_with_tar_as_root() {
    match obstacle() {
        None => every_tree_agrees_with_tar(),
        Some(reason) => println!("skipped: {reason}"),
    }
}
