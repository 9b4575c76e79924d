//! Mounts: one a chain, gone when they should be, served as long as somebody reads.

use std::fs;
use std::sync::Arc;

use testkit::{Entry, LayerBlob};

use crate::outside::{Outside, read, text};
use crate::world::{World, attach, blob, claim, eventually, mounts_possible};

fn image() -> Vec<LayerBlob> {
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n ^ n >> 9) as u8).collect();
    vec![blob([
        Entry::file("file", content),
        Entry::file("small", "small"),
    ])]
}

#[test]
fn one_mount_a_chain_whoever_asks() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let world = World::serving(&image, 1);
    let node = Arc::new(world.layers());
    let chain = claim(&node, &image).unwrap();
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (node, chain) = (Arc::clone(&node), chain.clone());
            std::thread::spawn(move || node.attach(&chain).unwrap())
        })
        .collect();
    let paths: Vec<_> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    assert!(paths.iter().all(|path| *path == paths[0]));
    assert_eq!(fuse::mounts_below(&world.root()).unwrap().len(), 1);
    let metrics = node.metrics();
    assert_eq!((metrics.attached.get(), metrics.chains.get()), (1, 1));
    assert_eq!(node.root_owner(&chain), Some((0, 0)));
    assert_eq!(read(&paths[0].join("small")).unwrap(), b"small");
}

#[test]
fn attach_and_detach_at_once_leave_a_mount_or_none() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let world = World::serving(&image, 1);
    let node = Arc::new(world.layers());
    let chain = claim(&node, &image).unwrap();
    let threads: Vec<_> = (0..8)
        .map(|number| {
            let (node, chain) = (Arc::clone(&node), chain.clone());
            std::thread::spawn(move || {
                for _ in 0..10 {
                    if number % 2 == 0 {
                        node.attach(&chain).unwrap();
                    } else {
                        node.detach(&chain);
                    }
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    let mounts = || fuse::mounts_below(&world.root()).unwrap().len();
    assert_eq!(
        i64::try_from(mounts()).unwrap(),
        node.metrics().chains.get()
    );
    let path = node.attach(&chain).unwrap();
    assert_eq!((mounts(), node.metrics().chains.get()), (1, 1));
    assert_eq!(read(&path.join("small")).unwrap(), b"small");
    node.detach(&chain);
    assert_eq!((mounts(), node.metrics().chains.get()), (0, 0));
}

#[test]
fn an_open_file_reads_on_after_detach() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let world = World::serving(&image, 1);
    let node = world.layers();
    let (chain, path) = attach(&node, &image);
    let expected = read(&path.join("file")).unwrap();
    let reader = Outside::start(&["hold", text(&path.join("file"))], "open");
    node.detach(&chain);
    assert!(fuse::mounts_below(&world.root()).unwrap().is_empty());
    assert!(!path.exists());
    assert_eq!(node.root_owner(&chain), None);
    assert!(reader.finish() == expected);
    // The path is free for the same chain again.
    assert_eq!(node.attach(&chain).unwrap(), path);
    assert!(read(&path.join("file")).unwrap() == expected);
    node.detach(&chain);
    world.stop(node);
}

#[test]
fn the_mount_of_a_dead_process_is_detached_at_the_start() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let world = World::serving(&image, 1);
    let node = world.layers();
    let (chain, path) = attach(&node, &image);
    node.detach(&chain);
    world.stop(node);

    // Another process's mount at the chain's place, which dies.
    let other = Outside::serve(&world, &path, 0);
    assert_eq!(fuse::mounts_below(&world.root()).unwrap().len(), 1);
    other.kill();
    assert_eq!(fuse::mounts_below(&world.root()).unwrap().len(), 1);
    // What is no chain's is left alone.
    let foreign = world.root().join("chains/foreign");
    let theirs = World::serving(&image, 1);
    let guest = Outside::serve(&theirs, &foreign, 0);
    let node = world.layers();
    let left = fuse::mounts_below(&world.root()).unwrap();
    assert!(left.len() == 1 && left[0].mount_point == foreign);
    guest.finish_serving();
    assert_eq!(node.attach(&chain).unwrap(), path);
    assert_eq!(read(&path.join("small")).unwrap(), b"small");
}

#[test]
fn a_mount_that_died_meanwhile_is_replaced() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let world = World::serving(&image, 1);
    let node = world.layers();
    let (chain, path) = attach(&node, &image);
    // Somebody unmounts it behind our back.
    fuse::detach_path(&path).unwrap();
    assert_eq!(node.attach(&chain).unwrap(), path);
    assert_eq!(read(&path.join("small")).unwrap(), b"small");
    assert_eq!(fuse::mounts_below(&world.root()).unwrap().len(), 1);
    assert_eq!(node.metrics().chains.get(), 1);
}

#[test]
fn release_unmounts_everything_on_purpose() {
    if !mounts_possible() {
        return;
    }
    let image = [image(), vec![blob([Entry::file("b", "b")])]].concat();
    let world = World::serving(&image, 1);
    let node = world.layers();
    let (long, _) = attach(&node, &image);
    let (short, path) = attach(&node, &image[..1]);
    assert_eq!(node.release().unwrap(), 2);
    assert!(fuse::mounts_below(&world.root()).unwrap().is_empty());
    assert_eq!(node.metrics().chains.get(), 0);
    assert_eq!(node.release().unwrap(), 0);
    // Not the end: a chain that is wanted again comes back.
    assert_eq!(node.attach(&short).unwrap(), path);
    assert_eq!(read(&path.join("small")).unwrap(), b"small");
    node.detach(&short);
    node.detach(&long);
    eventually("nothing is left of them", || {
        fs::read_dir(world.root().join("chains"))
            .unwrap()
            .next()
            .is_none()
    });
}

#[test]
fn nothing_is_mounted_where_a_chain_cannot_be_made() {
    let image = image();
    let world = World::serving(&image, 1);
    let node = world.layers();
    let mut chain = claim(&node, &image).unwrap();
    chain[0].source = "cvmfs:gone.example.org".to_owned();
    // With its tree at hand or not, whoever gives the content is unknown.
    match node.attach(&chain) {
        Err(layerfs::AttachError::UnknownSource { source_name, .. }) => {
            assert_eq!(source_name, chain[0].source);
        }
        answer => panic!("{answer:?}"),
    }
    chain[0].tree = "../../escape".to_owned();
    assert!(matches!(
        node.attach(&chain),
        Err(layerfs::AttachError::TreeFile { .. })
    ));
    assert!(fuse::mounts_below(&world.root()).unwrap().is_empty());
    assert_eq!(node.metrics().attached.get(), 0);
}
