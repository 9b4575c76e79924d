//! Which layers can be served, and which answer is given for those that cannot.

use image::{EMPTY_LAYER, chain_id};
use layerfs::{LayerRequest, Layers, Refusal, SourceError};
use testkit::{DuccOptions, Entry, Fault, LayerBlob, Placement, When};

use crate::outside::walk;
use crate::world::{World, attach, blob, claim, eventually, mounts_possible, parsed, requests};

fn layer(content: &str) -> LayerBlob {
    blob([Entry::file("file", content)])
}

fn world_with(layer: &LayerBlob, options: DuccOptions) -> World {
    let mut world = World::new();
    world.options = options;
    world.add(layer);
    world.publish();
    world.start(1);
    world
}

#[test]
fn a_stated_diff_id_must_lead_to_the_chain_id() {
    let (good, other) = (layer("good"), layer("other"));
    let world = World::serving(&[good.clone(), other.clone()], 1);
    let node = world.layers();
    // An image that states the diffID of a layer that many trust, and another layer's digest.
    let mut hostile = requests(std::slice::from_ref(&good)).remove(0);
    hostile.layer = parsed(&other.digest);
    match node.claim(&hostile) {
        Err(Refusal::DiffIdMismatch { stated, .. }) => assert_eq!(stated, other.diff_id),
        answer => panic!("{answer:?}"),
    }
    assert_eq!(
        (node.metrics().claimed.get(), node.metrics().refused.get()),
        (0, 1)
    );

    let second = [good, other];
    let requests = requests(&second);
    let claimed = node.claim(&requests[1]).unwrap();
    assert_eq!(claimed.diff_id, Some(parsed(&second[1].diff_id)));
    assert_eq!(claimed.source, format!("cvmfs:{}", crate::world::FQRN));
    assert_eq!(claimed.size, second[1].tar.len() as u64);
    // The same layer upon another parent is another chainID.
    let mut elsewhere = requests[1].clone();
    elsewhere.parent_chain_id = None;
    assert!(matches!(
        node.claim(&elsewhere),
        Err(Refusal::DiffIdMismatch { .. })
    ));
}

#[test]
fn a_layer_without_statement_is_believed_only_where_configured() {
    let layer = layer("old");
    let placements = [
        DuccOptions {
            placement: Placement::Unpacked,
            ..DuccOptions::default()
        },
        DuccOptions {
            without_statement: true,
            ..DuccOptions::default()
        },
    ];
    for options in placements {
        let world = world_with(&layer, options.clone());
        let request = requests(std::slice::from_ref(&layer)).remove(0);
        let node = world.layers();
        assert_eq!(node.claim(&request).unwrap().diff_id, None, "{options:?}");
        world.stop(node);
        let trusting = Layers::open(world.config(), vec![world.source(true)]).unwrap();
        let claimed = trusting.claim(&request).unwrap();
        assert_eq!(claimed.diff_id, request.diff_id, "{options:?}");
        let unknown = LayerRequest {
            diff_id: None,
            ..request
        };
        assert_eq!(
            trusting.claim(&unknown).unwrap().diff_id,
            None,
            "{options:?}"
        );
        world.stop(trusting);
    }
}

#[test]
fn a_trusting_configuration_does_not_overrule_what_is_stated() {
    let layer = layer("x");
    let stated = parsed(&testkit::digest(b"another"));
    let options = DuccOptions {
        stated_diff_id: Some(stated.to_string()),
        ..DuccOptions::default()
    };
    let world = world_with(&layer, options);
    let node = Layers::open(world.config(), vec![world.source(true)]).unwrap();
    let request = requests(&[layer]).remove(0);
    assert!(matches!(
        node.claim(&request),
        Err(Refusal::DiffIdMismatch { .. })
    ));
}

#[test]
fn an_unknown_layer_is_not_found_and_a_dead_network_is_no_answer() {
    let known = layer("known");
    let request = requests(&[layer("unknown")]).remove(0);
    let mut world = World::serving(&[known], 2);
    let node = world.layers();
    assert!(matches!(
        node.claim(&request),
        Err(Refusal::NotFound { .. })
    ));
    world.stop(node);

    // Never been here before, and nobody answers.
    for name in ["client", "cache"] {
        std::fs::remove_dir_all(world.path(name)).unwrap();
    }
    let node = world.layers();
    world.servers.clear();
    for _ in 0..2 {
        match node.claim(&request) {
            Err(Refusal::Source(SourceError::Unavailable { reason, .. })) => {
                assert!(reason.contains("http"), "{reason}");
            }
            answer => panic!("{answer:?}"),
        }
    }
}

#[test]
fn hosts_that_fail_are_no_reason_to_say_not_found() {
    let world = World::serving(&[layer("known")], 2);
    let node = world.layers();
    for server in &world.servers {
        server.fault(When::always(), Fault::StatusCode(503));
    }
    let known = requests(&[layer("known")]).remove(0);
    assert!(matches!(
        node.claim(&known),
        Err(Refusal::Source(SourceError::Unavailable { .. }))
    ));
}

#[test]
fn the_second_source_is_asked_when_the_first_fails_or_has_not_the_layer() {
    let (ours, theirs) = (layer("ours"), layer("theirs"));
    let first = World::serving(std::slice::from_ref(&ours), 1);
    let second = World::serving(&[ours.clone(), theirs.clone()], 1);
    // Two sources of one name would be one: the second is looked at as a directory.
    let directory = second.path("mounted");
    let files = directory.join(format!(
        "unpacked/{}/{}",
        &theirs.digest[7..9],
        &theirs.digest[7..]
    ));
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("file"), "theirs").unwrap();
    let mounted = layerfs::Source::Mounted(layerfs::Mounted {
        directory: directory.clone(),
        trust_without_diff_id: false,
    });
    let node = Layers::open(first.config(), vec![first.source(false), mounted]).unwrap();
    let request = requests(std::slice::from_ref(&theirs)).remove(0);
    let expected = format!("mounted:{}", directory.display());
    // The first has not the layer.
    assert_eq!(node.claim(&request).unwrap().source, expected);
    let own = requests(&[ours]).remove(0);
    assert_eq!(
        node.claim(&own).unwrap().source,
        format!("cvmfs:{}", crate::world::FQRN)
    );
    drop(node);

    // The first cannot be reached at all.
    first.servers[0].fault(When::always(), Fault::Close);
    for name in ["client", "cache"] {
        let _ = std::fs::remove_dir_all(first.path(name));
    }
    let mounted = layerfs::Source::Mounted(layerfs::Mounted {
        directory,
        trust_without_diff_id: false,
    });
    let node = Layers::open(second.config(), vec![first.source(false), mounted]).unwrap();
    assert_eq!(node.claim(&request).unwrap().source, expected);
}

#[test]
fn the_empty_layer_needs_no_source() {
    let bottom = layer("bottom");
    let world = World::serving(std::slice::from_ref(&bottom), 1);
    let node = Layers::open(world.config(), vec![]).unwrap();
    let blob = parsed(&testkit::digest(b"1024 zero bytes, compressed somehow"));
    let mut request = LayerRequest {
        complete: false,
        layer: blob,
        chain_id: EMPTY_LAYER,
        parent_chain_id: None,
        diff_id: None,
        image_layers: vec![blob.into()],
        reference: None,
        annotations: [].into(),
    };
    let claimed = node.claim(&request).unwrap();
    assert_eq!(
        (claimed.diff_id, claimed.source.as_str()),
        (Some(EMPTY_LAYER), "empty")
    );
    request.parent_chain_id = Some(parsed(&bottom.diff_id));
    request.chain_id = chain_id(request.parent_chain_id.as_ref(), &EMPTY_LAYER);
    assert_eq!(node.claim(&request).unwrap().diff_id, Some(EMPTY_LAYER));
    // Any other chainID without a source is a miss.
    request.chain_id = parsed(&bottom.diff_id);
    assert!(matches!(
        node.claim(&request),
        Err(Refusal::NotFound { .. })
    ));
    if !mounts_possible() {
        return;
    }
    drop(node);
    let node = world.layers();
    let (plain, path) = attach(&node, std::slice::from_ref(&bottom));
    let expected = walk(&path, 0);
    let mut chain = claim(&node, &[bottom]).unwrap();
    chain.push(layerfs::ChainLayer {
        layer: blob,
        tree: claimed.tree,
        source: claimed.source,
        reference: None,
        annotations: [].into(),
    });
    // Even when its tree is lost.
    for tree in world.tree_files() {
        std::fs::remove_file(tree).unwrap();
    }
    let path = node.attach(&chain).unwrap();
    expected
        .compare(&walk(&path, 0), &[])
        .unwrap_or_else(|difference| panic!("{difference}"));
    node.detach(&plain);
}

#[test]
fn a_claim_says_how_many_inodes_the_layer_has() {
    let image = [
        blob([
            Entry::file("dir/x", "x"),
            Entry::hardlink("dir/y", "dir/x"),
            Entry::symlink("z", "dir/x"),
        ]),
        LayerBlob::new(testkit::Layer::new([])).unwrap(),
    ];
    let world = World::serving(&image, 1);
    let node = world.layers();
    let claimed = |number: usize| node.claim(&requests(&image)[number]).unwrap().inodes;
    // The root, the directory, the file with two names, the link.
    eventually("the tree is built", || claimed(0) == 4);
    // The empty layer has its root.
    assert_eq!(claimed(1), 1);
}
