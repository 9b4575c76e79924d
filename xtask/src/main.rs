//! What is done to this project, as `cargo run -p xtask -- COMMAND` (see the Makefile for the usual ones).
#![allow(clippy::print_stdout, reason = "this is a command line program")]

mod cargo;
mod ci;
mod commands;
mod conformance;
mod demo;
mod dist;
mod lint;
mod packages;
mod summary;
mod test;
mod tidy;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Development tasks of Outcrop.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what demo and tests need: Debian packages, and containerd 1.7 and 2.1 unpacked below target/containerd
    Packages,
    /// The demo's image in target/workload: Debian, Python, a physics generator
    Workload,
    /// From a clean machine to a job that runs from a published image, beside stock containerd
    Demo,
    /// Everything that must hold: tidy, lint, unit tests, conformance, real containerd
    Test,
    /// Format and clippy
    Lint,
    /// containerd's own snapshotter suite over our socket
    Conformance,
    /// The benchmark harness (arguments are passed on)
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// The real stargz-snapshotter beside ours: same containerd, image and registry (docs/bench-estargz.md)
    BenchEstargz(demo::estargz::Options),
    /// `test`, and a look at what it left mounted or running
    Ci,
    /// The architecture: which crate may import which, sole homes, sizes, names
    Tidy,
    /// Man pages and shell completions in target/dist
    Dist,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Packages => packages::run(),
        Command::Workload => workload::Workload::build().map(|built| {
            println!(
                "{}\n{}",
                built.layout().display(),
                built.registry().display()
            );
        }),
        Command::Demo => demo::run(),
        Command::Test => test::run(),
        Command::Lint => lint::run(),
        Command::Conformance => conformance::run().and_then(summary::Counts::into_result),
        Command::Bench { arguments } => {
            let mut cargo = cargo::cargo();
            commands::run(
                cargo
                    .args(["run", "--release", "--quiet", "-p", "bench", "--"])
                    .args(arguments),
            )
        }
        Command::BenchEstargz(options) => demo::estargz::run(&options),
        Command::Ci => ci::run(),
        Command::Tidy => tidy::run(),
        Command::Dist => dist::run(),
    }
}
