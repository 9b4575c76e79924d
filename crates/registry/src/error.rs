use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use image::DocumentError;

/// Why an operation failed. No message holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// All hosts say that it does not exist.
    #[error("{what} does not exist: {}", list(.attempts))]
    NotFound {
        /// Image, blob or repository.
        what: String,
        /// What was tried.
        attempts: Vec<Attempt>,
    },
    /// The registry wants other credentials.
    #[error("no access to {what}: {}", list(.attempts))]
    Unauthorized {
        /// Image, blob or repository.
        what: String,
        /// What was tried.
        attempts: Vec<Attempt>,
    },
    /// No host could be reached, or all failed.
    #[error("cannot get {what}: {}", list(.attempts))]
    Unavailable {
        /// Image, blob or repository.
        what: String,
        /// What was tried.
        attempts: Vec<Attempt>,
    },
    /// A registry gives the blob only whole, and too much lies before the range.
    #[error("{what}: the registry ignores ranges; read the blob as a whole")]
    RangeIgnored {
        /// Blob.
        what: String,
    },
    /// The registry refused: the request is wrong in its eyes.
    #[error("{what} was refused: {}", list(.attempts))]
    Refused {
        /// Image, blob or repository.
        what: String,
        /// What was tried.
        attempts: Vec<Attempt>,
    },
    /// A document is malformed, too long, or has another digest.
    #[error("{what} is not what was asked for")]
    Document {
        /// Image.
        what: String,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// The answer is none of the protocol.
    #[error("{what}: {reason}")]
    Protocol {
        /// Image, blob or repository.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The bytes to be pushed cannot be read.
    #[error("cannot read {what}")]
    Source {
        /// Blob.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// A `hosts.toml`, certificate, docker configuration or provider configuration is wrong.
    #[error("{path}: {reason}", path = .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No host may be used for this (capabilities in `hosts.toml`).
    #[error("no host of {registry} is allowed to {purpose}: see `capabilities` in its hosts.toml")]
    NoHost {
        /// The registry in the image's name.
        registry: String,
        /// What was to be done.
        purpose: &'static str,
    },
}

fn list(attempts: &[Attempt]) -> String {
    let last = attempts.len().saturating_sub(4);
    let texts: Vec<_> = attempts[last..].iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// One request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Scheme, host and path; never the query, which may be a signature.
    pub url: String,
    /// Why.
    pub failure: Failure,
}

impl fmt::Display for Attempt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.url, self.failure)
    }
}

/// The failure of one request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No connection.
    #[error("no connection: {0}")]
    Connect(String),
    /// A deadline passed.
    #[error("deadline passed: {0}")]
    Timeout(&'static str),
    /// The answer broke off or was no HTTP.
    #[error("transfer broke: {0}")]
    Transfer(String),
    /// Another status than success.
    #[error("status {code}{}{}", if .code_name.is_empty() { "" } else { " " }, .code_name)]
    Status {
        /// HTTP status code.
        code: u16,
        /// The registry's own code, for instance `MANIFEST_UNKNOWN`.
        code_name: String,
        /// When to come again, if the server said so.
        retry_after: Option<Duration>,
    },
    /// Credentials are missing, wrong, or could not be got.
    #[error("{0}")]
    Credentials(String),
    /// The answer is none of the protocol.
    #[error("{0}")]
    Protocol(String),
    /// The whole blob came although a range was asked for.
    #[error("the server ignores ranges")]
    RangeIgnored,
    /// TLS material or `hosts.toml` is wrong.
    #[error("{0}")]
    Config(String),
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Consequence {
    NotFound,
    Refused,
    RangeIgnored,
    Unauthorized,
    /// May pass.
    Again,
}

impl Failure {
    pub(crate) fn consequence(&self) -> Consequence {
        match self {
            Self::Connect(_) | Self::Timeout(_) | Self::Transfer(_) => Consequence::Again,
            Self::Status { code, .. } => match code {
                401 | 403 => Consequence::Unauthorized,
                404 => Consequence::NotFound,
                408 | 425 | 429 | 500..=599 => Consequence::Again,
                _ => Consequence::Refused,
            },
            Self::Credentials(_) => Consequence::Unauthorized,
            Self::RangeIgnored => Consequence::RangeIgnored,
            Self::Protocol(_) | Self::Config(_) => Consequence::Refused,
        }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The host could not be reached at all.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Timeout(_))
    }
}

impl Error {
    pub(crate) fn config(path: &Path, reason: impl fmt::Display) -> Self {
        Self::Config {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// From all that was tried. The worst that may still be cured names the kind.
    pub(crate) fn from_attempts(what: String, attempts: Vec<Attempt>) -> Self {
        let consequence = attempts.iter().map(|attempt| attempt.failure.consequence());
        match consequence.max() {
            Some(Consequence::NotFound) => Self::NotFound { what, attempts },
            Some(Consequence::Refused) => Self::Refused { what, attempts },
            Some(Consequence::RangeIgnored) => Self::RangeIgnored { what },
            Some(Consequence::Unauthorized) => Self::Unauthorized { what, attempts },
            Some(Consequence::Again) | None => Self::Unavailable { what, attempts },
        }
    }
}
