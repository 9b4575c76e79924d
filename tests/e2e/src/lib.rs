//! Real containerd for tests: instances side by side, CRI and `ctr` clients, the daemon under test as a child process.
//!
//! Everything of one [`Containerd`] lies in one temporary directory: root, state, socket, configuration, log. Whatever a test leaves running or
//! mounted below it is ended when the instance is dropped; processes are found by their parent's socket path, never by a bare name.

pub mod child;
pub mod containerd;
pub mod cri;
pub mod listing;
pub mod merged;

pub mod outcrop;
pub mod runtime;
pub mod sandbox_image;

pub use child::Child;
pub use containerd::{Containerd, Plugin, Settings};
pub use cri::Cri;
pub use outcrop::Outcrop;
pub use runtime::{Runtime, Version, workspace};
