//! Format and lints; warnings are errors.

use anyhow::Result;

use crate::cargo::cargo;
use crate::commands;

/// Both, in this order.
pub(crate) fn run_all() -> [Result<()>; 2] {
    let format = commands::run(cargo().args(["fmt", "--all", "--check"]));
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "--deny",
        "warnings",
    ];
    [format, commands::run(cargo().args(clippy))]
}

/// `xtask lint`.
pub(crate) fn run() -> Result<()> {
    run_all().into_iter().collect()
}
