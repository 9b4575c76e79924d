//! Content hashes: the names of objects, and what their stored bytes are checked against.
//!
//! Printed forms (CVMFS `shash`): 40 hex digits for SHA-1, the same with `-rmd160` for RIPEMD-160 and with
//! `-shake128` for SHAKE-128 cut to 160 bits. Case is lower; upper-case digits are read too.

use std::fmt;

use shake::digest::{ExtendableOutput, XofReader};

/// Bytes of every content digest, whatever the algorithm.
pub const DIGEST_BYTES: usize = 20;

/// The algorithms that name content. The numbers are those of catalogs and databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-1; printed without a suffix.
    Sha1 = 1,
    /// RIPEMD-160; printed with `-rmd160`.
    Ripemd160 = 2,
    /// SHAKE-128 with 160 bits of output; printed with `-shake128`.
    Shake128 = 3,
}

impl Algorithm {
    /// The text that follows the hex digits.
    pub fn tail(self) -> &'static str {
        match self {
            Self::Sha1 => "",
            Self::Ripemd160 => "-rmd160",
            Self::Shake128 => "-shake128",
        }
    }

    /// The algorithm of a number stored in catalogs, references and databases.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Sha1),
            2 => Some(Self::Ripemd160),
            3 => Some(Self::Shake128),
            _ => None,
        }
    }

    /// Digest of one buffer.
    pub fn digest(self, bytes: &[u8]) -> ContentHash {
        let mut hasher = Hasher::new(self);
        hasher.update(bytes);
        hasher.finish()
    }
}

/// Why a text is no content hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a content hash (40 hex digits, then nothing, -rmd160 or -shake128)")]
pub struct HashError {
    text: String,
}

/// The hash of an object's stored (usually compressed) bytes: its name in the repository.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash {
    /// How the digest was computed.
    pub algorithm: Algorithm,
    /// The digest itself.
    pub digest: [u8; DIGEST_BYTES],
}

impl ContentHash {
    /// Reads the printed form.
    ///
    /// # Errors
    /// [`HashError`] on anything but digits of the right number and a known tail.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        let refused = || HashError {
            text: text.chars().take(80).collect(),
        };
        let (digits, tail) = text
            .as_bytes()
            .split_at_checked(2 * DIGEST_BYTES)
            .ok_or_else(refused)?;
        let algorithm = [Algorithm::Sha1, Algorithm::Ripemd160, Algorithm::Shake128]
            .into_iter()
            .find(|algorithm| algorithm.tail().as_bytes() == tail)
            .ok_or_else(refused)?;
        let mut digest = [0; DIGEST_BYTES];
        for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
            let high = hex_value(pair[0]).ok_or_else(refused)?;
            let low = hex_value(pair[1]).ok_or_else(refused)?;
            *byte = high << 4 | low;
        }
        Ok(Self { algorithm, digest })
    }

    /// The digest as hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(2 * DIGEST_BYTES);
        for byte in self.digest {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        text
    }

    /// True for a digest of nothing but zeros, which catalogs use for "none".
    pub fn is_null(&self) -> bool {
        self.digest == [0; DIGEST_BYTES]
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.hex(), self.algorithm.tail())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for ContentHash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        Self::parse(text)
    }
}

/// A running digest over stored bytes.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha1(sha1::Sha1),
    Ripemd160(ripemd::Ripemd160),
    Shake128(Box<shake::Shake128>),
}

impl Hasher {
    /// A digest of nothing so far.
    pub fn new(algorithm: Algorithm) -> Self {
        use sha1::Digest as _;
        Self(match algorithm {
            Algorithm::Sha1 => State::Sha1(sha1::Sha1::new()),
            Algorithm::Ripemd160 => State::Ripemd160(ripemd::Ripemd160::new()),
            Algorithm::Shake128 => State::Shake128(Box::default()),
        })
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        use shake::digest::Update as _;
        match &mut self.0 {
            State::Sha1(state) => state.update(bytes),
            State::Ripemd160(state) => state.update(bytes),
            State::Shake128(state) => state.update(bytes),
        }
    }

    /// The hash of all bytes added.
    pub fn finish(self) -> ContentHash {
        use sha1::Digest as _;
        let mut digest = [0; DIGEST_BYTES];
        let algorithm = match self.0 {
            State::Sha1(state) => {
                digest.copy_from_slice(&state.finalize());
                Algorithm::Sha1
            }
            State::Ripemd160(state) => {
                digest.copy_from_slice(&state.finalize());
                Algorithm::Ripemd160
            }
            State::Shake128(state) => {
                state.finalize_xof().read(&mut digest);
                Algorithm::Shake128
            }
        };
        ContentHash { algorithm, digest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digests_of_the_empty_string() {
        for (algorithm, text) in [
            (Algorithm::Sha1, "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
            (
                Algorithm::Ripemd160,
                "9c1185a5c5e9fc54612808977ee8f548b2258d31-rmd160",
            ),
            (
                Algorithm::Shake128,
                "7f9c2ba4e88f827d616045507605853ed73b8093-shake128",
            ),
        ] {
            assert_eq!(algorithm.digest(b"").to_string(), text);
            assert_eq!(ContentHash::parse(text).unwrap(), algorithm.digest(b""));
        }
    }

    #[test]
    fn pieces_hash_like_the_whole() {
        for number in 1..=3 {
            let algorithm = Algorithm::from_number(number).unwrap();
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"ab");
            hasher.update(b"c");
            assert_eq!(hasher.finish(), algorithm.digest(b"abc"));
        }
    }

    #[test]
    fn texts_that_are_no_hashes() {
        let good = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
        for bad in [
            "",
            &good[..39],
            &format!("{good}0"),
            &format!("{good}C"),
            &format!("{good}-md5"),
            &good.replace('d', "g"),
            "d41d8cd98f00b204e9800998ecf8427e",
            "ünnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
        ] {
            assert!(ContentHash::parse(bad).is_err(), "{bad}");
        }
        assert!(ContentHash::parse(&good.to_uppercase()).is_ok());
    }
}
