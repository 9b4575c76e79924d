//! What a killed publisher left: objects that no revision names, and a reflog that knows revisions that never were.

use std::collections::{HashMap, HashSet};

use cvmfs::{ContentHash, Suffix};

use crate::error::Error;
use crate::lock::JOURNAL;
use crate::reflog::Reference;
use crate::repository::Repository;
use crate::stored_catalog::{ObjectKey, Walk, key, object_at};

/// Objects and unfinished files that are removed before the next publication.
type Leftovers = (HashMap<ObjectKey, String>, Vec<String>);

impl Repository {
    /// Removes the leftovers of a publisher that did not finish. The caller holds the lock.
    pub(crate) fn recover(&self) -> Result<(), Error> {
        let mut started = None;
        self.storage().list(JOURNAL, &mut |file| {
            started = (file.path == JOURNAL).then_some(file.modified).or(started);
            Ok(())
        })?;
        let Some(started) = started else {
            return Ok(());
        };
        let (mut objects, unfinished) = self.written_since(started)?;
        self.storage().delete(&unfinished)?;
        if objects.is_empty() {
            return Ok(());
        }
        let reflog = self.reflog()?;
        let (dead, living) = self.split(reflog.references()?)?;
        // Files of old revisions may have been written once more, so all revisions are asked.
        let mut walk = Walk::lenient(&**self.storage());
        for reference in living {
            if reference.suffix == Suffix::Catalog {
                walk.revision(reference.hash, &mut |key| {
                    objects.remove(&key);
                })?;
            } else {
                objects.remove(&key(reference.hash, reference.suffix));
            }
        }
        if !dead.is_empty() {
            for reference in &dead {
                reflog.remove(&reference.hash)?;
            }
            let dead: Vec<_> = dead.iter().map(|reference| reference.hash).collect();
            self.write_reflog(reflog, self.algorithm(), &dead)?;
        }
        let paths: Vec<_> = objects.into_values().collect();
        tracing::info!(
            location = self.storage().location(),
            objects = paths.len(),
            "removing what an unfinished publication left"
        );
        Ok(self.storage().delete(&paths)?)
    }

    fn written_since(&self, started: i64) -> Result<Leftovers, Error> {
        let (mut objects, mut unfinished) = (HashMap::new(), Vec::new());
        self.storage().list("data/", &mut |file| {
            if file.modified < started {
                return Ok(());
            }
            if let Some((hash, suffix)) = object_at(file.path) {
                objects.insert(key(hash, suffix), file.path.to_owned());
            } else if file.path.starts_with("data/txn/") && file.path.ends_with(".tmp") {
                unfinished.push(file.path.to_owned());
            }
            Ok(())
        })?;
        Ok((objects, unfinished))
    }

    /// References that the unfinished publication added, and all others, among them those that manifest and tags name.
    fn split(&self, references: Vec<Reference>) -> Result<(Vec<Reference>, Vec<Reference>), Error> {
        let mut added: HashSet<ContentHash> = self.pending_reflog()?.into_iter().skip(1).collect();
        for (hash, _) in self.head_references() {
            added.remove(&hash);
        }
        for tag in self.history()?.tags()? {
            added.remove(&tag.root_catalog);
        }
        let (dead, mut living): (Vec<_>, Vec<_>) = references
            .into_iter()
            .partition(|reference| added.contains(&reference.hash));
        living.extend(self.head_references().map(|(hash, suffix)| Reference {
            hash,
            suffix,
            timestamp: 0,
        }));
        Ok((dead, living))
    }
}
