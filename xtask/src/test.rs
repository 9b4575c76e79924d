//! Everything that must hold, in the order of what fails soonest; every step runs, whatever the others said.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::cargo::cargo;
use crate::commands;
use crate::summary::Counts;
use crate::{conformance, lint, packages, tidy};

/// Runs all steps; the last line says how many passed.
pub(crate) fn run() -> Result<()> {
    packages::run()?;
    let mut counts = Counts::default();
    let mut failures = Vec::new();
    let mut note = |step: &str, outcome: Result<()>| {
        counts.add_check(&outcome);
        if let Err(error) = outcome {
            println!("FAILED {step}: {error:#}");
            failures.push(step.to_owned());
        }
    };
    note("tidy", tidy::run());
    let [format, clippy] = lint::run_all();
    note("format", format);
    note("clippy", clippy);
    // What e2e and conformance run, as users get it.
    note(
        "build",
        commands::run(cargo().args([
            "build",
            "--release",
            "--quiet",
            "-p",
            "outcrop",
            "-p",
            "testkit",
        ])),
    );
    for (step, run) in [
        ("unit tests", unit_tests as fn() -> _),
        ("conformance", conformance::run),
        ("e2e", end_to_end),
    ] {
        println!("\n== {step}");
        let started = Instant::now();
        match run() {
            Ok(found) => {
                println!(
                    "== {step}: {} passed, {} failed in {:.0?}",
                    found.passed,
                    found.failed,
                    started.elapsed()
                );
                counts.add(found);
                failures.extend((found.failed > 0 || found.passed == 0).then(|| step.to_owned()));
            }
            Err(error) => {
                println!("FAILED {step}: {error:#}");
                counts.failed += 1;
                failures.push(step.to_owned());
            }
        }
    }
    if !failures.is_empty() {
        println!("\nfailed: {}", failures.join(", "));
        counts.failed = counts.failed.max(1);
    }
    println!(
        "{} passed, {} failed, {} skipped",
        counts.passed, counts.failed, counts.skipped
    );
    counts.into_result()
}

fn unit_tests() -> Result<Counts> {
    counted(
        cargo().args([
            "test",
            "--workspace",
            "--exclude",
            "e2e",
            "--no-fail-fast",
            "--quiet",
        ]),
        Counts::of_cargo,
    )
}

/// One at a time: each starts containerds, and the machine is small.
fn end_to_end() -> Result<Counts> {
    let arguments = [
        "test",
        "--quiet",
        "-p",
        "e2e",
        "--no-fail-fast",
        "--",
        "--test-threads=1",
        "--nocapture",
    ];
    counted(cargo().args(arguments), Counts::of_cargo)
}

/// Runs a test runner, shows its output, and counts the lines that `count` understands. A runner that fails without a failed test (it did
/// not compile, say) counts as one failure.
pub(crate) fn counted(command: &mut Command, count: fn(&str) -> Option<Counts>) -> Result<Counts> {
    let mut runner = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let mut total = Counts::default();
    for line in BufReader::new(runner.stdout.take().context("no output")?).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        total.add(count(&line).unwrap_or_default());
    }
    if !runner.wait()?.success() && total.failed == 0 {
        total.failed = 1;
    }
    Ok(total)
}
