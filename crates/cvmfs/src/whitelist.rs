//! `.cvmfswhitelist`: which certificates may sign a repository's manifest, until when.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The lines of a whitelist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whitelist {
    /// When it expires (UTC).
    pub expiry: jiff::Timestamp,
    /// Repository that it is for.
    pub repository: String,
    /// Fingerprints of certificates, upper case, as printed.
    pub fingerprints: Vec<String>,
}

/// Why a whitelist cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhitelistError {
    /// A line is absent or malformed.
    #[error("its {0} is missing or malformed")]
    Bad(&'static str),
    /// A variant that is not supported: PKCS#7, or verification against certificate authorities.
    #[error("it demands {0}, which is not supported")]
    Unsupported(String),
}

impl Whitelist {
    /// Reads the signed lines.
    ///
    /// # Errors
    /// [`WhitelistError`] if a line is missing or malformed, or demands what is not supported.
    pub fn parse(body: &str) -> Result<Self, WhitelistError> {
        let mut lines = body.lines();
        let created = lines.next().unwrap_or_default();
        time(created).ok_or(WhitelistError::Bad("creation time"))?;
        let expiry = lines
            .next()
            .and_then(|line| time(line.strip_prefix('E')?))
            .ok_or(WhitelistError::Bad("expiry time"))?;
        let repository = lines
            .next()
            .and_then(|line| line.strip_prefix('N'))
            .ok_or(WhitelistError::Bad("repository name"))?;
        let mut fingerprints = Vec::new();
        for line in lines {
            if line.starts_with(['V', 'W']) {
                return Err(WhitelistError::Unsupported(line.chars().take(40).collect()));
            }
            fingerprints.extend(fingerprint(line));
        }
        Ok(Self {
            expiry,
            repository: repository.to_owned(),
            fingerprints,
        })
    }

    /// True from the hour of expiry on: CVMFS compares whole hours, UTC.
    pub fn is_expired(&self, now: jiff::Timestamp) -> bool {
        const HOUR: i64 = 3600;
        now.as_second().div_euclid(HOUR) >= self.expiry.as_second().div_euclid(HOUR)
    }
}

/// A line's fingerprint; what follows the first blank or `#` is a remark.
pub(crate) fn fingerprint(line: &str) -> Option<String> {
    let text = line.split([' ', '\t', '#']).next().unwrap_or_default();
    (!text.is_empty()).then(|| text.to_ascii_uppercase())
}

fn time(digits: &str) -> Option<jiff::Timestamp> {
    if digits.len() != 14 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let field = |from: usize, to: usize| digits[from..to].parse::<i8>().ok();
    let year = digits[..4].parse().ok()?;
    let date_time = DateTime::new(
        year,
        field(4, 6)?,
        field(6, 8)?,
        field(8, 10)?,
        field(10, 12)?,
        field(12, 14)?,
        0,
    )
    .ok()?;
    TimeZone::UTC.to_timestamp(date_time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whitelist() -> Whitelist {
        Whitelist::parse(
            "20240102030405\nE20240201030405\nNa.b\nAB:cd # me\n# remark\n\nEF:01-RMD160\n",
        )
        .unwrap()
    }

    #[test]
    fn lines() {
        let whitelist = whitelist();
        assert_eq!(whitelist.expiry.to_string(), "2024-02-01T03:04:05Z");
        assert_eq!(whitelist.repository, "a.b");
        assert_eq!(whitelist.fingerprints, ["AB:CD", "EF:01-RMD160"]);
        for bad in [
            "",
            "20240102030405\n",
            "2024010203040\nE20240201030405\nNa\n",
            "20240102030405\nE20241301030405\nNa\n",
            "20240102030405\n20240201030405\nNa\n",
            "20240102030405\nE20240201030405\na\n",
            "20240102030405\nE20240201030405\nNa\nVpkcs7\n",
            "20240102030405\nE2024020103040ü\nNa\n",
        ] {
            assert!(Whitelist::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn expiry_counts_whole_hours() {
        for (now, expired) in [
            ("2024-02-01T02:59:59Z", false),
            ("2024-02-01T03:00:00Z", true),
            ("2024-02-01T04:00:00Z", true),
            ("2024-01-31T23:00:00Z", false),
        ] {
            assert_eq!(
                whitelist().is_expired(now.parse().unwrap()),
                expired,
                "{now}"
            );
        }
    }
}
