use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::Keys;
use crate::catalog::{CatalogRow, CatalogWriter, Counters, flags};
use crate::history::{DAY, Tag, history, stamp};
use crate::layer::{Entry, EntryKind, Layer};
use crate::objects::{Algorithm, FileObjects, ObjectStore};

const CATALOG_MARKER: &str = ".cvmfscatalog";

/// Writes a signed CVMFS repository: change entries, publish, change, publish.
///
/// A directory that holds `.cvmfscatalog` is a nested catalog, as with the real publisher.
#[derive(Debug)]
pub struct RepositoryBuilder {
    directory: PathBuf,
    fqrn: String,
    keys: Keys,
    /// By sort key, see [`sort_key`].
    items: BTreeMap<Vec<u8>, Entry>,
    /// Sort keys that were changed since the last publication.
    changed: BTreeSet<Vec<u8>>,
    store: ObjectStore,
    catalogs: BTreeMap<Vec<u8>, Built>,
    external: PathBuf,
    revision: u64,
    tags: Vec<Tag>,
    next_tags: Vec<(String, String)>,
    time_to_live: u64,
    schema_revision: u32,
    implicit_mtime: i64,
    last_root: Option<String>,
    last_history: Option<String>,
    whitelist_days: i64,
}

#[derive(Clone, Debug)]
struct Built {
    hash: String,
    size: u64,
    counters: Counters,
}

/// A revision that was written.
#[derive(Clone, Debug)]
pub struct Published {
    /// counted from 1
    pub revision: u64,
    /// of the root catalog
    pub root_hash: String,
    /// `.cvmfspublished` as written, so that a test can put an old one back
    pub manifest: Vec<u8>,
    /// Hash of each catalog by its mountpoint (`""` for the root).
    pub catalogs: BTreeMap<String, String>,
    /// Of the whole repository.
    pub counters: Counters,
}

impl RepositoryBuilder {
    /// An empty repository, written into `directory` (as a Stratum 1 serves it), signed with the fixture's keys.
    #[must_use]
    pub fn new(directory: &Path, fqrn: &str) -> Self {
        let root = Entry::new("", EntryKind::Directory);
        Self {
            directory: directory.to_owned(),
            fqrn: fqrn.to_owned(),
            keys: Keys::fixture(),
            items: BTreeMap::from([(Vec::new(), root)]),
            changed: BTreeSet::new(),
            store: ObjectStore::new(directory),
            catalogs: BTreeMap::new(),
            external: directory.join("_external"),
            revision: 0,
            tags: Vec::new(),
            next_tags: Vec::new(),
            time_to_live: 240,
            schema_revision: 7,
            implicit_mtime: crate::DEFAULT_MTIME,
            last_root: None,
            last_history: None,
            whitelist_days: 30,
        }
    }

    /// Signs with other keys.
    pub fn keys(&mut self, keys: Keys) -> &mut Self {
        self.keys = keys;
        self
    }

    /// Hashes what is stored from now on by another algorithm.
    pub fn algorithm(&mut self, algorithm: Algorithm) -> &mut Self {
        self.store = ObjectStore::new(&self.directory);
        self.store.algorithm = algorithm;
        self
    }

    /// Seconds for which clients need not look again.
    pub fn time_to_live(&mut self, seconds: u64) -> &mut Self {
        self.time_to_live = seconds;
        self
    }

    /// The whitelist expires so many days after publication; may be negative.
    pub fn whitelist_days(&mut self, days: i64) -> &mut Self {
        self.whitelist_days = days;
        self
    }

    /// Time of directories that no entry names.
    pub fn implicit_mtime(&mut self, mtime: i64) -> &mut Self {
        self.implicit_mtime = mtime;
        self
    }

    /// The next publication gets the number after this one.
    pub fn last_revision(&mut self, revision: u64) -> &mut Self {
        self.revision = revision;
        self
    }

    /// Where external content goes, for [`crate::Stratum1`]'s `.external(…)`.
    #[must_use]
    pub fn external_directory(&self) -> &Path {
        &self.external
    }

    /// The repository's directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Adds or replaces an entry; parents that are missing are made (0755, root, the implicit time). Hardlinks name
    /// their target from the repository's root.
    pub fn add(&mut self, entry: Entry) -> &mut Self {
        let key = sort_key(&entry.path);
        let mut end = key.len();
        while let Some(slash) = key[..end].iter().rposition(|byte| *byte == 0) {
            end = slash;
            let parent = key[..end].to_vec();
            if self
                .items
                .get(&parent)
                .is_some_and(|item| item.kind == EntryKind::Directory)
            {
                break;
            }
            let path = readable(&parent);
            let directory = Entry::directory(path).mtime(self.implicit_mtime, 0);
            self.changed.insert(parent.clone());
            self.items.insert(parent, directory);
        }
        if entry.kind != EntryKind::Directory {
            self.forget(&key);
        }
        self.changed.insert(key.clone());
        self.items.insert(key, entry);
        self
    }

    /// Adds all of a layer's entries below `path`, as they are.
    pub fn add_below(&mut self, path: &str, layer: &Layer) -> &mut Self {
        for entry in &layer.entries {
            let mut entry = entry.clone();
            entry.path = below(path, &entry.path);
            if let EntryKind::Hardlink(target) = &mut entry.kind {
                *target = below(path, target);
            }
            self.add(entry);
        }
        self
    }

    /// Makes a directory a nested catalog.
    pub fn add_nested_catalog(&mut self, path: &str) -> &mut Self {
        let marker =
            Entry::file(below(path, CATALOG_MARKER.as_bytes()), b"").mtime(self.implicit_mtime, 0);
        self.add(marker)
    }

    /// Removes a path and all below it.
    pub fn remove(&mut self, path: &str) -> &mut Self {
        let key = sort_key(path.as_bytes());
        self.forget(&key);
        self.changed.insert(key);
        self
    }

    fn forget(&mut self, key: &[u8]) {
        let doomed: Vec<_> = self
            .items
            .range(subtree(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in doomed {
            self.items.remove(&key);
        }
    }

    /// Whether a path is there.
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        self.items.contains_key(&sort_key(path.as_bytes()))
    }

    pub(crate) fn entry(&self, path: &[u8]) -> Option<&Entry> {
        let target = target_key(&self.items, &sort_key(path)).ok()?;
        self.items.get(&target)
    }

    /// Tags the next publication.
    pub fn tag(&mut self, name: &str, description: &str) -> &mut Self {
        self.next_tags
            .push((name.to_owned(), description.to_owned()));
        self
    }

    /// Writes objects, catalogs, history, certificate, whitelist and, last, the manifest. `now` = seconds since the
    /// epoch.
    ///
    /// # Errors
    /// If a hardlink's target is missing, an xattr is too long, or a file cannot be written.
    pub fn publish(&mut self, now: i64) -> Result<Published> {
        fs::create_dir_all(&self.directory)?;
        self.revision += 1;
        let mut subdirectories: HashMap<Vec<u8>, u32> = HashMap::new();
        for (key, item) in self.items.iter().skip(1) {
            if item.kind == EntryKind::Directory {
                *subdirectories.entry(parent_key(key).to_vec()).or_default() += 1;
            }
        }
        let root = self.build_catalog(&[], &subdirectories, now)?;
        self.changed.clear();
        let mut catalogs = std::mem::take(&mut self.catalogs);
        catalogs.retain(|key, _| key.is_empty() || self.is_catalog_root(key));
        self.catalogs = catalogs;
        let history = self.publish_history(&root, now)?;
        let certificate = self
            .store
            .store(self.keys.certificate().as_bytes(), true, "X")?
            .to_string();
        let meta = json!({"administrator": "testkit", "description": "made by a test", "recommended-stratum1s": []});
        let meta = self
            .store
            .store(&serde_json::to_vec(&meta)?, true, "M")?
            .to_string();
        fs::write(self.directory.join(".cvmfswhitelist"), self.whitelist(now)?)?;
        fs::write(self.directory.join(".cvmfs_master_replica"), "1\n")?;
        let body = format!(
            "C{}\nB{}\nRd41d8cd98f00b204e9800998ecf8427e\nD{}\nS{}\nGno\nAno\nN{}\nX{certificate}\nH{history}\nT{now}\nM{meta}\n",
            root.hash, root.size, self.time_to_live, self.revision, self.fqrn
        );
        let manifest = self.keys.sign_manifest(body.as_bytes())?;
        let temporary = self.directory.join(".cvmfspublished.new");
        fs::write(&temporary, &manifest)?;
        fs::rename(temporary, self.directory.join(".cvmfspublished"))?;
        let catalogs = self
            .catalogs
            .iter()
            .map(|(key, built)| (readable_text(key), built.hash.clone()))
            .collect();
        self.last_root = Some(root.hash.clone());
        Ok(Published {
            revision: self.revision,
            root_hash: root.hash,
            manifest,
            catalogs,
            counters: root.counters,
        })
    }

    /// The whitelist as it would be written at `now`.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn whitelist(&self, now: i64) -> Result<Vec<u8>> {
        let expiry = now + self.whitelist_days * DAY;
        let body = format!(
            "{}\nE{}\nN{}\n{}\n",
            stamp(now),
            stamp(expiry),
            self.fqrn,
            self.keys.fingerprint()?
        );
        self.keys.sign_whitelist(body.as_bytes())
    }

    fn build_catalog(
        &mut self,
        mountpoint: &[u8],
        subdirectories: &HashMap<Vec<u8>, u32>,
        now: i64,
    ) -> Result<Built> {
        let untouched = self.changed.range(subtree(mountpoint)).next().is_none();
        // The root always gets the new revision's number.
        if let Some(known) = self
            .catalogs
            .get(mountpoint)
            .filter(|_| untouched && !mountpoint.is_empty())
        {
            return Ok(known.clone());
        }
        let (own, nested) = self.members(mountpoint);
        let mut writer = CatalogWriter::new()?;
        for key in &nested {
            let built = self.build_catalog(key, subdirectories, now)?;
            writer.nested(&readable(key), &built.hash, built.size, built.counters)?;
        }
        self.write_rows(&mut writer, mountpoint, &own, subdirectories)?;
        let previous = self
            .catalogs
            .get(mountpoint)
            .map_or_else(|| "0".repeat(40), |built| built.hash.clone());
        let mut properties = vec![
            ("schema", "2.5".to_owned()),
            ("schema_revision", self.schema_revision.to_string()),
            ("revision", self.revision.to_string()),
            ("last_modified", now.to_string()),
            ("previous_revision", previous),
        ];
        if mountpoint.is_empty() {
            properties.push(("TTL", self.time_to_live.to_string()));
        } else {
            properties.push(("root_prefix", readable_text(mountpoint)));
        }
        let (bytes, own, subtree) = writer.finish(&properties)?;
        let hash = self.store.store(&bytes, true, "C")?.to_string();
        let built = Built {
            hash,
            size: bytes.len() as u64,
            counters: own + subtree,
        };
        self.catalogs.insert(mountpoint.to_vec(), built.clone());
        Ok(built)
    }

    /// The keys whose rows are in the catalog of `mountpoint`, and those of them that are nested mountpoints.
    fn members(&self, mountpoint: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (mut own, mut nested) = (Vec::new(), Vec::new());
        let (start, end) = subtree(mountpoint);
        let mut from = start;
        while let Some((key, _)) = self.items.range((from.clone(), end.clone())).next() {
            own.push(key.clone());
            let is_nested = key != mountpoint && self.is_catalog_root(key);
            from = if is_nested {
                nested.push(key.clone());
                let Bound::Excluded(after) = subtree(key).1 else {
                    break;
                };
                Bound::Included(after)
            } else {
                Bound::Excluded(key.clone())
            };
        }
        (own, nested)
    }

    fn is_catalog_root(&self, key: &[u8]) -> bool {
        let marker = [key, b"\0", CATALOG_MARKER.as_bytes()].concat();
        self.items.contains_key(&marker)
    }

    fn write_rows(
        &mut self,
        writer: &mut CatalogWriter,
        mountpoint: &[u8],
        own: &[Vec<u8>],
        subdirectories: &HashMap<Vec<u8>, u32>,
    ) -> Result<()> {
        let groups = self.link_groups(own)?;
        for key in own {
            let path = readable(key);
            let link = groups.get(key).copied().unwrap_or((0, 1));
            let (entry, is_link) = resolve(&self.items, key)?;
            let content = match &entry.kind {
                EntryKind::File(content) => Some((
                    self.store.store_file(content, entry.storage)?,
                    content.len(),
                )),
                _ => None,
            };
            if let (EntryKind::File(content), true) = (&entry.kind, entry.storage.is_external()) {
                write_external(&self.external, &path, content)?;
            }
            let mut row = row(entry, &path, content.as_ref(), self.store.algorithm);
            (row.link_group, row.link_count) = link;
            if entry.kind == EntryKind::Directory && !is_link {
                row.link_count = 2 + subdirectories.get(key).copied().unwrap_or(0);
                row.flags |= match (key == mountpoint, key.is_empty(), self.is_catalog_root(key)) {
                    (_, true, _) | (false, _, false) => 0,
                    (true, ..) => flags::NESTED_ROOT,
                    (false, _, true) => flags::NESTED_MOUNTPOINT,
                };
            }
            writer.insert(&row)?;
        }
        Ok(())
    }

    /// Hardlink groups among the names of one catalog: key → (group, names in it). A link whose target lies in another
    /// catalog becomes a file of its own.
    fn link_groups(&self, own: &[Vec<u8>]) -> Result<HashMap<Vec<u8>, (u32, u32)>> {
        let mut names: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
        for key in own {
            if let Some(EntryKind::Hardlink(_)) = self.items.get(key).map(|item| &item.kind) {
                let target = target_key(&self.items, key)?;
                names.entry(target).or_default().push(key.clone());
            }
        }
        let mut groups = HashMap::new();
        let mut number = 0;
        for (target, mut links) in names {
            if own.binary_search(&target).is_ok() {
                links.push(target);
            }
            if links.len() > 1 {
                number += 1;
                let count = u32::try_from(links.len())?;
                groups.extend(links.into_iter().map(|link| (link, (number, count))));
            }
        }
        Ok(groups)
    }

    fn publish_history(&mut self, root: &Built, now: i64) -> Result<String> {
        let tag = |name: &str, description: &str| Tag {
            name: name.to_owned(),
            description: description.to_owned(),
            root_hash: root.hash.clone(),
            revision: self.revision,
            timestamp: now,
            size: root.size,
        };
        let mut new: Vec<Tag> = self
            .next_tags
            .iter()
            .map(|(name, description)| tag(name, description))
            .collect();
        new.push(tag("trunk", "current HEAD"));
        if let Some(trunk) = self.tags.iter().find(|tag| tag.name == "trunk") {
            new.push(Tag {
                name: "trunk-previous".to_owned(),
                ..trunk.clone()
            });
        }
        self.next_tags.clear();
        self.tags
            .retain(|old| new.iter().all(|tag| tag.name != old.name));
        self.tags.extend(new);
        let bytes = history(&self.fqrn, self.last_history.as_deref(), &self.tags)?;
        let hash = self.store.store(&bytes, true, "H")?.to_string();
        self.last_history = Some(hash.clone());
        Ok(hash)
    }
}

fn row<'a>(
    entry: &'a Entry,
    path: &'a [u8],
    content: Option<&'a (FileObjects, usize)>,
    algorithm: Algorithm,
) -> CatalogRow<'a> {
    let mut row = CatalogRow {
        path,
        mtime: entry.mtime,
        mtime_nanos: entry.mtime_nanos,
        uid: entry.uid,
        gid: entry.gid,
        xattrs: &entry.xattrs,
        link_count: 1,
        flags: if entry.hidden { flags::HIDDEN } else { 0 }
            | if entry.direct_io { flags::DIRECT_IO } else { 0 },
        ..CatalogRow::default()
    };
    let flag = |set: bool, flag: i64| if set { flag } else { 0 };
    let kind = match &entry.kind {
        EntryKind::Directory => {
            row.size = 4096;
            row.flags |= flags::DIRECTORY;
            0o040_000
        }
        EntryKind::Symlink(target) => {
            row.symlink = target;
            row.flags |= flags::FILE | flags::SYMLINK;
            0o120_000
        }
        EntryKind::File(_) | EntryKind::Hardlink(_) => {
            row.flags |= flags::FILE | algorithm.flags();
            0o100_000
        }
        special => {
            let (kind, device) = special_file(special);
            row.flags |= flags::FILE | flags::SPECIAL;
            row.size = device;
            kind
        }
    };
    row.mode = kind | entry.mode & 0o7777;
    if let Some((objects, length)) = content {
        row.size = *length as u64;
        row.hash = objects.bulk;
        row.chunks = &objects.chunks;
        row.flags |= flag(!objects.chunks.is_empty(), flags::CHUNKED)
            | flag(!entry.storage.is_compressed(), flags::UNCOMPRESSED)
            | flag(entry.storage.is_external(), flags::EXTERNAL);
    }
    row
}

/// Type bits of the mode, and the device number, which a catalog keeps as the size.
fn special_file(kind: &EntryKind) -> (u32, u64) {
    match kind {
        EntryKind::CharDevice(major, minor) => (0o020_000, rustix::fs::makedev(*major, *minor)),
        EntryKind::BlockDevice(major, minor) => (0o060_000, rustix::fs::makedev(*major, *minor)),
        EntryKind::Fifo => (0o010_000, 0),
        _ => (0o140_000, 0),
    }
}

/// The key of what a (chain of) hardlink(s) names in the end.
fn target_key(items: &BTreeMap<Vec<u8>, Entry>, key: &[u8]) -> Result<Vec<u8>> {
    let mut key = key.to_vec();
    for _ in 0..40 {
        match items.get(&key).map(|item| &item.kind) {
            Some(EntryKind::Hardlink(target)) => key = sort_key(target),
            Some(_) => return Ok(key),
            None => anyhow::bail!("hardlink to {}, which is not there", readable_text(&key)),
        }
    }
    anyhow::bail!("hardlinks in a circle at {}", readable_text(&key))
}

fn resolve<'a>(items: &'a BTreeMap<Vec<u8>, Entry>, key: &[u8]) -> Result<(&'a Entry, bool)> {
    let target = target_key(items, key)?;
    let entry = items.get(&target).context("the target was found")?;
    Ok((entry, target != key))
}

fn write_external(directory: &Path, path: &[u8], content: &[u8]) -> Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = directory.join(std::ffi::OsStr::from_bytes(
        path.strip_prefix(b"/").unwrap_or(path),
    ));
    fs::create_dir_all(path.parent().context("a path has a parent")?)?;
    Ok(fs::write(path, content)?)
}

/// `/a/b` → `\0a\0b`: sorts parents before children and a subtree without gaps (`/a-b` after all of `/a/…`).
fn sort_key(path: &[u8]) -> Vec<u8> {
    let parts = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".");
    parts.flat_map(|part| [b"\0", part].concat()).collect()
}

/// The absolute path of a sort key.
fn readable(key: &[u8]) -> Vec<u8> {
    key.iter()
        .map(|byte| if *byte == 0 { b'/' } else { *byte })
        .collect()
}

fn readable_text(key: &[u8]) -> String {
    String::from_utf8_lossy(&readable(key)).into_owned()
}

fn parent_key(key: &[u8]) -> &[u8] {
    &key[..key.iter().rposition(|byte| *byte == 0).unwrap_or(0)]
}

/// The keys of a path and of all below it.
fn subtree(key: &[u8]) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    (
        Bound::Included(key.to_vec()),
        Bound::Excluded([key, b"\x01"].concat()),
    )
}

pub(crate) fn below(directory: &str, path: &[u8]) -> Vec<u8> {
    [directory.as_bytes(), b"/", path].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtrees_have_no_gaps() {
        let mut keys: Vec<_> = ["/a/b", "/a-b", "/a", "/a/b/c", "/ab", "/a/\u{1}"]
            .map(|path| sort_key(path.as_bytes()))
            .into();
        keys.sort();
        let paths: Vec<_> = keys.iter().map(|key| readable_text(key)).collect();
        assert_eq!(paths, ["/a", "/a/\u{1}", "/a/b", "/a/b/c", "/a-b", "/ab"]);
    }
}
