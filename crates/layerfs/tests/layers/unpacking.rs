//! Ordinary layers that the node unpacks by itself.

use std::path::PathBuf;

use image::chain_id;
use layerfs::{ChainLayer, ImageLayer, LayerRequest, Layers, Named, Refusal, Source, Unpack};
use testkit::{Entry, Fault, LayerBlob, When};

use crate::lazy::{Lazy, LazyWorld, by_tar, everything, link, noise};
use crate::model::{Kept, merged};
use crate::outside::{read, walk};
use crate::world::{blob, mounts_possible, parsed, requests};

const NAME: &str = "unpacked-here";

/// An image of two ordinary layers with a lazy one above.
struct Mixed {
    lazy: LazyWorld,
    ordinary: Vec<LayerBlob>,
    top: Lazy,
}

impl Mixed {
    fn new(ordinary: Vec<LayerBlob>) -> Self {
        let top = Lazy::new([
            Entry::file("top", noise(8, 100_000)),
            Entry::whiteout("small"),
        ]);
        let lazy = LazyWorld::with_registry(std::slice::from_ref(&top));
        for layer in &ordinary {
            lazy.push(&layer.digest, &layer.blob);
        }
        Self {
            lazy,
            ordinary,
            top,
        }
    }

    fn node(&self, unpack: Unpack) -> Layers {
        let registry = Source::Registry(layerfs::FromRegistry {
            client: self.lazy.client(),
            trust_without_diff_id: false,
        });
        let mut config = self.lazy.world.config();
        config.unpack = unpack;
        Layers::open(config, vec![registry]).unwrap()
    }

    fn blobs(&self) -> Vec<LayerBlob> {
        let mut all = self.ordinary.clone();
        all.push(self.top.blob.clone());
        all
    }

    fn requests(&self) -> Vec<LayerRequest> {
        let blobs = self.blobs();
        let described: Vec<ImageLayer> = self
            .ordinary
            .iter()
            .map(|layer| parsed(&layer.digest).into())
            .chain([self.top.described()])
            .collect();
        let mut all = requests(&blobs);
        for (index, request) in all.iter_mut().enumerate() {
            request.reference = Some(self.lazy.reference());
            request.annotations = described[index].annotations.clone();
            request.image_layers = described[index..].to_vec();
            request.complete = true;
        }
        all
    }

    fn attach(&self, node: &Layers) -> (Vec<ChainLayer>, PathBuf) {
        let chain: Vec<ChainLayer> = self
            .requests()
            .iter()
            .map(|request| link(request, &node.claim(request).unwrap()))
            .collect();
        let path = node.attach(&chain).unwrap();
        (chain, path)
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.lazy.world.root().join("unpacked")).unwrap();
        files.map(|file| file.unwrap().path()).collect()
    }
}

fn ordinary() -> Vec<LayerBlob> {
    vec![
        blob(everything()),
        blob([
            Entry::file("second", noise(9, 5_000_000)),
            Entry::file("small", "replaced"),
        ]),
    ]
}

#[test]
fn an_ordinary_layer_below_a_lazy_one_is_unpacked_and_proven() {
    if !mounts_possible() {
        return;
    }
    let mixed = Mixed::new(ordinary());
    let node = mixed.node(Unpack::BelowLazy);
    let (chain, path) = mixed.attach(&node);
    assert_eq!((&*chain[0].source, &*chain[1].source), (NAME, NAME));
    assert!(chain[2].source.starts_with("estargz:registry:"));
    let layers: Vec<_> = mixed.blobs().iter().map(|one| one.layer.clone()).collect();
    merged(&layers, Kept::ALL)
        .compare(&walk(&path, 0), &[])
        .unwrap_or_else(|difference| panic!("{difference}"));
    let lazy = &node.metrics().lazy;
    assert_eq!(lazy.unpacked_layers.get(), 2);
    let bytes: usize = mixed.ordinary.iter().map(|layer| layer.blob.len()).sum();
    assert_eq!(lazy.unpacked_bytes.get(), bytes as u64);
    // In several ranges.
    let ranges = mixed.lazy.server().requests_for(&mixed.ordinary[1].digest);
    assert!(ranges.len() > 3, "{}", ranges.len());
    // The claim proves the diffID, whatever the image says.
    let request = &mixed.requests()[0];
    let claimed = node.claim(request).unwrap();
    assert_eq!(claimed.diff_id, request.diff_id);
    // They count.
    let tars: usize = mixed.ordinary.iter().map(|layer| layer.tar.len()).sum();
    assert!(mixed.lazy.world.cache().used_bytes() > tars as u64);
}

#[test]
fn it_is_what_tar_makes_of_it_however_compressed() {
    if !mounts_possible() {
        return;
    }
    let gzip = blob(everything());
    let plain = LayerBlob {
        blob: gzip.tar.clone(),
        digest: testkit::digest(&gzip.tar),
        ..gzip.clone()
    };
    for layer in [gzip, plain] {
        let mixed = Mixed::new(vec![layer.clone()]);
        let node = mixed.node(Unpack::Always);
        let request = &mixed.requests()[0];
        let chain = [link(request, &node.claim(request).unwrap())];
        let path = node.attach(&chain).unwrap();
        by_tar(&layer, &mixed.lazy.world.path("by-tar"))
            .compare(&walk(&path, 0), &[])
            .unwrap_or_else(|difference| panic!("{difference}"));
    }
}

#[test]
fn only_where_it_helps_and_is_wanted() {
    let mixed = Mixed::new(vec![blob([Entry::file("f", "f")])]);
    let request = mixed.requests().remove(0);
    let refused = |unpack, request: &LayerRequest| {
        let node = mixed.node(unpack);
        let answer = node.claim(request);
        mixed.lazy.world.stop(node);
        assert!(answer.is_err(), "{answer:?}");
    };
    refused(Unpack::Never, &request);
    // More may be learned of the image yet.
    let early = LayerRequest {
        complete: false,
        ..request.clone()
    };
    refused(Unpack::BelowLazy, &early);
    // Nothing lazy above.
    let alone = LayerRequest {
        image_layers: request.image_layers[..1].to_vec(),
        ..request.clone()
    };
    refused(Unpack::BelowLazy, &alone);
    // Nobody said where.
    let nowhere = LayerRequest {
        reference: None,
        ..request
    };
    refused(Unpack::BelowLazy, &nowhere);
    assert!(mixed.files().is_empty());
    assert!(mixed.node(Unpack::Always).claim(&alone).is_ok());
}

#[test]
fn after_a_restart_it_is_there_and_for_other_images_too() {
    if !mounts_possible() {
        return;
    }
    let mut mixed = Mixed::new(ordinary());
    let node = mixed.node(Unpack::BelowLazy);
    let (chain, path) = mixed.attach(&node);
    assert!(read(&path.join("top")) == Ok(noise(8, 100_000)));
    mixed.lazy.world.stop(node);
    mixed.lazy.registry = None;
    std::fs::write(mixed.lazy.world.root().join("unpacked/7.new"), "half").unwrap();
    let node = mixed.node(Unpack::BelowLazy);
    assert_eq!(node.attach(&chain).unwrap(), path);
    assert!(read(&path.join("second")) == Ok(noise(9, 5_000_000)));
    assert_eq!(mixed.files().len(), 2, "what a crash left is gone");
    // Nobody needs to be asked, and nothing needs to be known of the image.
    let request = LayerRequest {
        reference: None,
        image_layers: Vec::new(),
        ..mixed.requests().remove(0)
    };
    assert_eq!(node.claim(&request).unwrap().source, NAME);
}

#[test]
fn it_goes_with_its_last_image() {
    if !mounts_possible() {
        return;
    }
    let mixed = Mixed::new(ordinary());
    let node = mixed.node(Unpack::BelowLazy);
    let (chain, _) = mixed.attach(&node);
    let named = Named {
        trees: chain.iter().map(|layer| layer.tree.clone()).collect(),
        chains: Vec::new(),
    };
    node.detach(&chain);
    node.retain(&named).unwrap();
    assert_eq!(mixed.files().len(), 2);
    let used = mixed.lazy.world.cache().used_bytes();
    node.retain(&Named::default()).unwrap();
    assert!(mixed.files().is_empty());
    assert!(mixed.lazy.world.cache().used_bytes() < used);
    // And comes again, with a claim or without.
    mixed.attach(&node);
    assert_eq!(mixed.files().len(), 2);
    node.detach(&chain);
    node.retain(&Named::default()).unwrap();
    let path = node.attach(&chain).unwrap();
    assert!(read(&path.join("second")) == Ok(noise(9, 5_000_000)));
}

#[test]
fn another_blob_or_diff_id_than_stated_is_refused() {
    let layer = blob([Entry::file("f", noise(1, 10_000))]);
    let mixed = Mixed::new(vec![layer.clone()]);
    let node = mixed.node(Unpack::BelowLazy);
    // The image's configuration says another diffID.
    let mut hostile = mixed.requests().remove(0);
    hostile.diff_id = Some(parsed(&testkit::digest(b"other")));
    hostile.chain_id = chain_id(None, &hostile.diff_id.unwrap());
    assert!(matches!(
        node.claim(&hostile),
        Err(Refusal::DiffIdMismatch { .. })
    ));
    mixed.lazy.world.stop(node);
    for damaged in [
        [&layer.blob[..], b"more"].concat(),
        layer.blob[..layer.blob.len() - 9].to_vec(),
        vec![7; 5000],
        Vec::new(),
    ] {
        let mixed = Mixed::new(vec![layer.clone()]);
        mixed.lazy.push(&layer.digest, &damaged);
        let node = mixed.node(Unpack::BelowLazy);
        let answer = node.claim(&mixed.requests()[0]);
        assert!(matches!(answer, Err(Refusal::Source(_))), "{answer:?}");
        assert!(mixed.files().is_empty());
    }
}

#[test]
fn transfers_that_break_are_repeated_and_end() {
    let mixed = Mixed::new(ordinary());
    let digest = &mixed.ordinary[1].digest;
    let when = || When::object(digest);
    mixed
        .lazy
        .server()
        .fault(when().first(2), Fault::StatusCode(503));
    mixed
        .lazy
        .server()
        .fault(when().nth(4), Fault::Truncate(10_000));
    let node = mixed.node(Unpack::BelowLazy);
    let requests = mixed.requests();
    node.claim(&requests[0]).unwrap();
    node.claim(&requests[1]).unwrap();
    mixed.lazy.world.stop(node);
    for file in mixed.files() {
        std::fs::remove_file(file).unwrap();
    }
    mixed.lazy.server().fault(when(), Fault::Close);
    let node = mixed.node(Unpack::BelowLazy);
    assert!(node.claim(&requests[1]).is_err());
    mixed.lazy.server().clear_faults();
    node.claim(&requests[1]).unwrap();
}

#[test]
fn a_layer_that_is_larger_than_the_quota_is_refused() {
    let mixed = Mixed::new(vec![blob([Entry::file("zeros", vec![0; 3_000_000])])]);
    let config = cache::Config {
        directory: mixed.lazy.world.path("small-cache"),
        quota: 2_000_000,
        boot_id: "boot".to_owned(),
    };
    let mut settings = mixed.lazy.world.config();
    settings.unpack = Unpack::BelowLazy;
    settings.cache = Some(std::sync::Arc::new(cache::Cache::open(config).unwrap()));
    let registry = Source::Registry(layerfs::FromRegistry {
        client: mixed.lazy.client(),
        trust_without_diff_id: false,
    });
    let node = Layers::open(settings, vec![registry]).unwrap();
    let answer = node.claim(&mixed.requests()[0]);
    assert!(
        matches!(&answer, Err(refusal) if refusal.to_string().contains("quota")),
        "{answer:?}"
    );
    assert!(mixed.files().is_empty());
}
