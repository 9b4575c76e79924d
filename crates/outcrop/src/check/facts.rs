//! What was found, before it is judged.

use super::containerd::Running;
use std::path::PathBuf;

/// What was found, or what is wrong and the next step.
pub type Looked = Result<String, (String, String)>;

/// Everything that `outcrop check` looks at. Errors are sentences; those with a next step of their own carry it.
#[derive(Debug)]
pub struct Facts {
    /// The kernel's features.
    pub kernel: Kernel,
    /// The configured state directory.
    pub root: PathBuf,
    /// The configured socket.
    pub socket: PathBuf,
    /// Whether the state directory is fit.
    pub state_directory: Looked,
    /// Name, and what opening gave.
    pub repositories: Vec<(String, Looked)>,
    /// containerd, or why it does not answer.
    pub containerd: Result<Running, String>,
}

/// Features of the kernel, each tried.
#[derive(Debug)]
pub struct Kernel {
    /// `/dev/fuse` opens.
    pub fuse_device: Result<String, String>,
    /// A trial mount is read by another process.
    pub fuse_protocol: Result<String, String>,
    /// An overlay over the trial mount is read by another process.
    pub overlayfs: Result<String, String>,
    /// EROFS, for the data path without FUSE.
    pub erofs: Result<String, String>,
}
