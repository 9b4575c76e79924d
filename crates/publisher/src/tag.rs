//! Names of revisions, going back to one of them, signing anew, and what there is to know about a repository.

use cvmfs::{Algorithm, ContentHash, ObjectRef, Suffix};

use crate::error::Error;
use crate::history::{NewTag, TRUNK, Tag, check_tag_name};
use crate::lock::PublishLock;
use crate::manifest::Head;
use crate::repository::{Commit, Repository, trunk};
use crate::stored_catalog::{MAX_CATALOG_BYTES, StoredCatalog};
use crate::whitelist::WHITELIST;
use crate::{root_catalog, stored, trust, whitelist};

/// A published revision that has not been collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Root catalog.
    pub root_catalog: ContentHash,
    /// Its number, if the catalog can still be read.
    pub number: Option<u64>,
    /// When it was published, seconds since the epoch.
    pub timestamp: i64,
    /// Names of it.
    pub tags: Vec<String>,
}

/// What there is to know about a repository.
#[derive(Clone, Debug)]
pub struct Info {
    /// Backend.
    pub location: String,
    /// The newest revision.
    pub head: Head,
    /// When clients begin to refuse the repository.
    pub whitelist_expiry: jiff::Timestamp,
    /// Certificates that may sign.
    pub fingerprints: Vec<String>,
    /// Number of tags.
    pub tags: usize,
    /// Regular files in the newest revision.
    pub files: u64,
    /// Directories in it.
    pub directories: u64,
    /// Symbolic links in it.
    pub symlinks: u64,
    /// Nested catalogs in it.
    pub nested_catalogs: u64,
    /// Bytes of its regular files, uncompressed.
    pub file_bytes: u64,
}

impl Repository {
    /// All tags, newest revision first.
    ///
    /// # Errors
    /// If the history cannot be read.
    pub fn tags(&self) -> Result<Vec<Tag>, Error> {
        self.history()?.tags()
    }

    /// The tag of a name.
    ///
    /// # Errors
    /// [`Error::NotFound`], or if the history cannot be read.
    pub fn tag(&self, name: &str) -> Result<Tag, Error> {
        self.history()?
            .tag(name)?
            .ok_or_else(|| Error::NotFound(format!("tag {name}")))
    }

    /// Names the newest revision, or the one of the tag `of`. An existing tag moves. No new revision comes of it.
    ///
    /// # Errors
    /// [`Error::BadTag`], [`Error::NotFound`], or if it cannot be written: then nothing changed.
    pub fn add_tag(
        &self,
        lock: &PublishLock,
        tag: NewTag,
        of: Option<&str>,
        now: jiff::Timestamp,
    ) -> Result<(), Error> {
        check_tag_name(&tag.name)?;
        let history = self.history()?;
        let found = history.tag(of.unwrap_or(TRUNK))?;
        let target = match of {
            Some(name) => found.ok_or_else(|| Error::NotFound(format!("tag {name}")))?,
            // The manifest is right if the history of another publisher is behind.
            None => found
                .filter(|tag| tag.root_catalog == self.head().root_catalog)
                .unwrap_or_else(|| trunk(&self.head())),
        };
        history.set(&Tag {
            name: tag.name,
            description: tag.description,
            ..target
        })?;
        self.write_head(lock, self.touched(now), Some(history))?;
        self.finish(lock)
    }

    /// Removes a tag. Its revision goes with the next collection unless something else keeps it.
    ///
    /// # Errors
    /// As [`Repository::add_tag`].
    pub fn remove_tag(
        &self,
        lock: &PublishLock,
        name: &str,
        now: jiff::Timestamp,
    ) -> Result<(), Error> {
        check_tag_name(name)?;
        let history = self.history()?;
        if !history.remove(name)? {
            return Err(Error::NotFound(format!("tag {name}")));
        }
        self.write_head(lock, self.touched(now), Some(history))?;
        self.finish(lock)
    }

    /// Publishes a tag's content as a new revision: clients never go back, so the old root catalog gets a new number.
    ///
    /// # Errors
    /// [`Error::NotFound`], or if it cannot be read or written: then nothing changed.
    pub fn rollback(
        &self,
        lock: &PublishLock,
        name: &str,
        now: jiff::Timestamp,
    ) -> Result<std::sync::Arc<Head>, Error> {
        let tag = self.tag(name)?;
        let object = ObjectRef::zlib(tag.root_catalog, Suffix::Catalog);
        let old = stored::read(&**self.storage(), &object, MAX_CATALOG_BYTES)?;
        let head = self.head();
        let bytes = root_catalog::renumbered(&old, head.revision + 1, &head.root_catalog, now)?;
        let root_catalog =
            stored::write(&**self.storage(), &bytes, Suffix::Catalog, self.algorithm())?;
        let commit = Commit {
            root_catalog,
            root_catalog_size: bytes.len() as u64,
            catalogs: vec![root_catalog],
            tag: None,
            now,
        };
        self.commit(lock, commit)
    }

    /// Fails if the whitelist does not allow the keys' certificate: what it signs, clients would refuse.
    ///
    /// # Errors
    /// [`Error::Untrusted`], [`Error::NoKey`], or if the whitelist cannot be read.
    pub fn check_certificate(&self) -> Result<(), Error> {
        let keys = self.keys()?;
        let whitelist = trust::whitelist(&**self.storage(), Some(keys), self.fqrn())?;
        if keys.certificate()?.is_listed(&whitelist.fingerprints) {
            return Ok(());
        }
        Err(Error::Untrusted {
            fqrn: self.fqrn().to_owned(),
            what: "certificate of these keys",
            reason: "it is not on the whitelist".to_owned(),
        })
    }

    /// Signs the manifest anew, with the certificate of the keys that the repository was opened with. Same content, same revision.
    ///
    /// # Errors
    /// [`Error::Untrusted`] if the whitelist does not allow that certificate; others if it cannot be signed or written.
    pub fn resign_manifest(&self, lock: &PublishLock, now: jiff::Timestamp) -> Result<(), Error> {
        self.check_certificate()?;
        self.write_head(lock, self.touched(now), None)?;
        self.finish(lock)
    }

    /// Writes a new whitelist, valid for `days` from `now`: for the keys' certificate, and for the manifest's as long as that is another.
    ///
    /// # Errors
    /// [`Error::NoKey`] without the master key; others if it cannot be written.
    pub fn resign_whitelist(
        &self,
        lock: &PublishLock,
        days: u32,
        now: jiff::Timestamp,
    ) -> Result<(), Error> {
        let storage = &**self.storage();
        let current = trust::certificate(storage, &self.head())?;
        let others = [current.fingerprint(Algorithm::Sha1)];
        let signed = whitelist::signed(self.keys()?, &others, self.algorithm(), days, now)?;
        lock.check()?;
        storage.put(WHITELIST, &signed)?;
        lock.forget_journal()
    }

    /// What there is to know about it.
    ///
    /// # Errors
    /// If history, whitelist or root catalog cannot be read.
    pub fn info(&self) -> Result<Info, Error> {
        let storage = &**self.storage();
        let head = Head::clone(&self.head());
        let whitelist = trust::whitelist(storage, self.keys().ok(), self.fqrn())?;
        let catalog =
            StoredCatalog::load(storage, head.root_catalog)?.ok_or_else(|| Error::Missing {
                what: ObjectRef::zlib(head.root_catalog, Suffix::Catalog).url_path(),
                location: storage.location(),
            })?;
        let counters = catalog.counters()?;
        let count = |name: &str| {
            ["self_", "subtree_"]
                .iter()
                .filter_map(|scope| counters.get(&format!("{scope}{name}")))
                .fold(0_u64, |sum, value| sum.saturating_add(value.unsigned_abs()))
        };
        Ok(Info {
            location: storage.location(),
            whitelist_expiry: whitelist.expiry,
            fingerprints: whitelist.fingerprints,
            tags: self.tags()?.len(),
            files: count("regular"),
            directories: count("dir"),
            symlinks: count("symlink"),
            nested_catalogs: count("nested"),
            file_bytes: count("file_size"),
            head,
        })
    }

    /// All revisions that have not been collected, newest first.
    ///
    /// # Errors
    /// If reflog or history cannot be read.
    pub fn revisions(&self) -> Result<Vec<Revision>, Error> {
        let tags = self.tags()?;
        let mut references = self.reflog()?.references()?;
        references.retain(|reference| reference.suffix == Suffix::Catalog);
        references
            .into_iter()
            .rev()
            .map(|reference| {
                let names = tags.iter().filter(|tag| tag.root_catalog == reference.hash);
                let number = StoredCatalog::load(&**self.storage(), reference.hash)
                    .ok()
                    .flatten()
                    .and_then(|catalog| catalog.property("revision").ok().flatten())
                    .and_then(|text| text.parse().ok());
                Ok(Revision {
                    root_catalog: reference.hash,
                    number,
                    timestamp: reference.timestamp,
                    tags: names.map(|tag| tag.name.clone()).collect(),
                })
            })
            .collect()
    }

    /// The head, signed at `now`. Time never goes back for clients.
    fn touched(&self, now: jiff::Timestamp) -> Head {
        let head = self.head();
        Head {
            published: now.as_second().max(head.published),
            ..Head::clone(&head)
        }
    }

    fn finish(&self, lock: &PublishLock) -> Result<(), Error> {
        lock.forget_journal()?;
        self.forget_pending_reflog()
    }
}
