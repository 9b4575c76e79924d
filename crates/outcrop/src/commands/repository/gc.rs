//! `outcrop repository gc`

use super::count;
use crate::cli::GcArgs;
use crate::commands::print;
use crate::error::Error;
use crate::publishing::backend;
use crate::publishing::shown::Shown;
use crate::publishing::table::bytes;
use crate::publishing::textfile::{self, Figure};
use crate::wiring;
use publisher::{GcOptions, GcReport, Repository};
use std::io::Write;
use std::time::Instant;

/// Collects, then says and writes what went.
pub(super) fn run(args: &GcArgs, out: &mut dyn Write) -> Result<(), Error> {
    let runtime = wiring::runtime()?;
    let started = Instant::now();
    // An old whitelist is no reason to let the disk run full, but what is collected is signed: clients must accept it.
    let repository = backend::open_writable(&args.backend, &runtime, false)?;
    let report = collect(&repository, args)?;
    let seconds = started.elapsed().as_secs_f64();
    if let Some(file) = &args.metrics_file {
        let figures = figures(&report, seconds, jiff::Timestamp::now());
        textfile::write(file, &textfile::text(repository.fqrn(), &figures))?;
    }
    if args.json {
        return print(out, &json(&report, args.dry_run, seconds).to_string());
    }
    for line in lines(&report, args.dry_run) {
        print(out, &line)?;
    }
    Ok(())
}

fn collect(repository: &Repository, args: &GcArgs) -> Result<GcReport, Error> {
    let options = GcOptions {
        grace: args.grace,
        keep_revisions: args.keep,
        dry_run: args.dry_run,
    };
    // Nothing is written without it: a dry run waits for nobody.
    let lock = match args.dry_run {
        true => None,
        false => Some(backend::lock(repository, &args.backend)?),
    };
    let shown = Shown::begin("reading revisions");
    let now = jiff::Timestamp::now();
    Ok(repository.gc_with(lock.as_ref(), options, now, &|step| shown.step(step))?)
}

fn lines(report: &GcReport, dry_run: bool) -> Vec<String> {
    let verb = if dry_run { "would remove" } else { "removed" };
    let (removed, kept) = (report.removed_revisions, report.kept_revisions);
    vec![
        format!(
            "{verb} {} and {} ({}), {} of them never named by any revision",
            count(removed as u64, "revision"),
            count(report.removed_objects, "object"),
            bytes(report.removed_bytes),
            report.orphans
        ),
        format!(
            "kept {} and {}; {} more named by no revision and too young to go",
            count(kept as u64, "revision"),
            count(report.live_objects, "object"),
            report.young_orphans
        ),
    ]
}

fn json(report: &GcReport, dry_run: bool, seconds: f64) -> serde_json::Value {
    serde_json::json!({
        "dry_run": dry_run,
        "kept_revisions": report.kept_revisions,
        "removed_revisions": report.removed_revisions,
        "live_objects": report.live_objects,
        "removed_objects": report.removed_objects,
        "removed_bytes": report.removed_bytes,
        "orphans": report.orphans,
        "young_orphans": report.young_orphans,
        "seconds": seconds,
    })
}

fn figures(report: &GcReport, seconds: f64, now: jiff::Timestamp) -> Vec<Figure> {
    let figure = |name, help, value| Figure { name, help, value };
    let count = |number: u64| number as f64;
    vec![
        figure(
            "outcrop_gc_last_success_timestamp_seconds",
            "When garbage was collected last, seconds since the epoch.",
            now.as_second() as f64,
        ),
        figure(
            "outcrop_gc_duration_seconds",
            "How long the last collection took.",
            seconds,
        ),
        figure(
            "outcrop_gc_kept_revisions",
            "Revisions that the last collection kept.",
            report.kept_revisions as f64,
        ),
        figure(
            "outcrop_gc_removed_revisions",
            "Revisions that the last collection removed.",
            report.removed_revisions as f64,
        ),
        figure(
            "outcrop_gc_live_objects",
            "Objects that kept revisions name.",
            count(report.live_objects),
        ),
        figure(
            "outcrop_gc_removed_objects",
            "Objects that the last collection removed.",
            count(report.removed_objects),
        ),
        figure(
            "outcrop_gc_removed_bytes",
            "Stored bytes of the objects that the last collection removed.",
            count(report.removed_bytes),
        ),
        figure(
            "outcrop_gc_orphan_objects",
            "Of the removed objects, those that no revision ever named.",
            count(report.orphans),
        ),
        figure(
            "outcrop_gc_young_orphan_objects",
            "Objects that no revision names and that are too young to go.",
            count(report.young_orphans),
        ),
    ]
}
