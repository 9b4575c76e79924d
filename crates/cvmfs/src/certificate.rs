//! The X.509 certificate that signs manifests. Its validity dates are not looked at: authority comes from the whitelist alone.

use rsa::PublicKey;
use rsa::pkcs8::DecodePublicKey;
use x509_cert::der::{DecodePem, Encode};

use crate::hash::Algorithm;

/// Larger certificate objects are refused.
pub(crate) const MAX_CERTIFICATE_BYTES: u64 = 256 << 10;

/// A certificate's key and encoding.
#[derive(Clone, Debug)]
pub struct Certificate {
    der: Vec<u8>,
    key: PublicKey,
}

impl Certificate {
    /// Reads a PEM certificate with an RSA key.
    ///
    /// # Errors
    /// A description of what is wrong.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let certificate =
            x509_cert::Certificate::from_pem(pem).map_err(|error| error.to_string())?;
        let der = certificate.to_der().map_err(|error| error.to_string())?;
        let spki = certificate
            .tbs_certificate()
            .subject_public_key_info()
            .to_der()
            .map_err(|error| error.to_string())?;
        let key = PublicKey::from_public_key_der(&spki)
            .map_err(|error| format!("it holds no RSA key: {error}"))?;
        Ok(Self { der, key })
    }

    /// The key that verifies manifests.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The fingerprint as whitelists print it.
    pub fn fingerprint(&self, algorithm: Algorithm) -> String {
        fingerprint(&self.der, algorithm)
    }

    /// True if one of the printed fingerprints, of whichever algorithm, is this certificate's.
    pub fn is_listed(&self, fingerprints: &[String]) -> bool {
        [Algorithm::Sha1, Algorithm::Ripemd160, Algorithm::Shake128]
            .into_iter()
            .map(|algorithm| self.fingerprint(algorithm))
            .any(|own| fingerprints.contains(&own))
    }
}

/// Upper-case hex bytes joined by colons, with `-RMD160` or `-SHAKE128` behind.
pub fn fingerprint(der: &[u8], algorithm: Algorithm) -> String {
    let hash = algorithm.digest(der);
    let bytes: Vec<_> = hash
        .digest
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    format!("{}{}", bytes.join(":"), algorithm.tail().to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_fingerprints() {
        assert_eq!(
            fingerprint(b"", Algorithm::Sha1),
            "DA:39:A3:EE:5E:6B:4B:0D:32:55:BF:EF:95:60:18:90:AF:D8:07:09"
        );
        assert!(fingerprint(b"", Algorithm::Ripemd160).ends_with(":8D:31-RMD160"));
        assert!(fingerprint(b"", Algorithm::Shake128).ends_with(":80:93-SHAKE128"));
    }

    #[test]
    fn no_certificate() {
        assert!(Certificate::from_pem(b"").is_err());
        assert!(
            Certificate::from_pem(
                b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
            )
            .is_err()
        );
    }
}
