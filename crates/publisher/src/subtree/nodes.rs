//! The temporary database: nodes by parent and name, contents by number.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, params};
use tempfile::NamedTempFile;

use super::failed;
use crate::catalog::{MARKER, Row};
use crate::error::Error;
use crate::objects::StoredContent;

/// The subtree's root.
pub(super) const ROOT: i64 = 1;
/// Directories whose numbers are remembered: entries of one mostly follow each other.
const KNOWN_DIRECTORIES: usize = 4096;

const SCHEMA: &str = "
CREATE TABLE node (id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name BLOB NOT NULL, directory INTEGER NOT NULL,
  mode INTEGER, uid INTEGER, gid INTEGER, mtime INTEGER, mtimens INTEGER, size INTEGER, flags INTEGER, symlink BLOB, xattr BLOB,
  link INTEGER NOT NULL, content INTEGER NOT NULL, implicit INTEGER NOT NULL, cut INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX node_name ON node (parent, name);
CREATE INDEX node_link ON node (link) WHERE link <> 0;
CREATE INDEX node_implicit ON node (implicit) WHERE implicit <> 0;
CREATE TABLE content (id INTEGER PRIMARY KEY, value BLOB NOT NULL);
BEGIN;";

/// Columns that [`decode`] reads.
pub(super) const COLUMNS: &str = "node.id, mode, uid, gid, mtime, mtimens, size, flags, symlink, xattr, link, content, \
                                  directory, cut, name";

/// A row of table `node`.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) id: i64,
    pub(super) row: Row,
    /// Nodes with the same number are one inode; 0: it is its only name.
    pub(super) link: i64,
    /// 0: it has none.
    pub(super) content: i64,
    /// A catalog begins here.
    pub(super) cut: bool,
    pub(super) name: Vec<u8>,
}

pub(super) struct Nodes {
    pub(super) connection: Connection,
    /// Removed when dropped.
    _file: NamedTempFile,
    next_id: i64,
    directories: HashMap<Vec<u8>, i64>,
}

impl Nodes {
    pub(super) fn create(scratch: &Path, root: &Row) -> Result<Self, Error> {
        let file = NamedTempFile::new_in(scratch).map_err(Error::Scratch)?;
        let open = || -> rusqlite::Result<_> {
            let connection = Connection::open(file.path())?;
            connection.pragma_update(None, "journal_mode", "OFF")?;
            connection.pragma_update(None, "synchronous", "OFF")?;
            connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            connection.pragma_update(None, "cache_size", -(16_i64 << 10))?;
            connection.set_prepared_statement_cache_capacity(32);
            connection.execute_batch(SCHEMA)?;
            Ok(connection)
        };
        let connection = open().map_err(failed)?;
        let mut nodes = Self {
            connection,
            _file: file,
            next_id: ROOT,
            directories: HashMap::new(),
        };
        nodes.insert(0, b"", root, 0, 0, true)?;
        Ok(nodes)
    }

    pub(super) fn known_directory(&self, path: &[u8]) -> Option<i64> {
        self.directories.get(path).copied()
    }

    pub(super) fn know_directory(&mut self, path: &[u8], id: i64) {
        if self.directories.len() >= KNOWN_DIRECTORIES {
            self.directories.clear();
        }
        self.directories.insert(path.to_vec(), id);
    }

    pub(super) fn insert(
        &mut self,
        parent: i64,
        name: &[u8],
        row: &Row,
        content: i64,
        link: i64,
        implicit: bool,
    ) -> Result<i64, Error> {
        let id = self.next_id;
        self.next_id += 1;
        let sql = "INSERT INTO node (id, parent, name, directory, mode, uid, gid, mtime, mtimens, size, flags, symlink, xattr, \
                   link, content, implicit) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";
        let inner = || {
            self.connection.prepare_cached(sql)?.execute(params![
                id,
                parent,
                name,
                row.is_directory(),
                row.mode,
                row.uid,
                row.gid,
                row.mtime,
                row.mtime_nanos,
                row.size,
                row.flags,
                row.symlink,
                row.xattr,
                link,
                content,
                implicit,
            ])
        };
        inner().map_err(failed)?;
        Ok(id)
    }

    /// Other attributes of a directory, which is no longer implicit.
    pub(super) fn update(&self, id: i64, row: &Row) -> Result<(), Error> {
        let sql = "UPDATE node SET mode = ?2, uid = ?3, gid = ?4, mtime = ?5, mtimens = ?6, xattr = ?7, implicit = 0 WHERE id = ?1";
        let inner = || {
            self.connection.prepare_cached(sql)?.execute(params![
                id,
                row.mode,
                row.uid,
                row.gid,
                row.mtime,
                row.mtime_nanos,
                row.xattr,
            ])
        };
        inner().map(drop).map_err(failed)
    }

    /// Makes a node the first name of an inode with several.
    pub(super) fn set_link(&self, id: i64) -> Result<(), Error> {
        let sql = "UPDATE node SET link = id WHERE id = ?1";
        let inner = || self.connection.prepare_cached(sql)?.execute([id]);
        inner().map(drop).map_err(failed)
    }

    pub(super) fn child(&self, parent: i64, name: &[u8]) -> Result<Option<Node>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM node WHERE parent = ?1 AND name = ?2");
        let inner = || {
            let mut statement = self.connection.prepare_cached(&sql)?;
            statement
                .query_row(params![parent, name], decode)
                .optional()
        };
        inner().map_err(failed)
    }

    pub(super) fn node(&self, id: i64) -> Result<Option<Node>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM node WHERE id = ?1");
        let inner = || {
            let mut statement = self.connection.prepare_cached(&sql)?;
            statement.query_row([id], decode).optional()
        };
        inner().map_err(failed)
    }

    pub(super) fn find(&self, path: &[u8]) -> Result<Option<Node>, Error> {
        let mut found = self.node(ROOT)?;
        for name in path.split(|byte| *byte == b'/') {
            found = match found {
                Some(node) if name.is_empty() => Some(node),
                Some(node) => self.child(node.id, name)?,
                None => return Ok(None),
            };
        }
        Ok(found)
    }

    /// Removes a node with all below it.
    pub(super) fn remove(&mut self, node: &Node) -> Result<(), Error> {
        let sql = match node.row.is_directory() {
            false => "DELETE FROM node WHERE id = ?1",
            true => {
                self.directories.clear();
                "WITH RECURSIVE below(id) AS (SELECT ?1 UNION ALL SELECT node.id FROM node JOIN below ON node.parent = below.id) \
                 DELETE FROM node WHERE id IN (SELECT id FROM below)"
            }
        };
        let inner = || self.connection.prepare_cached(sql)?.execute([node.id]);
        inner().map(drop).map_err(failed)
    }

    pub(super) fn set_content(&self, id: i64, content: &StoredContent) -> Result<(), Error> {
        let sql = "INSERT INTO content (id, value) VALUES (?1, ?2)";
        let inner = || {
            self.connection
                .prepare_cached(sql)?
                .execute(params![id, content.to_bytes()])
        };
        inner().map(drop).map_err(failed)
    }

    pub(super) fn implicit(&self) -> Result<Vec<Vec<u8>>, Error> {
        let inner = || {
            let mut statement = self
                .connection
                .prepare("SELECT id FROM node WHERE implicit <> 0")?;
            statement
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<i64>>>()
        };
        let ids = inner().map_err(failed)?;
        let mut paths = ids
            .into_iter()
            .map(|id| self.path(id))
            .collect::<Result<Vec<_>, _>>()?;
        paths.sort();
        Ok(paths)
    }

    /// Relative to the root.
    pub(super) fn path(&self, mut id: i64) -> Result<Vec<u8>, Error> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        while id != ROOT {
            let sql = "SELECT parent, name FROM node WHERE id = ?1";
            let inner = || {
                let mut statement = self.connection.prepare_cached(sql)?;
                statement.query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
            };
            let (parent, name) = inner().map_err(failed)?;
            names.push(name);
            id = parent;
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    /// Directories with a `.cvmfscatalog` begin a catalog.
    pub(super) fn cut_at_markers(&self) -> Result<(), Error> {
        let sql = "UPDATE node SET cut = 1 WHERE id IN (SELECT parent FROM node WHERE name = ?1)";
        self.connection
            .execute(sql, [MARKER])
            .map(drop)
            .map_err(failed)
    }

    pub(super) fn cut(&self, id: i64) -> Result<(), Error> {
        let sql = "UPDATE node SET cut = 1 WHERE id = ?1";
        self.connection.execute(sql, [id]).map(drop).map_err(failed)
    }
}

pub(super) fn decode(row: &rusqlite::Row<'_>) -> rusqlite::Result<Node> {
    let directory: bool = row.get(12)?;
    Ok(Node {
        id: row.get(0)?,
        row: Row {
            hardlinks: if directory { 2 } else { 1 },
            hash: None,
            mode: row.get(1)?,
            uid: row.get(2)?,
            gid: row.get(3)?,
            mtime: row.get(4)?,
            mtime_nanos: row.get(5)?,
            size: row.get(6)?,
            flags: row.get(7)?,
            symlink: row.get(8)?,
            xattr: row.get(9)?,
            chunks: Vec::new(),
        },
        link: row.get(10)?,
        content: row.get(11)?,
        cut: row.get(13)?,
        name: row.get(14)?,
    })
}
