//! `outcrop repository check`

use super::count;
use crate::cli::CheckRepositoryArgs;
use crate::commands::print;
use crate::error::{Error, Kind};
use crate::publishing::backend;
use crate::publishing::shown::Shown;
use crate::wiring;
use publisher::{CheckOptions, CheckReport};
use std::io::Write;

/// One line for each finding; any makes it fail.
pub(super) fn run(args: &CheckRepositoryArgs, out: &mut dyn Write) -> Result<(), Error> {
    let runtime = wiring::runtime()?;
    let repository = backend::open(&args.backend, &runtime)?;
    let options = CheckOptions {
        content: args.content,
        tags: !args.no_tags,
    };
    let shown = Shown::begin("listing objects");
    let report = repository.check_with(options, &|step| shown.step(step))?;
    drop(shown);
    if args.json {
        print(out, &json(&report).to_string())?;
    } else {
        for finding in &report.findings {
            print(out, &finding.to_string())?;
        }
        print(out, &looked_at(&report, args.content))?;
    }
    match report.findings.len() {
        0 => Ok(()),
        number => {
            let found = count(number as u64, "finding");
            let message = format!("{}: {found}", repository.storage().location());
            Err(Error::new(Kind::Corrupt, message).hint(
                "delete what is damaged, then publish the image again with --again: its files are stored anew; an old revision's own notes are not, it goes with `gc`",
            ))
        }
    }
}

fn looked_at(report: &CheckReport, content: bool) -> String {
    let how = if content {
        "read and hashed"
    } else {
        "looked for"
    };
    let counted = |number: usize, what| count(number as u64, what);
    format!(
        "{}, {}, {} {how}; {} named by none of these revisions",
        counted(report.revisions, "revision"),
        counted(report.catalogs, "catalog"),
        counted(report.objects, "object"),
        counted(report.unnamed, "object"),
    )
}

fn json(report: &CheckReport) -> serde_json::Value {
    let findings = report.findings.iter().map(|finding| {
        serde_json::json!({
            "problem": finding.problem.name(),
            "object": finding.object,
            "detail": finding.detail,
        })
    });
    serde_json::json!({
        "clean": report.is_clean(),
        "findings": findings.collect::<Vec<_>>(),
        "revisions": report.revisions,
        "catalogs": report.catalogs,
        "objects": report.objects,
        "unnamed": report.unnamed,
    })
}
