//! The chain of trust: master key → whitelist → certificate → manifest.

use std::path::PathBuf;

use crate::blacklist::Blacklist;
use crate::breadcrumb::Breadcrumb;
use crate::certificate::{Certificate, MAX_CERTIFICATE_BYTES};
use crate::error::Error;
use crate::hash::{Algorithm, ContentHash};
use crate::keys::MasterKeys;
use crate::manifest::Manifest;
use crate::object::{ObjectRef, Suffix};
use crate::objects::Objects;
use crate::signature::{MAX_SIGNED_BYTES, Signed};
use crate::whitelist::Whitelist;

/// Verifies what servers say about one repository.
pub(crate) struct Trust {
    pub(crate) fqrn: String,
    pub(crate) keys: MasterKeys,
    pub(crate) breadcrumb: PathBuf,
}

/// The state that is known already.
#[derive(Clone, Copy, Default)]
pub(crate) struct Known {
    /// Publication; older manifests are refused. 0 = nothing is known.
    pub(crate) timestamp: i64,
    /// Revision that is shown, with its root catalog.
    pub(crate) shown: Option<(u64, ContentHash)>,
}

/// What asking the servers came to.
pub(crate) enum Asked {
    /// A verified manifest, newer than what is known.
    Newer(Manifest),
    /// Nothing newer.
    UpToDate,
    /// No manifest can be fetched.
    Offline(Error),
}

impl Trust {
    /// Fetches and verifies the manifest. If it does not verify, the next server is asked, once: the first may be in the middle of an update.
    pub(crate) fn ask(
        &self,
        objects: &Objects,
        blacklist: &Blacklist,
        known: Known,
        now: jiff::Timestamp,
    ) -> Result<Asked, Error> {
        let first = self.ask_once(objects, blacklist, known, now, false);
        match first {
            Err(error) if error.is_verification() && objects.servers().host_count() > 1 => {
                tracing::warn!(fqrn = self.fqrn, %error, "asking another server");
                objects.servers().switch_host();
                self.ask_once(objects, blacklist, known, now, true)
            }
            first => first,
        }
    }

    fn ask_once(
        &self,
        objects: &Objects,
        blacklist: &Blacklist,
        known: Known,
        now: jiff::Timestamp,
        past_caches: bool,
    ) -> Result<Asked, Error> {
        let bytes = match self.get(objects, ".cvmfspublished", past_caches) {
            Ok(bytes) => bytes,
            Err(error) if error.is_unavailable() => return Ok(Asked::Offline(error)),
            Err(error) => return Err(error),
        };
        let signed = Signed::parse(&bytes).map_err(|error| self.malformed("manifest", &error))?;
        let manifest =
            Manifest::parse(&signed.body).map_err(|error| self.malformed("manifest", &error))?;
        let name = manifest.repository.as_deref().unwrap_or_default();
        self.check_name("manifest", name)?;
        if manifest.timestamp < known.timestamp {
            return Err(Error::RolledBack {
                fqrn: self.fqrn.clone(),
                offered: manifest.timestamp,
                seen: known.timestamp,
                breadcrumb: self.breadcrumb.clone(),
            });
        }
        if let Some((revision, root)) = known.shown
            && (manifest.root_catalog == root || manifest.revision <= revision)
        {
            return Ok(Asked::UpToDate);
        }
        let certificate = self.certificate(objects, &manifest)?;
        signed
            .verify_manifest(certificate.key())
            .map_err(|reason| self.bad_signature("manifest", reason))?;
        let whitelist = self.whitelist(objects, now, past_caches)?;
        blacklist.check_certificate(&self.fqrn, &certificate)?;
        blacklist.check_revision(&self.fqrn, manifest.revision)?;
        if !certificate.is_listed(&whitelist.fingerprints) {
            return Err(Error::NotWhitelisted {
                fqrn: self.fqrn.clone(),
                fingerprint: certificate.fingerprint(Algorithm::Sha1),
            });
        }
        Ok(Asked::Newer(manifest))
    }

    fn get(&self, objects: &Objects, name: &str, past_caches: bool) -> Result<Vec<u8>, Error> {
        let mut download = objects
            .servers()
            .begin(name.to_owned(), None, MAX_SIGNED_BYTES);
        if past_caches {
            download = download.past_caches();
        }
        objects
            .servers()
            .get(download, &format!("{name} of {}", self.fqrn))
    }

    fn certificate(&self, objects: &Objects, manifest: &Manifest) -> Result<Certificate, Error> {
        let hash = manifest
            .certificate
            .ok_or_else(|| self.malformed("manifest", &"it names no certificate"))?;
        let object = ObjectRef::zlib(hash, Suffix::Certificate);
        let file = objects.fetch_public(
            &object,
            manifest.alternative_locations,
            MAX_CERTIFICATE_BYTES,
        )?;
        let pem = file.read_all().map_err(|source| Error::State {
            path: file.path(),
            source,
        })?;
        Certificate::from_pem(&pem).map_err(|reason| self.malformed("certificate", &reason))
    }

    fn whitelist(
        &self,
        objects: &Objects,
        now: jiff::Timestamp,
        past_caches: bool,
    ) -> Result<Whitelist, Error> {
        let bytes = self.get(objects, ".cvmfswhitelist", past_caches)?;
        let signed = Signed::parse(&bytes).map_err(|error| self.malformed("whitelist", &error))?;
        let whitelist =
            Whitelist::parse(&signed.body).map_err(|error| self.malformed("whitelist", &error))?;
        self.check_name("whitelist", &whitelist.repository)?;
        signed
            .verify_whitelist(self.keys.keys())
            .map_err(|reason| self.bad_signature("whitelist", reason))?;
        if whitelist.is_expired(now) {
            return Err(Error::Expired {
                fqrn: self.fqrn.clone(),
                expiry: whitelist.expiry,
            });
        }
        Ok(whitelist)
    }

    fn check_name(&self, what: &'static str, found: &str) -> Result<(), Error> {
        if found == self.fqrn {
            return Ok(());
        }
        Err(Error::WrongRepository {
            fqrn: self.fqrn.clone(),
            what,
            found: found.chars().take(255).collect(),
        })
    }

    fn malformed(&self, what: &'static str, reason: &dyn std::fmt::Display) -> Error {
        Error::Malformed {
            fqrn: self.fqrn.clone(),
            what,
            reason: reason.to_string(),
        }
    }

    fn bad_signature(&self, what: &'static str, reason: String) -> Error {
        Error::BadSignature {
            fqrn: self.fqrn.clone(),
            what,
            reason,
        }
    }

    /// The remembered state, if there is one.
    pub(crate) fn remembered(&self) -> Result<Option<Breadcrumb>, Error> {
        Breadcrumb::load(&self.breadcrumb)
    }
}
