//! The self-signed certificate that `cvmfs_server mkfs` makes: X.509 version 1, 365 days, SHA-256 with RSA.

use std::str::FromStr as _;
use std::time::Duration;

use rsa::PrivateKey;
use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::LineEnding;
use rsa::sha2::Sha256;
use x509_cert::TbsCertificate;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder as _, CertificateBuilder};
use x509_cert::der::asn1::UtcTime;
use x509_cert::der::{DateTime, EncodePem as _};
use x509_cert::ext::Extension;
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};
use x509_cert::time::{Time, Validity};

use crate::error::Error;

const VALIDITY: Duration = Duration::from_secs(365 * 86_400);
/// A common name has at most 64 characters, which the rest of it needs.
const MAX_NAME_IN_SUBJECT: usize = 30;

/// Subject and issuer are the same; no extensions.
struct SelfSigned {
    subject: Name,
}

impl BuilderProfile for SelfSigned {
    fn get_issuer(&self, subject: &Name) -> Name {
        subject.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _: SubjectPublicKeyInfoRef<'_>,
        _: SubjectPublicKeyInfoRef<'_>,
        _: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        Ok(Vec::new())
    }
}

/// A certificate for `key`, PEM. `serial` are random bytes.
pub(crate) fn self_signed(
    fqrn: &str,
    key: &PrivateKey,
    serial: [u8; 16],
    now: jiff::Timestamp,
) -> Result<String, Error> {
    let refused = |error: &dyn std::fmt::Display| Error::Sign(error.to_string());
    let name: String = fqrn.chars().take(MAX_NAME_IN_SUBJECT).collect();
    let subject = Name::from_str(&format!("CN={name} CernVM-FS Release Managers"))
        .map_err(|error| refused(&error))?;
    let start = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0));
    let time = |at: Duration| -> Result<Time, Error> {
        let date = DateTime::from_unix_duration(at).map_err(|error| refused(&error))?;
        let time = UtcTime::from_date_time(date).map_err(|error| refused(&error))?;
        Ok(time.into())
    };
    let validity = Validity::new(time(start)?, time(start + VALIDITY)?);
    // A serial number is positive: a set highest bit would need one byte more.
    let mut serial = serial;
    serial[0] = serial[0] & 0x7f | 0x40;
    let serial = SerialNumber::new(&serial).map_err(|error| refused(&error))?;
    let public = SubjectPublicKeyInfoOwned::from_key(&key.to_public_key())
        .map_err(|error| refused(&error))?;
    let signer = SigningKey::<Sha256>::new(key.clone());
    CertificateBuilder::new(SelfSigned { subject }, serial, validity, public)
        .and_then(|builder| builder.build(&signer))
        .map_err(|error| refused(&error))?
        .to_pem(LineEnding::LF)
        .map_err(|error| refused(&error))
}
