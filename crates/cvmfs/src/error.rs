//! What can go wrong, by what a caller does about it.

use std::path::PathBuf;

use crate::download::Attempt;

/// Failures of a repository. Each names the object or URL and, where there is one, the next step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Every server failed. Trying again later may help. A 404 from all servers is this too: published content never vanishes.
    #[error("{what} cannot be fetched: {}", describe(.attempts))]
    Unavailable {
        /// Object or file that was wanted.
        what: String,
        /// What was tried, in order.
        attempts: Vec<Attempt>,
    },
    /// Every server's bytes differ from their hash, or verified bytes are malformed.
    #[error("{what} is corrupt: {reason}")]
    Corrupt {
        /// Object or catalog.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The manifest or whitelist is malformed.
    #[error(
        "{what} of {fqrn} is malformed: {reason}; check that the server URL names a CVMFS repository"
    )]
    Malformed {
        /// Repository.
        fqrn: String,
        /// `manifest`, `whitelist` or `certificate`.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A signature does not verify.
    #[error(
        "{what} of {fqrn} has a bad signature: {reason}; check the public keys, or report the server"
    )]
    BadSignature {
        /// Repository.
        fqrn: String,
        /// `manifest` or `whitelist`.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The whitelist has expired.
    #[error(
        "whitelist of {fqrn} expired at {expiry}; its publisher has to sign it anew (and check this machine's clock)"
    )]
    Expired {
        /// Repository.
        fqrn: String,
        /// When it expired.
        expiry: jiff::Timestamp,
    },
    /// The manifest's certificate is not on the whitelist.
    #[error("certificate {fingerprint} of {fqrn} is not on the repository's whitelist")]
    NotWhitelisted {
        /// Repository.
        fqrn: String,
        /// SHA-1 fingerprint of the certificate.
        fingerprint: String,
    },
    /// The blacklist forbids the certificate or the revision.
    #[error("{fqrn} is blacklisted: {reason}")]
    Blacklisted {
        /// Repository.
        fqrn: String,
        /// Fingerprint or revision rule.
        reason: String,
    },
    /// The server offers an older state than the one already seen.
    #[error(
        "{fqrn} was rolled back: the server offers {offered}, already seen {seen}; remove {breadcrumb} if this is intended"
    )]
    RolledBack {
        /// Repository.
        fqrn: String,
        /// Publication time offered, seconds since the epoch.
        offered: i64,
        /// Publication time seen, seconds since the epoch.
        seen: i64,
        /// File that remembers it.
        breadcrumb: PathBuf,
    },
    /// The manifest or whitelist belongs to another repository.
    #[error("{what} names the repository {found}, not {fqrn}; check the server URL")]
    WrongRepository {
        /// Repository wanted.
        fqrn: String,
        /// `manifest` or `whitelist`.
        what: &'static str,
        /// Repository named.
        found: String,
    },
    /// A master public key cannot be read, or there is none.
    #[error("public key {path}: {reason}")]
    PublicKey {
        /// File or directory.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
    },
    /// No such tag, date, path or node.
    #[error("{0} does not exist")]
    NotFound(String),
    /// A path that must be a directory is none.
    #[error("{0} is not a directory")]
    NotADirectory(String),
    /// A file is larger than the caller allows.
    #[error("{path} has {size} bytes, more than the {limit} allowed here")]
    TooLarge {
        /// File.
        path: String,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The configuration cannot work.
    #[error("configuration of {fqrn}: {reason}")]
    Config {
        /// Repository.
        fqrn: String,
        /// What to change.
        reason: String,
    },
    /// A file of this library's state cannot be read or written.
    #[error("{path}: {source}")]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The local cache failed.
    #[error("cache: {0}")]
    Cache(#[from] cache::Error),
}

fn describe(attempts: &[Attempt]) -> String {
    if attempts.is_empty() {
        return "no server is configured".to_owned();
    }
    let lines: Vec<_> = attempts.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

impl Error {
    /// True if the failure lies in reaching servers, so that older state may be used meanwhile.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// True if another server may have a consistent state (it may be in the middle of an update).
    pub(crate) fn is_verification(&self) -> bool {
        match self {
            Self::Malformed { .. }
            | Self::BadSignature { .. }
            | Self::Expired { .. }
            | Self::NotWhitelisted { .. }
            | Self::RolledBack { .. }
            | Self::WrongRepository { .. }
            | Self::Corrupt { .. } => true,
            Self::Unavailable { .. }
            | Self::Blacklisted { .. }
            | Self::PublicKey { .. }
            | Self::NotFound(_)
            | Self::NotADirectory(_)
            | Self::TooLarge { .. }
            | Self::Config { .. }
            | Self::State { .. }
            | Self::Cache(_) => false,
        }
    }

    pub(crate) fn corrupt(what: impl std::fmt::Display, reason: impl std::fmt::Display) -> Self {
        Self::Corrupt {
            what: what.to_string(),
            reason: reason.to_string(),
        }
    }
}
