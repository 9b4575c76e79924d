//! The real publisher's repository: our chain of its layers against its own merged copy of the image.

use image::{Digest, chain_id};
use layerfs::{ChainLayer, LayerRequest};
use testkit::{Field, Truth};

use crate::outside::walk;
use crate::world::{World, mounts_possible, parsed};

/// The image's configuration; its flat copy lies below this name.
const CONFIG: &str = "4e785ef693db54aedf782972fa64d30bc26cb9283ccb5a73e0301baaacb2d3bd";
/// Bottom to top.
const LAYERS: [&str; 3] = [
    "sha256:b96067f2d3b4e055e370b9351d701652bd2f93f3eea0499b5f43bcb99e023b23",
    "sha256:6cd6389af94886d1b079dfa423d7e50b53fe8e140e2f4e4cba7790ade4dfc151",
    "sha256:1538ea16bebced527436beddfdccd65236aa840458f393353a795571ec996292",
];

/// The diffIDs, bottom to top: digests in the configuration behind their key.
fn diff_ids(fixture: &testkit::Fixture) -> Vec<Digest> {
    let config = fixture.images().join(format!("blobs/sha256:{CONFIG}"));
    let config = std::fs::read_to_string(config).unwrap();
    let (_, rest) = config.split_once("diff_ids").unwrap();
    let (list, _) = rest.split_once(']').unwrap();
    let quoted = list.split('"').filter(|text| text.starts_with("sha256:"));
    quoted.map(parsed).collect()
}

/// What is put into flat copies for another container runtime, and the markers.
const PUBLISHERS_OWN: [&str; 13] = [
    "/.cvmfscatalog",
    "/.exec",
    "/.run",
    "/.shell",
    "/.singularity.d",
    "/.test",
    "/environment",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/proc",
    "/singularity",
    "/sys",
    "/var/tmp",
];

/// Without what a chain of layers and a flat copy cannot have in common: that copy is made by an
/// unpacking that drops special mode bits and times of all but files.
fn comparable(truth: Truth) -> Truth {
    let own = |name: &str| PUBLISHERS_OWN.iter().any(|own| name.starts_with(own));
    let mut truth = truth.filtered(|name, _| !own(name));
    for row in truth.rows.values_mut() {
        let mode = row.get(Field::Mode)[1..].to_owned();
        row.set(Field::Mode, mode);
        if row.get(Field::Kind) != "f" {
            row.set(Field::Mtime, "-");
        }
        if row.get(Field::Kind) == "d" {
            row.set(Field::Size, "0");
        }
    }
    assert!(truth.rows.len() > 50);
    truth
}

#[test]
fn a_chain_of_the_real_publishers_layers_is_its_flat_image() {
    if !mounts_possible() {
        return;
    }
    let fixture = testkit::fixture();
    let world = World::of_fixture(&fixture);
    let node = world.layers();
    let (mut parent, mut chain) = (None, Vec::new());
    for (layer, diff_id) in LAYERS.iter().zip(diff_ids(&fixture)) {
        let request = LayerRequest {
            complete: false,
            layer: parsed(layer),
            chain_id: chain_id(parent.as_ref(), &diff_id),
            parent_chain_id: parent,
            diff_id: None,
            image_layers: vec![],
            reference: None,
            annotations: [].into(),
        };
        let claimed = node.claim(&request).unwrap();
        assert_eq!(claimed.diff_id, Some(diff_id));
        chain.push(ChainLayer {
            layer: request.layer,
            tree: claimed.tree,
            source: claimed.source,
            reference: None,
            annotations: [].into(),
        });
        parent = Some(request.chain_id);
    }
    assert_eq!(chain.len(), LAYERS.len());
    let path = node.attach(&chain).unwrap();
    let seen = comparable(walk(&path, 0));
    let flat = format!("/.flat/{}/{CONFIG}", &CONFIG[..2]);
    let expected = comparable(testkit::truth().below(&flat));
    // The copy has links that the single layers have lost.
    let lost = [Field::Nlink, Field::HardlinkGroup, Field::Xattrs];
    if let Err(difference) = expected.compare(&seen, &lost) {
        panic!("{difference}");
    }
}
