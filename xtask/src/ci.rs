//! `make test`, and then a look at the machine: nothing of it may be mounted or running.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Result, bail, ensure};

/// Programs that a test could leave running.
const SERVERS: [&str; 5] = [
    "outcrop",
    "testkit",
    "containerd",
    "containerd-shim-runc-v2",
    "runc",
];

/// Runs it all.
pub(crate) fn run() -> Result<()> {
    let before = left();
    let outcome = crate::commands::run(Command::new("make").arg("test"));
    let new: Vec<String> = left().difference(&before).cloned().collect();
    ensure!(
        new.is_empty(),
        "the tests left behind:\n  {}",
        new.join("\n  ")
    );
    if let Err(error) = outcome {
        bail!(error);
    }
    Ok(())
}

/// Mount points, and running servers with their command lines.
fn left() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| format!("mount {point}"));
    let processes = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse::<u32>().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let program = line.split(' ').next()?.rsplit('/').next()?;
            SERVERS
                .contains(&program)
                .then(|| format!("process {id} {line}"))
        });
    mounts.chain(processes).collect()
}
