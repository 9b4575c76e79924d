//! containerd's `diff.v1` service: the layer that a container's changes make, without reading what they stand on.
//!
//! containerd's own differ compares two whole trees, contents included, wherever times have no fraction of a second, as all
//! times of a tar: it would fetch the whole image. But an overlay's upper directory *is* the difference.
//!
//! ```text
//! service   gRPC; what it cannot do it leaves to containerd's next differ
//! changed   from two lists of mounts to the one directory that differs
//! layer     that directory as a layer's tar
//! ingest    into containerd's content store
//! ```
//! Apply is always left to the next differ.

mod changed;
mod ingest;
mod layer;
mod service;
mod tar_entry;

pub(crate) use service::DiffService;

/// Why a difference is not made here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiffError {
    /// Not ours: the next differ is asked.
    #[error("{0}")]
    Declined(String),
    /// A file cannot be read, or changed while it was read.
    #[error("{path}: {source}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    /// The layer cannot be written.
    #[error("cannot write the layer: {0}")]
    Write(#[source] std::io::Error),
    /// containerd's content store refuses.
    #[error("content store: {0}")]
    Store(#[from] Box<tonic::Status>),
    /// The content store is silent.
    #[error("content store: no answer within {0:?}")]
    Deadline(std::time::Duration),
}

impl DiffError {
    /// A failure of writing: the store's own word where it is one.
    fn of_writing(error: std::io::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(Self::Write)
    }
}

impl From<tonic::Status> for DiffError {
    fn from(status: tonic::Status) -> Self {
        Self::Store(Box::new(status))
    }
}

impl From<DiffError> for tonic::Status {
    fn from(error: DiffError) -> Self {
        match error {
            DiffError::Declined(_) => Self::unimplemented(error.to_string()),
            DiffError::Store(status) => *status,
            DiffError::Deadline(_) => Self::deadline_exceeded(error.to_string()),
            DiffError::Read { .. } | DiffError::Write(_) => Self::unknown(error.to_string()),
        }
    }
}
