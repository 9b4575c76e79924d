//! What can go wrong, by what the caller can do about it.

use std::path::PathBuf;

use crate::layers::AttachError;

/// Failure of a snapshot operation. `status.rs` says which gRPC code each one has.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No snapshot of that key.
    #[error("snapshot {0} does not exist: not found")]
    NotFound(String),
    /// The key or name is taken.
    #[error("snapshot {0}: already exists")]
    KeyExists(String),
    /// The remote flow's success: the layer is there as a committed snapshot.
    #[error("target snapshot {0}: already exists")]
    TargetExists(String),
    /// Parent of a new snapshot is active or a view.
    #[error("parent {0} is not a committed snapshot: invalid argument")]
    ParentNotCommitted(String),
    /// Parent given at commit is active or a view.
    #[error("new parent {0} is not a committed snapshot: failed precondition")]
    RebaseOntoUncommitted(String),
    /// Commit gave another parent than Prepare did.
    #[error("snapshot {key} has parent {has}, not {given}: invalid argument")]
    ParentMismatch {
        /// The active snapshot.
        key: String,
        /// Its parent.
        has: String,
        /// What the request said.
        given: String,
    },
    /// Only active snapshots can be committed.
    #[error("snapshot {0} is not active: failed precondition")]
    NotActive(String),
    /// Committed snapshots have no mounts.
    #[error("snapshot {0} is committed and has no mounts: failed precondition")]
    CommittedHasNoMounts(String),
    /// Remove of a parent. containerd's suite wants the word "remove".
    #[error("cannot remove snapshot {0}: it has children: failed precondition")]
    HasChildren(String),
    /// A key, name, mask or message is not acceptable.
    #[error("{0}: invalid argument")]
    Invalid(String),
    /// A filter does not parse.
    #[error(transparent)]
    Filter(#[from] crate::filters::ParseError),
    /// The image's lazy layers cannot be attached now; other images are not concerned.
    #[error("image unavailable: {0}")]
    Attach(#[from] AttachError),
    /// The state directory cannot be used as it is.
    #[error("state directory {path}: {problem}")]
    State {
        /// The directory or file.
        path: PathBuf,
        /// What to change.
        problem: String,
    },
    /// The records were written by another version.
    #[error(
        "records have schema version {found}, this program knows {known}: use the newer program or empty the state directory"
    )]
    Schema {
        /// In the file.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// SQLite failed.
    #[error("records: {0}")]
    Records(#[source] crate::store::DatabaseError),
    /// A record holds something that this program did not write.
    #[error("record of snapshot {id}: {problem}")]
    BadRecord {
        /// The snapshot's id.
        id: i64,
        /// What is wrong.
        problem: String,
    },
    /// A file operation failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// e.g. "create directory".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The gRPC server failed.
    #[error("server: {0}")]
    Serve(String),
}

impl Error {
    /// For `map_err` of file operations.
    pub(crate) fn io(
        action: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
