//! An image that takes long to publish: text that deflates as programs do.

use std::path::Path;

use serde_json::json;
use testkit::{Entry, Image, ImageBuilder, Layer};

use crate::moments::Random;

const WORDS: u64 = 4096;

/// Layers of so many files, each about `length` bytes long.
pub(crate) fn layers(count: u64, files: u64, length: usize) -> Vec<Layer> {
    (0..count)
        .map(|number| layer(number, files, length))
        .collect()
}

/// Writes an OCI image layout.
pub(crate) fn write(target: &Path, layers: &[Layer]) {
    let image = layers
        .iter()
        .cloned()
        .fold(ImageBuilder::new(), ImageBuilder::layer);
    layout(target, &image.build().unwrap());
}

fn layer(number: u64, files: u64, length: usize) -> Layer {
    let mut random = Random::new(number + 1);
    let words: Vec<String> = (0..WORDS)
        .map(|_| format!("{:x} ", random.below(1 << 40)))
        .collect();
    let mut file = |index: u64| {
        let mut text = String::with_capacity(length + 16);
        while text.len() < length {
            text.push_str(&words[usize::try_from(random.below(WORDS)).unwrap()]);
        }
        Entry::file(format!("layer{number}/d{}/file{index}", index % 7), text)
    };
    Layer::new((0..files).map(&mut file))
}

fn layout(target: &Path, image: &Image) {
    let blobs = target.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let write =
        |digest: &str, bytes: &[u8]| std::fs::write(blobs.join(&digest[7..]), bytes).unwrap();
    write(&image.digest, &image.manifest);
    write(&testkit::digest(&image.config), &image.config);
    for layer in &image.layers {
        write(&layer.digest, &layer.blob);
    }
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": image.media_type, "digest": image.digest, "size": image.manifest.len(),
    }]});
    std::fs::write(target.join("index.json"), index.to_string()).unwrap();
    std::fs::write(
        target.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
}
