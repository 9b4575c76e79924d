//! What a command failed with, as people and scripts read it.
//!
//! An error prints as `error: …`, one `cause: …` line for each error below it, and one `hint: …` line with the next step.
//! Its [`Kind`] is the exit code, so that systemd, probes and scripts can branch without reading the text.

use std::error::Error as StdError;
use std::fmt;
use std::process::ExitCode;

/// Who has to do something about it; the kind is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command line cannot be carried out as given.
    Usage,
    /// A configuration file or a key is missing or wrong.
    Config,
    /// Something outside is not there: a server, the kernel's FUSE, a socket, space on disk.
    Unavailable,
    /// Bytes are there and are not what was signed.
    Corrupt,
    /// A fault of this program.
    Internal,
    /// A signal ended it before it was done.
    Interrupted,
}

impl Kind {
    /// The process's exit code: 2, 3, 4, 5, 70 (`EX_SOFTWARE` of sysexits.h) or 130 (as shells say of SIGINT).
    pub const fn code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Config => 3,
            Self::Unavailable => 4,
            Self::Corrupt => 5,
            Self::Internal => 70,
            Self::Interrupted => 130,
        }
    }
}

impl From<Kind> for ExitCode {
    fn from(kind: Kind) -> Self {
        Self::from(kind.code())
    }
}

/// A failed command: what failed, why, and what to do next.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    hint: Option<String>,
}

impl Error {
    /// An error that says `message`, one line without a full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
            hint: None,
        }
    }

    /// Keeps the error that led to this one; its whole chain is printed, one line each.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The exit code's kind.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The first line without its prefix.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The next step, if there is one to name.
    pub fn next_step(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Message and causes in one line, for logs and for the lines of `outcrop check`.
    pub fn summary(&self) -> String {
        let mut line = self.message.clone();
        for cause in self.causes() {
            line.push_str(": ");
            line.push_str(&cause);
        }
        line
    }

    /// Each distinct cause, outermost first. Libraries often repeat their source in their own message; that is left out.
    fn causes(&self) -> Vec<String> {
        let mut causes: Vec<String> = Vec::new();
        let mut next = self.source.as_deref().map(|source| source as &dyn StdError);
        while let Some(error) = next {
            let text = error.to_string();
            let said = causes.last().is_some_and(|outer| outer.contains(&text));
            if !said {
                causes.push(text);
            }
            next = error.source();
        }
        causes
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        for cause in self.causes() {
            write!(f, "\n  cause: {cause}")?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot connect to 192.0.2.1:80")]
    struct Connect(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("all servers failed: {0}")]
    struct AllFailed(#[source] Connect);

    fn refused() -> Connect {
        Connect(std::io::Error::from(std::io::ErrorKind::ConnectionRefused))
    }

    #[test]
    fn an_error_prints_cause_and_hint() {
        let error = Error::new(
            Kind::Unavailable,
            "cannot open repository unpacked.test.local",
        )
        .because(refused())
        .hint("is the server up?");
        insta::assert_snapshot!(error, @r"
        error: cannot open repository unpacked.test.local
          cause: cannot connect to 192.0.2.1:80
          cause: connection refused
          hint: is the server up?
        ");
        assert_eq!(
            error.summary(),
            "cannot open repository unpacked.test.local: cannot connect to 192.0.2.1:80: connection refused"
        );
    }

    #[test]
    fn a_cause_that_was_already_said_is_not_repeated() {
        let error = Error::new(Kind::Unavailable, "cannot open").because(AllFailed(refused()));
        insta::assert_snapshot!(error, @r"
        error: cannot open
          cause: all servers failed: cannot connect to 192.0.2.1:80
          cause: connection refused
        ");
    }

    #[test]
    fn the_kind_is_the_exit_code() {
        let kinds = [
            Kind::Usage,
            Kind::Config,
            Kind::Unavailable,
            Kind::Corrupt,
            Kind::Internal,
            Kind::Interrupted,
        ];
        assert_eq!(kinds.map(Kind::code), [2, 3, 4, 5, 70, 130]);
    }
}
