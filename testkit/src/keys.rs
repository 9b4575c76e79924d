use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use rsa::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _, LineEnding};
use rsa::{Pkcs1v15Sign, PrivateKey};
use sha1::Sha1;
use x509_cert::der::Document;

use crate::fixture::fixture_file;
use crate::objects::Algorithm;

/// What a publisher signs with: master key, and certificate with its key.
#[derive(Clone, Debug)]
pub struct Keys {
    master: PrivateKey,
    key: PrivateKey,
    /// PEM
    certificate: String,
}

impl Keys {
    /// The fixture's keys: nothing is generated, so tests start at once.
    #[must_use]
    pub fn fixture() -> Self {
        static KEYS: OnceLock<Keys> = OnceLock::new();
        let read = || -> Result<Self> {
            let text = |end: &str| Ok::<_, anyhow::Error>(String::from_utf8(fixture_file(end)?)?);
            Ok(Self {
                master: PrivateKey::from_pkcs8_pem(&text(".masterkey")?)?,
                key: PrivateKey::from_pkcs8_pem(&text(".test.local.key")?)?,
                certificate: text(".test.local.crt")?,
            })
        };
        KEYS.get_or_init(|| read().expect("the fixture's keys are sound"))
            .clone()
    }

    /// The same certificate, but whitelists are signed by a master key that nobody was told to trust.
    #[must_use]
    pub fn untrusted_master() -> Self {
        let keys = Self::fixture();
        Self {
            master: keys.key.clone(),
            ..keys
        }
    }

    /// The master's public key, PEM.
    ///
    /// # Errors
    /// If it cannot be encoded.
    pub fn public_key(&self) -> Result<String> {
        Ok(self
            .master
            .to_public_key()
            .to_public_key_pem(LineEnding::LF)?)
    }

    /// The certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// SHA-1 of the certificate's DER, as whitelists print it.
    ///
    /// # Errors
    /// If the certificate is not PEM.
    pub fn fingerprint(&self) -> Result<String> {
        let (_, der) = Document::from_pem(&self.certificate)
            .map_err(|error| anyhow::anyhow!("certificate: {error}"))?;
        let digest = Algorithm::Sha1.hash(der.as_bytes());
        Ok(digest
            .digest
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect::<Vec<_>>()
            .join(":"))
    }

    /// A whole `.cvmfspublished` of these lines: PKCS#1 v1.5 over the SHA-1 of the printed hash.
    ///
    /// # Errors
    /// If the key cannot sign.
    pub fn sign_manifest(&self, body: &[u8]) -> Result<Vec<u8>> {
        framed(body, |text| self.key.pkcs1v15_sign::<Sha1>(text))
    }

    /// A whole `.cvmfswhitelist` of these lines: PKCS#1 v1.5 type 1 padding of the printed hash itself.
    ///
    /// # Errors
    /// If the key cannot sign.
    pub fn sign_whitelist(&self, body: &[u8]) -> Result<Vec<u8>> {
        framed(body, |text| {
            self.master.sign(Pkcs1v15Sign::new_unprefixed(), text)
        })
    }
}

fn framed(body: &[u8], sign: impl FnOnce(&[u8]) -> rsa::Result<Vec<u8>>) -> Result<Vec<u8>> {
    let hash = Algorithm::Sha1.hash(body).to_string();
    let signature = sign(hash.as_bytes()).context("cannot sign")?;
    Ok([body, b"--\n", hash.as_bytes(), b"\n", &signature].concat())
}
