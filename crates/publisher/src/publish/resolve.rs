//! All documents of an image.

use std::io::Read;

use image::{
    Descriptor, Digest, Document, ImageConfig, MAX_DOCUMENT_BYTES, Manifest, ManifestOrIndex,
    Platform,
};

use super::PublishOptions;
use super::error::PublishError;
use crate::layouts::metadata::{PlatformImage, ResolvedImage};
use crate::source::ImageSource;
use registry::Verified;

/// Reads manifest or index, and the configuration of each platform.
pub(crate) fn resolve(
    source: &dyn ImageSource,
    options: &PublishOptions,
) -> Result<ResolvedImage, PublishError> {
    let reference = options
        .name
        .clone()
        .or_else(|| source.reference())
        .ok_or_else(|| PublishError::NoName(source.name()))?;
    let top = source.manifest(None)?;
    let reader = Reader { source };
    let parsed = ManifestOrIndex::parse(&top.bytes)
        .map_err(|error| reader.document("the manifest", error))?;
    let (index, platforms) = match parsed {
        ManifestOrIndex::Manifest(manifest) => (None, vec![reader.platform(manifest)?]),
        ManifestOrIndex::Index(index) => {
            let platforms = index.manifests.iter().map(|entry| reader.listed(entry));
            (Some(top.bytes), platforms.collect::<Result<Vec<_>, _>>()?)
        }
    };
    let Some(preferred) = preferred(&platforms) else {
        return Err(PublishError::Empty(source.name()));
    };
    Ok(ResolvedImage {
        reference,
        index,
        top: top.digest,
        platforms,
        preferred,
    })
}

/// linux/amd64, as DUCC; else the first that is an image at all.
fn preferred(platforms: &[PlatformImage]) -> Option<usize> {
    let wanted = Platform {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        variant: None,
    };
    let is = |image: &PlatformImage| {
        image.parsed.as_ref().is_some_and(|config| {
            config.architecture == wanted.architecture && config.os == wanted.os
        })
    };
    platforms
        .iter()
        .position(is)
        .or_else(|| platforms.iter().position(|image| image.parsed.is_some()))
        .or(match platforms {
            [] => None,
            _ => Some(0),
        })
}

struct Reader<'a> {
    source: &'a dyn ImageSource,
}

impl Reader<'_> {
    fn document(&self, what: &str, source: image::DocumentError) -> PublishError {
        PublishError::Document {
            image: self.source.name(),
            what: what.to_owned(),
            source,
        }
    }

    fn inconsistent(&self, reason: String) -> PublishError {
        PublishError::Inconsistent {
            image: self.source.name(),
            reason,
        }
    }

    fn listed(&self, entry: &Descriptor) -> Result<PlatformImage, PublishError> {
        let document = self.source.manifest(Some(&entry.digest))?;
        let manifest = Manifest::parse(&document.bytes)
            .and_then(|manifest| manifest.verified(&entry.digest))
            .map_err(|error| self.document(&entry.digest.to_string(), error))?;
        self.platform(manifest)
    }

    fn platform(&self, manifest: Document<Manifest>) -> Result<PlatformImage, PublishError> {
        let config = self.configuration(&manifest.config)?;
        let parsed = match manifest.config.media_type.is_config() {
            true => self.parsed(&manifest, &config)?,
            false => None,
        };
        Ok(PlatformImage {
            manifest,
            config,
            parsed,
        })
    }

    /// Attestations have a configuration with as many diffIDs as they have layers, none of which is a tar.
    fn parsed(
        &self,
        manifest: &Manifest,
        config: &[u8],
    ) -> Result<Option<Document<ImageConfig>>, PublishError> {
        let tars = |layer: &Descriptor| layer.media_type.layer_compression().is_some();
        let foreign =
            |layer: &Descriptor| matches!(layer.media_type, image::MediaType::ForeignLayer(_));
        let parsed = ImageConfig::parse(config)
            .map_err(|error| self.document(&manifest.config.digest.to_string(), error))?;
        if !manifest
            .layers
            .iter()
            .all(|layer| tars(layer) || foreign(layer))
        {
            return Ok(None);
        }
        let (stated, listed) = (parsed.rootfs.diff_ids.len(), manifest.layers.len());
        if stated != listed {
            return Err(self.inconsistent(format!(
                "the manifest lists {listed} layers, the configuration {stated}"
            )));
        }
        Ok(Some(parsed))
    }

    fn configuration(&self, descriptor: &Descriptor) -> Result<Vec<u8>, PublishError> {
        let digest: Digest = descriptor.digest;
        if descriptor.size > MAX_DOCUMENT_BYTES as u64 {
            let reason = format!(
                "its configuration of {} bytes exceeds the limit of {MAX_DOCUMENT_BYTES}",
                descriptor.size
            );
            return Err(self.inconsistent(reason));
        }
        let blob = self.source.blob(descriptor)?;
        let mut bytes = Vec::new();
        Verified::new(blob, descriptor)
            .read_to_end(&mut bytes)
            .map_err(|source| PublishError::Configuration {
                image: self.source.name(),
                digest,
                source,
            })?;
        Ok(bytes)
    }
}
