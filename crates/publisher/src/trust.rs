//! The chain of trust, as clients follow it: master key → whitelist → certificate → manifest.

use cvmfs::{Certificate, ObjectRef, Signed, Suffix, Whitelist};

use crate::error::Error;
use crate::keys::Keys;
use crate::manifest::{Head, MAX_MANIFEST_BYTES, PUBLISHED};
use crate::storage::Storage;
use crate::stored;
use crate::whitelist::{MAX_WHITELIST_BYTES, WHITELIST};

const MAX_CERTIFICATE_BYTES: u64 = 256 << 10;

/// The manifest, if all signatures hold. `now` = when the whitelist must be valid, if that is asked.
pub(crate) fn verified_head(
    storage: &dyn Storage,
    keys: Option<&Keys>,
    now: Option<jiff::Timestamp>,
) -> Result<Head, Error> {
    let (signed, head) = manifest(storage)?;
    let refused = |what, reason: String| Error::Untrusted {
        fqrn: head.fqrn.clone(),
        what,
        reason,
    };
    if let Some(keys) = keys.filter(|keys| keys.fqrn() != head.fqrn) {
        let reason = format!("the keys are those of {}", keys.fqrn());
        return Err(refused("manifest", reason));
    }
    let certificate = certificate(storage, &head)?;
    signed
        .verify_manifest(certificate.key())
        .map_err(|reason| refused("manifest", reason))?;
    let whitelist = whitelist(storage, keys, &head.fqrn)?;
    if !certificate.is_listed(&whitelist.fingerprints) {
        return Err(refused(
            "certificate",
            "it is not on the whitelist".to_owned(),
        ));
    }
    if now.is_some_and(|now| whitelist.is_expired(now)) {
        return Err(Error::Expired {
            fqrn: head.fqrn,
            expiry: whitelist.expiry,
        });
    }
    Ok(head)
}

/// The certificate that the manifest names.
pub(crate) fn certificate(storage: &dyn Storage, head: &Head) -> Result<Certificate, Error> {
    let object = ObjectRef::zlib(head.certificate, Suffix::Certificate);
    let pem = stored::read(storage, &object, MAX_CERTIFICATE_BYTES)?;
    Certificate::from_pem(&pem).map_err(|reason| Error::Untrusted {
        fqrn: head.fqrn.clone(),
        what: "certificate",
        reason,
    })
}

/// What the manifest says, unverified.
pub(crate) fn stated_head(storage: &dyn Storage) -> Result<Head, Error> {
    manifest(storage).map(|(_, head)| head)
}

fn manifest(storage: &dyn Storage) -> Result<(Signed, Head), Error> {
    let bytes = storage
        .read(PUBLISHED, MAX_MANIFEST_BYTES)?
        .ok_or_else(|| Error::NoRepository {
            location: storage.location(),
        })?;
    let signed = Signed::parse(&bytes).map_err(|error| Error::corrupt(PUBLISHED, error))?;
    let head = Head::parse(&signed.body).map_err(|error| Error::corrupt(PUBLISHED, error))?;
    Ok((signed, head))
}

/// The whitelist, its signature verified if there are keys to do so.
pub(crate) fn whitelist(
    storage: &dyn Storage,
    keys: Option<&Keys>,
    fqrn: &str,
) -> Result<Whitelist, Error> {
    let bytes = storage
        .read(WHITELIST, MAX_WHITELIST_BYTES)?
        .ok_or_else(|| Error::Missing {
            what: WHITELIST.to_owned(),
            location: storage.location(),
        })?;
    let signed = Signed::parse(&bytes).map_err(|error| Error::corrupt(WHITELIST, error))?;
    let whitelist =
        Whitelist::parse(&signed.body).map_err(|error| Error::corrupt(WHITELIST, error))?;
    let refused = |reason: String| Error::Untrusted {
        fqrn: fqrn.to_owned(),
        what: "whitelist",
        reason,
    };
    if whitelist.repository != fqrn {
        return Err(refused(format!("it is for {}", whitelist.repository)));
    }
    if let Some(keys) = keys {
        signed
            .verify_whitelist(std::slice::from_ref(keys.public()))
            .map_err(refused)?;
    }
    Ok(whitelist)
}
