//! Blacklists: certificates that must not be trusted and revisions that must not be shown, whatever a whitelist says.

use std::path::PathBuf;

use crate::certificate::Certificate;
use crate::error::Error;
use crate::hash::Algorithm;
use crate::whitelist;

/// The rules of all blacklist files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blacklist {
    fingerprints: Vec<String>,
    /// (repository, lowest revision that may be shown)
    revisions: Vec<(String, u64)>,
}

impl Blacklist {
    /// Reads files; absent ones are empty.
    ///
    /// # Errors
    /// [`Error::State`] if a file is there and cannot be read: a rule must not be lost silently.
    pub fn load(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut blacklist = Self::default();
        for path in paths {
            match std::fs::read_to_string(path) {
                Ok(text) => blacklist.add(&text),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(Error::State {
                        path: path.clone(),
                        source,
                    });
                }
            }
        }
        Ok(blacklist)
    }

    /// Adds rules: `<fqrn N` forbids revisions below N, other lines are fingerprints; `#` begins a remark.
    pub fn add(&mut self, text: &str) {
        for line in text.lines() {
            if let Some(rule) = line.trim_start().strip_prefix('<') {
                let mut words = rule.split_whitespace();
                let revision = |word: &str| word.parse().ok();
                if let (Some(fqrn), Some(lowest)) = (words.next(), words.next().and_then(revision))
                {
                    self.revisions.push((fqrn.to_owned(), lowest));
                }
            } else {
                self.fingerprints
                    .extend(whitelist::fingerprint(line.trim_start()));
            }
        }
    }

    /// Refuses a listed certificate.
    pub(crate) fn check_certificate(
        &self,
        fqrn: &str,
        certificate: &Certificate,
    ) -> Result<(), Error> {
        if certificate.is_listed(&self.fingerprints) {
            return Err(Error::Blacklisted {
                fqrn: fqrn.to_owned(),
                reason: format!(
                    "certificate {} must not be trusted",
                    certificate.fingerprint(Algorithm::Sha1)
                ),
            });
        }
        Ok(())
    }

    /// Refuses a revision below the lowest allowed one.
    pub(crate) fn check_revision(&self, fqrn: &str, revision: u64) -> Result<(), Error> {
        let lowest = self
            .revisions
            .iter()
            .filter(|(name, _)| name == fqrn)
            .map(|(_, lowest)| *lowest)
            .max();
        match lowest {
            Some(lowest) if revision < lowest => Err(Error::Blacklisted {
                fqrn: fqrn.to_owned(),
                reason: format!("revision {revision} is lower than {lowest}"),
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let mut blacklist = Blacklist::default();
        blacklist.add("# remark\naa:bb # bad\n<a.b 10\n<a.b 7\n<c.d x\n\n");
        assert_eq!(blacklist.fingerprints, ["AA:BB"]);
        assert!(blacklist.check_revision("a.b", 9).is_err());
        assert!(blacklist.check_revision("a.b", 10).is_ok());
        assert!(blacklist.check_revision("c.d", 1).is_ok());
    }
}
