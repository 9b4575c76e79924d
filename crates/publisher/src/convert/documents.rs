//! Documents of the converted image. They are edited as JSON, so that whatever we do not know of them stays.

use std::collections::HashMap;

use image::{Descriptor, Digest, MediaType};
use registry::Document;
use serde_json::{Value, json};

use super::{ConvertError, ConvertedLayer, Image};

/// How BuildKit marks what is no image.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// Whether an entry of an index is about another one: signed or not, it is of the image as it was.
pub(super) fn is_attestation(entry: &Descriptor) -> bool {
    entry.annotations.contains_key(REFERENCE_TYPE)
}

/// The configuration with new diffIDs.
pub(super) fn config(
    image: &Image,
    changed: &HashMap<Digest, &ConvertedLayer>,
) -> Result<Document, ConvertError> {
    let mut value = edit(image.config.raw(), image.config.digest())?;
    let diff_ids: Option<Vec<Value>> = image
        .manifest
        .layers
        .iter()
        .map(|layer| Some(json!(changed.get(&layer.digest)?.diff_id)))
        .collect();
    match (value.pointer_mut("/rootfs/diff_ids"), diff_ids) {
        (Some(place), Some(diff_ids)) => *place = diff_ids.into(),
        _ => return Err(ConvertError::Malformed(*image.config.digest())),
    }
    Ok(document(&value, MediaType::OciConfig))
}

/// The manifest with new layers; an OCI one, because docker's has no annotations.
pub(super) fn manifest(
    image: &Image,
    config: &Document,
    changed: &HashMap<Digest, &ConvertedLayer>,
) -> Result<Document, ConvertError> {
    let digest = image.manifest.digest();
    let malformed = || ConvertError::Malformed(*digest);
    let mut value = edit(image.manifest.raw(), digest)?;
    value["mediaType"] = json!(MediaType::OciManifest);
    describe(&mut value["config"], config);
    let layers = value["layers"].as_array_mut().ok_or_else(malformed)?;
    for (place, old) in layers.iter_mut().zip(&image.manifest.layers) {
        let to = &changed.get(&old.digest).ok_or_else(malformed)?.to;
        place["mediaType"] = json!(to.media_type);
        place["digest"] = json!(to.digest);
        place["size"] = json!(to.size);
        place["annotations"] = json!(to.annotations);
        if let Some(place) = place.as_object_mut() {
            // Where else the old blob is to be had.
            place.retain(|key, _| key != "urls" && key != "data");
        }
    }
    Ok(document(&value, MediaType::OciManifest))
}

/// The index with new manifests, without those that are left out.
pub(super) fn index(
    old: &Document,
    manifests: &HashMap<Digest, Document>,
) -> Result<Document, ConvertError> {
    let mut value = edit(&old.bytes, &old.digest)?;
    value["mediaType"] = json!(MediaType::OciIndex);
    let entries = value["manifests"]
        .as_array_mut()
        .ok_or(ConvertError::Malformed(old.digest))?;
    entries.retain_mut(|entry| {
        let digest = entry["digest"].as_str().and_then(|text| text.parse().ok());
        let new = digest.and_then(|digest: Digest| manifests.get(&digest));
        if let Some(new) = new {
            describe(entry, new);
        }
        new.is_some()
    });
    Ok(document(&value, MediaType::OciIndex))
}

fn edit(raw: &[u8], digest: &Digest) -> Result<Value, ConvertError> {
    serde_json::from_slice(raw)
        .ok()
        .filter(Value::is_object)
        .ok_or(ConvertError::Malformed(*digest))
}

/// Points a descriptor to a document; what else it says stays.
fn describe(descriptor: &mut Value, document: &Document) {
    descriptor["mediaType"] = json!(document.media_type);
    descriptor["digest"] = json!(document.digest);
    descriptor["size"] = json!(document.bytes.len());
    if let Some(descriptor) = descriptor.as_object_mut() {
        descriptor.remove("data");
    }
}

fn document(value: &Value, media_type: MediaType) -> Document {
    let bytes = value.to_string().into_bytes();
    Document {
        digest: Digest::of(&bytes),
        media_type,
        bytes,
    }
}
