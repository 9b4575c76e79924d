//! A container's changes become a layer: only they are read, and what they stand on stays where it is.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use e2e::child;
use e2e::merged::Image;
use e2e::{Cri, Version};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use testkit::{DuccOptions, Entry, Layer};

use crate::images::{World, base, image, layer};
use crate::node::Node;

const LIMIT: Duration = Duration::from_secs(120);
/// What nobody may fetch for the sake of a commit.
const LARGE: usize = 24 << 20;
/// The issue's bound for a base of any size.
const FETCHED: u64 = 1 << 20;

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const EXTENDED: &str = "registry.test/extended:1";

const CHANGES: &str = "echo new > layers/new; echo more >> layers/small; ln -s new layers/link; \
                       rm large/0; echo changed; tail -f /dev/null";

/// Bytes that do not compress, the same in each run.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn large() -> Layer {
    let files =
        (0..4).map(|number| Entry::file(format!("large/{number}"), noise(number, LARGE / 4)));
    Layer::new([Entry::directory("large")].into_iter().chain(files))
}

fn programs() -> Layer {
    let mut all = base();
    let links = ["ln", "rm"].map(|applet| Entry::symlink(format!("bin/{applet}"), "busybox"));
    all.entries.extend(links);
    all
}

/// Names and contents of a layer.
fn entries(tar: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let link = entry.link_name().unwrap();
        let link = link.map(|link| format!("-> {}", link.display()));
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        (path, link.unwrap_or(content))
    });
    entries.collect()
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The changes of a container as containerd makes a layer of them.
fn changes(node: &Node, container: &str, media_type: &str) -> Vec<u8> {
    let mut command = node.containerd.ctr_command("ctr", "k8s.io");
    command.args(["snapshots", "--snapshotter", "outcrop", "diff", "--keep"]);
    command.args(["--media-type", media_type, container]);
    let output = child::output(&mut command, LIMIT).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{}", node.outcrop.log());
    output.stdout
}

/// An image that consists of the base's layers and one more, as an archive without any layer.
fn archive(base: &testkit::Image, tar: &[u8]) -> Vec<u8> {
    let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    let text = |value: &Value| serde_json::to_vec(value).unwrap();
    let described = |media_type: &Value, bytes: &[u8]| json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()});
    let mut config = parse(&base.config);
    let diff_ids = config["rootfs"]["diff_ids"].as_array_mut().unwrap();
    diff_ids.push(digest(tar).into());
    let config = text(&config);
    let mut manifest = parse(&base.manifest);
    manifest["config"] = described(&manifest["config"]["mediaType"], &config);
    let layers = manifest["layers"].as_array_mut().unwrap();
    layers.push(described(&TAR.into(), tar));
    let manifest = text(&manifest);
    let mut entry = described(&base.media_type.into(), &manifest);
    entry["annotations"] = json!({"io.containerd.image.name": EXTENDED});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    let blob = |bytes: &[u8]| format!("blobs/{}", digest(bytes).replace(':', "/"));
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in [
        (
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        ),
        ("index.json".to_owned(), text(&index)),
        (blob(&manifest), manifest),
        (blob(&config), config),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, name, bytes.as_slice())
            .unwrap();
    }
    archive.into_inner().unwrap()
}

/// The image with one more layer, pushed under another name by containerd, which has no blob of the base.
fn push(node: &Node, base: &testkit::Image, tar: &[u8]) {
    let file = node.outcrop.root().join("archive.tar");
    std::fs::write(&file, archive(base, tar)).unwrap();
    let local: &[&str] = match node.containerd.runtime().version {
        Version::V2_1 => &["--local"],
        _ => &[],
    };
    let ctr = |verb: &str, rest: &[&str]| {
        let arguments = [&["images", verb], local, rest].concat();
        let done = node.containerd.ctr("k8s.io", &arguments);
        done.unwrap_or_else(|error| panic!("{error:#}\n{}", node.registry.log_json()));
    };
    ctr("import", &["--no-unpack", &file.display().to_string()]);
    let hosts = node.containerd.hosts_dir().display().to_string();
    ctr("push", &["--plain-http", "--hosts-dir", &hosts, EXTENDED]);
}

fn run(node: &Node, cri: &Cri) -> e2e::cri::Pod {
    let image = "registry.test/base:1";
    cri.pull(image)
        .unwrap_or_else(|error| panic!("{error}\n{}", node.outcrop.log()));
    let pod = cri
        .run("changing", image, &["/bin/sh", "-c", CHANGES])
        .unwrap_or_else(|error| panic!("{error}\n{}", node.outcrop.log()));
    assert_eq!(cri.first_output(&pod).unwrap(), "changed");
    pod
}

/// What [`CHANGES`] did.
fn assert_changes(tar: &[u8]) {
    let expected = [
        ("large/", ""),
        ("large/.wh.0", ""),
        ("layers/", ""),
        ("layers/link", "-> new"),
        ("layers/new", "new\n"),
    ];
    let mut found = entries(tar);
    let small = found.remove("layers/small").unwrap();
    assert!(small.starts_with("this is small\n") && small.ends_with("\nmore\n"));
    // Of which the runtime made mount points.
    let made = ["dev/", "etc/", "proc/", "sys/"];
    found.retain(|name, _| !made.iter().any(|directory| name.starts_with(directory)));
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (name, content) in expected {
        assert_eq!(found[name], content, "{name}");
    }
}

/// That the blobs are there, containerd has asked, and no more.
fn assert_pushed_without_base(node: &Node, base: &Image) {
    let mut gets = node.registry.requests_for("/blobs/");
    gets.retain(|request| request.method == "GET");
    let fetched = |layer: &&String| gets.iter().any(|get| get.path.contains(layer.as_str()));
    assert_eq!(base.layers.iter().find(fetched), None);
    node.registry.clear_log();
}

#[test]
fn a_commit_reads_what_changed_and_its_push_needs_no_blob_of_the_base() {
    let built = image([programs(), large(), layer("small")]);
    let layers = built.layers.iter();
    let world = World::new(
        &[("base", &built)],
        layers.map(|layer| (layer, DuccOptions::default())),
    );
    let image = Image::read(&world.images(), "base", "1").unwrap();
    for runtime in crate::runtimes() {
        if runtime.version == Version::V1_6 {
            eprintln!("skipped: containerd 1.6 has no proxy plugins for differences");
            continue;
        }
        let node = Node::of(&runtime, &world);
        let cri = node.cri();
        let pod = run(&node, &cri);
        let before = node.stratum1.bytes_sent();
        let tar = changes(
            &node,
            &pod.container,
            "application/vnd.oci.image.layer.v1.tar",
        );
        let fetched = node.stratum1.bytes_sent() - before;
        assert!(fetched < FETCHED, "{fetched} bytes of {LARGE}");
        assert_changes(&tar);
        let gzip = changes(
            &node,
            &pod.container,
            "application/vnd.oci.image.layer.v1.tar+gzip",
        );
        let mut inflated = Vec::new();
        flate2::read::GzDecoder::new(gzip.as_slice())
            .read_to_end(&mut inflated)
            .unwrap();
        assert_eq!(inflated, tar);

        push(&node, &built, &tar);
        assert_pushed_without_base(&node, &image);
        cri.remove(&pod).unwrap();
        assert_eq!(
            node.output_of(
                EXTENDED,
                &["/bin/sh", "-c", "echo $(cat layers/link) $(ls large)"]
            ),
            "new 1 2 3"
        );
        assert_eq!(node.fetched(&image.layers), [""; 0]);
    }
}
