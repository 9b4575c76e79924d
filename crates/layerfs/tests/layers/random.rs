//! Random stacks of layers, from tar entries to the mounted chain, against the model.

use std::collections::BTreeMap;

use proptest::prelude::*;
use testkit::{DuccOptions, Entry, Layer, LayerBlob};

use crate::model::{Kept, merged};
use crate::outside::walk;
use crate::world::{World, attach, mounts_possible};

/// What is drawn for one path.
#[derive(Clone, Debug)]
enum Drawn {
    File(u8),
    Directory(u32),
    Symlink(u8),
    Whiteout,
    Opaque,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    prop_oneof![
        4 => any::<u8>().prop_map(Drawn::File),
        3 => prop::sample::select(vec![0o755, 0o700, 0o1777]).prop_map(Drawn::Directory),
        1 => any::<u8>().prop_map(Drawn::Symlink),
        2 => Just(Drawn::Whiteout),
        1 => Just(Drawn::Opaque),
    ]
}

/// A few names, so that layers meet.
fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
        .prop_map(|names| names.join("/"))
}

/// A layer's entries by path. No entry stands below another that is no directory: a tar of a real
/// directory has none such. Whiteouts stand beside what the same layer has.
fn layer() -> impl Strategy<Value = Layer> {
    prop::collection::btree_map(path(), drawn(), 1..9).prop_map(|drawn| {
        let mut entries = Vec::new();
        for (path, kind) in &drawn {
            let blocked = drawn.iter().any(|(above, kind)| {
                path.starts_with(&format!("{above}/"))
                    && !matches!(kind, Drawn::Directory(_) | Drawn::Opaque)
            });
            if !blocked {
                add(&mut entries, &drawn, path, kind);
            }
        }
        Layer::new(entries)
    })
}

fn add(entries: &mut Vec<Entry>, all: &BTreeMap<String, Drawn>, path: &str, kind: &Drawn) {
    match kind {
        Drawn::File(content) => entries.push(Entry::file(path, vec![*content; 5])),
        Drawn::Directory(mode) => entries.push(Entry::directory(path).mode(*mode)),
        Drawn::Symlink(to) => entries.push(Entry::symlink(path, format!("to-{to}"))),
        Drawn::Whiteout => {
            let below = format!("{path}/");
            if !all.keys().any(|other| other.starts_with(&below)) {
                entries.push(Entry::whiteout(path));
            }
        }
        Drawn::Opaque => {
            entries.push(Entry::directory(path).mode(0o711));
            entries.push(Entry::opaque(path));
        }
    }
}

proptest! {
    // Each case publishes a repository and mounts a chain.
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_stack_shows_what_its_layers_make(
        stack in prop::collection::vec(layer(), 1..4),
        ducc in any::<bool>(),
    ) {
        if !mounts_possible() {
            return Ok(());
        }
        let blobs: Vec<_> =
            stack.iter().map(|layer| LayerBlob::new(layer.clone()).unwrap()).collect();
        let mut world = World::new();
        let mut kept = Kept::ALL;
        if ducc {
            (world.options, kept) = (DuccOptions::default(), Kept::DUCC);
        }
        for blob in &blobs {
            world.add(blob);
        }
        world.publish();
        world.start(1);
        let node = world.layers();
        let (_, path) = attach(&node, &blobs);
        if let Err(difference) = merged(&stack, kept).compare(&walk(&path, 0), &[]) {
            prop_assert!(false, "{}", difference);
        }
    }
}

/// Its diffID is the empty layer's, so it is never asked of the repository.
#[test]
fn a_layer_without_entries_shows_a_bare_root() {
    if !mounts_possible() {
        return;
    }
    let empty = || Layer::new(Vec::new());
    let filled = || Layer::new(vec![Entry::file("a", "a")]);
    let explicit = || Layer::new(vec![Entry::directory("").mode(0o700).mtime(7, 0)]);
    for stack in [
        vec![empty()],
        vec![empty(), filled()],
        vec![filled(), empty()],
        vec![empty(), explicit(), empty()],
    ] {
        let blobs: Vec<_> = stack
            .iter()
            .map(|layer| LayerBlob::new(layer.clone()).unwrap())
            .collect();
        let world = World::serving(&blobs, 1);
        let node = world.layers();
        let (_, path) = attach(&node, &blobs);
        merged(&stack, Kept::ALL)
            .compare(&walk(&path, 0), &[])
            .unwrap();
    }
}
