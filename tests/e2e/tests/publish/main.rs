//! `outcrop publish` as users run it, with servers and storage of others' making. Needs root, and what `xtask packages` installs.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod disks;
mod registry;
mod s3;
mod world;
