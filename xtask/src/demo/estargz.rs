//! The real stargz-snapshotter beside ours, run by run on the same containerd, image and registry (docs/bench-estargz.md).

mod convert;
mod daemon;
mod report;
mod side;
mod statistics;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use e2e::{Runtime, Version, workspace};

use super::interrupt::Interrupt;
use crate::cargo::cargo;
use crate::commands;
use crate::workload::Workload;
use convert::Converter;
use daemon::Mode;
use report::Report;
use side::{Bench, Measured};

const PROGRAM: &str = "containerd-stargz-grpc";

/// Options of `bench-estargz`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Pairs of runs of each image
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The peer's program; default: containerd-stargz-grpc on PATH
    #[arg(long)]
    peer: Option<PathBuf>,
    /// Who has converted the image; may be given more than once
    #[arg(long = "image", default_value = "outcrop")]
    images: Vec<Converter>,
    /// Which containerd; default: the newest there is
    #[arg(long)]
    containerd: Option<Line>,
    /// Collisions that the job generates
    #[arg(long, default_value_t = 400)]
    events: u32,
    /// Both fetch all the rest of the layers meanwhile, which is the peer's default
    #[arg(long)]
    background_fetch: bool,
    /// The registry waits before each answer, for instance 20ms
    #[arg(long)]
    latency: Option<String>,
    /// What the registry sends at most, for instance 1Gbit
    #[arg(long)]
    bandwidth: Option<String>,
    /// Measure the release builds that are there
    #[arg(long)]
    no_build: bool,
    /// Where the figures go
    #[arg(long)]
    out: Option<PathBuf>,
}

/// A containerd that pulls lazily by `ctr` or `ctr-remote`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Line {
    #[value(name = "1.7")]
    V1_7,
    #[value(name = "2.1")]
    V2_1,
}

/// Measures, writes `target/bench-estargz.json`, and shows a table.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "no rounds");
    let interrupt = Interrupt::watch()?;
    let measured = measure(options, &interrupt);
    let report = match measured {
        // The error is that of whatever was ended then.
        Err(_) if interrupt.happened() => bail!("interrupted"),
        measured => measured?,
    };
    println!("\n{}", report::text(&report.runs));
    let default = workspace().join("target/bench-estargz.json");
    let file = options.out.as_ref().unwrap_or(&default);
    std::fs::write(file, serde_json::to_vec(&report)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    println!("written: {}", file.display());
    ensure!(
        report.peer_version.is_some(),
        "only one side was measured: there is no {PROGRAM}"
    );
    Ok(())
}

fn measure(options: &Options, interrupt: &Interrupt) -> Result<Report> {
    if !options.no_build {
        println!("building");
        let build = ["build", "--release", "--quiet"];
        commands::run(cargo().args(build).args(["-p", "outcrop", "-p", "testkit"]))?;
    }
    let runtime = runtime(options.containerd)?;
    let workload = Workload::build()?;
    let peer = match &options.peer {
        Some(file) => Some(file.clone()),
        None => on_path(std::env::var_os("PATH").as_deref()),
    };
    let peer_version = match &peer {
        Some(file) => Some(daemon::version(file)?),
        None => {
            println!("{}", how_to_get_the_peer());
            None
        }
    };
    println!(
        "containerd {}, peer: {}, background fetch {}",
        runtime.version,
        peer_version.as_deref().unwrap_or("none"),
        if options.background_fetch {
            "on"
        } else {
            "off"
        },
    );
    let mut runs = Vec::new();
    for &converter in &options.images {
        let bench = Bench {
            runtime: &runtime,
            interrupt,
            images: convert::images(&workload, converter, &runtime, interrupt)?,
            converter,
            peer: peer.as_deref(),
            options,
        };
        runs.extend(rounds(&bench, options.rounds)?);
    }
    Ok(Report { peer_version, runs })
}

/// Pairs of runs; who begins changes from pair to pair.
fn rounds(bench: &Bench<'_>, rounds: usize) -> Result<Vec<report::Run>> {
    let mut runs = Vec::new();
    let mut result: Option<String> = None;
    for round in 0..rounds {
        for mode in order(round, bench.peer) {
            println!("\n{} of {rounds}: {mode}, {}", round + 1, bench.name());
            let Measured {
                runs: two,
                result_digest,
            } = bench.measure(mode)?;
            let expected = result.get_or_insert_with(|| result_digest.clone());
            ensure!(
                *expected == result_digest,
                "{mode} has computed {result_digest}, others {expected}"
            );
            runs.extend(two);
        }
    }
    Ok(runs)
}

fn order(round: usize, peer: Option<&Path>) -> Vec<Mode> {
    let mut modes = vec![Mode::RegistryLazy];
    modes.extend(peer.map(|_| Mode::StargzSnapshotter));
    if round % 2 == 1 {
        modes.reverse();
    }
    modes
}

fn runtime(wanted: Option<Line>) -> Result<Runtime> {
    let versions = match wanted {
        Some(Line::V1_7) => vec![Version::V1_7],
        Some(Line::V2_1) => vec![Version::V2_1],
        None => vec![Version::V2_1, Version::V1_7],
    };
    let found = versions.into_iter().find_map(Runtime::find);
    found.context(
        "there is no such containerd below target/containerd: cargo run -p xtask -- packages",
    )
}

fn on_path(path: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    let mut folders = std::env::split_paths(path?);
    folders.find_map(|folder| {
        let file = folder.join(PROGRAM);
        file.is_file().then_some(file)
    })
}

fn how_to_get_the_peer() -> String {
    format!(
        "{PROGRAM} is not on PATH, and --peer names none: ours is measured alone.\n\
         It is the Go module github.com/containerd/stargz-snapshotter, folder cmd/{PROGRAM} (a module of its own);\n\
         releases carry it as a program, too. Give the program with --peer FILE."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_begins_changes() {
        let peer = Path::new("/peer");
        let both = [Mode::RegistryLazy, Mode::StargzSnapshotter];
        assert_eq!(order(0, Some(peer)), both);
        assert_eq!(order(1, Some(peer)), [both[1], both[0]]);
        assert_eq!(order(2, Some(peer)), both);
        assert_eq!(order(1, None), [Mode::RegistryLazy]);
    }

    #[test]
    fn the_peer_is_looked_for_on_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = std::env::join_paths([Path::new("/nowhere"), folder.path()]).unwrap();
        assert_eq!(on_path(Some(&path)), None);
        assert_eq!(on_path(None), None);
        let file = folder.path().join(PROGRAM);
        std::fs::write(&file, "").unwrap();
        assert_eq!(on_path(Some(&path)), Some(file));
        assert!(how_to_get_the_peer().contains("github.com/containerd/stargz-snapshotter"));
    }
}
