//! The frame shared by `.cvmfspublished` and `.cvmfswhitelist`, and their two signature schemes.
//!
//! ```text
//! body lines, each ending \n
//! --\n
//! printed hash of the body\n
//! binary signature, to the end
//! ```
//! Signed is the *text* of the hash. The manifest's signature is RSA PKCS#1 v1.5 with SHA-1 over that text; the whitelist's is the same
//! padding around the text itself, without digest information.

use rsa::PublicKey;
use rsa::pkcs1v15::Pkcs1v15Sign;
use rsa::traits::PublicKeyParts;
use sha1::Digest as _;

use crate::hash::ContentHash;

/// Larger files are refused: a signed whitelist with thousands of fingerprints fits many times.
pub(crate) const MAX_SIGNED_BYTES: u64 = 1 << 20;

/// A signed text, taken apart; nothing is verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The signed lines, including the last newline.
    pub body: String,
    /// The hash text as it stands in the file.
    pub hash_text: String,
    /// The binary signature.
    pub signature: Vec<u8>,
}

/// Why a signed file is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No line `--`.
    #[error("there is no signature")]
    Unsigned,
    /// The body is no UTF-8 text.
    #[error("the signed part is no text")]
    NoText,
    /// No line with a hash behind `--`.
    #[error("there is no hash before the signature")]
    NoHash,
}

impl Signed {
    /// Takes a file apart.
    ///
    /// # Errors
    /// [`FrameError`] if a part is missing.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        const SEPARATOR: &[u8] = b"\n--\n";
        let at = bytes
            .windows(SEPARATOR.len())
            .position(|window| window == SEPARATOR)
            .ok_or(FrameError::Unsigned)?;
        let body = std::str::from_utf8(&bytes[..=at]).map_err(|_| FrameError::NoText)?;
        let rest = &bytes[at + SEPARATOR.len()..];
        let end = rest
            .iter()
            .take(100)
            .position(|byte| *byte == b'\n')
            .ok_or(FrameError::NoHash)?;
        let hash_text = std::str::from_utf8(&rest[..end]).map_err(|_| FrameError::NoHash)?;
        Ok(Self {
            body: body.to_owned(),
            hash_text: hash_text.to_owned(),
            signature: rest[end + 1..].to_vec(),
        })
    }

    /// Compares the body with its printed hash.
    pub(crate) fn check_body(&self) -> Result<(), String> {
        let printed = ContentHash::parse(&self.hash_text).map_err(|error| error.to_string())?;
        let computed = printed.algorithm.digest(self.body.as_bytes());
        if computed == printed {
            Ok(())
        } else {
            Err(format!("its text has the hash {computed}, not {printed}"))
        }
    }

    /// Verifies a manifest's signature with the key of its certificate.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify_manifest(&self, key: &PublicKey) -> Result<(), String> {
        self.check_body()?;
        let digest = sha1::Sha1::digest(self.hash_text.as_bytes());
        key.verify(Pkcs1v15Sign::new::<sha1::Sha1>(), &digest, &self.signature)
            .map_err(|_| "it was not made with the certificate's key".to_owned())
    }

    /// Verifies a whitelist's signature with any of the master keys.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify_whitelist(&self, keys: &[PublicKey]) -> Result<(), String> {
        self.check_body()?;
        // Type-1 padding takes 11 bytes: a shorter modulus cannot have signed this text.
        let fits = |key: &&PublicKey| key.size() >= self.hash_text.len() + 11;
        let verified = keys.iter().filter(fits).any(|key| {
            key.verify(
                Pkcs1v15Sign::new_unprefixed(),
                self.hash_text.as_bytes(),
                &self.signature,
            )
            .is_ok()
        });
        if verified {
            Ok(())
        } else {
            Err(format!("none of the {} public keys made it", keys.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        let parsed = Signed::parse(b"Ca\nSb\n--\nabc\n\x00\n--\nx").unwrap();
        assert_eq!(parsed.body, "Ca\nSb\n");
        assert_eq!(parsed.hash_text, "abc");
        assert_eq!(parsed.signature, b"\x00\n--\nx");
        assert_eq!(Signed::parse(b""), Err(FrameError::Unsigned));
        assert_eq!(Signed::parse(b"--\nabc\n"), Err(FrameError::Unsigned));
        assert_eq!(Signed::parse(b"a\n--\nabc"), Err(FrameError::NoHash));
        assert_eq!(Signed::parse(b"\xff\n--\nabc\n"), Err(FrameError::NoText));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            if let Ok(signed) = Signed::parse(&bytes) {
                let _ = signed.check_body();
            }
        }
    }
}
