//! A directory tree on its way into the repository: entries come in any order and are kept in a temporary database, so that memory does not
//! grow with them. Where it will lie need not be known before it is finished.

mod nodes;
mod split;
mod write;

use std::io::Read;

use cvmfs::Kind;

use crate::catalog::Row;
use crate::entry::Entry;
use crate::error::Error;
use crate::objects::{Collector, How, ObjectStore, StoredContent};
use nodes::Nodes;
pub(crate) use write::marker;

/// What a subtree may become.
#[derive(Clone, Copy, Debug)]
pub struct SubtreeOptions {
    /// Catalogs with more rows are split where a directory is heavy enough.
    pub max_rows: u64,
    /// Modification time of directories that the input does not mention, seconds since the epoch.
    pub implicit_mtime: i64,
}

impl Default for SubtreeOptions {
    /// 200 000 rows, as is advised for `cvmfs_server`; the epoch.
    fn default() -> Self {
        Self {
            max_rows: 200_000,
            implicit_mtime: 0,
        }
    }
}

/// What became of a hardlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linked {
    /// It is there.
    Linked,
    /// Its target is not, or not yet.
    TargetMissing,
}

/// Collects the entries of one subtree. Paths are relative to its root, without leading slash; empty is the root itself.
pub struct SubtreeBuilder {
    collector: Collector,
    objects: ObjectStore,
    options: SubtreeOptions,
    nodes: Nodes,
    next_content: i64,
}

/// A finished subtree: all its content is stored, its catalogs are written where it is grafted. It can be grafted at several places.
pub struct Subtree {
    nodes: Nodes,
}

impl SubtreeBuilder {
    /// An empty directory, 0755 and owned by root.
    ///
    /// # Errors
    /// [`Error::Scratch`] or [`Error::Database`] if the temporary database cannot be made.
    pub fn new(objects: &ObjectStore, options: SubtreeOptions) -> Result<Self, Error> {
        let root = Row::of(&Entry::directory(0o755, options.implicit_mtime))?;
        Ok(Self {
            collector: Collector::new(objects.clone()),
            objects: objects.clone(),
            options,
            nodes: Nodes::create(&objects.options().scratch, &root)?,
            next_content: 1,
        })
    }

    /// A directory. Over a directory it changes only the attributes, over anything else it replaces it.
    ///
    /// # Errors
    /// [`Error::Refused`] for paths that cannot be.
    pub fn directory(&mut self, path: &[u8], entry: Entry) -> Result<(), Error> {
        self.add(
            path,
            Entry {
                kind: Kind::Directory,
                ..entry
            },
        )
    }

    /// Anything but a regular file. Replaces what was there, with all below it unless both are directories.
    ///
    /// # Errors
    /// [`Error::Refused`] for paths that cannot be.
    #[expect(clippy::needless_pass_by_value, reason = "as all that add entries")]
    pub fn add(&mut self, path: &[u8], entry: Entry) -> Result<(), Error> {
        let row = Row::of(&entry)?;
        self.insert(path, &row, 0, 0)
    }

    /// A regular file of exactly `length` bytes: reads them before it returns, while others deflate.
    ///
    /// # Errors
    /// [`Error::Refused`] for paths that cannot be, [`Error::Input`] if the reader fails; failures of the backend may come late.
    pub fn file(
        &mut self,
        path: &[u8],
        entry: Entry,
        reader: &mut dyn Read,
        length: u64,
        how: How<'_>,
    ) -> Result<(), Error> {
        check_path(path)?;
        let content = self.content_number();
        self.collector
            .submit(content.cast_unsigned(), reader, length, how)?;
        let row = Row::of(&Entry {
            kind: Kind::File,
            size: length,
            ..entry
        })?;
        self.insert(path, &row, content, 0)?;
        while let Some((content, stored)) = self.collector.poll()? {
            self.nodes.set_content(content.cast_signed(), &stored)?;
        }
        Ok(())
    }

    /// A regular file whose content is stored already; `entry.size` counts.
    ///
    /// # Errors
    /// [`Error::Refused`] for paths that cannot be.
    pub fn file_with(
        &mut self,
        path: &[u8],
        entry: Entry,
        content: &StoredContent,
    ) -> Result<(), Error> {
        let number = self.content_number();
        self.nodes.set_content(number, content)?;
        let row = Row::of(&Entry {
            kind: Kind::File,
            ..entry
        })?;
        self.insert(path, &row, number, 0)
    }

    fn content_number(&mut self) -> i64 {
        let number = self.next_content;
        self.next_content += 1;
        number
    }

    /// Another name for a file that is there. Attributes are the target's.
    ///
    /// # Errors
    /// [`Error::Refused`] for paths that cannot be, and for links to directories.
    pub fn hardlink(&mut self, path: &[u8], target: &[u8]) -> Result<Linked, Error> {
        check_path(path)?;
        check_path(target)?;
        let Some(mut node) = self.nodes.find(target)? else {
            return Ok(Linked::TargetMissing);
        };
        if node.row.is_directory() {
            return Err(refused(path, "it is a hardlink to a directory"));
        }
        if path == target {
            return Ok(Linked::Linked);
        }
        if node.link == 0 {
            node.link = node.id;
            self.nodes.set_link(node.id)?;
        }
        self.insert(path, &node.row, node.content, node.link)?;
        Ok(Linked::Linked)
    }

    fn insert(&mut self, path: &[u8], row: &Row, content: i64, link: i64) -> Result<(), Error> {
        check_path(path)?;
        let Some((parent, name)) = self.parent(path)? else {
            if !row.is_directory() {
                return Err(refused(path, "the root is a directory"));
            }
            return self.nodes.update(nodes::ROOT, row);
        };
        match self.nodes.child(parent, name)? {
            Some(known) if known.row.is_directory() && row.is_directory() => {
                return self.nodes.update(known.id, row);
            }
            Some(known) => self.nodes.remove(&known)?,
            None => {}
        }
        let implicit = false;
        self.nodes
            .insert(parent, name, row, content, link, implicit)
            .map(drop)
    }

    /// The directory that a path lies in, made if it is not there, and its name; none for the root.
    fn parent<'a>(&mut self, path: &'a [u8]) -> Result<Option<(i64, &'a [u8])>, Error> {
        if path.is_empty() {
            return Ok(None);
        }
        let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        if let Some(id) = self.nodes.known_directory(directory) {
            return Ok(Some((id, name)));
        }
        let mut id = nodes::ROOT;
        for component in directory.split(|byte| *byte == b'/') {
            if component.is_empty() {
                continue;
            }
            id = match self.nodes.child(id, component)? {
                Some(node) if node.row.is_directory() => node.id,
                Some(_) => return Err(refused(path, "it lies below what is no directory")),
                None => {
                    let entry = Entry::directory(0o755, self.options.implicit_mtime);
                    let row = Row::of(&entry)?;
                    self.nodes.insert(id, component, &row, 0, 0, true)?
                }
            };
        }
        self.nodes.know_directory(directory, id);
        Ok(Some((id, name)))
    }

    /// Directories that were made because something lies below them, and that the input has not named since, the root among them.
    /// Ascending.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn implicit_directories(&self) -> Result<Vec<Vec<u8>>, Error> {
        self.nodes.implicit()
    }

    /// Waits until all content is stored.
    ///
    /// # Errors
    /// Failures of the backend, [`Error::Database`].
    pub fn finish(mut self) -> Result<Subtree, Error> {
        while let Some((content, stored)) = self.collector.wait()? {
            self.nodes.set_content(content.cast_signed(), &stored)?;
        }
        self.objects.empty()?;
        self.nodes.cut_at_markers()?;
        split::split(&self.nodes, self.options.max_rows)?;
        Ok(Subtree { nodes: self.nodes })
    }
}

fn refused(path: &[u8], reason: &str) -> Error {
    Error::Refused {
        what: path.escape_ascii().take(200).map(char::from).collect(),
        reason: reason.to_owned(),
    }
}

/// Nothing that leads out of the subtree, and nothing that no file system could hold.
pub(crate) fn check_path(path: &[u8]) -> Result<(), Error> {
    if path.is_empty() {
        return Ok(());
    }
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" => return Err(refused(path, "the path is absolute or has an empty name")),
            b"." | b".." => return Err(refused(path, "the path has a . or ..")),
            _ if name.len() > 255 => return Err(refused(path, "a name has more than 255 bytes")),
            _ if name.contains(&0) => return Err(refused(path, "the path has a NUL byte")),
            _ => {}
        }
    }
    Ok(())
}

/// One catalog's worth of rusqlite errors.
fn failed(source: rusqlite::Error) -> Error {
    Error::Database {
        what: "subtree",
        source,
    }
}
