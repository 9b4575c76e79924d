//! Images that share layers, and images of which some layers are in no repository.

use e2e::merged::Image;
use testkit::{DuccOptions, ImageBuilder};

use crate::images::{World, base, image, layer};
use crate::node::Node;

fn read(world: &World, name: &str) -> Image {
    Image::read(&world.images(), name, "1").unwrap()
}

fn as_ducc(layer: &testkit::LayerBlob) -> (&testkit::LayerBlob, DuccOptions) {
    (layer, DuccOptions::default())
}

/// Regular files below the daemon's folder of trees.
fn trees(node: &Node) -> usize {
    let mut folders = vec![node.outcrop.root().join("trees")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind => files += usize::from(kind.is_file()),
            }
        }
    }
    files
}

#[test]
fn a_second_image_that_shares_layers_fetches_nothing_twice() {
    let (one, two) = (image([base(), layer("one")]), image([base(), layer("two")]));
    let world = World::new(
        &[("one", &one), ("two", &two)],
        one.layers.iter().chain(&two.layers).map(as_ducc),
    );
    for runtime in crate::runtimes() {
        let node = Node::of(&runtime, &world);
        for (name, file) in [("one", "layers/one"), ("two", "layers/two")] {
            let image = format!("registry.test/{name}:1");
            assert_eq!(
                node.output_of(&image, &["/bin/cat", file]),
                format!("this is {name}")
            );
            assert_eq!(node.fetched(&read(&world, name).layers), [""; 0]);
        }
        assert_each_object_once(&node);
        node.wait_for_chains(0);
    }
}

/// Of content-addressed objects, that is: the manifest is asked for again and again.
fn assert_each_object_once(node: &Node) {
    let mut objects: Vec<String> = node
        .stratum1
        .requests_for("/data/")
        .into_iter()
        .map(|request| request.path)
        .collect();
    assert!(!objects.is_empty());
    objects.sort();
    let twice: Vec<&[String]> = objects
        .windows(2)
        .filter(|pair| pair[0] == pair[1])
        .collect();
    assert!(twice.is_empty(), "fetched more than once: {twice:?}");
}

#[test]
fn a_missing_top_layer_is_the_only_one_fetched() {
    let built = image([base(), layer("middle"), layer("top")]);
    let world = World::new(&[("partly", &built)], built.layers[..2].iter().map(as_ducc));
    let image = read(&world, "partly");
    for runtime in crate::runtimes() {
        let node = Node::of(&runtime, &world);
        assert_eq!(
            node.output_of(
                "registry.test/partly:1",
                &["/bin/cat", "layers/middle", "layers/top"]
            ),
            "this is middle"
        );
        assert_eq!(node.fetched(&image.layers), image.layers[2..]);
        let source = |at: usize| node.label(&image.chain_ids[at], "source");
        assert_eq!(source(1).as_deref(), Some("cvmfs:unpacked.test.local"));
        assert_eq!(
            node.label(&image.chain_ids[2], "reason").as_deref(),
            Some("not-found")
        );
    }
}

/// containerd fetches all layers above the first that is not there (CONTAINERD's rule), and a lazy layer never lies above a local one.
#[test]
fn a_missing_middle_layer_fetches_those_above_it_too() {
    let built = image([base(), layer("middle"), layer("top")]);
    let world = World::new(
        &[("holed", &built)],
        [&built.layers[0], &built.layers[2]].map(as_ducc),
    );
    let image = read(&world, "holed");
    for runtime in crate::runtimes() {
        let node = Node::of(&runtime, &world);
        assert_eq!(
            node.output_of(
                "registry.test/holed:1",
                &["/bin/cat", "layers/top", "layers/middle"]
            ),
            "this is top"
        );
        assert_eq!(node.fetched(&image.layers), image.layers[1..]);
        assert_eq!(
            node.label(&image.chain_ids[1], "reason").as_deref(),
            Some("not-found")
        );
        assert_eq!(
            node.label(&image.chain_ids[2], "reason").as_deref(),
            Some("above-local-layer")
        );
    }
}

/// A chain ID is earned: an image that states the diffIDs of another gets nothing by that.
#[test]
fn foreign_diff_ids_are_not_served() {
    let trusted = image([base(), layer("trusted")]);
    let stated = trusted.layers.iter().map(|layer| layer.diff_id.clone());
    let hostile = ImageBuilder::new()
        .layer(base())
        .layer(layer("hostile"))
        .stated_diff_ids(stated)
        .build()
        .unwrap();
    let all = [&trusted.layers[..], &hostile.layers].concat();
    let world = World::new(
        &[("trusted", &trusted), ("hostile", &hostile)],
        all.iter().map(as_ducc),
    );
    for runtime in crate::runtimes() {
        let node = Node::of(&runtime, &world);
        // containerd itself refuses it when it unpacks: the layer is not what the manifest states.
        let refused = node.cri().pull("registry.test/hostile:1").unwrap_err();
        assert!(refused.message().contains("wrong diff id"), "{refused}");
        // The refused pull's base has no owner now. containerd looks whether it has a layer without holding on to it, so a pull that
        // begins while its collector runs can lose the parent that it has just seen, whatever the snapshotter.
        node.containerd.collect_garbage("k8s.io").unwrap();
        assert_eq!(
            node.output_of("registry.test/trusted:1", &["/bin/ls", "/layers"]),
            "trusted"
        );
    }
}

/// Eight images in two namespaces at once.
#[test]
fn many_at_once_fetch_each_object_once() {
    let names: Vec<String> = (0..8).map(|number| format!("image{number}")).collect();
    let built: Vec<_> = names
        .iter()
        .map(|name| image([base(), layer("second"), layer("third"), layer(name)]))
        .collect();
    let pairs: Vec<_> = names.iter().map(String::as_str).zip(&built).collect();
    let world = World::new(
        &pairs,
        built.iter().flat_map(|image| &image.layers).map(as_ducc),
    );
    for runtime in crate::runtimes() {
        let node = Node::of(&runtime, &world);
        let cri = node.cri();
        std::thread::scope(|scope| {
            for name in &names {
                let reference = format!("registry.test/{name}:1");
                let (by_cri, by_hand) = (reference.clone(), reference);
                let (cri, node) = (&cri, &node);
                scope.spawn(move || cri.pull(&by_cri).unwrap());
                scope.spawn(move || node.containerd.pull("other", &by_hand).unwrap());
            }
        });
        let pods: Vec<_> = names
            .iter()
            .map(|name| {
                let pod = cri
                    .run(
                        name,
                        &format!("registry.test/{name}:1"),
                        &["/bin/sh", "-c", "ls layers; tail -f /dev/null"],
                    )
                    .unwrap();
                assert_eq!(cri.first_output(&pod).unwrap(), *name);
                pod
            })
            .collect();
        for name in &names {
            assert_eq!(node.fetched(&read(&world, name).layers), [""; 0]);
        }
        assert_each_object_once(&node);
        assert_eq!(node.chains(), names.len(), "one mount a chain");
        // 3 shared layers and 8 own ones.
        assert_eq!(trees(&node), 3 + 8, "one tree a layer");
        all_gone(&node, &names, &pods);
    }
}

fn all_gone(node: &Node, names: &[String], pods: &[e2e::cri::Pod]) {
    let cri = node.cri();
    pods.iter().for_each(|pod| cri.remove(pod).unwrap());
    for name in names {
        let reference = format!("registry.test/{name}:1");
        cri.remove_image(&reference).unwrap();
        node.containerd
            .ctr("other", &["images", "remove", "--sync", &reference])
            .unwrap();
    }
    for namespace in ["k8s.io", "other"] {
        node.containerd.collect_garbage(namespace).unwrap();
    }
    node.wait_for_chains(0);
}
