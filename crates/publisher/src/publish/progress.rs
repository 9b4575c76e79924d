use image::Digest;

use super::summary::LayerState;

/// What happens to a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerPhase {
    /// It is being read and stored.
    Storing,
    /// All is read; its last objects and its catalog are being written.
    Finishing,
    /// Done.
    Done(LayerState),
}

/// Hears how publishing goes on, from several threads. Calls must return soon.
pub trait Progress: Sync {
    /// A layer enters a phase. `size` is that of its blob.
    fn phase(&self, layer: &Digest, size: u64, phase: LayerPhase);

    /// So many bytes of the blob have been read.
    fn bytes(&self, layer: &Digest, read: u64);
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn phase(&self, _: &Digest, _: u64, _: LayerPhase) {}

    fn bytes(&self, _: &Digest, _: u64) {}
}
