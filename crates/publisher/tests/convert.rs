//! Images with lazy layers: what was in a layer is in it afterwards, and everything else of the image stays.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::too_many_lines, reason = "one case in one place")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;

use image::estargz::{Footer, Format, Landmark, Limits, Toc, TocDigest, decode_member};
use image::{Descriptor, Digest, ImageConfig, Manifest, ManifestOrIndex, Reference};
use publisher::convert::{
    ConvertError, ConvertOptions, Converted, LayerOutcome, RegistryTarget, convert, open_target,
};
use publisher::{ImageSource, SourceOptions, open_source};
use registry::{Client, Config, Metrics};
use serde_json::{Value, json};
use testkit::{Entry, Image, ImageBuilder, Layer, Registry};

fn sample() -> Image {
    let large: Vec<u8> = (0..300_000u32)
        .flat_map(|at| (at / 3).to_le_bytes())
        .collect();
    ImageBuilder::new()
        .layer(Layer::new([
            Entry::directory("usr"),
            Entry::file("usr/large", large).xattr("user.a", [1, b'\n', 255]),
            Entry::hardlink("usr/linked", "usr/large"),
            Entry::file("usr/small", "small"),
        ]))
        .layer(Layer::new([
            Entry::whiteout("usr/small"),
            Entry::symlink("link", "usr/large"),
            Entry::file("first", "early"),
        ]))
        .environment("KEPT=yes")
        .build()
        .unwrap()
}

fn layout(directory: &Path, image: &Image) -> String {
    tar::Archive::new(&image.oci_archive("example.org/app:1").unwrap()[..])
        .unpack(directory)
        .unwrap();
    format!("oci-layout:{}", directory.display())
}

fn open(text: &str) -> Box<dyn ImageSource> {
    open_source(text, &SourceOptions::default()).unwrap()
}

fn options(format: Format) -> ConvertOptions {
    let mut options = ConvertOptions::new(format);
    options.layer.threads = 2;
    options.layer.chunk_size = 100_000;
    options
}

fn run(from: &str, to: &str, options: &ConvertOptions) -> Result<Converted, ConvertError> {
    let heard = Mutex::new(0);
    let target = open_target(to, None)?;
    let result = convert(&*open(from), &*target, options, &|_| {
        *heard.lock().unwrap() += 1;
    })?;
    assert_eq!(*heard.lock().unwrap(), result.layers.len());
    Ok(result)
}

fn blob(source: &dyn ImageSource, descriptor: &Descriptor) -> Vec<u8> {
    let mut bytes = Vec::new();
    source
        .blob(descriptor)
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

fn manifest(source: &dyn ImageSource, digest: Option<&Digest>) -> image::Document<Manifest> {
    let document = source.manifest(digest).unwrap();
    match document.parse().unwrap() {
        ManifestOrIndex::Manifest(manifest) => manifest,
        ManifestOrIndex::Index(_) => panic!("an index"),
    }
}

/// Names and contents of a lazy layer, each chunk verified.
fn contents(blob: &[u8], layer: &Descriptor) -> (BTreeMap<String, Vec<u8>>, Landmark) {
    let footer = Footer::find(&layer.annotations, blob, layer.size).unwrap();
    let range = footer.toc_range().unwrap();
    let expected = TocDigest::from_annotations(&layer.annotations)
        .unwrap()
        .unwrap();
    let toc = &blob[range.start as usize..range.end as usize];
    let toc = Toc::parse(toc, &footer, &expected, &Limits::default()).unwrap();
    let files = toc.entries().map(|entry| {
        let content = entry.chunks().iter().flat_map(|chunk| {
            decode_member(&blob[chunk.start as usize..chunk.end as usize], chunk).unwrap()
        });
        let name = String::from_utf8_lossy(entry.path()).into_owned();
        (name, content.collect())
    });
    (files.collect(), toc.landmark())
}

fn of_tar(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = String::from_utf8_lossy(&entry.path_bytes())
            .trim_matches('/')
            .to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (name, content)
    });
    entries.collect()
}

fn unpacked(bytes: &[u8], format: Format) -> Vec<u8> {
    let mut tar = Vec::new();
    match format {
        Format::Estargz => flate2::read::MultiGzDecoder::new(bytes)
            .read_to_end(&mut tar)
            .unwrap(),
        Format::ZstdChunked => zstd::stream::read::Decoder::new(bytes)
            .unwrap()
            .read_to_end(&mut tar)
            .unwrap(),
    };
    tar
}

fn check_image(source: &dyn ImageSource, manifest: &Manifest, original: &Image, format: Format) {
    let config = ImageConfig::parse(&blob(source, &manifest.config)).unwrap();
    for ((layer, diff_id), old) in manifest
        .layers
        .iter()
        .zip(&config.rootfs.diff_ids)
        .zip(&original.layers)
    {
        let bytes = blob(source, layer);
        assert_eq!(contents(&bytes, layer).0, of_tar(&old.tar));
        assert!(diff_id.verify(&unpacked(&bytes, format)));
    }
    // All but the diffIDs is as it was.
    let mut new: Value = serde_json::from_slice(config.raw()).unwrap();
    let mut old: Value = serde_json::from_slice(&original.config).unwrap();
    for config in [&mut new, &mut old] {
        config["rootfs"]["diff_ids"] = json!(null);
    }
    assert_eq!(new, old);
}

#[test]
fn a_layout_in_both_formats() {
    let image = sample();
    for format in [Format::Estargz, Format::ZstdChunked] {
        let directory = tempfile::tempdir().unwrap();
        let from = layout(&directory.path().join("from"), &image);
        let to = format!("oci-layout:{}", directory.path().join("to").display());
        let result = run(&from, &format!("{to}:lazy"), &options(format)).unwrap();
        let source = open(&format!("{to}:lazy"));
        let manifest = manifest(&*source, None);
        assert_eq!(manifest.digest(), &result.digest);
        check_image(&*source, &manifest, &image, format);
        assert!(
            result
                .layers
                .iter()
                .all(|layer| layer.outcome == LayerOutcome::Converted)
        );
        // zstd:chunked keeps the tars.
        let same = result.layers.iter().zip(&image.layers);
        let same = same
            .filter(|(new, old)| new.diff_id.to_string() == old.diff_id)
            .count();
        assert_eq!(same, if format == Format::ZstdChunked { 2 } else { 0 });

        // Again: the layers are used as they are, and the image is the same.
        let again = format!("oci-layout:{}", directory.path().join("again").display());
        let second = run(&format!("{to}:lazy"), &again, &options(format)).unwrap();
        assert!(
            second
                .layers
                .iter()
                .all(|layer| layer.outcome == LayerOutcome::Reused)
        );
        assert_eq!(second.digest, result.digest);
    }
}

#[test]
fn prioritized_files_of_any_layer() {
    let directory = tempfile::tempdir().unwrap();
    let from = layout(&directory.path().join("from"), &sample());
    let to = format!("oci-layout:{}", directory.path().join("to").display());
    let mut options = options(Format::Estargz);
    options.prioritized = ["/usr/linked", "/first", "/nowhere"]
        .map(str::to_owned)
        .to_vec();
    let result = run(&from, &to, &options).unwrap();
    assert_eq!(result.missing, ["/nowhere"]);
    let source = open(&to);
    let manifest = manifest(&*source, None);
    check_image(&*source, &manifest, &sample(), Format::Estargz);
    for layer in &manifest.layers {
        let landmark = contents(&blob(&*source, layer), layer).1;
        assert!(
            matches!(landmark, Landmark::Prefetch { .. }),
            "{landmark:?}"
        );
    }
}

#[test]
fn an_archive_that_docker_loads() {
    let image = sample();
    let directory = tempfile::tempdir().unwrap();
    let from = layout(&directory.path().join("from"), &image);
    let archive = directory.path().join("image.tar");
    let to = format!("docker-archive:{}:example.org/app:2", archive.display());
    run(&from, &to, &options(Format::Estargz)).unwrap();
    let first = fs::read(&archive).unwrap();
    run(&from, &to, &options(Format::Estargz)).unwrap();
    assert!(
        first == fs::read(&archive).unwrap(),
        "the same image, another archive"
    );
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        2,
        "scratch is left"
    );

    let files = of_tar(&first);
    let docker: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(docker[0]["RepoTags"], json!(["example.org/app:2"]));
    let config: Value =
        serde_json::from_slice(&files[docker[0]["Config"].as_str().unwrap()]).unwrap();
    let layers = docker[0]["Layers"].as_array().unwrap();
    for (layer, diff_id) in layers
        .iter()
        .zip(config["rootfs"]["diff_ids"].as_array().unwrap())
    {
        let tar = unpacked(&files[layer.as_str().unwrap()], Format::Estargz);
        assert_eq!(json!(Digest::of(&tar)), *diff_id);
    }
    let unpacked = directory.path().join("unpacked");
    tar::Archive::new(&first[..]).unpack(&unpacked).unwrap();
    let source = open(&format!("oci-layout:{}", unpacked.display()));
    check_image(&*source, &manifest(&*source, None), &image, Format::Estargz);
}

#[test]
fn all_platforms_and_no_attestations() {
    let image = sample();
    let directory = tempfile::tempdir().unwrap();
    let from = directory.path().join("from");
    layout(&from, &image);
    let other = ImageBuilder::new()
        .layer(image.layers[0].layer.clone())
        .environment("OTHER=1")
        .build()
        .unwrap();
    for bytes in [&other.manifest, &other.config] {
        fs::write(
            from.join("blobs/sha256").join(Digest::of(bytes).hex()),
            bytes,
        )
        .unwrap();
    }
    let entry = |image: &Image, architecture: &str| {
        json!({
            "mediaType": image.media_type, "digest": image.digest, "size": image.manifest.len(),
            "platform": {"os": "linux", "architecture": architecture, "os.features": ["x"]},
        })
    };
    let mut attestation = entry(&image, "unknown");
    attestation["digest"] = json!(Digest::of(b"attestation"));
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let index = json!({
        "schemaVersion": 2, "annotations": {"kept": "yes"},
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry(&image, "amd64"), entry(&other, "arm64"), attestation],
    })
    .to_string();
    fs::write(
        from.join("blobs/sha256")
            .join(Digest::of(index.as_bytes()).hex()),
        &index,
    )
    .unwrap();
    let top = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": Digest::of(index.as_bytes()), "size": index.len(),
    }]});
    fs::write(from.join("index.json"), top.to_string()).unwrap();

    let to = format!("oci-layout:{}", directory.path().join("to").display());
    let from = format!("oci-layout:{}", from.display());
    let result = run(&from, &to, &options(Format::Estargz)).unwrap();
    assert_eq!(result.layers.len(), 2, "the shared layer once");
    assert_eq!(result.dropped, [Digest::of(b"attestation")]);
    let source = open(&to);
    let index: Value = serde_json::from_slice(&source.manifest(None).unwrap().bytes).unwrap();
    assert_eq!(index["annotations"], json!({"kept": "yes"}));
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    for (entry, original) in entries.iter().zip([&image, &other]) {
        assert_eq!(entry["platform"]["os.features"], json!(["x"]));
        let digest = entry["digest"].as_str().unwrap().parse().unwrap();
        check_image(
            &*source,
            &manifest(&*source, Some(&digest)),
            original,
            Format::Estargz,
        );
    }
}

#[test]
fn into_a_registry() {
    let image = sample();
    let directory = tempfile::tempdir().unwrap();
    let from = layout(&directory.path().join("from"), &image);
    let store = directory.path().join("registry");
    image.write_to(&store, "group/app", "1").unwrap();
    let server = Registry::serving(&store).start().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let host = server.reference("x", "1");
    let config = Config {
        plain_http: vec![host.split('/').next().unwrap().to_owned()],
        ..Config::default()
    };
    let client = Client::new(config, Metrics::default(), runtime.handle().clone());
    let reference: Reference = server.reference("group/app", "lazy").parse().unwrap();
    let target = RegistryTarget::new(client.clone(), reference.clone());
    let result = convert(&*open(&from), &target, &options(Format::Estargz), &|_| {}).unwrap();
    let document = client
        .document(&reference, &[image::MediaType::OciManifest])
        .unwrap();
    assert_eq!(document.digest, result.digest);
}

#[test]
fn what_cannot_be_converted_stays() {
    let image = ImageBuilder::new()
        .layer(Layer::new([Entry::file(b"not-\xff-utf8", "x")]))
        .layer(Layer::new([Entry::file("plain", "x")]))
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let from = layout(&directory.path().join("from"), &image);
    let to = format!("oci-layout:{}", directory.path().join("to").display());
    let result = run(&from, &to, &options(Format::Estargz)).unwrap();
    assert!(matches!(result.layers[0].outcome, LayerOutcome::Kept(_)));
    assert_eq!(
        result.layers[0].to.digest.to_string(),
        image.layers[0].digest
    );
    assert_eq!(
        result.layers[0].diff_id.to_string(),
        image.layers[0].diff_id
    );
    assert_eq!(result.layers[1].outcome, LayerOutcome::Converted);
}

#[test]
fn lies_and_damage_leave_the_target_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let lying = ImageBuilder::new()
        .layer(Layer::new([Entry::file("a", "b")]))
        .stated_diff_ids([Digest::of(b"another").to_string()])
        .build()
        .unwrap();
    let lying = layout(&directory.path().join("lying"), &lying);
    let image = sample();
    let damaged = layout(&directory.path().join("damaged"), &image);
    let digest: Digest = image.layers[0].digest.parse().unwrap();
    let path = directory
        .path()
        .join("damaged/blobs/sha256")
        .join(digest.hex());
    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(&path, bytes).unwrap();
    let to = directory.path().join("to");
    for from in [lying, damaged] {
        for prioritized in [vec![], vec!["usr/large".to_owned()]] {
            let options = ConvertOptions {
                prioritized,
                ..options(Format::Estargz)
            };
            let result = run(&from, &format!("oci-layout:{}", to.display()), &options);
            assert!(matches!(result, Err(ConvertError::Layer(..))), "{result:?}");
            assert!(!to.join("index.json").exists());
        }
    }
    for text in ["Not A Reference", "example.org/app:1"] {
        assert!(matches!(
            open_target(text, None),
            Err(ConvertError::TargetName { .. })
        ));
    }
}
