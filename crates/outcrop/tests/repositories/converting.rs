//! `outcrop convert`

use crate::site::{Ended, FQRN, NAME, Site, image, names, outcrop};
use serde_json::Value;
use std::fs;
use std::path::Path;
use testkit::Registry;

/// What an image layout or archive says of itself.
fn manifest(site: &Site, source: &str) -> Value {
    let index = fs::read(site.path(&format!("{source}/index.json"))).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let path = format!("{source}/blobs/{}", digest.replace(':', "/"));
    serde_json::from_slice(&fs::read(site.path(&path)).unwrap()).unwrap()
}

fn convert(words: &[&str]) -> Ended {
    Ended::of(outcrop().arg("convert").args(words))
}

const TOC: &str = "containerd.io/snapshot/stargz/toc.digest";

#[test]
fn into_a_layout_with_prioritised_files() {
    let site = Site::without_repository();
    let source = site.layout("one");
    let target = format!("oci-layout:{}:1.0", site.path("layout").display());
    let list = site.path("list");
    fs::write(&list, "usr/shared\nno/such/file\n\n").unwrap();
    let done = convert(&[&source, &target, "--prioritized", list.to_str().unwrap()]);
    assert_eq!(
        done.err,
        "warning: no layer has the prioritized file no/such/file\n"
    );
    let text = done.success();
    assert!(text.starts_with("LAYER"), "{text}");
    assert_eq!(text.matches("converted").count(), 2, "{text}");
    let manifest = manifest(&site, "layout");
    for layer in manifest["layers"].as_array().unwrap() {
        assert!(layer["annotations"][TOC].is_string(), "{layer}");
    }
    // What is of the form already is used again.
    let again = format!("oci-layout:{}", site.path("again").display());
    let layers = convert(&[&target, &again, "--json"]).json()["layers"].clone();
    for layer in layers.as_array().unwrap() {
        assert_eq!(layer["outcome"], "reused");
    }
    // And can be published.
    site.repository(&["init", FQRN]).success();
    let name = format!("{NAME}:esgz");
    Ended::of(&mut site.command(&["publish", &target, "--name", &name])).success();
    let images = site.repository(&["list", "--json"]).json();
    assert_eq!(names(&images), [name]);
}

#[test]
fn into_an_archive_that_is_read_again() {
    let site = Site::without_repository();
    let source = site.layout("one");
    let archive = site.path("out.tar");
    let target = format!("oci-archive:{}", archive.display());
    let done = convert(&[
        &source,
        &target,
        "--format",
        "zstd-chunked",
        "--level",
        "22",
        "--json",
    ])
    .json();
    assert_eq!(done["missing_prioritized"], serde_json::json!([]));
    let layer = &done["layers"][0];
    assert_eq!(
        layer["media_type"],
        "application/vnd.oci.image.layer.v1.tar+zstd"
    );
    assert_eq!(layer["from"], image("one").layers[0].digest);
    // Without prioritised files the tar stays the same.
    assert_eq!(layer["diff_id"], image("one").layers[0].diff_id);
    let back = format!("oci-layout:{}", site.path("back").display());
    let source = format!("docker-archive:{}", archive.display());
    let layers = convert(&[&source, &back, "--json"]).json()["layers"].clone();
    assert_eq!(layers[0]["from"], layer["digest"]);
    assert_eq!(layers[0]["outcome"], "converted");
}

#[test]
fn pushed_to_a_registry_and_read_back() {
    let site = Site::without_repository();
    fs::create_dir(site.path("registry")).unwrap();
    let registry = Registry::serving(&site.path("registry")).start().unwrap();
    image("one")
        .write_to(&site.path("registry"), "group/app", "one")
        .unwrap();
    let host = registry.address().to_string();
    let (from, to) = (
        registry.reference("group/app", "one"),
        registry.reference("group/app", "one-esgz"),
    );
    let pushed = convert(&[&from, &to, "--plain-http", &host, "--json"]).json();
    let back = format!("oci-layout:{}", site.path("back").display());
    let read = convert(&[&to, &back, "--plain-http", &host, "--json"]).json();
    assert_eq!(read["digest"], pushed["digest"]);
    assert_eq!(read["layers"][1]["outcome"], "reused");
    let missing = registry.reference("group/app", "nine");
    let failed = convert(&[&missing, &back, "--plain-http", &host]);
    assert!(
        matches!(failed.code, Some(2 | 4)),
        "{:?} {}",
        failed.code,
        failed.err
    );
    assert!(
        failed.err.contains("group/app:nine") && failed.err.contains("hint: "),
        "{}",
        failed.err
    );
    drop(registry);
    convert(&[&from, &back, "--plain-http", &host]).failure(4, &["hint: "]);
}

#[test]
fn what_cannot_be_is_said_before_anything_is_read() {
    let there = ["oci-layout:/no/such", "oci-layout:/no/where"];
    let refused = |words: &[&str], said: &[&str]| {
        convert(&[&there, words].concat()).failure(2, said);
    };
    refused(
        &["--level", "10"],
        &["--level 10: estargz has the levels 1 to 9"],
    );
    refused(&["--level", "-1"], &["levels 1 to 9"]);
    refused(
        &["--format", "zstd-chunked", "--level", "23"],
        &["zstd-chunked has the levels 1 to 22"],
    );
    refused(&["--chunk-size", "0"], &["--chunk-size", "128 MiB"]);
    refused(&["--chunk-size", "1GiB"], &["--chunk-size", "128 MiB"]);
    refused(
        &["--prioritized", "/no/such"],
        &["prioritized files of /no/such", "hint: "],
    );
    refused(&["--format", "tar"], &["estargz"]);
    assert!(!Path::new("/no/where").exists());
}

#[test]
fn a_damaged_image_and_a_full_target_have_codes_of_their_own() {
    let site = Site::without_repository();
    let image = image("one");
    fs::create_dir(site.path("registry")).unwrap();
    image
        .write_to(&site.path("registry"), "app", "one")
        .unwrap();
    let blob = site.path("registry/blobs").join(&image.layers[0].digest);
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let registry = Registry::serving(&site.path("registry")).start().unwrap();
    let host = registry.address().to_string();
    let target = format!("oci-layout:{}", site.path("out").display());
    convert(&[
        &registry.reference("app", "one"),
        &target,
        "--plain-http",
        &host,
    ])
    .failure(5, &[&image.layers[0].digest]);
    assert!(!site.path("out/index.json").exists());
    let source = site.layout("one");
    convert(&[&source, "oci-layout:/proc/no"]).failure(4, &["/proc/no"]);
    convert(&[&source, "Not A Target"]).failure(2, &["is no target", "hint: "]);
}
