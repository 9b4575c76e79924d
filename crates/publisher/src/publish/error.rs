use image::{Digest, DocumentError};

use crate::error::Error;
use crate::layer::LayerError;
use crate::source::SourceError;

/// Why an image is not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The source fails.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A document of the image is not what it should be.
    #[error("{what} of {image}: {source}")]
    Document {
        /// The source's name.
        image: String,
        /// Which document.
        what: String,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// The configuration cannot be read.
    #[error("configuration {digest} of {image}: {source}")]
    Configuration {
        /// The source's name.
        image: String,
        /// Of the configuration.
        digest: Digest,
        /// Why.
        source: std::io::Error,
    },
    /// Manifest and configuration speak of different layers.
    #[error("{image} is inconsistent: {reason}")]
    Inconsistent {
        /// The source's name.
        image: String,
        /// What does not fit.
        reason: String,
    },
    /// Nobody says what the image is to be called.
    #[error("{0} has no name: give one")]
    NoName(String),
    /// An index without a manifest.
    #[error("{0} has no image for any platform")]
    Empty(String),
    /// A layer is refused, damaged, or cannot be read.
    #[error("layer {digest}: {source}")]
    Layer {
        /// Of the blob.
        digest: Digest,
        /// Why.
        source: Box<LayerError>,
    },
    /// The repository fails.
    #[error(transparent)]
    Repository(#[from] Error),
}
