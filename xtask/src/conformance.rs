//! containerd's own snapshotter suite over our socket: by the pinned module where the Go module proxy can be reached, else by Debian's packages.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use e2e::{Outcrop, containerd, workspace};

use crate::cargo::cargo;
use crate::commands::{self, quiet};
use crate::packages;
use crate::summary::Counts;
use crate::test::counted;

/// Debian's: a compiler and containerd's sources.
const WITHOUT_PROXY: [&str; 2] = ["golang", "golang-github-containerd-containerd-dev"];

/// Runs it against the release build and counts its tests.
pub(crate) fn run() -> Result<Counts> {
    commands::run(cargo().args(["build", "--release", "--quiet", "-p", "outcrop"]))?;
    // The suite mounts overlays in the folder of the state, and in its own temporary folders.
    let folder = containerd::new_folder()?;
    let outcrop = Outcrop::start(folder.path(), &containerd::socket_in(folder.path()), &[])?;
    let outcome = suite(folder.path(), &outcrop.socket());
    if !matches!(outcome, Ok(Counts { failed: 0, .. })) {
        println!("{}", outcrop.log());
    }
    outcome
}

fn suite(folder: &Path, socket: &Path) -> Result<Counts> {
    let sources = workspace().join("tests/conformance");
    let program = folder.join("conformance.test");
    let built = quiet(
        Command::new("go")
            .args(["test", "-c", "-o"])
            .arg(&program)
            .arg(".")
            .current_dir(&sources),
    );
    let mut test = match built {
        Ok(_) => {
            let mut test = Command::new(&program);
            test.args(["-test.v", "-test.count=1", "-socket"])
                .arg(socket)
                .current_dir(&sources);
            test
        }
        Err(error) => {
            println!(
                "without the Go module proxy ({}): by Debian's packages",
                error.to_string().lines().last().unwrap_or_default()
            );
            packages::install(&WITHOUT_PROXY)?;
            let mut test = Command::new(sources.join("gopath/run.sh"));
            test.arg(socket);
            test
        }
    };
    counted(test.env("TMPDIR", folder), Counts::of_go)
}
