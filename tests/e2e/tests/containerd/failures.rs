//! What may fail must not fail a pull, and a restart must lose nothing.

use e2e::merged::Image;
use rustix::process::Signal;
use testkit::{DuccOptions, Fault, When};

use crate::images::{World, base, image, layer};
use crate::node::Node;

const IMAGE: &str = "registry.test/one:1";

fn world() -> (World, Image) {
    let built = image([base(), layer("one")]);
    let world = World::new(
        &[("one", &built)],
        built
            .layers
            .iter()
            .map(|layer| (layer, DuccOptions::default())),
    );
    let image = Image::read(&world.images(), "one", "1").unwrap();
    (world, image)
}

#[test]
fn with_all_sources_down_an_ordinary_pull_follows() {
    let (world, image) = world();
    for runtime in crate::runtimes() {
        let node = Node::of(&runtime, &world);
        node.stratum1.fault(When::always(), Fault::Close);
        assert_eq!(
            node.output_of(IMAGE, &["/bin/cat", "/layers/one"]),
            "this is one"
        );
        assert_eq!(node.fetched(&image.layers), image.layers);
        assert!(node.label(&image.chain_ids[0], "reason").is_some());
    }
}

/// Another client's mount that does not answer delays a pull by the deadline, and no more.
#[test]
fn a_mounted_repository_that_hangs_is_gone_around() {
    let (world, image) = world();
    for runtime in crate::runtimes() {
        let node = Node::with_mounted_repository(
            &runtime,
            &world.images(),
            &world.repository(),
            &world.public_key(),
        );
        let mount = node.mount.as_ref().unwrap();
        mount.signal(Signal::STOP).unwrap();
        assert_eq!(
            node.output_of(IMAGE, &["/bin/cat", "/layers/one"]),
            "this is one"
        );
        assert_eq!(node.fetched(&image.layers), image.layers);
        assert_eq!(
            node.label(&image.chain_ids[0], "reason").as_deref(),
            Some("source-unavailable")
        );
        mount.signal(Signal::CONT).unwrap();
    }
}

/// Killed or stopped: the records are complete, chains are attached again when needed, nothing is fetched, nothing is deleted.
#[test]
fn a_restart_loses_nothing() {
    let (world, image) = world();
    for (runtime, signal) in crate::runtimes()
        .into_iter()
        .flat_map(|runtime| [Signal::KILL, Signal::TERM].map(|signal| (runtime.clone(), signal)))
    {
        let mut node = Node::of(&runtime, &world);
        assert_eq!(
            node.output_of(IMAGE, &["/bin/cat", "/layers/one"]),
            "this is one"
        );
        // Sources are not needed for what was claimed: everything is in the cache.
        node.stratum1.fault(When::always(), Fault::Close);
        node.restart_outcrop(signal);
        assert_eq!(
            node.output_of(IMAGE, &["/bin/cat", "/layers/one"]),
            "this is one"
        );
        node.containerd.restart().unwrap();
        assert_eq!(
            node.output_of(IMAGE, &["/bin/cat", "/layers/one"]),
            "this is one"
        );
        assert_eq!(node.fetched(&image.layers), [""; 0]);
        for snapshot in &image.chain_ids {
            assert_eq!(
                node.label(snapshot, "source").as_deref(),
                Some("cvmfs:unpacked.test.local")
            );
        }
        node.wait_for_chains(0);
    }
}

#[test]
fn release_unmounts_on_purpose() {
    let (world, _) = world();
    for runtime in crate::runtimes() {
        let node = Node::of(&runtime, &world);
        let cri = node.cri();
        cri.pull(IMAGE).unwrap();
        let pod = cri
            .run("one", IMAGE, &["/bin/tail", "-f", "/dev/null"])
            .unwrap();
        assert_eq!(node.chains(), 1);
        node.outcrop.release().unwrap();
        assert_eq!(node.chains(), 0);
        cri.remove(&pod).unwrap();
    }
}
