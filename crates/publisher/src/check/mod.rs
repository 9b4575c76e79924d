//! Whether a repository is what its catalogs say: everything that can be computed is computed again.

mod catalog;
mod counters;
mod finding;
mod objects;

use std::collections::HashMap;
use std::sync::Arc;

use cvmfs::{ContentHash, ObjectRef, Suffix};

use catalog::Contents;
pub use finding::{Finding, Problem};
use objects::Objects;

use crate::error::Error;
use crate::history::Tag;
use crate::reflog::{MAX_REFLOG_BYTES, REFLOG, Reflog};
use crate::repository::Repository;
use crate::step::OnStep;
use crate::stored;
use crate::stored_catalog::{MAX_CATALOG_BYTES, Nested};

/// Deeper nesting is refused; real repositories have a dozen levels.
const MAX_DEPTH: usize = 1000;

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct CheckOptions {
    /// Read and hash every object, instead of only looking whether it is there.
    pub content: bool,
    /// Check all tagged revisions, not only the newest.
    pub tags: bool,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            content: false,
            tags: true,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// All that is wrong; empty for a sound repository.
    pub findings: Vec<Finding>,
    /// Revisions looked at.
    pub revisions: usize,
    /// Distinct catalogs looked at.
    pub catalogs: usize,
    /// Distinct objects of files looked at.
    pub objects: usize,
    /// Objects that none of these revisions names; normal as long as old revisions are kept.
    pub unnamed: usize,
}

impl CheckReport {
    /// True if nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

impl Repository {
    /// Checks the newest revision and, by option, all tagged ones.
    ///
    /// # Errors
    /// Only if the check itself cannot be made; what is wrong with the repository is in the report.
    pub fn check(&self, options: CheckOptions) -> Result<CheckReport, Error> {
        self.check_with(options, &|_| {})
    }

    /// As [`Repository::check`]; `on_step` hears how it goes on.
    ///
    /// # Errors
    /// As [`Repository::check`].
    pub fn check_with(
        &self,
        options: CheckOptions,
        on_step: OnStep<'_>,
    ) -> Result<CheckReport, Error> {
        let mut check = Check {
            repository: self,
            objects: Objects::listed(Arc::clone(self.storage()), options.content, on_step)?,
            checked: HashMap::new(),
            report: CheckReport::default(),
        };
        check.revisions(options)?;
        check.reflog()?;
        check.companions()?;
        let mut report = check.report;
        report.catalogs = check.checked.len();
        report.objects = check.objects.named();
        report.unnamed = check.objects.unnamed();
        Ok(report)
    }
}

struct Check<'a> {
    repository: &'a Repository,
    objects: Objects<'a>,
    /// Catalogs that were looked at, with what those above compare; `None` if they cannot be read.
    checked: HashMap<ContentHash, Option<Arc<Contents>>>,
    report: CheckReport,
}

impl Check<'_> {
    fn revisions(&mut self, options: CheckOptions) -> Result<(), Error> {
        let head = self.repository.head();
        self.root(head.root_catalog, head.root_catalog_size, head.revision)?;
        let tags = match self.repository.tags() {
            Ok(tags) => tags,
            Err(error) => return self.note(error),
        };
        for tag in tags.iter().filter(|_| options.tags) {
            self.tag(tag)?;
        }
        Ok(())
    }

    fn tag(&mut self, tag: &Tag) -> Result<(), Error> {
        if tag.revision > self.repository.head().revision {
            let object = format!("tag {}", tag.name);
            let detail = format!(
                "it has the number {}, newer than the manifest",
                tag.revision
            );
            self.find(Problem::WrongHistory, object, detail);
        }
        self.root(tag.root_catalog, tag.root_catalog_size, tag.revision)
    }

    fn root(&mut self, hash: ContentHash, size: u64, revision: u64) -> Result<(), Error> {
        self.report.revisions += 1;
        let Some(contents) = self.catalog(hash, b"", 0)? else {
            return Ok(());
        };
        let object = ObjectRef::zlib(hash, Suffix::Catalog).url_path();
        if size != 0 && size != contents.size {
            let detail = format!("manifest or tag say {size} bytes, it has {}", contents.size);
            self.find(Problem::WrongSize, object.clone(), detail);
        }
        if contents.revision != Some(revision) {
            let found = contents
                .revision
                .map_or_else(|| "none".to_owned(), |number| number.to_string());
            let detail = format!("its revision is {found}, manifest or tag say {revision}");
            self.find(Problem::WrongRevision, object, detail);
        }
        Ok(())
    }

    /// Checks a catalog and all below it, once.
    fn catalog(
        &mut self,
        hash: ContentHash,
        mountpoint: &[u8],
        depth: usize,
    ) -> Result<Option<Arc<Contents>>, Error> {
        if let Some(known) = self.checked.get(&hash) {
            return Ok(known.clone());
        }
        self.objects.name_catalog(hash);
        let contents = match self.read(hash, mountpoint) {
            Ok(contents) => contents,
            Err(error) => {
                self.note(error)?;
                self.checked.insert(hash, None);
                return Ok(None);
            }
        };
        let mut below = counters::Counters::default();
        let mut complete = depth < MAX_DEPTH;
        let mountpoints: &[_] = if complete { &contents.mountpoints } else { &[] };
        for (nested, row) in mountpoints {
            match self.catalog(nested.hash, &nested.path, depth + 1)? {
                Some(child) => {
                    below = below.add(&child.total);
                    self.compare(&contents, nested, row.as_ref(), &child);
                }
                None => complete = false,
            }
        }
        // What is below an unreadable catalog cannot be counted.
        let contents = contents.with_subtree(below);
        if complete {
            for (name, stored, computed) in contents.wrong_counters() {
                let detail = format!("counter {name} is {stored}, counted {computed}");
                self.find(Problem::WrongCounter, contents.name.clone(), detail);
            }
        }
        let contents = Arc::new(contents);
        self.checked.insert(hash, Some(Arc::clone(&contents)));
        Ok(Some(contents))
    }

    fn read(&mut self, hash: ContentHash, mountpoint: &[u8]) -> Result<Contents, Error> {
        let objects = &mut self.objects;
        let (contents, findings) = catalog::read(objects, hash, mountpoint)?;
        self.report.findings.extend(findings);
        Ok(contents)
    }

    /// A mountpoint's two sides.
    fn compare(
        &mut self,
        parent: &Contents,
        nested: &Nested,
        row: Option<&crate::stored_catalog::StoredRow>,
        child: &Contents,
    ) {
        let path = String::from_utf8_lossy(&nested.path).into_owned();
        if nested.size != 0 && nested.size != child.size {
            let detail = format!(
                "the catalog at {path} has {} bytes, {} are recorded",
                child.size, nested.size
            );
            self.find(Problem::WrongSize, parent.name.clone(), detail);
        }
        if child.root_prefix != nested.path {
            let prefix = String::from_utf8_lossy(&child.root_prefix).into_owned();
            let detail = format!("it is mounted at {path} and was made for {prefix:?}");
            self.find(Problem::MountpointMismatch, child.name.clone(), detail);
        }
        let (Some(above), Some(below)) = (row, child.root.as_ref()) else {
            return;
        };
        let differing = catalog::differing(above, below);
        if !differing.is_empty() {
            let detail = format!(
                "{path} differs from its row in {}: {}",
                parent.name,
                differing.join(", ")
            );
            self.find(Problem::MountpointMismatch, child.name.clone(), detail);
        }
    }

    fn reflog(&mut self) -> Result<(), Error> {
        let storage = Arc::clone(self.repository.storage());
        let head = self.repository.head();
        let Some(bytes) = storage.read(REFLOG, MAX_REFLOG_BYTES)? else {
            if head.reflog.is_some() {
                let detail = "the manifest names it".to_owned();
                self.find(Problem::Missing, REFLOG.to_owned(), detail);
            }
            return Ok(());
        };
        if let Some(stated) = head.reflog {
            let computed = stated.algorithm.digest(&bytes);
            // A publication that was killed before its manifest leaves a reflog that knows a little more.
            let pending = self.repository.pending_reflog()?;
            let known = pending.first() == Some(&computed);
            if computed != stated && !known {
                let detail = format!("its hash is {computed}, the manifest says {stated}");
                self.find(Problem::WrongReflog, REFLOG.to_owned(), detail);
            }
        }
        match Reflog::open(&bytes).and_then(|reflog| reflog.references()) {
            Ok(references) => {
                for reference in references {
                    let object = ObjectRef::zlib(reference.hash, reference.suffix);
                    if !self.objects.name(&object) {
                        let detail = "the reflog names it".to_owned();
                        self.find(Problem::Missing, object.url_path(), detail);
                    }
                }
                Ok(())
            }
            Err(error) => self.note(error),
        }
    }

    /// Certificate, history and meta-info of the manifest.
    fn companions(&mut self) -> Result<(), Error> {
        let references: Vec<_> = self.repository.head_references().collect();
        for (hash, suffix) in references {
            let object = ObjectRef::zlib(hash, suffix);
            self.objects.name(&object);
            if suffix == Suffix::Catalog {
                continue;
            }
            let storage = &**self.repository.storage();
            if let Err(error) = stored::read(storage, &object, MAX_CATALOG_BYTES) {
                self.note(error)?;
            }
        }
        Ok(())
    }

    fn find(&mut self, problem: Problem, object: String, detail: String) {
        let finding = Finding {
            problem,
            object,
            detail,
        };
        if !self.report.findings.contains(&finding) {
            self.report.findings.push(finding);
        }
    }

    /// Keeps what is wrong with the repository, and gives back what is wrong with the machine.
    fn note(&mut self, error: Error) -> Result<(), Error> {
        match error {
            Error::Missing { what, .. } => {
                self.find(Problem::Missing, what, "it is not there".to_owned());
                Ok(())
            }
            Error::Corrupt { what, reason } => {
                self.find(Problem::Corrupt, what, reason);
                Ok(())
            }
            error => Err(error),
        }
    }
}
