//! One catalog: its rows against each other, against its tables and against the objects that they name.

use std::collections::{BTreeMap, HashMap};

use cvmfs::{ContentHash, ObjectRef, Suffix};

use super::counters::Counters;
use super::finding::{Finding, Problem};
use super::objects::{Objects, Wrong};
use crate::error::Error;
use crate::path_key;
use crate::stored_catalog::{Nested, StoredCatalog, StoredChunk, StoredRow, flags};

const TYPE_BITS: i64 = 0o170_000;

/// What those above need to know of a catalog.
pub(super) struct Contents {
    pub(super) name: String,
    /// Uncompressed bytes.
    pub(super) size: u64,
    pub(super) revision: Option<u64>,
    pub(super) root_prefix: Vec<u8>,
    /// The row of its root directory.
    pub(super) root: Option<StoredRow>,
    /// Nested catalogs with the rows of their mountpoints.
    pub(super) mountpoints: Vec<(Nested, Option<StoredRow>)>,
    /// Own entries and all below.
    pub(super) total: Counters,
    own: Counters,
    subtree: Counters,
    stored: BTreeMap<String, i64>,
}

impl Contents {
    pub(super) fn with_subtree(mut self, below: Counters) -> Self {
        self.subtree = below;
        self.total = self.own.add(&below);
        self
    }

    /// Name, stored value, counted value.
    pub(super) fn wrong_counters(&self) -> Vec<(String, i64, u64)> {
        let mut wrong = self.own.differing("self", &self.stored);
        wrong.extend(self.subtree.differing("subtree", &self.stored));
        wrong
    }
}

/// Reads and checks a catalog, without those that are mounted in it.
pub(super) fn read(
    objects: &mut Objects<'_>,
    hash: ContentHash,
    mountpoint: &[u8],
) -> Result<(Contents, Vec<Finding>), Error> {
    let catalog = StoredCatalog::load(objects.storage(), hash)?.ok_or_else(|| Error::Missing {
        what: ObjectRef::zlib(hash, Suffix::Catalog).url_path(),
        location: String::new(),
    })?;
    let mut reading = Reading {
        name: catalog.name.clone(),
        rows: catalog.rows()?,
        chunks: catalog.chunks()?,
        paths: Vec::new(),
        findings: Vec::new(),
    };
    let prefix = catalog
        .property("root_prefix")?
        .unwrap_or_default()
        .into_bytes();
    let root = reading.walk(if prefix.is_empty() {
        mountpoint
    } else {
        &prefix
    });
    reading.check_rows();
    reading.check_links();
    reading.check_objects(objects)?;
    let nested = catalog.nested()?;
    let mut own = Counters::default();
    own.set_nested(nested.len());
    for row in &reading.rows {
        own.count(row, reading.chunks.get(&row.key).map_or(0, Vec::len));
    }
    let contents = Contents {
        size: catalog.size,
        revision: catalog
            .property("revision")?
            .and_then(|text| text.parse().ok()),
        root_prefix: prefix,
        root: root.map(|index| reading.rows[index].clone()),
        mountpoints: reading.mountpoints(nested),
        total: own,
        own,
        subtree: Counters::default(),
        stored: catalog.counters()?,
        name: catalog.name,
    };
    Ok((contents, reading.findings))
}

struct Reading {
    name: String,
    rows: Vec<StoredRow>,
    chunks: BTreeMap<(i64, i64), Vec<StoredChunk>>,
    /// Path of each row that one leads to.
    paths: Vec<Option<Vec<u8>>>,
    findings: Vec<Finding>,
}

impl Reading {
    fn find(&mut self, problem: Problem, detail: String) {
        self.findings.push(Finding {
            problem,
            object: self.name.clone(),
            detail,
        });
    }

    fn shown(&self, index: usize) -> String {
        match &self.paths[index] {
            Some(path) if path.is_empty() => "/".to_owned(),
            Some(path) => String::from_utf8_lossy(path).into_owned(),
            None => format!(
                "an entry named {}",
                String::from_utf8_lossy(&self.rows[index].name)
            ),
        }
    }

    /// Goes down from the root directory; entries that are not reached dangle. Answers the root's row.
    fn walk(&mut self, root_path: &[u8]) -> Option<usize> {
        self.paths = vec![None; self.rows.len()];
        let root_key = path_key::of(root_path);
        let mut children: HashMap<(i64, i64), Vec<usize>> = HashMap::new();
        let mut root = None;
        for (index, row) in self.rows.iter().enumerate() {
            if row.key == root_key {
                root = Some(index);
            } else {
                children.entry(row.parent).or_default().push(index);
            }
        }
        let Some(root) = root else {
            let path = String::from_utf8_lossy(root_path).into_owned();
            self.find(
                Problem::DanglingRow,
                format!("it has no row for its root {path:?}"),
            );
            return None;
        };
        self.paths[root] = Some(root_path.to_vec());
        let mut pending = vec![root];
        while let Some(directory) = pending.pop() {
            let path = self.paths[directory].clone().unwrap_or_default();
            for child in children
                .remove(&self.rows[directory].key)
                .unwrap_or_default()
            {
                let row = &self.rows[child];
                let path = [&path, b"/".as_slice(), &row.name].concat();
                if path_key::of(&path) != row.key {
                    continue;
                }
                self.paths[child] = Some(path);
                if row.has(flags::DIRECTORY) && !row.has(flags::NESTED_MOUNTPOINT) {
                    pending.push(child);
                }
            }
        }
        for index in 0..self.rows.len() {
            if self.paths[index].is_none() {
                let shown = self.shown(index);
                self.find(Problem::DanglingRow, format!("no path leads to {shown}"));
            }
        }
        Some(root)
    }

    /// Each row by itself.
    fn check_rows(&mut self) {
        for index in 0..self.rows.len() {
            let row = &self.rows[index];
            let kind = row.mode & TYPE_BITS;
            let fitting = if row.has(flags::DIRECTORY) {
                kind == 0o040_000
            } else if row.has(flags::SYMLINK) {
                kind == 0o120_000
            } else if row.has(flags::SPECIAL) {
                matches!(kind, 0o020_000 | 0o060_000 | 0o010_000 | 0o140_000)
            } else {
                // Before revision 5 of the schema special files had no flag.
                kind != 0o040_000 && kind != 0o120_000
            };
            let shown = self.shown(index);
            let row = &self.rows[index];
            if !fitting {
                let detail = format!("{shown} has mode {:o} and flags {}", row.mode, row.flags);
                self.find(Problem::BadRow, detail);
            } else if row.has(flags::SYMLINK) && row.symlink.is_empty() {
                self.find(Problem::BadRow, format!("{shown} is a link to nowhere"));
            } else if kind == 0o100_000 && row.hash.is_none() && !row.has(flags::CHUNKED) {
                self.find(Problem::BadRow, format!("{shown} has no content hash"));
            }
        }
        self.check_chunks();
    }

    fn check_chunks(&mut self) {
        let mut chunks = std::mem::take(&mut self.chunks);
        for index in 0..self.rows.len() {
            let row = &self.rows[index];
            let of_row = chunks.remove(&row.key);
            if row.has(flags::CHUNKED) != of_row.is_some() {
                let shown = self.shown(index);
                let detail = format!("{shown}: its flags and the table of chunks disagree");
                self.find(Problem::WrongChunks, detail);
            } else if let Some(of_row) = &of_row
                && !covers(of_row, row.size)
            {
                let detail = format!("{}: its chunks do not cover it", self.shown(index));
                self.find(Problem::WrongChunks, detail);
            }
            if let Some(of_row) = of_row {
                self.chunks.insert(self.rows[index].key, of_row);
            }
        }
        if !chunks.is_empty() {
            let detail = format!("chunks of {} files that it does not hold", chunks.len());
            self.find(Problem::WrongChunks, detail);
        }
    }

    /// Names of one inode in a directory agree, and their number is the link count: so `cvmfs_server check` counts. A group may have names in
    /// other directories of the catalog.
    fn check_links(&mut self) {
        let mut groups: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (index, row) in self.rows.iter().enumerate() {
            if row.hardlinks >> 32 != 0 && !row.has(flags::DIRECTORY) {
                let group = (row.parent, row.hardlinks >> 32);
                groups.entry(group).or_default().push(index);
            }
        }
        for members in groups.into_values() {
            let first = &self.rows[members[0]];
            let count = first.hardlinks & 0xffff_ffff;
            let same = members.iter().all(|member| {
                let row = &self.rows[*member];
                (row.hardlinks, row.hash, row.size, row.mode)
                    == (first.hardlinks, first.hash, first.size, first.mode)
            });
            let shown = self.shown(members[0]);
            if !same {
                self.find(
                    Problem::WrongLinkCount,
                    format!("{shown} and its hardlinks differ"),
                );
            } else if usize::try_from(count) != Ok(members.len()) {
                let detail = format!(
                    "{shown} has link count {count}, {} names are there",
                    members.len()
                );
                self.find(Problem::WrongLinkCount, detail);
            }
        }
    }

    fn check_objects(&mut self, objects: &mut Objects<'_>) -> Result<(), Error> {
        for index in 0..self.rows.len() {
            let row = &self.rows[index];
            if !row.has_objects() {
                continue;
            }
            let (Some(algorithm), Some(compression)) = (row.algorithm(), row.compression()) else {
                let detail = format!("{}: unknown hash or compression", self.shown(index));
                self.find(Problem::BadRow, detail);
                continue;
            };
            let object = |digest, suffix| ObjectRef {
                hash: ContentHash { algorithm, digest },
                suffix,
                compression,
            };
            let bulk = row
                .hash
                .map(|digest| (object(digest, Suffix::Bulk), row.size));
            let chunks = self.chunks.get(&row.key).into_iter().flatten();
            let partial = chunks.map(|chunk| (object(chunk.digest, Suffix::Partial), chunk.size));
            let named: Vec<_> = bulk.into_iter().chain(partial).collect();
            for (object, size) in named {
                let wrong = objects.look(&object, u64::try_from(size).ok())?;
                self.note(index, &object, wrong);
            }
        }
        Ok(())
    }

    fn note(&mut self, index: usize, object: &ObjectRef, wrong: Option<Wrong>) {
        let shown = self.shown(index);
        let (problem, detail) = match wrong {
            None => return,
            Some(Wrong::Missing) => (
                Problem::Missing,
                format!("it is not there; {shown} needs it"),
            ),
            Some(Wrong::Corrupt(reason)) => {
                (Problem::Corrupt, format!("{reason}; {shown} needs it"))
            }
        };
        self.findings.push(Finding {
            problem,
            object: object.url_path(),
            detail,
        });
    }

    /// Nested catalogs with their rows; each must have one, and each row with the flag a catalog.
    fn mountpoints(&mut self, nested: Vec<Nested>) -> Vec<(Nested, Option<StoredRow>)> {
        let mut rows: BTreeMap<Vec<u8>, StoredRow> = self
            .rows
            .iter()
            .zip(&self.paths)
            .filter(|(row, _)| row.has(flags::NESTED_MOUNTPOINT))
            .filter_map(|(row, path)| Some((path.clone()?, row.clone())))
            .collect();
        let mut mountpoints = Vec::new();
        for nested in nested {
            let row = rows.remove(&nested.path);
            if row.is_none() {
                let path = String::from_utf8_lossy(&nested.path).into_owned();
                let detail = format!("a catalog is mounted at {path}, which is no mountpoint");
                self.find(Problem::MountpointMismatch, detail);
            }
            mountpoints.push((nested, row));
        }
        for path in rows.into_keys() {
            let path = String::from_utf8_lossy(&path).into_owned();
            let detail = format!("no catalog is mounted at the mountpoint {path}");
            self.find(Problem::MountpointMismatch, detail);
        }
        mountpoints
    }
}

fn covers(chunks: &[StoredChunk], size: i64) -> bool {
    let mut end = 0_i64;
    for chunk in chunks {
        if chunk.offset != end || chunk.size < 0 {
            return false;
        }
        end = end.saturating_add(chunk.size);
    }
    end == size
}

/// Names of the attributes in which a mountpoint's row and the root row below differ.
pub(super) fn differing(above: &StoredRow, below: &StoredRow) -> Vec<&'static str> {
    let compared = [
        ("mode", above.mode == below.mode),
        ("uid", above.uid == below.uid),
        ("gid", above.gid == below.gid),
        ("mtime", above.mtime == below.mtime),
        ("mtimens", above.mtime_nanos == below.mtime_nanos),
        ("size", above.size == below.size),
        ("link count", above.hardlinks == below.hardlinks),
        ("xattr", above.xattr == below.xattr),
        ("name", above.name == below.name),
        (
            "key",
            (above.key, above.parent) == (below.key, below.parent),
        ),
        ("flags of a nested root", below.has(flags::NESTED_ROOT)),
    ];
    compared
        .into_iter()
        .filter(|(_, same)| !same)
        .map(|(name, _)| name)
        .collect()
}
