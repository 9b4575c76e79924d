//! Layers that are read piece by piece, from a registry, from a repository, from both; and ordinary ones between them.

use std::process::Command;
use std::time::{Duration, Instant};

use e2e::child;
use e2e::merged::Image;
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::{Access, Entry, Fault, Layer, LayerBlob, Registry, When};

use crate::images::{World, base, image};
use crate::node::Node;

const LAZY: &str = "registry.test/lazy:1";
const MIXED: &str = "registry.test/mixed:1";

/// An image in three forms: as it was built, lazy, and lazy above one ordinary layer.
struct Images {
    world: World,
    built: testkit::Image,
    lazy: Image,
}

/// Upper layers of an image: one with a large file that a container reads a part of, one with a small one.
fn upper() -> [Layer; 2] {
    let noise = |seed: u64, length: usize| -> Vec<u8> {
        let mut state = seed;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    };
    let unused = noise(7, 12 << 20);
    [
        Layer::new([
            Entry::directory("data"),
            Entry::file("data/unused", unused),
            Entry::file("data/used", "used\n"),
        ]),
        Layer::new([
            Entry::directory("data"),
            Entry::file("data/replaced", "from the top\n"),
        ]),
    ]
}

impl Images {
    fn new(format: &str) -> Self {
        let built = image([base()].into_iter().chain(upper()));
        let world = World::new(&[("one", &built)], []);
        let registry = Registry::serving(&world.images()).start().unwrap();
        let mut convert = Command::new(e2e::outcrop::binary("outcrop").unwrap());
        convert
            .args(["convert", "--format", format, "--level", "1"])
            .arg(registry.reference("one", "1"))
            .arg(registry.reference("lazy", "1"));
        child::run(&mut convert, Duration::from_secs(120)).unwrap();
        let lazy = Image::read(&world.images(), "lazy", "1").unwrap();
        Self { world, built, lazy }
    }

    fn document(&self, name: &str) -> Value {
        let file = self.world.images().join("manifests").join(name);
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }

    fn blob(&self, descriptor: &Value) -> Vec<u8> {
        let digest = descriptor["digest"].as_str().unwrap();
        std::fs::read(self.world.images().join("blobs").join(digest)).unwrap()
    }

    /// The lazy layer `index`, as a publisher unpacks it.
    fn unpacked(&self, index: usize) -> LayerBlob {
        let manifest = self.document("lazy:1");
        let descriptor = &manifest["layers"][index];
        let config: Value = serde_json::from_slice(&self.blob(&manifest["config"])).unwrap();
        let mut layer = self.built.layers[index].clone();
        layer.digest = descriptor["digest"].as_str().unwrap().to_owned();
        layer.diff_id = config["rootfs"]["diff_ids"][index]
            .as_str()
            .unwrap()
            .to_owned();
        layer
    }

    /// `mixed:1`: the lowest layer as it was built, the others lazy.
    fn mix(&self) -> Image {
        let (one, lazy) = (self.document("one:1"), self.document("lazy:1"));
        let config = |manifest: &Value| -> Value {
            serde_json::from_slice(&self.blob(&manifest["config"])).unwrap()
        };
        let mut mixed_config = config(&lazy);
        mixed_config["rootfs"]["diff_ids"][0] = config(&one)["rootfs"]["diff_ids"][0].clone();
        let bytes = serde_json::to_vec(&mixed_config).unwrap();
        let digest = testkit::digest(&bytes);
        let mut mixed = lazy;
        mixed["layers"][0] = one["layers"][0].clone();
        mixed["config"]["digest"] = json!(digest);
        mixed["config"]["size"] = json!(bytes.len());
        std::fs::write(self.world.images().join("blobs").join(digest), bytes).unwrap();
        let manifest = self.world.images().join("manifests/mixed:1");
        std::fs::write(manifest, serde_json::to_vec(&mixed).unwrap()).unwrap();
        Image::read(&self.world.images(), "mixed", "1").unwrap()
    }
}

const READ: [&str; 3] = ["/bin/cat", "/data/used", "/data/replaced"];

fn sources(node: &Node, image: &Image) -> Vec<String> {
    let source = |snapshot: &String| {
        let found = node.label(snapshot, "source");
        found.unwrap_or_else(|| format!("{:?}", node.label(snapshot, "reason")))
    };
    image.chain_ids.iter().map(source).collect()
}

/// Bytes of layers that the registry sent.
pub(crate) fn received(node: &Node) -> u64 {
    let requests = node.registry.requests_for("/blobs/");
    requests.iter().map(|request| request.bytes).sum()
}

#[test]
fn an_image_runs_from_a_registry_without_being_pulled() {
    let images = Images::new("estargz");
    for runtime in crate::runtimes() {
        let node = Node::with_registry(&runtime, &images.world, "");
        assert_eq!(
            node.output_of(LAZY, &READ),
            "used",
            "{}",
            node.outcrop.log()
        );
        for source in sources(&node, &images.lazy) {
            assert_eq!(source, "estargz:registry:registry.test/lazy", "{runtime:?}");
        }
        let (bytes, all) = (received(&node), images.lazy.layer_bytes);
        assert!(bytes < all / 2, "{bytes} of {all} bytes on {runtime:?}");
    }
}

/// What a container sees is what the tars say.
#[test]
fn a_lazy_image_is_what_its_tars_say() {
    let images = Images::new("estargz");
    let mut expected = images.lazy.merged().unwrap();
    // Files of the tar that are no part of the layer.
    expected.retain(|path, _| {
        let hidden = [&b"stargz.index.json"[..], b".no.prefetch.landmark"];
        !hidden.contains(&&path[..])
    });
    for runtime in crate::runtimes() {
        let node = Node::with_registry(&runtime, &images.world, "");
        node.cri().pull(LAZY).unwrap();
        let top = images.lazy.chain_ids.last().unwrap();
        let seen = node
            .containerd
            .with_view("k8s.io", top, |view| e2e::listing::list(view, 0))
            .unwrap();
        assert_eq!(e2e::listing::difference(&expected, &seen), None);
    }
}

#[test]
fn an_image_runs_from_blobs_in_a_repository() {
    for format in ["estargz", "zstd-chunked"] {
        let images = Images::new(format);
        let manifest = images.document("lazy:1");
        let layers = manifest["layers"].as_array().unwrap();
        let digests: Vec<String> = layers
            .iter()
            .map(|layer| layer["digest"].as_str().unwrap().to_owned())
            .collect();
        images.world.publish(&[], &digests);
        for runtime in crate::runtimes() {
            let node = Node::of(&runtime, &images.world);
            assert_eq!(node.output_of(LAZY, &READ), "used");
            assert_eq!(node.fetched(&digests), [""; 0], "{format} on {runtime:?}");
        }
    }
}

#[test]
fn zstd_chunked_layers_of_a_registry_are_verified_by_the_manifest() {
    let images = Images::new("zstd-chunked");
    for runtime in crate::runtimes() {
        let node = Node::with_registry(&runtime, &images.world, "");
        assert_eq!(
            node.output_of(LAZY, &READ),
            "used",
            "{}",
            node.outcrop.log()
        );
        let (bytes, all) = (received(&node), images.lazy.layer_bytes);
        assert!(bytes < all / 2, "{bytes} of {all} bytes on {runtime:?}");
    }
}

/// The base unpacked in CVMFS, what was developed above it in a registry.
#[test]
fn a_base_from_the_repository_and_lazy_layers_of_a_registry_are_one_image() {
    let images = Images::new("estargz");
    images.world.publish(&[images.unpacked(0)], &[]);
    for runtime in crate::runtimes() {
        let node = Node::with_registry(&runtime, &images.world, "");
        assert_eq!(node.output_of(LAZY, &READ), "used");
        let sources = sources(&node, &images.lazy);
        assert_eq!(sources[0], "cvmfs:unpacked.test.local");
        assert_eq!(sources[1], "estargz:registry:registry.test/lazy");
        assert_eq!(node.fetched(&images.lazy.layers[..1]), [""; 0]);
    }
}

/// One ordinary layer at the bottom does not make containerd fetch the lazy ones above.
#[test]
fn an_ordinary_layer_below_lazy_ones_is_unpacked_by_the_daemon() {
    let images = Images::new("estargz");
    let mixed = images.mix();
    for runtime in crate::runtimes() {
        let node = Node::with_registry(&runtime, &images.world, "");
        assert_eq!(
            node.output_of(MIXED, &READ),
            "used",
            "{}",
            node.outcrop.log()
        );
        let sources = sources(&node, &mixed);
        assert_eq!(sources[0], "unpacked-here", "{}", node.outcrop.log());
        assert_eq!(sources[2], "estargz:registry:registry.test/mixed");
        let node = Node::with_registry(&runtime, &images.world, "[lazy]\nunpack = \"never\"\n");
        assert_eq!(node.output_of(MIXED, &READ), "used");
        assert!(node.label(&mixed.chain_ids[0], "source").is_none());
    }
}

#[test]
fn with_the_registry_gone_the_cache_serves_and_the_repository_takes_over() {
    let images = Images::new("estargz");
    for runtime in crate::runtimes() {
        images.world.publish(&[], &images.lazy.layers[1..2]);
        let mut node = Node::with_registry(
            &runtime,
            &images.world,
            "[lazy]\nbackground_fetch = false\n",
        );
        let cri = node.cri();
        cri.pull(LAZY).unwrap();
        let command = ["/bin/tail", "-f", "/dev/null"];
        let pod = cri.run("long", LAZY, &command).unwrap();
        let read = |path: &str| cri.exec(&pod, &["/bin/cat", path]);
        assert_eq!(read("/data/used").unwrap(), b"used\n");
        node.registry.fault(When::always(), Fault::Close);
        // Never read before: the base needs the registry, and the shell of it is cached; the layer with the large file is in
        // the repository, too.
        assert_eq!(read("/data/used").unwrap(), b"used\n");
        let all = ["/bin/sh", "-c", "cat /data/unused > /dev/null && echo all"];
        assert_eq!(cri.exec(&pod, &all).unwrap(), b"all\n");
        cri.remove(&pod).unwrap();
        // A daemon that starts without its registry serves what it has.
        node.restart_outcrop(Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match cri.run("again", LAZY, &READ) {
                Ok(pod) => {
                    assert_eq!(cri.first_output(&pod).unwrap(), "used");
                    cri.remove(&pod).unwrap();
                    break;
                }
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }
}

/// Tokens that end while a container runs, and a server that suddenly sends whole blobs.
#[test]
fn a_container_does_not_notice_what_registries_do() {
    let images = Images::new("estargz");
    for runtime in crate::runtimes() {
        let access = Access::gitlab().anonymous_pull();
        let node = Node::with_guarded_registry(&runtime, &images.world, &access);
        let cri = node.cri();
        cri.pull(LAZY).unwrap();
        let command = ["/bin/tail", "-f", "/dev/null"];
        let pod = cri.run("long", LAZY, &command).unwrap();
        let issued = access.issued();
        access.revoke();
        let used = cri.exec(&pod, &["/bin/cat", "/data/used"]).unwrap();
        assert_eq!(used, b"used\n");
        assert!(access.issued() > issued, "{runtime:?}");
        node.registry
            .fault(When::path("/blobs/"), Fault::IgnoreRange);
        let all = ["/bin/sh", "-c", "cat /data/unused > /dev/null && echo all"];
        assert_eq!(cri.exec(&pod, &all).unwrap(), b"all\n");
        cri.remove(&pod).unwrap();
    }
}

/// A chunk that is wrong everywhere: an error of that read, and of no other.
#[test]
fn a_wrong_chunk_is_an_error_of_that_read_only() {
    let images = Images::new("estargz");
    let digest = &images.lazy.layers[1];
    let file = images.world.images().join("blobs").join(digest);
    let mut blob = std::fs::read(&file).unwrap();
    blob[6 << 20] ^= 1;
    std::fs::write(&file, blob).unwrap();
    for runtime in crate::runtimes() {
        let node = Node::with_registry(&runtime, &images.world, "");
        let cri = node.cri();
        cri.pull(LAZY).unwrap();
        let command = ["/bin/tail", "-f", "/dev/null"];
        let pod = cri.run("long", LAZY, &command).unwrap();
        let reads = "cat /data/unused > /dev/null || echo failed; cat /data/used /data/replaced";
        let said = cri.exec(&pod, &["/bin/sh", "-c", reads]).unwrap();
        assert_eq!(said, b"failed\nused\nfrom the top\n", "{runtime:?}");
        cri.remove(&pod).unwrap();
    }
}

#[test]
fn a_pull_by_hand_is_lazy_too() {
    let images = Images::new("estargz");
    for runtime in crate::runtimes() {
        let node = Node::with_registry(&runtime, &images.world, "");
        node.containerd.pull("default", LAZY).unwrap();
        let bytes = received(&node);
        assert!(
            bytes < images.lazy.layer_bytes / 2,
            "{bytes} bytes on {runtime:?}\n{}",
            node.outcrop.log()
        );
    }
}
