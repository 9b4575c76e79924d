//! The job's output: where it appears, and what its last line says.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::interrupt::Interrupt;

/// How long the job may take; on two busy processors it takes a tenth of that.
const DEADLINE: Duration = Duration::from_secs(300);

/// Looking for output more rarely would blur the times.
const PAUSE: Duration = Duration::from_millis(5);

/// How long an ended container's output may take to reach its file.
const LATE: Duration = Duration::from_secs(2);

/// How often it is asked whether the container still runs, which costs more than a look at a file.
const ASK: Duration = Duration::from_secs(3);

/// A container's output as it is written.
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub(super) file: PathBuf,
    pub(super) form: Form,
}

/// How the lines of the file look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As the container wrote them.
    Plain,
    /// Time, stream, F or P, text.
    Cri,
}

impl Output {
    /// Waits for a line that begins with `word`; an error with all output if `ended` becomes true before.
    pub(super) fn wait_for(
        &self,
        word: &str,
        interrupt: &Interrupt,
        mut ended: impl FnMut() -> Result<bool>,
    ) -> Result<String> {
        let started = Instant::now();
        let mut asked = started;
        let mut end = None;
        loop {
            interrupt.check()?;
            let lines = self.lines();
            if let Some(line) = lines.iter().find(|line| line.starts_with(word)) {
                return Ok(line.clone());
            }
            if end.is_some_and(|end: Instant| end.elapsed() > LATE) {
                bail!(
                    "the container ended before it said {word:?}:\n{}",
                    lines.join("\n")
                );
            }
            ensure!(
                started.elapsed() < DEADLINE,
                "no {word:?} after {DEADLINE:?}:\n{}",
                lines.join("\n")
            );
            if end.is_none() && asked.elapsed() > ASK {
                asked = Instant::now();
                end = ended()?.then(Instant::now);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Complete lines so far.
    fn lines(&self) -> Vec<String> {
        let text = std::fs::read(&self.file).unwrap_or_default();
        lines(&String::from_utf8_lossy(&text), self.form)
    }
}

fn lines(text: &str, form: Form) -> Vec<String> {
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    let text = |line: &str| match form {
        Form::Plain => line.to_owned(),
        Form::Cri => line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned(),
    };
    complete.lines().map(text).collect()
}

/// What is compared of the line `result name=value …`: the physics, not the time.
pub(super) fn digest(line: &str) -> Result<String> {
    let words = line.strip_prefix("result ").unwrap_or_default();
    let value = words
        .split_whitespace()
        .find_map(|word| word.strip_prefix("digest="));
    let value = value.filter(|value| !value.is_empty());
    Ok(value
        .with_context(|| format!("no digest in {line:?}"))?
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_lines_are_none_yet() {
        assert_eq!(lines("started\nresult dig", Form::Plain), ["started"]);
        assert_eq!(lines("star", Form::Plain), [""; 0]);
        let log = "2026-01-01T00:00:00.1Z stdout F started\n2026-01-01T00:00:09.1Z stdout F result a=1 b=2\n";
        assert_eq!(lines(log, Form::Cri), ["started", "result a=1 b=2"]);
    }

    #[test]
    fn the_result_is_its_digest() {
        let line = "result events=400 mean=71.2 digest=0123abcd seconds=8.1";
        assert_eq!(digest(line).unwrap(), "0123abcd");
        for line in [
            "",
            "result",
            "result digest= seconds=1",
            "results digest=1",
            "digest=1",
        ] {
            assert!(digest(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_container_that_ends_early_shows_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let output = Output {
            file: folder.path().join("log"),
            form: Form::Plain,
        };
        let none = Interrupt::default();
        std::fs::write(&output.file, "Traceback\n").unwrap();
        let error = output.wait_for("started", &none, || Ok(true)).unwrap_err();
        assert!(error.to_string().contains("Traceback"), "{error}");
        std::fs::write(&output.file, "started\n").unwrap();
        assert_eq!(
            output.wait_for("started", &none, || Ok(false)).unwrap(),
            "started"
        );
    }
}
