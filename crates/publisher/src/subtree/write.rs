//! From the temporary database to stored catalogs.

use std::collections::{BTreeMap, HashMap};

use cvmfs::{ContentHash, Suffix};

use super::nodes::{COLUMNS, Node, Nodes, ROOT, decode};
use super::{Subtree, failed};
use crate::catalog::{CatalogFile, MARKER, Row, Values, flags};
use crate::entry::Entry;
use crate::error::Error;
use crate::objects::{ObjectStore, StoredContent};

/// A subtree in the repository, not yet mounted anywhere.
pub(crate) struct Placed {
    /// Its root, as the parent catalog has it.
    pub(crate) row: Row,
    pub(crate) hash: ContentHash,
    /// Uncompressed bytes.
    pub(crate) size: u64,
    /// What it counts with all below.
    pub(crate) total: Values,
    /// All its catalogs.
    pub(crate) catalogs: Vec<ContentHash>,
}

/// A directory with its path in the repository.
struct Directory {
    id: i64,
    path: Vec<u8>,
}

struct Writer<'a> {
    nodes: &'a Nodes,
    objects: &'a ObjectStore,
    empty: ContentHash,
    revision: u64,
    now: i64,
    /// Catalogs that are written, by node.
    placed: HashMap<i64, Placed>,
}

impl Subtree {
    /// Writes and stores the catalogs for a place in the repository, those below first.
    pub(crate) fn place(
        &self,
        path: &[u8],
        objects: &ObjectStore,
        revision: u64,
        now: i64,
    ) -> Result<Placed, Error> {
        let mut roots = cut_directories(&self.nodes, path)?;
        // What lies deeper has the longer path.
        roots.sort_by(|a, b| b.path.len().cmp(&a.path.len()).then(a.path.cmp(&b.path)));
        let mut writer = Writer {
            nodes: &self.nodes,
            objects,
            empty: objects.empty()?,
            revision,
            now,
            placed: HashMap::new(),
        };
        let mut catalogs = Vec::with_capacity(roots.len());
        let mut last = None;
        for root in &roots {
            let placed = writer.catalog(root)?;
            catalogs.push(placed.hash);
            if root.id == ROOT {
                last = Some(placed);
            } else {
                writer.placed.insert(root.id, placed);
            }
        }
        let placed = last.ok_or_else(|| Error::NotFound("root of the subtree".to_owned()))?;
        Ok(Placed { catalogs, ..placed })
    }
}

/// Roots of all catalogs, the subtree's own among them.
fn cut_directories(nodes: &Nodes, base: &[u8]) -> Result<Vec<Directory>, Error> {
    let ids = || {
        let sql = "SELECT id FROM node WHERE cut <> 0 AND directory = 1 AND id <> ?1";
        let mut statement = nodes.connection.prepare(sql)?;
        statement
            .query_map([ROOT], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<i64>>>()
    };
    let mut directories = vec![Directory {
        id: ROOT,
        path: base.to_vec(),
    }];
    for id in ids().map_err(failed)? {
        let path = [base, b"/", &nodes.path(id)?[..]].concat();
        directories.push(Directory { id, path });
    }
    Ok(directories)
}

impl Writer<'_> {
    fn catalog(&self, root: &Directory) -> Result<Placed, Error> {
        let node = self
            .nodes
            .node(root.id)?
            .ok_or_else(|| Error::NotFound("directory of the subtree".to_owned()))?;
        let mut catalog = CatalogFile::create(&self.objects.options().scratch, &root.path)?;
        let mut row = node.row;
        row.flags |= flags::NESTED_ROOT;
        catalog.insert(&root.path, &row)?;
        let mut pending = vec![Directory {
            id: root.id,
            path: root.path.clone(),
        }];
        let mut groups = Groups::default();
        while let Some(directory) = pending.pop() {
            let (links, marked) =
                self.directory(&mut catalog, &directory, &mut pending, &mut groups)?;
            catalog.set_hardlinks(&directory.path, links)?;
            if directory.id == root.id {
                row.hardlinks = links;
                if !marked {
                    self.mark(&mut catalog, &row, &directory.path)?;
                }
            }
        }
        let total = catalog.counters.total();
        let (_file, mut opened, size) = catalog.finish(self.revision, None, self.now)?;
        let hash = self.objects.store_file(&mut opened, Suffix::Catalog)?;
        row.flags = flags::DIRECTORY | flags::NESTED_MOUNTPOINT;
        Ok(Placed {
            row,
            hash,
            size,
            total,
            catalogs: Vec::new(),
        })
    }

    /// Writes the rows of one directory. Its number of links, and whether a marker is in it.
    fn directory(
        &self,
        catalog: &mut CatalogFile,
        directory: &Directory,
        pending: &mut Vec<Directory>,
        groups: &mut Groups,
    ) -> Result<(i64, bool), Error> {
        let sql = format!(
            "SELECT {COLUMNS}, value FROM node LEFT JOIN content ON content.id = node.content \
             WHERE parent = ?1 ORDER BY name"
        );
        let mut statement = self.nodes.connection.prepare_cached(&sql).map_err(failed)?;
        let mut rows = statement.query([directory.id]).map_err(failed)?;
        let mut links = 2;
        let mut marked = false;
        let mut linked: BTreeMap<i64, Vec<Vec<u8>>> = BTreeMap::new();
        while let Some(stored) = rows.next().map_err(failed)? {
            let node = decode(stored).map_err(failed)?;
            let path = [&directory.path[..], b"/", &node.name].concat();
            marked |= node.name == MARKER;
            if node.row.is_directory() {
                links += 1;
                self.subdirectory(catalog, &node, path, pending)?;
                continue;
            }
            let content: Option<Vec<u8>> = stored.get(15).map_err(failed)?;
            let row = self.row(&node, content.as_deref())?;
            catalog.insert(&path, &row)?;
            if node.link != 0 {
                let group = groups.number(self.nodes, node.link)?;
                linked.entry(group).or_default().push(path);
            }
        }
        linked.remove(&0);
        for (group, paths) in linked {
            // `cvmfs_server check` counts the links of a directory.
            let count = i64::try_from(paths.len()).unwrap_or(i64::MAX);
            for path in paths {
                catalog.set_hardlinks(&path, group << 32 | count)?;
            }
        }
        Ok((links, marked))
    }

    fn subdirectory(
        &self,
        catalog: &mut CatalogFile,
        node: &Node,
        path: Vec<u8>,
        pending: &mut Vec<Directory>,
    ) -> Result<(), Error> {
        match self.placed.get(&node.id).filter(|_| node.cut) {
            Some(placed) => {
                catalog.insert(&path, &placed.row)?;
                catalog.set_nested(&path, &placed.hash, placed.size)?;
                catalog.counters.add_subtree(1, placed.total);
            }
            None => {
                catalog.insert(&path, &node.row)?;
                pending.push(Directory { id: node.id, path });
            }
        }
        Ok(())
    }

    fn row(&self, node: &Node, content: Option<&[u8]>) -> Result<Row, Error> {
        let mut row = node.row.clone();
        if node.content == 0 {
            return Ok(row);
        }
        let content = content
            .and_then(StoredContent::from_bytes)
            .ok_or_else(|| Error::corrupt("subtree", "a file has no content"))?;
        row.set_content(&content, self.empty);
        Ok(row)
    }

    fn mark(&self, catalog: &mut CatalogFile, root: &Row, path: &[u8]) -> Result<(), Error> {
        let row = marker(root.mtime, self.empty)?;
        catalog.insert(&[path, b"/", MARKER].concat(), &row)
    }
}

/// An empty file.
pub(crate) fn marker(mtime: i64, empty: ContentHash) -> Result<Row, Error> {
    let mut row = Row::of(&Entry::file(0o644, mtime))?;
    row.set_content(&StoredContent::Empty, empty);
    Ok(row)
}

/// Numbers of hardlink groups in one catalog.
#[derive(Default)]
struct Groups {
    known: HashMap<i64, i64>,
}

impl Groups {
    /// 0 if the inode has but one name left.
    fn number(&mut self, nodes: &Nodes, link: i64) -> Result<i64, Error> {
        if let Some(number) = self.known.get(&link) {
            return Ok(*number);
        }
        let inner = || {
            let sql = "SELECT count(*) FROM node WHERE link = ?1 AND link <> 0";
            let mut statement = nodes.connection.prepare_cached(sql)?;
            statement.query_row([link], |row| row.get::<_, i64>(0))
        };
        if inner().map_err(failed)? < 2 {
            return Ok(0);
        }
        let number = i64::try_from(self.known.len() + 1).unwrap_or(i64::MAX);
        self.known.insert(link, number);
        Ok(number)
    }
}
