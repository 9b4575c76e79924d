//! Layers from a signed repository over real HTTP to real mounts, looked at by other processes.
//!
//! Mounting needs root and `/dev/fuse`; without, those tests say so and end.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod attach;
mod claim;
mod conformance;
mod estargz;
mod estargz_faults;
mod faults;
mod fixture;
mod hung;
mod lazy;
mod merge;
mod model;
mod mounted;
mod outside;
mod random;
mod repository_fs;
mod trees;
mod unpacking;
mod world;
