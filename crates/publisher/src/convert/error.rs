use std::io;

use image::estargz::WriteError;
use image::{Digest, DocumentError};

use crate::layer::LayerError;
use crate::source::SourceError;

/// Why an image is not converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A manifest, index or configuration is not what it should be.
    #[error("document {0}")]
    Document(Digest, #[source] DocumentError),
    /// A document that parses and yet lacks what must be there.
    #[error("document {0} is malformed")]
    Malformed(Digest),
    /// Manifest and configuration do not go together.
    #[error("manifest {0} and its configuration list other layers")]
    DiffIds(Digest),
    /// An index in an index.
    #[error("{0} is an index within an index, which is not supported")]
    NestedIndex(Digest),
    /// A blob breaks off or has another digest.
    #[error("blob {0}")]
    Blob(Digest, #[source] io::Error),
    /// A layer is damaged, or not the one that the image states.
    #[error("layer {0}")]
    Layer(Digest, #[source] LayerError),
    /// A layer cannot be written in the new form.
    #[error("layer {0}")]
    Write(Digest, #[source] WriteError),
    /// The scratch space is full or unwritable.
    #[error("scratch space")]
    Scratch(#[source] io::Error),
    /// The text names no target.
    #[error("{name} is no target: {reason}")]
    TargetName {
        /// As it was given.
        name: String,
        /// What is wrong, and what would be right.
        reason: &'static str,
    },
    /// A file of the target cannot be written.
    #[error("cannot write {path}")]
    Target {
        /// Which one.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The registry refuses the image.
    #[error("cannot push")]
    Push(#[source] Box<registry::Error>),
}
