//! Why one request failed, and whose fault it is.

use std::fmt;

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
    #[error("status {code}{}", if *.by_proxy { " (made by the proxy)" } else { "" })]
    Status {
        /// HTTP status code.
        code: u16,
        /// The answer says that a proxy made it.
        by_proxy: bool,
    },
    /// The bytes are not what they should be.
    #[error("bad data: {0}")]
    Data(String),
    /// More bytes than there can be.
    #[error("more than {0} bytes")]
    TooLarge(u64),
}

/// Who is left out after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    Proxy,
    Host,
}

impl Failure {
    /// CVMFS's table of blame.
    pub(crate) fn blame(&self, via_proxy: bool) -> Blame {
        let at_fault = match self {
            Self::Connect(_) | Self::Timeout(_) | Self::Transfer(_) => via_proxy,
            Self::Data(_) | Self::TooLarge(_) => false,
            Self::Status { code, by_proxy } => match code {
                400 | 404 | 500..=599 => *by_proxy && via_proxy,
                301 | 302 | 303 | 307 | 429 => false,
                _ => via_proxy,
            },
        };
        if at_fault { Blame::Proxy } else { Blame::Host }
    }

    /// Failures in transfer may vanish when the same URL is asked again.
    pub(crate) fn is_transfer(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Timeout(_) | Self::Transfer(_) => true,
            Self::Status { code, .. } => *code == 429,
            Self::Data(_) | Self::TooLarge(_) => false,
        }
    }

    /// Bytes that a broken proxy cache may have spoiled.
    pub(crate) fn is_bad_data(&self) -> bool {
        matches!(self, Self::Data(_) | Self::TooLarge(_))
    }
}

/// One request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What was asked for.
    pub url: String,
    /// The proxy that was asked; `None` = the server itself.
    pub proxy: Option<String>,
    /// Why it failed.
    pub failure: Failure,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url)?;
        if let Some(proxy) = &self.proxy {
            write!(f, " through {proxy}")?;
        }
        write!(f, ": {}", self.failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_blame() {
        let status = |code, by_proxy| Failure::Status { code, by_proxy };
        for (failure, via_proxy, expected) in [
            (Failure::Connect(String::new()), true, Blame::Proxy),
            (Failure::Connect(String::new()), false, Blame::Host),
            (Failure::Timeout(""), true, Blame::Proxy),
            (Failure::Transfer(String::new()), false, Blame::Host),
            (Failure::Data(String::new()), true, Blame::Host),
            (status(404, false), true, Blame::Host),
            (status(503, true), true, Blame::Proxy),
            (status(503, true), false, Blame::Host),
            (status(403, false), true, Blame::Proxy),
            (status(407, false), true, Blame::Proxy),
            (status(403, false), false, Blame::Host),
            (status(302, false), true, Blame::Host),
            (status(429, true), true, Blame::Host),
        ] {
            assert_eq!(failure.blame(via_proxy), expected, "{failure}");
        }
        assert!(status(429, false).is_transfer());
        assert!(!status(404, false).is_transfer());
    }
}
