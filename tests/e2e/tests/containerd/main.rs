//! Real containerd, real kernel mounts, the real daemon; servers of the test kit. Needs root, and what `xtask packages` installs.
//!
//! Each test runs on every version of containerd that is there.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod commit;
mod estargz;
mod explain;
mod failures;
mod harness;
mod images;
mod interop;
mod node;
mod rows;
mod sharing;

use e2e::{Runtime, Version};

/// All versions that can run here; a word about those that cannot.
fn runtimes() -> Vec<Runtime> {
    let found = Version::ALL.into_iter().filter_map(|version| {
        let found = Runtime::find(version);
        if found.is_none() {
            eprintln!("skipped: no containerd {version}, run `cargo run -p xtask -- packages`");
        }
        found
    });
    let found: Vec<Runtime> = found.collect();
    assert!(!found.is_empty(), "no containerd at all");
    found
}
