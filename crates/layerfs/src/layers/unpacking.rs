//! Which ordinary layers are unpacked here, and when.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ChainLayer, ImageLayer, Inner, LayerRequest};
use crate::builds::{Build, Builds, Outcome};
use crate::error::{Refusal, SourceError};
use crate::locate::Found;
use crate::source::{Blob, LayerSource as _, Wanted};
use crate::unpacked::{self, Unpack, UnpackedSource};

/// Layers that are fetched and unpacked at once, each in several ranges.
pub(super) const UNPACKED_AT_ONCE: usize = 2;

/// How long a claim waits for a layer that is fetched and unpacked. It goes on all the same, for the
/// next claim.
const UNPACK_PATIENCE: Duration = Duration::from_secs(1800);

/// Unpacking of ordinary layers. It takes long, so it has threads of its own.
pub(super) struct Unpacking {
    pub(super) source: Arc<UnpackedSource>,
    pub(super) which: Unpack,
    pub(super) builds: Arc<Builds>,
}

impl Inner {
    /// Whether an ordinary layer is to be unpacked here.
    pub(super) fn may_unpack(&self, request: &LayerRequest, refusal: &Refusal) -> bool {
        let ordinary = matches!(
            refusal,
            Refusal::NotFound { .. } | Refusal::Source(SourceError::NoTocDigest { .. })
        );
        ordinary
            && request.complete
            && self.unpacking.source.may_fetch(&request.wanted().blob)
            && self.is_needed(request, &request.image_layers)
    }

    /// Whether a layer with these above it is worth it.
    fn is_needed(&self, request: &LayerRequest, above: &[ImageLayer]) -> bool {
        match self.unpacking.which {
            Unpack::Never => false,
            Unpack::Always => true,
            Unpack::BelowLazy => above
                .iter()
                .filter(|layer| layer.digest != request.layer)
                .any(|layer| self.is_lazy(request, layer)),
        }
    }

    fn is_lazy(&self, request: &LayerRequest, layer: &ImageLayer) -> bool {
        self.sources.find(&request.wanted_above(layer)).is_ok()
    }

    /// Fetches and unpacks an ordinary layer, and begins with the others of the image.
    pub(super) fn unpack(
        self: &Arc<Self>,
        request: &LayerRequest,
        wanted: &Wanted,
    ) -> Result<Found, Refusal> {
        let build = self.unpack_one(&wanted.blob);
        for (index, layer) in request.image_layers.iter().enumerate() {
            let is_other = layer.digest != request.layer;
            if is_other
                && self.is_needed(request, &request.image_layers[index + 1..])
                && !self.is_lazy(request, layer)
            {
                self.unpack_one(&request.wanted_above(layer).blob);
            }
        }
        let unavailable = |reason| SourceError::Unavailable {
            source_name: unpacked::NAME.to_owned(),
            reason,
        };
        match build.wait(Instant::now() + UNPACK_PATIENCE) {
            Some(Outcome::Built) => self.sources.find(wanted),
            Some(Outcome::Failed(reason)) => Err(unavailable(reason).into()),
            None => {
                let reason = format!("not unpacked within {} s", UNPACK_PATIENCE.as_secs());
                Err(unavailable(reason).into())
            }
        }
    }

    /// A layer that was unpacked when it was claimed, and has been lost since.
    pub(super) fn unpack_again(
        self: &Arc<Self>,
        layer: &ChainLayer,
        deadline: Instant,
    ) -> Result<(), SourceError> {
        let wanted = layer.wanted();
        if self.unpacking.source.locate(&wanted)?.is_some() || wanted.blob.reference.is_none() {
            return Ok(());
        }
        let reason = match self.unpack_one(&wanted.blob).wait(deadline) {
            Some(Outcome::Built) => return Ok(()),
            Some(Outcome::Failed(reason)) => reason,
            None => "it is still being unpacked".to_owned(),
        };
        Err(SourceError::Unavailable {
            source_name: unpacked::NAME.to_owned(),
            reason,
        })
    }

    fn unpack_one(self: &Arc<Self>, blob: &Blob) -> Arc<Build> {
        let (inner, theirs) = (Arc::clone(self), blob.clone());
        self.unpacking.builds.build(&blob.digest.hex(), move || {
            let started = Instant::now();
            let layer = theirs.digest;
            match inner.unpacking.source.unpack(&theirs) {
                Ok(located) => {
                    let seconds = started.elapsed().as_secs_f64();
                    tracing::info!(%layer, bytes = located.size, seconds, "layer unpacked");
                    Ok(())
                }
                Err(error) => {
                    tracing::warn!(%layer, %error, "layer cannot be unpacked here");
                    Err(error.to_string())
                }
            }
        })
    }
}
