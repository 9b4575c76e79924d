//! Figures of `outcrop publish` in the text format that a node exporter's textfile collector reads.
//!
//! All are gauges of the last run: a file that is written anew by each process can count nothing.

use crate::error::Error;
use crate::publishing::summary::{Became, Run, Sums};
use crate::publishing::textfile;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

const LAST_SUCCESS: &str = "outcrop_publish_last_success_timestamp_seconds";
/// Ours have two kilobytes.
const MAX_OLD_BYTES: u64 = 1 << 20;

/// Writes the file as a whole. The time of the last success is kept over a run that failed.
///
/// # Errors
/// It cannot be written.
pub fn write(file: &Path, run: &Run, now: jiff::Timestamp) -> Result<(), Error> {
    let success = match run.failure() {
        None => Some(now.as_second()),
        Some(_) => last_success(file, &run.repository),
    };
    textfile::write(file, &text(run, now.as_second(), success))
}

/// What an earlier run wrote. A file that cannot be read knows of none.
fn last_success(file: &Path, repository: &str) -> Option<i64> {
    let mut text = String::new();
    let old = std::fs::File::open(file).ok()?;
    old.take(MAX_OLD_BYTES).read_to_string(&mut text).ok()?;
    let name = format!("{LAST_SUCCESS}{{repository=\"{repository}\"}} ");
    text.lines()
        .find_map(|line| line.strip_prefix(&name)?.parse().ok())
}

/// A label other than the repository's, and the value.
type Sample<'a> = (Option<(&'a str, &'a str)>, f64);

struct Exposition<'a> {
    text: String,
    repository: &'a str,
}

impl Exposition<'_> {
    fn family(&mut self, name: &str, help: &str, samples: &[Sample<'_>]) {
        // Writing to a String cannot fail. Names of repositories hold nothing that must be escaped.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (label, value) in samples {
            let label = label.map(|(name, value)| format!(",{name}=\"{value}\""));
            let label = label.unwrap_or_default();
            let repository = self.repository;
            let _ = writeln!(
                self.text,
                "{name}{{repository=\"{repository}\"{label}}} {value}"
            );
        }
    }

    fn times(&mut self, now: i64, success: Option<i64>) {
        self.family(
            "outcrop_publish_last_run_timestamp_seconds",
            "When images were published last, seconds since the epoch.",
            &[(None, now as f64)],
        );
        if let Some(success) = success {
            self.family(
                LAST_SUCCESS,
                "When all images were published last without a failure, seconds since the epoch.",
                &[(None, success as f64)],
            );
        }
    }
}

fn text(run: &Run, now: i64, success: Option<i64>) -> String {
    let mut exposition = Exposition {
        text: String::new(),
        repository: &run.repository,
    };
    exposition.times(now, success);
    let sums: Vec<Sums> = run.summaries().map(Sums::of).collect();
    let sum = |of: fn(&Sums) -> u64| sums.iter().map(of).sum::<u64>() as f64;
    exposition.family(
        "outcrop_publish_images",
        "Images of the last run, by what became of them.",
        &images(run),
    );
    exposition.family(
        "outcrop_publish_layers",
        "Layers of the images of the last run, by what became of them.",
        &[
            (Some(("state", "published")), sum(|sums| sums.published)),
            (Some(("state", "present")), sum(|sums| sums.present)),
            (Some(("state", "skipped")), sum(|sums| sums.skipped)),
        ],
    );
    exposition.family(
        "outcrop_publish_read_bytes",
        "Bytes of the blobs of layers that the last run stored.",
        &[(None, sum(|sums| sums.read))],
    );
    exposition.family(
        "outcrop_publish_stored_bytes",
        "Bytes of objects that the last run wrote.",
        &[(None, run.stored_bytes as f64)],
    );
    exposition.family(
        "outcrop_publish_duration_seconds",
        "How long the last run took.",
        &[(None, run.seconds)],
    );
    exposition.family(
        "outcrop_publish_revision",
        "The newest revision after the last run.",
        &[(None, run.revision as f64)],
    );
    exposition.text
}

fn images(run: &Run) -> [Sample<'static>; 4] {
    let (mut published, mut unchanged, mut failed) = (0_u32, 0_u32, 0_u32);
    for outcome in &run.outcomes {
        match &outcome.became {
            Became::Done(summary) if summary.revision.is_some() => published += 1,
            Became::Done(_) | Became::Unchanged => unchanged += 1,
            Became::Failed(_) => failed += 1,
        }
    }
    [
        (Some(("result", "published")), published.into()),
        (Some(("result", "unchanged")), unchanged.into()),
        (Some(("result", "failed")), failed.into()),
        (Some(("result", "removed")), run.removed.images.len() as f64),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::publishing::summary::Outcome;

    fn run(failed: bool) -> Run {
        let became = match failed {
            true => Became::Failed(Error::new(Kind::Unavailable, "down")),
            false => Became::Unchanged,
        };
        Run {
            repository: "a.example.org".to_owned(),
            outcomes: vec![Outcome {
                image: "r.example.org/a:1".to_owned(),
                became,
            }],
            revision: 7,
            stored_bytes: 1024,
            seconds: 1.5,
            ..Run::default()
        }
    }

    #[test]
    fn the_text() {
        insta::assert_snapshot!(text(&run(false), 1_800_000_000, Some(1_800_000_000)), @r#"
        # HELP outcrop_publish_last_run_timestamp_seconds When images were published last, seconds since the epoch.
        # TYPE outcrop_publish_last_run_timestamp_seconds gauge
        outcrop_publish_last_run_timestamp_seconds{repository="a.example.org"} 1800000000
        # HELP outcrop_publish_last_success_timestamp_seconds When all images were published last without a failure, seconds since the epoch.
        # TYPE outcrop_publish_last_success_timestamp_seconds gauge
        outcrop_publish_last_success_timestamp_seconds{repository="a.example.org"} 1800000000
        # HELP outcrop_publish_images Images of the last run, by what became of them.
        # TYPE outcrop_publish_images gauge
        outcrop_publish_images{repository="a.example.org",result="published"} 0
        outcrop_publish_images{repository="a.example.org",result="unchanged"} 1
        outcrop_publish_images{repository="a.example.org",result="failed"} 0
        outcrop_publish_images{repository="a.example.org",result="removed"} 0
        # HELP outcrop_publish_layers Layers of the images of the last run, by what became of them.
        # TYPE outcrop_publish_layers gauge
        outcrop_publish_layers{repository="a.example.org",state="published"} 0
        outcrop_publish_layers{repository="a.example.org",state="present"} 0
        outcrop_publish_layers{repository="a.example.org",state="skipped"} 0
        # HELP outcrop_publish_read_bytes Bytes of the blobs of layers that the last run stored.
        # TYPE outcrop_publish_read_bytes gauge
        outcrop_publish_read_bytes{repository="a.example.org"} 0
        # HELP outcrop_publish_stored_bytes Bytes of objects that the last run wrote.
        # TYPE outcrop_publish_stored_bytes gauge
        outcrop_publish_stored_bytes{repository="a.example.org"} 1024
        # HELP outcrop_publish_duration_seconds How long the last run took.
        # TYPE outcrop_publish_duration_seconds gauge
        outcrop_publish_duration_seconds{repository="a.example.org"} 1.5
        # HELP outcrop_publish_revision The newest revision after the last run.
        # TYPE outcrop_publish_revision gauge
        outcrop_publish_revision{repository="a.example.org"} 7
        "#);
    }

    #[test]
    fn a_failure_keeps_the_time_of_the_last_success() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("outcrop.prom");
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let success = || last_success(&file, "a.example.org");
        write(&file, &run(true), at(1000)).unwrap();
        assert_eq!(success(), None);
        write(&file, &run(false), at(2000)).unwrap();
        assert_eq!(success(), Some(2000));
        write(&file, &run(true), at(3000)).unwrap();
        assert_eq!(success(), Some(2000));
        assert_eq!(last_success(&file, "b.example.org"), None);
    }
}
