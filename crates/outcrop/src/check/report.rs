//! The lines of `outcrop check`.

use serde::Serialize;
use std::fmt::Write;

/// How a line came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// There.
    Ok,
    /// Worth knowing; nothing to do.
    Note,
    /// Works, and worse than it could.
    Warning,
    /// `serve` or its clients will not work.
    Failed,
}

impl Status {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// How it came out.
    pub status: Status,
    /// What was looked at, one or a few words.
    pub subject: String,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Line {
    /// A line without a next step.
    pub fn new(status: Status, subject: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            status,
            subject: subject.into(),
            found: found.into(),
            next: None,
        }
    }

    /// Adds the next step.
    #[must_use]
    pub fn next(mut self, step: impl Into<String>) -> Self {
        self.next = Some(step.into());
        self
    }
}

/// All lines, subjects aligned; a next step on its own line below.
pub fn text(lines: &[Line]) -> String {
    let width = lines
        .iter()
        .map(|line| line.subject.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for Line {
        status,
        subject,
        found,
        next,
    } in lines
    {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<8} {subject:<width$}  {found}", status.word());
        if let Some(next) = next {
            let _ = writeln!(text, "{:<8} {:<width$}  → {next}", "", "");
        }
    }
    text
}

/// Number of lines that failed.
pub fn failures(lines: &[Line]) -> usize {
    lines
        .iter()
        .filter(|line| line.status == Status::Failed)
        .count()
}
