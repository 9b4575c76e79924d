//! Collects a layer's entries in any order and writes its tree.

mod check;
mod finish;
mod node;

use std::collections::HashMap;

use crate::entry::{Entry, Kind};
use crate::path;
use crate::whiteout::{self, Name};

pub use check::BuildError;
use check::{bad_path, below_metadata, check_entry, check_path};
use node::{Directory, Node, StoredExtent};

/// Index into [`Builder::nodes`].
type Index = usize;
const ROOT: Index = 0;

/// Most hardlinks, each before its target, that lead through each other: as many symlinks Linux
/// follows. Bounds what a hostile layer may cost.
const MAX_LINKS: usize = 40;

/// Collects the entries of one layer.
///
/// Parents may come before their children, after them, or not at all (then they are implicit).
/// Of two entries with one path the later wins; a directory over a directory keeps its children.
/// Names that begin with `.wh.` are whiteouts, wherever they stand in the layer; AUFS's own
/// (`.wh..wh.*`) are skipped. The directories above a whiteout are implicit like those above any
/// entry: containerd and docker make them as well.
#[derive(Debug)]
pub struct Builder {
    nodes: Vec<Node>,
    /// Content references and symlink targets; those of replaced entries stay until the end.
    blob: Vec<u8>,
    extents: Vec<StoredExtent>,
    groups: HashMap<u64, Index>,
    /// The directory of the last entry: entries of one directory mostly come together.
    last_directory: Option<(Vec<u8>, Index)>,
}

impl Default for Builder {
    fn default() -> Self {
        let mut root = Node::implicit_directory();
        root.names = 1;
        Self {
            nodes: vec![root],
            blob: Vec::new(),
            extents: Vec::new(),
            groups: HashMap::new(),
            last_directory: None,
        }
    }
}

impl Builder {
    /// An empty layer: a root directory that no entry names.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what the layer has at `path` (with or without a leading slash or `./`). Whiteouts come
    /// by their special names, or with [`Kind::Whiteout`] at the path that they hide.
    ///
    /// # Errors
    /// [`BuildError`]; the builder is then of no further use.
    pub fn add(&mut self, path: &[u8], entry: Entry) -> Result<(), BuildError> {
        check_path(path)?;
        if entry.kind == Kind::Whiteout {
            return self.whiteout(path);
        }
        let (parent, name) = path::split(path);
        if name.is_empty() {
            return self.set_root(path, entry);
        }
        if below_metadata(parent) {
            return Ok(());
        }
        match whiteout::interpret(name) {
            Name::Plain => {}
            Name::Metadata => return Ok(()),
            // A directory is no marker, and as a name it would be one to whoever unpacks it.
            _ if entry.kind == Kind::Directory => return Err(bad_path(path)),
            Name::Opaque => return self.opaque(parent),
            Name::Whiteout(hidden) => return self.add_whiteout(path, parent, hidden),
        }
        check_entry(path, &entry)?;
        let parent = self.directory(path, parent)?;
        self.place(parent, name, entry);
        Ok(())
    }

    /// Adds a hardlink as a tar states it. A `target` that is not in this layer, also not after
    /// the last entry, is one of the layers below; symlinks in its path are not followed.
    ///
    /// # Errors
    /// [`BuildError`]; the builder is then of no further use.
    pub fn hardlink(&mut self, path: &[u8], target: &[u8]) -> Result<(), BuildError> {
        check_path(path)?;
        check_path(target)?;
        let (parent, name) = path::split(path);
        if name.is_empty() {
            return Err(BuildError::BadRoot);
        }
        if below_metadata(parent) {
            return Ok(());
        }
        match whiteout::interpret(name) {
            Name::Plain => {}
            Name::Metadata => return Ok(()),
            // AUFS linked its whiteouts to one file.
            Name::Opaque => return self.opaque(parent),
            Name::Whiteout(hidden) => return self.add_whiteout(path, parent, hidden),
        }
        let target = path::normal(target);
        if target.is_empty() {
            return Err(BuildError::LinkToDirectory { path: path.into() });
        }
        let parent = self.directory(path, parent)?;
        let linked = match self.find(&target) {
            Some(found) if self.is_directory(found) => {
                return Err(BuildError::LinkToDirectory { path: path.into() });
            }
            Some(found) => found,
            None => self.push_link(&target),
        };
        self.link(parent, name, linked);
        Ok(())
    }

    /// Hides `path` in the layers below; the same as a file `.wh.<name>` beside it.
    ///
    /// # Errors
    /// [`BuildError`]; the builder is then of no further use.
    pub fn whiteout(&mut self, path: &[u8]) -> Result<(), BuildError> {
        check_path(path)?;
        let (parent, name) = path::split(path);
        if name.is_empty() {
            return Err(BuildError::BadRoot);
        }
        self.add_whiteout(path, parent, name)
    }

    /// Hides the children that a directory has in the layers below; the same as a file
    /// `.wh..wh..opq` in it.
    ///
    /// # Errors
    /// [`BuildError`]; the builder is then of no further use.
    pub fn opaque(&mut self, directory: &[u8]) -> Result<(), BuildError> {
        check_path(directory)?;
        let index = self.directory(directory, directory)?;
        self.directory_mut(index).opaque = true;
        Ok(())
    }

    fn set_root(&mut self, path: &[u8], entry: Entry) -> Result<(), BuildError> {
        if entry.kind != Kind::Directory {
            return Err(BuildError::BadRoot);
        }
        check_entry(path, &entry)?;
        self.set_directory(ROOT, entry);
        Ok(())
    }

    fn add_whiteout(
        &mut self,
        path: &[u8],
        parent: &[u8],
        hidden: &[u8],
    ) -> Result<(), BuildError> {
        if !path::is_name(hidden) {
            return Err(bad_path(path));
        }
        let parent = self.directory(path, parent)?;
        self.directory_mut(parent).whiteouts.insert(hidden.into());
        Ok(())
    }

    /// Puts an entry in its place, over what was there.
    fn place(&mut self, parent: Index, name: &[u8], entry: Entry) {
        let there = self.child(parent, name);
        if entry.kind == Kind::Directory {
            match there {
                Some(index) if self.is_directory(index) => self.set_directory(index, entry),
                _ => {
                    let index = self.push(Node::implicit_directory());
                    self.set_directory(index, entry);
                    self.link(parent, name, index);
                }
            }
            return;
        }
        let group = entry.link_group;
        let member = group.and_then(|group| self.groups.get(&group).copied());
        let node = self.store(entry);
        let index = match member {
            // New attributes and content for a file with several names.
            Some(index) => {
                let names = self.nodes[index].names;
                self.nodes[index] = Node { names, ..node };
                index
            }
            None => self.push(node),
        };
        if let Some(group) = group {
            self.groups.insert(group, index);
        }
        self.link(parent, name, index);
    }

    /// Moves an entry's variable parts into the pools.
    fn store(&mut self, entry: Entry) -> Node {
        let payload = match entry.kind {
            Kind::Symlink => self.text(&entry.symlink),
            Kind::File => {
                let first = self.extents.len();
                for (offset, length, content) in &entry.extents {
                    let content = self.text(content);
                    self.extents.push(StoredExtent {
                        offset: *offset,
                        length: *length,
                        content,
                    });
                }
                (first, entry.extents.len())
            }
            _ => (0, 0),
        };
        Node {
            payload,
            ..Node::attributes_of(entry)
        }
    }

    fn set_directory(&mut self, index: Index, entry: Entry) {
        let there = &mut self.nodes[index];
        // What another entry names explicitly stays so.
        if entry.implicit && !there.implicit {
            return;
        }
        *there = Node {
            implicit: entry.implicit,
            names: there.names,
            directory: there.directory.take(),
            ..Node::attributes_of(entry)
        };
    }

    fn push(&mut self, node: Node) -> Index {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn push_link(&mut self, target: &[u8]) -> Index {
        let payload = self.text(target);
        self.push(Node {
            kind: Kind::Link,
            payload,
            ..Node::default()
        })
    }

    fn text(&mut self, bytes: &[u8]) -> (usize, usize) {
        let at = self.blob.len();
        self.blob.extend_from_slice(bytes);
        (at, bytes.len())
    }

    /// Gives a node a name; what had the name loses it.
    fn link(&mut self, parent: Index, name: &[u8], index: Index) {
        // First the new name, so that a file linked onto itself survives.
        self.nodes[index].names += 1;
        let children = &mut self.directory_mut(parent).children;
        if let Some(replaced) = children.insert(name.into(), index) {
            self.unlink(replaced);
        }
    }

    /// Takes a name from a node; a directory goes with all that it holds. (`last_directory` is
    /// above the name that goes, so it stays.)
    fn unlink(&mut self, index: Index) {
        let mut doomed = vec![index];
        while let Some(index) = doomed.pop() {
            let node = &mut self.nodes[index];
            node.names -= 1;
            if let Some(directory) = node.directory.take() {
                doomed.extend(directory.children.into_values());
            }
        }
    }

    /// The directory at a path, made implicitly where no entry has named it yet. `whole` is for
    /// the error.
    fn directory(&mut self, whole: &[u8], path: &[u8]) -> Result<Index, BuildError> {
        if let Some((last, index)) = &self.last_directory
            && last == path
        {
            return Ok(*index);
        }
        let mut index = ROOT;
        for name in path::components(path) {
            index = match self.child(index, name) {
                Some(child) if self.is_directory(child) => child,
                Some(_) => return Err(BuildError::NotADirectory { path: whole.into() }),
                None => self.make_implicit(whole, index, name)?,
            };
        }
        self.last_directory = Some((path.to_vec(), index));
        Ok(index)
    }

    fn make_implicit(
        &mut self,
        whole: &[u8],
        parent: Index,
        name: &[u8],
    ) -> Result<Index, BuildError> {
        if whiteout::interpret(name) != Name::Plain {
            return Err(bad_path(whole));
        }
        let index = self.push(Node::implicit_directory());
        self.link(parent, name, index);
        Ok(index)
    }

    fn find(&self, path: &[u8]) -> Option<Index> {
        path::components(path).try_fold(ROOT, |index, name| self.child(index, name))
    }

    fn child(&self, parent: Index, name: &[u8]) -> Option<Index> {
        let directory = self.nodes[parent].directory.as_ref()?;
        directory.children.get(name).copied()
    }

    fn is_directory(&self, index: Index) -> bool {
        self.nodes[index].kind == Kind::Directory
    }

    fn directory_mut(&mut self, index: Index) -> &mut Directory {
        self.nodes[index].directory.get_or_insert_default()
    }
}
