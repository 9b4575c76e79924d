//! Garbage collection: objects that no kept revision names go, old ones and those that nobody ever named.

use std::collections::HashSet;
use std::time::Duration;

use cvmfs::{ContentHash, Suffix};

use crate::error::Error;
use crate::lock::PublishLock;
use crate::manifest::Head;
use crate::reflog::Reference;
use crate::repository::Repository;
use crate::step::{OnStep, Step};
use crate::stored_catalog::{ObjectKey, Walk, key, object_at};

/// Paths that are deleted with one call.
const BATCH: usize = 1000;
/// Objects between two steps that are told.
const LISTED: u64 = 1000;

/// What is kept.
#[derive(Clone, Copy, Debug)]
pub struct GcOptions {
    /// Revisions that were the newest at some time within this span are kept: clients still show them. Objects that no revision names are
    /// kept for as long.
    pub grace: Duration,
    /// So many newest revisions are kept whatever their age; at least one is.
    pub keep_revisions: usize,
    /// Nothing is written: only what would go is counted.
    pub dry_run: bool,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(3 * 86_400),
            keep_revisions: 1,
            dry_run: false,
        }
    }
}

/// What went, or would go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Root catalogs that remain.
    pub kept_revisions: usize,
    /// Root catalogs that went.
    pub removed_revisions: usize,
    /// Objects that remain because a kept revision names them.
    pub live_objects: u64,
    /// Objects that went.
    pub removed_objects: u64,
    /// Their stored bytes.
    pub removed_bytes: u64,
    /// Of the removed ones, those that no revision ever named.
    pub orphans: u64,
    /// Objects that no revision names and that are too young to go.
    pub young_orphans: u64,
}

/// Revisions and their companions, sorted out.
struct Sorted {
    kept: Vec<Reference>,
    dead: Vec<Reference>,
}

impl Repository {
    /// Removes what is not needed any more. `lock` may be `None` for a dry run only.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] if the repository keeps its history for ever; others if a kept revision is damaged or the backend fails.
    /// What was kept is intact then.
    pub fn gc(
        &self,
        lock: Option<&PublishLock>,
        options: GcOptions,
        now: jiff::Timestamp,
    ) -> Result<GcReport, Error> {
        self.gc_with(lock, options, now, &|_| {})
    }

    /// As [`Repository::gc`]; `on_step` hears how it goes on.
    ///
    /// # Errors
    /// As [`Repository::gc`].
    pub fn gc_with(
        &self,
        lock: Option<&PublishLock>,
        options: GcOptions,
        now: jiff::Timestamp,
        on_step: OnStep<'_>,
    ) -> Result<GcReport, Error> {
        if !self.head().garbage_collectable {
            return Err(Error::NotAllowed(format!(
                "{} is not garbage-collectable: its manifest says that old revisions stay",
                self.fqrn()
            )));
        }
        let seconds = i64::try_from(options.grace.as_secs()).unwrap_or(i64::MAX);
        let threshold = now.as_second().saturating_sub(seconds);
        let sorted = self.sort(threshold, options.keep_revisions.max(1))?;
        let storage = &**self.storage();
        let mut live = HashSet::new();
        mark(&mut Walk::strict(storage), &sorted.kept, &mut live, on_step)?;
        let mut dead = HashSet::new();
        mark(
            &mut Walk::lenient(storage),
            &sorted.dead,
            &mut dead,
            on_step,
        )?;
        let (mut report, doomed) = self.sweep(&live, &dead, threshold, on_step)?;
        let roots = |references: &[Reference]| {
            references
                .iter()
                .filter(|reference| reference.suffix == Suffix::Catalog)
                .count()
        };
        report.kept_revisions = roots(&sorted.kept);
        report.removed_revisions = roots(&sorted.dead);
        match lock {
            Some(lock) if !options.dry_run => {
                self.carry_out(lock, &sorted.dead, &doomed, (now, on_step))?;
            }
            _ if options.dry_run => {}
            _ => {
                return Err(Error::NotAllowed(
                    "garbage is collected under the lock only".to_owned(),
                ));
            }
        }
        Ok(report)
    }

    /// Forgets the dead revisions, then deletes: whoever is killed between the two leaves orphans, not dangling names.
    fn carry_out(
        &self,
        lock: &PublishLock,
        dead: &[Reference],
        doomed: &[String],
        (now, on_step): (jiff::Timestamp, OnStep<'_>),
    ) -> Result<(), Error> {
        if !dead.is_empty() {
            let reflog = self.reflog()?;
            for reference in dead {
                reflog.remove(&reference.hash)?;
            }
            let head = self.head();
            let head = Head {
                reflog: Some(self.write_reflog(reflog, head.root_catalog.algorithm, &[])?),
                published: now.as_second().max(head.published),
                ..Head::clone(&head)
            };
            self.storage().flush()?;
            self.write_manifest(lock, head)?;
            self.forget_pending_reflog()?;
        }
        for (number, batch) in doomed.chunks(BATCH).enumerate() {
            lock.check()?;
            on_step(Step {
                what: "deleting objects",
                done: (number * BATCH) as u64,
                total: Some(doomed.len() as u64),
            });
            self.storage().delete(batch)?;
        }
        lock.forget_journal()
    }

    fn sort(&self, threshold: i64, keep_revisions: usize) -> Result<Sorted, Error> {
        let mut references = self.reflog()?.references()?;
        let mut named: HashSet<ContentHash> =
            self.head_references().map(|(hash, _)| hash).collect();
        // What manifest and tags name is kept even if the reflog has lost it.
        for tag in self.history()?.tags()? {
            named.insert(tag.root_catalog);
            references.push(Reference {
                hash: tag.root_catalog,
                suffix: Suffix::Catalog,
                timestamp: tag.timestamp,
            });
        }
        references.extend(self.head_references().map(|(hash, suffix)| Reference {
            hash,
            suffix,
            timestamp: i64::MAX,
        }));
        let mut seen = HashSet::new();
        references.retain(|reference| seen.insert((reference.hash, reference.suffix)));
        let (mut kept, mut dead) = (Vec::new(), Vec::new());
        for suffix in [
            Suffix::Catalog,
            Suffix::History,
            Suffix::Certificate,
            Suffix::MetaInfo,
        ] {
            let mut of_kind: Vec<_> = references
                .iter()
                .filter(|reference| reference.suffix == suffix)
                .copied()
                .collect();
            of_kind.sort_by_key(|reference| std::cmp::Reverse(reference.timestamp));
            // The newest of those before the span was what clients showed when it began.
            let young = of_kind
                .iter()
                .take_while(|reference| reference.timestamp >= threshold)
                .count()
                + 1;
            let newest = if suffix == Suffix::Catalog {
                keep_revisions
            } else {
                1
            };
            for (index, reference) in of_kind.into_iter().enumerate() {
                if index < young.max(newest) || named.contains(&reference.hash) {
                    kept.push(reference);
                } else {
                    dead.push(reference);
                }
            }
        }
        Ok(Sorted { kept, dead })
    }

    fn sweep(
        &self,
        live: &HashSet<ObjectKey>,
        dead: &HashSet<ObjectKey>,
        threshold: i64,
        on_step: OnStep<'_>,
    ) -> Result<(GcReport, Vec<String>), Error> {
        let mut report = GcReport::default();
        let mut listed = 0;
        let mut doomed = Vec::new();
        self.storage().list("data/", &mut |file| {
            let Some((hash, suffix)) = object_at(file.path) else {
                return Ok(());
            };
            listed += 1;
            if listed % LISTED == 0 {
                on_step(Step {
                    what: "listing objects",
                    done: listed,
                    total: None,
                });
            }
            let key = key(hash, suffix);
            if live.contains(&key) {
                report.live_objects += 1;
            } else if dead.contains(&key) || file.modified < threshold {
                report.orphans += u64::from(!dead.contains(&key));
                report.removed_objects += 1;
                report.removed_bytes += file.size;
                doomed.push(file.path.to_owned());
            } else {
                report.young_orphans += 1;
            }
            Ok(())
        })?;
        Ok((report, doomed))
    }
}

fn mark(
    walk: &mut Walk<'_>,
    references: &[Reference],
    marks: &mut HashSet<ObjectKey>,
    on_step: OnStep<'_>,
) -> Result<(), Error> {
    for (number, reference) in references.iter().enumerate() {
        on_step(Step {
            what: "reading revisions",
            done: number as u64,
            total: Some(references.len() as u64),
        });
        if reference.suffix == Suffix::Catalog {
            walk.revision(reference.hash, &mut |key| {
                marks.insert(key);
            })?;
        } else {
            marks.insert(key(reference.hash, reference.suffix));
        }
    }
    Ok(())
}
