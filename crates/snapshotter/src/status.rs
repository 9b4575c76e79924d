//! The one table from our errors to gRPC codes. containerd's Go side maps the code back; the text is for humans.

use tonic::{Code, Status};

use crate::error::Error;

/// The gRPC code of each failure.
pub fn code(error: &Error) -> Code {
    match error {
        Error::NotFound(_) => Code::NotFound,
        Error::KeyExists(_) | Error::TargetExists(_) => Code::AlreadyExists,
        Error::ParentNotCommitted(_)
        | Error::ParentMismatch { .. }
        | Error::Invalid(_)
        | Error::Filter(_) => Code::InvalidArgument,
        Error::RebaseOntoUncommitted(_)
        | Error::NotActive(_)
        | Error::CommittedHasNoMounts(_)
        | Error::HasChildren(_) => Code::FailedPrecondition,
        // The pod's start is retried by the kubelet; other images are served on.
        Error::Attach(_) => Code::Unavailable,
        // Go's errdefs maps whatever has no class of its own to UNKNOWN.
        Error::State { .. }
        | Error::Schema { .. }
        | Error::Records(_)
        | Error::BadRecord { .. }
        | Error::Io { .. }
        | Error::Serve(_) => Code::Unknown,
    }
}

/// The answer to the client.
pub(crate) fn status(error: &Error) -> Status {
    Status::new(code(error), error.to_string())
}
