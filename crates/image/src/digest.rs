use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

const PREFIX: &str = "sha256:";
const BYTES: usize = 32;

/// The SHA-256 of some bytes, written `sha256:<64 lower-case hex digits>`.
///
/// The only algorithm that registries, containerd and DUCC use in practice; others are refused when parsed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; BYTES]);

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The text does not begin with `sha256:`.
    #[error("digest {0:?} has another algorithm than sha256")]
    Algorithm(String),
    /// What follows the algorithm is not 64 lower-case hex digits.
    #[error("digest {0:?} is not 64 lower-case hex digits after the colon")]
    Hex(String),
}

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Wraps a SHA-256 that was computed elsewhere, for instance while bytes streamed by.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; BYTES]) -> Self {
        Self(bytes)
    }

    /// From 64 lower-case hex digits without the algorithm, as directory names in a repository have it.
    ///
    /// # Errors
    /// [`DigestError::Hex`] if `hex` is anything else.
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        parse_hex(hex.as_bytes())
            .map(Self)
            .ok_or_else(|| DigestError::Hex(shortened(hex)))
    }

    /// The 32 raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; BYTES] {
        &self.0
    }

    /// The 64 hex digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        self.to_string().split_off(PREFIX.len())
    }

    /// Whether this is the digest of `bytes`.
    #[must_use]
    pub fn verify(&self, bytes: &[u8]) -> bool {
        *self == Self::of(bytes)
    }
}

fn parse_hex(text: &[u8]) -> Option<[u8; BYTES]> {
    if text.len() != 2 * BYTES {
        return None;
    }
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

/// Lower case only: the text is a name, and a name has one spelling.
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Foreign text in error messages is cut, so that a log line stays one.
fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text
            .strip_prefix(PREFIX)
            .ok_or_else(|| DigestError::Algorithm(shortened(text)))?;
        Self::from_hex(hex)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(PREFIX)?;
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OF_NOTHING: &str =
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_of_nothing_is_the_published_one() {
        assert_eq!(Digest::of(b"").to_string(), OF_NOTHING);
        assert!(OF_NOTHING.parse::<Digest>().unwrap().verify(b""));
        assert!(!OF_NOTHING.parse::<Digest>().unwrap().verify(b"x"));
    }

    #[test]
    fn other_spellings_are_refused() {
        let hex = &OF_NOTHING[PREFIX.len()..];
        for (text, algorithm) in [
            (hex.to_owned(), true),
            (format!("sha512:{hex}"), true),
            (format!("SHA256:{hex}"), true),
            (OF_NOTHING.to_uppercase().replace("SHA256", "sha256"), false),
            (OF_NOTHING[..OF_NOTHING.len() - 1].to_owned(), false),
            (format!("{OF_NOTHING}0"), false),
            (format!("{OF_NOTHING}\n"), false),
            (OF_NOTHING.replace('e', "g"), false),
            (format!("sha256:{}", "é".repeat(32)), false),
            (PREFIX.to_owned(), false),
            (String::new(), true),
        ] {
            let error = text.parse::<Digest>().unwrap_err();
            assert_eq!(
                matches!(error, DigestError::Algorithm(_)),
                algorithm,
                "{text}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn text_and_json_come_back(bytes in any::<[u8; BYTES]>()) {
            let digest = Digest::from_bytes(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
            prop_assert_eq!(Digest::from_hex(&digest.hex()).unwrap(), digest);
            let json = serde_json::to_string(&digest).unwrap();
            prop_assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        }

        #[test]
        fn only_the_canonical_text_parses(text in "(sha256:)?[0-9a-gA-F]{62,66}") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }
    }
}
