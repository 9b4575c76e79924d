//! Trees: built once, kept over restarts, made again when damaged, never another layer's.

use std::fs;
use std::path::Path;
use std::time::Duration;

use layerfs::{AttachError, ChainLayer, Config, Layers, Named, Removed};
use testkit::{Entry, Fault, LayerBlob, When};

use crate::model::{Kept, merged};
use crate::outside::{read, walk};
use crate::world::{World, attach, blob, claim, eventually, link, mounts_possible, requests};

fn image() -> Vec<LayerBlob> {
    vec![
        blob([Entry::file("base", "base"), Entry::file("dir/x", "x")]),
        blob([Entry::file("dir/y", "y")]),
    ]
}

fn assert_shows(path: &Path, image: &[LayerBlob]) {
    let layers: Vec<_> = image.iter().map(|blob| blob.layer.clone()).collect();
    let expected = merged(&layers, Kept::ALL);
    expected
        .compare(&walk(path, 0), &[])
        .unwrap_or_else(|difference| panic!("{difference}"));
}

#[test]
fn images_share_a_layers_tree_and_content() {
    if !mounts_possible() {
        return;
    }
    let first = image();
    let second = [first[0].clone(), blob([Entry::file("dir/z", "z")])];
    let world = World::serving(&[first.clone(), second[1..].to_vec()].concat(), 1);
    let node = world.layers();
    let (_, one) = attach(&node, &first);
    let (_, two) = attach(&node, &second);
    assert_ne!(one, two);
    assert_shows(&one, &first);
    assert_shows(&two, &second);
    assert_eq!(node.metrics().trees_built.get(), 3);
    world.servers[0].assert_strict();
}

#[test]
fn claiming_one_layer_builds_all_of_the_image() {
    let image = image();
    let world = World::serving(&image, 1);
    let node = world.layers();
    node.claim(&requests(&image)[0]).unwrap();
    eventually("both trees are built", || {
        node.metrics().trees_built.get() == 2
    });
}

#[test]
fn a_restart_needs_no_network() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let mut world = World::serving(&image, 1);
    let node = world.layers();
    let (chain, path) = attach(&node, &image);
    assert_shows(&path, &image);
    world.stop(node);
    assert!(fuse::mounts_below(&world.root()).unwrap().is_empty());
    world.servers.clear();

    // Attached before, its merged tree is there.
    let node = world.layers();
    assert_eq!(node.attach(&chain).unwrap(), path);
    assert_shows(&path, &image);
    node.detach(&chain);
    // Merged anew from its layers' trees.
    assert_eq!(node.attach(&chain).unwrap(), path);
    assert_shows(&path, &image);
    assert_eq!(node.metrics().trees_built.get(), 0);
    // Even claims work, from what the cache has.
    assert_eq!(claim(&node, &image).unwrap().len(), 2);
}

#[test]
fn damaged_trees_are_made_again() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let world = World::serving(&image, 1);
    let node = world.layers();
    let (chain, path) = attach(&node, &image);
    let merged_tree = world.chain_file(&path);
    assert!(merged_tree.exists());
    world.stop(node);

    // The merged one only: the layers' are used.
    let whole = fs::read(&merged_tree).unwrap();
    for damage in [
        whole[..whole.len() / 2].to_vec(),
        vec![0; whole.len()],
        Vec::new(),
    ] {
        replace(&merged_tree, &damage);
        let node = world.layers();
        assert_shows(&node.attach(&chain).unwrap(), &image);
        assert_eq!(node.metrics().trees_built.get(), 0);
        world.stop(node);
    }
    // All of them: the source is asked.
    for file in world.tree_files().iter().chain([&merged_tree]) {
        let whole = fs::read(file).unwrap();
        replace(file, &whole[..whole.len() - 3]);
    }
    let node = world.layers();
    assert_shows(&node.attach(&chain).unwrap(), &image);
    assert_eq!(node.metrics().trees_built.get(), 2);
}

/// As a disk does it: the file that is mapped is not written to.
fn replace(file: &Path, bytes: &[u8]) {
    fs::remove_file(file).unwrap();
    fs::write(file, bytes).unwrap();
}

/// Puts another content into the repository under the digest of `layer`.
fn republish(world: &mut World, layer: &LayerBlob) {
    let hex = &layer.digest[7..];
    let files = format!("/.layers/{}/{hex}/layerfs", &hex[..2]);
    world
        .repository
        .add(Entry::file(format!("{files}/base"), "not as claimed"));
    world.publish();
}

#[test]
fn a_republished_layer_is_not_shown_as_the_one_that_was_claimed() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let mut world = World::serving(&image, 1);
    let node = world.layers();
    let (chain, path) = attach(&node, &image);
    republish(&mut world, &image[0]);

    // The chain is still right: its tree names the old objects.
    assert_shows(&path, &image);
    node.detach(&chain);
    assert_shows(&node.attach(&chain).unwrap(), &image);

    // Another claim, after what is remembered: the new revision is seen by asking for something new.
    world.stop(node);
    let node = world.layers();
    let new = claim(&node, &image).unwrap();
    assert_ne!(new[0].tree, chain[0].tree);
    assert_eq!(new[1].tree, chain[1].tree);
    let new_path = node.attach(&new).unwrap();
    assert_eq!(read(&new_path.join("base")).unwrap(), b"not as claimed");
    assert_shows(&node.attach(&chain).unwrap(), &image);

    // Without its tree the old one cannot be had any more.
    lose(&world, node, &chain);
    let node = world.layers();
    match node.attach(&chain) {
        Err(AttachError::Republished { layer, .. }) => assert_eq!(layer, image[0].digest),
        answer => panic!("{answer:?}"),
    }
    assert!(node.attach(&new).is_ok());
}

fn lose(world: &World, node: Layers, chain: &[ChainLayer]) {
    node.detach(chain);
    world.stop(node);
    for file in world
        .tree_files()
        .iter()
        .filter(|file| file.ends_with(&chain[0].tree))
    {
        fs::remove_file(file).unwrap();
    }
}

/// The layer was found a moment ago, and in between a new revision has come.
#[test]
fn a_tree_built_after_a_refresh_is_the_one_that_was_claimed_or_none() {
    if !mounts_possible() {
        return;
    }
    let mut image = image();
    image.truncate(1);
    let mut world = World::serving(&image, 1);
    let node = world.layers();
    let chain = claim(&node, &image).unwrap();
    eventually("the tree is built", || {
        node.metrics().trees_built.get() == 1
    });
    for file in world.tree_files() {
        fs::remove_file(file).unwrap();
    }
    republish(&mut world, &image[0]);
    // Makes the client look for a new revision.
    let unknown = requests(&[blob([Entry::file("u", "u")])]).remove(0);
    node.claim(&unknown).unwrap_err();
    // Not even when somebody builds ahead for another image.
    node.claim(&requests(&image)[0]).unwrap();
    match node.attach(&chain) {
        Err(AttachError::Republished { .. }) => {}
        Ok(path) => assert_shows(&path, &image),
        answer => panic!("{answer:?}"),
    }
    // Whoever claims anew gets the layer as it is now.
    eventually("the new one is served", || {
        let chain = claim(&node, &image).unwrap();
        node.attach(&chain).is_ok_and(|path| {
            read(&path.join("base")).is_ok_and(|content| content == b"not as claimed")
        })
    });
}

#[test]
fn waiting_for_a_tree_has_a_deadline() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let world = World::serving(&image, 1);
    let config = Config {
        build_deadline: Duration::from_millis(20),
        ..world.config()
    };
    let node = Layers::open(config, vec![world.source(false)]).unwrap();
    let published = claim_while_catalogs_stall(&world, &node, &image);
    match node.attach(&published) {
        Err(AttachError::Deadline { layer, .. }) => assert_eq!(layer, image[0].digest),
        answer => panic!("{answer:?}"),
    }
    world.servers[0].clear_faults();
    // The build went on; a later attach finds its tree.
    eventually("the tree is built in the end", || {
        node.attach(&published).is_ok()
    });
}

/// Claims the lowest layer so that its catalog cannot be loaded for a while.
fn claim_while_catalogs_stall(
    world: &World,
    node: &Layers,
    image: &[LayerBlob],
) -> Vec<ChainLayer> {
    // Its catalog's hash is known from the parent catalog, so the claim needs not wait for it.
    let hex = &image[0].digest[7..];
    let files = format!("/.layers/{}/{hex}/layerfs", &hex[..2]);
    let catalog = world.catalog(&files);
    world.servers[0].fault(When::object(&catalog), Fault::Stall(Duration::from_secs(1)));
    let request = layerfs::LayerRequest {
        image_layers: vec![],
        ..requests(image)[0].clone()
    };
    vec![link(&image[0], &node.claim(&request).unwrap())]
}

/// Records that name the trees of these layers, and no chain.
fn records(layers: &[ChainLayer]) -> Named {
    Named {
        trees: layers.iter().map(|layer| layer.tree.clone()).collect(),
        chains: Vec::new(),
    }
}

#[test]
fn trees_without_a_record_go() {
    let image = image();
    let world = World::serving(&image, 1);
    let node = world.layers();
    let chain = claim(&node, &image).unwrap();
    eventually("both trees are built", || {
        node.metrics().trees_built.get() == 2
    });
    let removed = node.retain(&records(&chain[1..])).unwrap();
    assert_eq!((removed.trees, removed.chains), (1, 0));
    let left = world.tree_files();
    assert!(left.len() == 1 && left[0].ends_with(&chain[1].tree));
}

#[test]
fn a_claim_that_is_not_recorded_yet_keeps_its_tree() {
    let image = image();
    let world = World::serving(&image, 1);
    let config = Config {
        tree_grace: Duration::from_secs(3600),
        ..world.config()
    };
    let node = Layers::open(config, vec![world.source(false)]).unwrap();
    claim(&node, &image).unwrap();
    eventually("both trees are built", || {
        node.metrics().trees_built.get() == 2
    });
    assert_eq!(node.retain(&Named::default()).unwrap(), Removed::default());
    assert_eq!(world.tree_files().len(), 2);
}

#[test]
fn what_is_mounted_keeps_its_trees_and_what_is_detached_none() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let world = World::serving(&image, 1);
    let node = world.layers();
    let (chain, path) = attach(&node, &image);
    assert_eq!(node.retain(&Named::default()).unwrap(), Removed::default());
    assert!(world.chain_file(&path).exists());
    assert_shows(&path, &image);
    node.detach(&chain);
    assert!(!path.parent().unwrap().exists());
    assert_eq!(node.retain(&Named::default()).unwrap().trees, 2);
    assert_eq!(world.tree_files().len(), 0);
}

/// As a daemon that is killed leaves them: chains that were never detached, and half a tree.
#[test]
fn chains_that_no_record_names_go_at_the_start() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let world = World::serving(&image, 1);
    let node = world.layers();
    let (whole, named) = attach(&node, &image);
    let (_, unnamed) = attach(&node, &image[..1]);
    world.stop(node);
    fs::write(world.chain_file(&unnamed).with_extension("merged.new"), "h").unwrap();
    let stranger = world.root().join("chains/not-ours");
    fs::create_dir(&stranger).unwrap();

    let node = world.layers();
    let records = Named {
        chains: vec![whole.iter().map(|layer| layer.tree.clone()).collect()],
        ..records(&whole)
    };
    assert_eq!(
        node.retain(&records).unwrap(),
        Removed {
            trees: 0,
            chains: 1
        }
    );
    assert!(!unnamed.parent().unwrap().exists() && stranger.exists());
    assert!(world.chain_file(&named).exists());
    assert_eq!(node.retain(&records).unwrap(), Removed::default());
    assert_shows(&node.attach(&whole).unwrap(), &image);
    // It comes again when somebody asks for it.
    assert_shows(&node.attach(&whole[..1]).unwrap(), &image[..1]);
}

#[test]
fn trees_share_the_caches_quota() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let world = World::serving(&image, 1);
    let on_disk = |path: &Path| {
        let files = world
            .tree_files()
            .into_iter()
            .chain([world.chain_file(path)]);
        files
            .filter_map(|file| fs::metadata(file).ok())
            .map(|metadata| metadata.len().next_multiple_of(4096))
            .sum::<u64>()
    };
    let beside = || world.cache().metrics().beside_bytes.get();
    let node = world.layers();
    let (chain, path) = attach(&node, &image);
    let three = on_disk(&path);
    assert_eq!((beside(), three > 2 * 4096), (three, true));
    let cache = world.cache();
    assert!(cache.used_bytes() > three);
    drop(cache);
    world.stop(node);

    // Counted again after a restart.
    let node = world.layers();
    assert_eq!(beside(), three);
    node.attach(&chain).unwrap();
    node.detach(&chain);
    let two = on_disk(&path);
    assert_eq!((beside(), two < three), (two, true));
    node.retain(&Named::default()).unwrap();
    assert_eq!(beside(), 0);
}
