//! Lazy images that other tools make: `ctr-remote` of stargz-snapshotter, by a containerd with its own snapshotter.

use std::time::{Duration, Instant};

use e2e::merged::Image;
use e2e::{Containerd, Plugin, Runtime, Settings, child};
use testkit::{Entry, EntryKind, Layer, Registry, Running};

use crate::estargz::received;
use crate::images::{World, base, image};
use crate::node::Node;

const PEER: &str = "registry.test/peer:1";

/// Layers in which the tools have something to get wrong: several chunks, names of one file, whiteouts, attributes.
fn layers() -> [Layer; 3] {
    let lines = |count: u64| -> Vec<u8> {
        let lines = (0..count).map(|number| format!("{:015}\n", number * 7919 % 1_000_003));
        lines.collect::<String>().into_bytes()
    };
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    [
        base(),
        Layer::new([
            Entry::directory("data").mode(0o750).owner(3, 4),
            Entry::file("data/chunks", lines(600_000)),
            Entry::file("data/two-chunks", lines(524_288)),
            Entry::file("data/empty", "").mtime(0, 0),
            Entry::file("data/tool", "#!/bin/sh\n")
                .mode(0o4755)
                .xattr("security.capability", capability),
            Entry::hardlink("data/alias", "data/tool"),
            Entry::file("missing/parents/file", "deep"),
            Entry::file("gone", "gone"),
            Entry::new("data/null", EntryKind::CharDevice(1, 3)),
            Entry::new("data/pipe", EntryKind::Fifo),
        ]),
        Layer::new([
            Entry::whiteout("gone"),
            Entry::directory("data").mode(0o755),
            Entry::file("data/used", "used\n"),
            Entry::symlink("data/link", "/data/used"),
        ]),
    ]
}

/// Pushes what `ctr-remote images VERB FLAGS` makes of `one:1` as `peer:1`.
fn make(runtime: &Runtime, registry: &Running<Registry>, words: &[&str]) {
    let settings = Settings {
        plugin: Plugin::Overlayfs,
        registry: Some(registry.url()),
    };
    let containerd = Containerd::start(runtime, settings).unwrap();
    let run = |words: &[&str]| {
        let mut command = containerd.ctr_command("ctr-remote", "default");
        child::run(command.args(words), Duration::from_secs(120)).unwrap();
    };
    let (one, peer) = (
        registry.reference("one", "1"),
        registry.reference("peer", "1"),
    );
    run(&["content", "fetch", "--plain-http", &one]);
    run(&[&["images"], words, &[&one, &peer]].concat());
    run(&["images", "push", "--plain-http", &peer]);
}

fn is_read(words: &[&str], runtimes: &[Runtime]) {
    let built = image(layers());
    let world = World::new(&[("one", &built)], []);
    let registry = Registry::serving(&world.images()).start().unwrap();
    make(&runtimes[0], &registry, words);
    let peer = Image::read(&world.images(), "peer", "1").unwrap();
    let expected = Image::read(&world.images(), "one", "1").unwrap();
    let expected = expected.merged().unwrap();
    for runtime in runtimes {
        let node = Node::with_registry(runtime, &world, "[lazy]\nbackground_fetch = false\n");
        let output = node.output_of(PEER, &["/bin/cat", "/data/used"]);
        assert_eq!(output, "used", "{}", node.outcrop.log());
        for snapshot in &peer.chain_ids {
            assert_eq!(
                node.label(snapshot, "source").as_deref(),
                Some("estargz:registry:registry.test/peer"),
                "{words:?} on {runtime:?}\n{}",
                node.outcrop.log()
            );
        }
        let top = peer.chain_ids.last().unwrap();
        let list = |view: &std::path::Path| e2e::listing::list(view, 0);
        let seen = node.containerd.with_view("k8s.io", top, list).unwrap();
        assert_eq!(
            e2e::listing::difference(&expected, &seen),
            None,
            "{words:?}"
        );
        let capability = |listing: &e2e::listing::Listing| {
            listing[&b"data/alias"[..]].xattrs["security.capability"].clone()
        };
        assert_eq!(capability(&expected), capability(&seen));
        assert_eq!(
            seen[&b"data/alias"[..]].link_group,
            seen[&b"data/tool"[..]].link_group
        );
    }
}

/// The oracle is the image before the tool touched it.
#[test]
fn images_that_ctr_remote_made_are_what_they_were() {
    is_read(&["convert", "--oci", "--estargz"], &crate::runtimes());
}

/// What is in a blob does not depend on who asks for it: one containerd is enough.
#[test]
fn its_other_formats_too() {
    let runtimes = crate::runtimes();
    for words in [
        &[
            "convert",
            "--oci",
            "--estargz",
            "--estargz-chunk-size",
            "65536",
        ][..],
        &["convert", "--oci", "--zstdchunked"],
        &["optimize", "--oci", "--no-optimize"],
    ] {
        is_read(words, &runtimes[runtimes.len() - 1..]);
    }
}

/// It runs the image, and puts first what the program reads; that comes with the pull, before any container asks.
#[test]
fn what_it_saw_a_container_read_is_fetched_with_the_pull() {
    let built = image(layers());
    let world = World::new(&[("one", &built)], []);
    let registry = Registry::serving(&world.images()).start().unwrap();
    let Some(runtime) = crate::runtimes().pop() else {
        return;
    };
    let words = [
        "optimize",
        "--oci",
        "--period",
        "2",
        "--entrypoint",
        r#"["/bin/cat"]"#,
        "--args",
        r#"["/data/two-chunks"]"#,
    ];
    make(&runtime, &registry, &words);
    let node = Node::with_registry(&runtime, &world, "");
    node.cri().pull(PEER).unwrap();
    // Tables of contents are far smaller, and the file is far larger.
    let deadline = Instant::now() + Duration::from_secs(30);
    while received(&node) < 1_500_000 {
        assert!(
            Instant::now() < deadline,
            "{} bytes\n{}",
            received(&node),
            node.outcrop.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let peer = Image::read(&world.images(), "peer", "1").unwrap();
    assert!(received(&node) < peer.layer_bytes * 9 / 10);
    let output = node.output_of(PEER, &["/bin/cat", "/data/two-chunks"]);
    assert_eq!(output, "000000000000000");
}
