//! A repository that is open for publishing: verified as a client would, changed only under its lock.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cvmfs::{Algorithm, Compression, ContentHash, ObjectRef, Suffix};

use crate::error::Error;
use crate::history::{
    History, MAX_HISTORY_BYTES, NewTag, TRUNK, TRUNK_PREVIOUS, Tag, check_tag_name,
};
use crate::keys::{Keys, check_name};
use crate::lock::{JOURNAL, PENDING_REFLOG, PublishLock};
use crate::manifest::{Head, PUBLISHED};
use crate::metainfo::MetaInfo;
use crate::reflog::{MAX_REFLOG_BYTES, REFLOG, Reference, Reflog};
use crate::storage::Storage;
use crate::whitelist::{WHITELIST, WHITELIST_DAYS};
use crate::{root_catalog, stored, trust, whitelist};

/// Marks a repository that Stratum 1 servers may replicate.
const MASTER_REPLICA: &str = ".cvmfs_master_replica";
/// What `cvmfs_server` writes into it.
const MASTER_REPLICA_TEXT: &[u8] =
    b"This file marks the repository as replicatable to stratum 1 servers\n";

/// A handful of hashes.
const MAX_PENDING_BYTES: u64 = 4 << 10;

/// How a new repository is made.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Names content.
    pub algorithm: Algorithm,
    /// Seconds until clients look for a new revision.
    pub time_to_live: u64,
    /// Old revisions may be collected.
    pub garbage_collectable: bool,
    /// Days for which the whitelist is valid.
    pub whitelist_days: u32,
    /// What people are told about it.
    pub meta_info: MetaInfo,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Sha1,
            time_to_live: 240,
            garbage_collectable: true,
            whitelist_days: WHITELIST_DAYS,
            meta_info: MetaInfo::default(),
        }
    }
}

/// What a new revision is made of. All its objects are stored already.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Root catalog, with the number [`Repository::next_revision`] in it.
    pub root_catalog: ContentHash,
    /// Its uncompressed bytes.
    pub root_catalog_size: u64,
    /// All catalogs that are new, the root among them: that they are stored is checked once more.
    pub catalogs: Vec<ContentHash>,
    /// A name for the revision.
    pub tag: Option<NewTag>,
    /// When.
    pub now: jiff::Timestamp,
}

/// An open repository. Clones are the same repository.
#[derive(Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

struct Inner {
    storage: Arc<dyn Storage>,
    keys: Option<Keys>,
    fqrn: String,
    head: Mutex<Arc<Head>>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository")
            .field("location", &self.inner.storage.location())
            .field("head", &self.head())
            .finish_non_exhaustive()
    }
}

impl Repository {
    /// Makes an empty repository: a root directory at revision 1, signed with `keys`.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is one already; others if it cannot be written or signed.
    pub fn init(
        storage: Arc<dyn Storage>,
        keys: Keys,
        options: &InitOptions,
        now: jiff::Timestamp,
    ) -> Result<Self, Error> {
        check_name(keys.fqrn())?;
        if storage.size(PUBLISHED)?.is_some() {
            return Err(Error::Exists {
                location: storage.location(),
            });
        }
        let lock = PublishLock::acquire(&storage, &holder(keys.fqrn(), now), Duration::ZERO)?;
        storage.put(JOURNAL, b"init\n")?;
        // One that was killed before may have left it.
        storage.delete(&[REFLOG.to_owned()])?;
        let algorithm = options.algorithm;
        let catalog = root_catalog::empty(1, options.time_to_live, now)?;
        let root_catalog = stored::write(&*storage, &catalog, Suffix::Catalog, algorithm)?;
        let pem = keys.certificate_pem()?.as_bytes();
        let certificate = stored::write(&*storage, pem, Suffix::Certificate, algorithm)?;
        let json = options.meta_info.to_json();
        let meta_info = stored::write(&*storage, &json, Suffix::MetaInfo, algorithm)?;
        let head = Head {
            fqrn: keys.fqrn().to_owned(),
            root_catalog,
            root_catalog_size: catalog.len() as u64,
            revision: 1,
            published: now.as_second(),
            time_to_live: options.time_to_live,
            garbage_collectable: options.garbage_collectable,
            alternative_locations: false,
            certificate,
            history: None,
            meta_info: Some(meta_info),
            reflog: None,
        };
        let signed = whitelist::signed(&keys, &[], algorithm, options.whitelist_days, now)?;
        storage.put(WHITELIST, &signed)?;
        storage.put(MASTER_REPLICA, MASTER_REPLICA_TEXT)?;
        let repository = Self::assemble(storage, Some(keys), head);
        let head = Head::clone(&repository.head());
        let history = History::new(repository.fqrn())?;
        history.set(&trunk(&head))?;
        repository.write_head(&lock, head, Some(history))?;
        lock.forget_journal()?;
        repository.forget_pending_reflog()?;
        Ok(repository)
    }

    /// Opens a repository and verifies it as a client does: whitelist by the master's public key, certificate by the whitelist, manifest by
    /// the certificate. Without keys the whitelist's signature cannot be verified, the rest is.
    ///
    /// # Errors
    /// [`Error::NoRepository`], [`Error::Untrusted`], [`Error::Expired`] or what reading fails with.
    pub fn open(
        storage: Arc<dyn Storage>,
        keys: Option<Keys>,
        now: jiff::Timestamp,
    ) -> Result<Self, Error> {
        let head = trust::verified_head(&*storage, keys.as_ref(), Some(now))?;
        Ok(Self::assemble(storage, keys, head))
    }

    /// As [`Repository::open`], but an expired whitelist is no error: for signing it anew.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub fn open_expired(storage: Arc<dyn Storage>, keys: Option<Keys>) -> Result<Self, Error> {
        let head = trust::verified_head(&*storage, keys.as_ref(), None)?;
        Ok(Self::assemble(storage, keys, head))
    }

    fn assemble(storage: Arc<dyn Storage>, keys: Option<Keys>, head: Head) -> Self {
        Self {
            inner: Arc::new(Inner {
                storage,
                keys,
                fqrn: head.fqrn.clone(),
                head: Mutex::new(Arc::new(head)),
            }),
        }
    }

    /// The newest revision, as of the last time it was read or written.
    #[must_use]
    pub fn head(&self) -> Arc<Head> {
        let head = self
            .inner
            .head
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&head)
    }

    /// The number that the next revision gets.
    #[must_use]
    pub fn next_revision(&self) -> u64 {
        self.head().revision + 1
    }

    /// The backend.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.inner.storage
    }

    /// What new content is named by: what the root catalog is named by.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.head().root_catalog.algorithm
    }

    /// Fully qualified name.
    #[must_use]
    pub fn fqrn(&self) -> &str {
        &self.inner.fqrn
    }

    /// Waits for the right to publish, reads the newest revision again and removes what a killed publisher left.
    ///
    /// # Errors
    /// [`Error::Locked`] if another publisher has it for longer than `wait`; [`Error::NoKey`] without a signing key.
    pub fn lock(&self, wait: Duration, now: jiff::Timestamp) -> Result<PublishLock, Error> {
        let lock = self.lock_without_journal(wait, now)?;
        self.recover()?;
        self.storage()
            .put(JOURNAL, format!("{}\n", self.head().revision).as_bytes())?;
        Ok(lock)
    }

    pub(crate) fn lock_without_journal(
        &self,
        wait: Duration,
        now: jiff::Timestamp,
    ) -> Result<PublishLock, Error> {
        self.keys()?.certificate()?;
        let lock = PublishLock::acquire(self.storage(), &holder(self.fqrn(), now), wait)?;
        let head = trust::verified_head(&**self.storage(), self.inner.keys.as_ref(), None)?;
        self.set_head(head);
        Ok(lock)
    }

    /// Publishes a revision: history, certificate and reflog, then, when all is durable, the manifest.
    ///
    /// # Errors
    /// If something is missing or cannot be written: then the last revision is intact.
    pub fn commit(&self, lock: &PublishLock, commit: Commit) -> Result<Arc<Head>, Error> {
        if let Some(tag) = &commit.tag {
            check_tag_name(&tag.name)?;
        }
        let old = self.head();
        for catalog in commit.catalogs.iter().chain([&commit.root_catalog]) {
            self.check_stored(&ObjectRef::zlib(*catalog, Suffix::Catalog))?;
        }
        let head = Head {
            root_catalog: commit.root_catalog,
            root_catalog_size: commit.root_catalog_size,
            revision: old.revision + 1,
            // Clients refuse to go back in time.
            published: commit.now.as_second().max(old.published),
            ..Head::clone(&old)
        };
        let history = self.history()?;
        let trunk_tag = trunk(&head);
        if let Some(trunk) = history.tag(TRUNK)? {
            history.set(&Tag {
                name: TRUNK_PREVIOUS.to_owned(),
                description: "default undo target".to_owned(),
                ..trunk
            })?;
        }
        if let Some(tag) = commit.tag {
            history.set(&Tag {
                name: tag.name,
                description: tag.description,
                ..trunk_tag
            })?;
        }
        history.set(&trunk_tag)?;
        self.write_head(lock, head, Some(history))?;
        lock.forget_journal()?;
        self.forget_pending_reflog()?;
        Ok(self.head())
    }

    fn check_stored(&self, object: &ObjectRef) -> Result<(), Error> {
        let path = object.url_path();
        if self.storage().size(&path)?.is_some() {
            return Ok(());
        }
        Err(Error::Missing {
            what: path,
            location: self.storage().location(),
        })
    }

    /// Writes the history (if it changed), the certificate, the reflog and, last, the manifest.
    pub(crate) fn write_head(
        &self,
        lock: &PublishLock,
        mut head: Head,
        history: Option<History>,
    ) -> Result<(), Error> {
        let storage = &**self.storage();
        let keys = self.keys()?;
        let algorithm = head.root_catalog.algorithm;
        if let Some(history) = history {
            let bytes = history.finish(head.history)?;
            head.history = Some(stored::write(storage, &bytes, Suffix::History, algorithm)?);
        }
        let pem = keys.certificate_pem()?.as_bytes();
        head.certificate = stored::write(storage, pem, Suffix::Certificate, algorithm)?;
        let reflog = self.reflog()?;
        let known: HashSet<_> = self.head_references().collect();
        self.add_references(&reflog, &head)?;
        let new: Vec<_> = named_by(&head)
            .filter(|reference| !known.contains(reference))
            .map(|(hash, _)| hash)
            .collect();
        head.reflog = Some(self.write_reflog(reflog, algorithm, &new)?);
        storage.flush()?;
        self.write_manifest(lock, head)
    }

    fn add_references(&self, reflog: &Reflog, head: &Head) -> Result<(), Error> {
        for (hash, suffix) in named_by(head) {
            reflog.add(Reference {
                hash,
                suffix,
                timestamp: head.published,
            })?;
        }
        Ok(())
    }

    /// The objects that the manifest names itself.
    pub(crate) fn head_references(&self) -> impl Iterator<Item = (ContentHash, Suffix)> + use<> {
        named_by(&self.head())
    }

    /// Hash of a reflog that the manifest does not name yet, and what in it is new.
    pub(crate) fn pending_reflog(&self) -> Result<Vec<ContentHash>, Error> {
        let text = self.storage().read(PENDING_REFLOG, MAX_PENDING_BYTES)?;
        let text = String::from_utf8_lossy(text.as_deref().unwrap_or_default()).into_owned();
        Ok(text
            .lines()
            .filter_map(|line| ContentHash::parse(line).ok())
            .collect())
    }

    /// The manifest names the reflog now.
    pub(crate) fn forget_pending_reflog(&self) -> Result<(), Error> {
        Ok(self.storage().delete(&[PENDING_REFLOG.to_owned()])?)
    }

    /// Writes the reflog. Until the manifest names it, [`PENDING_REFLOG`] does, and says what in it was `new`.
    pub(crate) fn write_reflog(
        &self,
        reflog: Reflog,
        algorithm: Algorithm,
        new: &[ContentHash],
    ) -> Result<ContentHash, Error> {
        let bytes = reflog.finish()?;
        let hash = algorithm.digest(&bytes);
        let lines: String = std::iter::once(&hash)
            .chain(new)
            .map(|hash| format!("{hash}\n"))
            .collect();
        self.storage().put(PENDING_REFLOG, lines.as_bytes())?;
        self.storage().put(REFLOG, &bytes)?;
        Ok(hash)
    }

    /// Signs and writes the manifest, after a last look that nobody else published meanwhile.
    pub(crate) fn write_manifest(&self, lock: &PublishLock, head: Head) -> Result<(), Error> {
        let algorithm = head.root_catalog.algorithm;
        let signed = self.keys()?.sign_manifest(&head.body(), algorithm)?;
        lock.check()?;
        if self.storage().size(PUBLISHED)?.is_some() {
            let found = trust::stated_head(&**self.storage())?;
            let known = self.head();
            if found.revision != known.revision || found.root_catalog != known.root_catalog {
                return Err(Error::LockLost {
                    location: self.storage().location(),
                    reason: format!("revision {} appeared meanwhile", found.revision),
                });
            }
        }
        self.storage().put(PUBLISHED, &signed)?;
        self.set_head(head);
        Ok(())
    }

    /// An object's content, verified and inflated, of at most `limit` bytes.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Corrupt`]; others if it cannot be read.
    pub fn read_object(
        &self,
        hash: &ContentHash,
        suffix: Suffix,
        compression: Compression,
        limit: u64,
    ) -> Result<Vec<u8>, Error> {
        let object = ObjectRef {
            hash: *hash,
            suffix,
            compression,
        };
        stored::read(&**self.storage(), &object, limit)
    }

    /// The history; an empty one if the repository has none.
    pub(crate) fn history(&self) -> Result<History, Error> {
        let Some(hash) = self.head().history else {
            return History::new(self.fqrn());
        };
        let object = ObjectRef::zlib(hash, Suffix::History);
        let bytes = stored::read(&**self.storage(), &object, MAX_HISTORY_BYTES)?;
        History::open(&bytes, &hash)
    }

    /// The reflog; a new one with what the history names if there is none.
    pub(crate) fn reflog(&self) -> Result<Reflog, Error> {
        if let Some(bytes) = self.storage().read(REFLOG, MAX_REFLOG_BYTES)? {
            return Reflog::open(&bytes);
        }
        let reflog = Reflog::new(self.fqrn())?;
        let head = self.head();
        if head.history.is_none() {
            return Ok(reflog);
        }
        for tag in self.history()?.tags()? {
            reflog.add(Reference {
                hash: tag.root_catalog,
                suffix: Suffix::Catalog,
                timestamp: tag.timestamp,
            })?;
        }
        self.add_references(&reflog, &head)?;
        Ok(reflog)
    }

    pub(crate) fn keys(&self) -> Result<&Keys, Error> {
        self.inner.keys.as_ref().ok_or_else(|| Error::NoKey {
            fqrn: self.fqrn().to_owned(),
            what: "signing key",
        })
    }

    fn set_head(&self, head: Head) {
        *self
            .inner
            .head
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(head);
    }
}

/// The objects that a manifest names itself.
fn named_by(head: &Head) -> impl Iterator<Item = (ContentHash, Suffix)> + use<> {
    let references = [
        (Some(head.root_catalog), Suffix::Catalog),
        (Some(head.certificate), Suffix::Certificate),
        (head.history, Suffix::History),
        (head.meta_info, Suffix::MetaInfo),
    ];
    references
        .into_iter()
        .filter_map(|(hash, suffix)| Some((hash?, suffix)))
}

/// The tag that follows the newest revision.
pub(crate) fn trunk(head: &Head) -> Tag {
    Tag {
        name: TRUNK.to_owned(),
        root_catalog: head.root_catalog,
        root_catalog_size: head.root_catalog_size,
        revision: head.revision,
        timestamp: head.published,
        description: "current HEAD".to_owned(),
    }
}

/// What other publishers are told while we hold the lock.
fn holder(fqrn: &str, now: jiff::Timestamp) -> String {
    format!(
        "outcrop, process {}, publishing {fqrn} since {now}",
        std::process::id()
    )
}
