//! Measures Outcrop from the outside: paired runs against the same work on a local file system,
//! ratios with their spread, JSON. Run by `make bench`; nothing here asserts a speed.

// A harness for people: its output is what it is for.
#![allow(clippy::print_stdout)]

mod claim;
mod mounted;
mod repository;
mod sample;
mod work;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measure Outcrop against a local file system")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A repository mounted by `outcrop mount`, against the same tree on the local disk.
    Repository(repository::Options),
    /// Pull and first container of images whose layers lie in a repository.
    Claim(claim::Options),
    /// Runs one piece of work on a tree; the measured child process.
    #[command(hide = true)]
    Work {
        /// What to do.
        kind: work::Kind,
        /// On which tree.
        tree: PathBuf,
    },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Repository(options) => repository::run(&options),
        Command::Claim(options) => claim::run(&options),
        Command::Work { kind, tree } => work::run(kind, &tree),
    }
}
