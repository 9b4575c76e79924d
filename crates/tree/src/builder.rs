//! Collects a layer's entries in any order and writes its tree.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::entry::{Entry, Extent, Kind};
use crate::format::{IMPLICIT, MAX_CONTENT, MAX_PATH, MAX_XATTR_VALUE, MAX_XATTRS, OPAQUE};
use crate::path::{self, Fault};
use crate::whiteout::{self, Name};
use crate::write::{Draft, TooLarge, Writer};

/// Why a layer cannot become a tree. Paths are as the caller gave them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A path that leads out of the layer, or with a name that no directory can hold.
    #[error("{}: not a path within a layer", path.escape_ascii())]
    BadPath {
        /// The path.
        path: Vec<u8>,
    },
    /// A path longer than [`MAX_PATH`](crate::format::MAX_PATH).
    #[error("{}…: path longer than {MAX_PATH} bytes", path.escape_ascii())]
    PathTooLong {
        /// Its beginning.
        path: Vec<u8>,
    },
    /// A name below something that is no directory in this layer.
    #[error("{}: lies below something that is no directory", path.escape_ascii())]
    NotADirectory {
        /// The path.
        path: Vec<u8>,
    },
    /// The root must stay a directory, and cannot be whited out.
    #[error("the root of a layer can only be a directory")]
    BadRoot,
    /// A hardlink to a directory of this layer.
    #[error("{}: hardlink to a directory", path.escape_ascii())]
    LinkToDirectory {
        /// The link's path.
        path: Vec<u8>,
    },
    /// A field of an entry that no file system could show.
    #[error("{}: bad {what}", path.escape_ascii())]
    BadEntry {
        /// The entry's path.
        path: Vec<u8>,
        /// The field.
        what: &'static str,
    },
    /// Hardlinks to hardlinks to hardlinks.
    #[error("{}: hardlink through more than {MAX_LINKS} others", path.escape_ascii())]
    LinkChain {
        /// Where the first of them leads.
        path: Vec<u8>,
    },
    /// More than 2³² of something, or sizes that add up to more than 2⁶⁴.
    #[error("the layer is too large for a tree")]
    TooLarge,
}

impl From<TooLarge> for BuildError {
    fn from(_: TooLarge) -> Self {
        Self::TooLarge
    }
}

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

#[derive(Debug, Default)]
struct Node {
    kind: Kind,
    implicit: bool,
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: i64,
    mtime_nanos: u32,
    size: u64,
    rdev: u64,
    /// Names that lead here; without any it is not written.
    names: u32,
    /// File: its extents in `extents`. Symlink, link: its target in `blob`.
    payload: (usize, usize),
    xattrs: Box<[(Vec<u8>, Vec<u8>)]>,
    directory: Option<Box<Directory>>,
}

#[derive(Debug, Default)]
struct Directory {
    opaque: bool,
    children: BTreeMap<Box<[u8]>, Index>,
    whiteouts: BTreeSet<Box<[u8]>>,
}

#[derive(Debug)]
struct StoredExtent {
    offset: u64,
    length: u64,
    content: (usize, usize),
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

    /// Writes the tree.
    ///
    /// # Errors
    /// [`BuildError::TooLarge`], [`BuildError::LinkToDirectory`], [`BuildError::LinkChain`].
    pub fn finish(mut self) -> Result<Vec<u8>, BuildError> {
        self.settle_links()?;
        self.settle_whiteouts();
        let mut writer = Writer::default();
        let mut numbers = vec![None; self.nodes.len()];
        let mut queue = vec![(ROOT, self.write(&mut writer, ROOT, 0)?)];
        let mut next = 0;
        while let Some((index, number)) = queue.get(next).copied() {
            next += 1;
            self.write_names(&mut writer, &mut numbers, &mut queue, (index, number))?;
        }
        Ok(writer.finish(0)?)
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
            Some(index) if self.nodes[index].names > 0 => {
                let names = self.nodes[index].names;
                self.nodes[index] = Node { names, ..node };
                index
            }
            _ => self.push(node),
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

    /// Takes a name from a node; a directory goes with all that it holds.
    fn unlink(&mut self, index: Index) {
        let mut doomed = vec![index];
        while let Some(index) = doomed.pop() {
            let node = &mut self.nodes[index];
            node.names -= 1;
            if let Some(directory) = node.directory.take() {
                doomed.extend(directory.children.into_values());
                self.last_directory = None;
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

    /// Links whose target this layer has after all become names of the target.
    fn settle_links(&mut self) -> Result<(), BuildError> {
        let links: Vec<Index> = (0..self.nodes.len())
            .filter(|index| self.nodes[*index].kind == Kind::Link)
            .collect();
        if links.is_empty() {
            return Ok(());
        }
        let mut settled = HashMap::new();
        for link in links {
            if let Some(target) = self.settle(link)? {
                settled.insert(link, target);
            }
        }
        for node in &mut self.nodes {
            let Some(directory) = &mut node.directory else {
                continue;
            };
            for child in directory.children.values_mut() {
                *child = settled.get(child).copied().unwrap_or(*child);
            }
        }
        Ok(())
    }

    /// Where a link leads within this layer, through other links; nothing if it leads below, or
    /// in a circle.
    fn settle(&self, link: Index) -> Result<Option<Index>, BuildError> {
        let mut visited = vec![link];
        let mut index = link;
        while self.nodes[index].kind == Kind::Link {
            let Some(found) = self.find(self.target(index)) else {
                break;
            };
            if visited.contains(&found) {
                return Ok(None);
            }
            if visited.len() > MAX_LINKS {
                let path = self.target(link).to_vec();
                return Err(BuildError::LinkChain { path });
            }
            visited.push(found);
            index = found;
        }
        if self.is_directory(index) {
            let path = self.target(link).to_vec();
            return Err(BuildError::LinkToDirectory { path });
        }
        Ok((index != link).then_some(index))
    }

    /// A whiteout acts on lower layers only: beside an entry of its name it leaves just its
    /// effect on directories, which then start empty.
    fn settle_whiteouts(&mut self) {
        let whiteout = self.push(Node {
            kind: Kind::Whiteout,
            ..Node::default()
        });
        for index in 0..self.nodes.len() {
            let Some(mut directory) = self.nodes[index].directory.take() else {
                continue;
            };
            for name in std::mem::take(&mut directory.whiteouts) {
                let child = *directory.children.entry(name).or_insert(whiteout);
                if self.is_directory(child) {
                    self.directory_mut(child).opaque = true;
                    // Nothing is left below whose attributes it could take.
                    self.nodes[child].implicit = false;
                }
            }
            self.nodes[index].directory = Some(directory);
        }
    }

    fn target(&self, index: Index) -> &[u8] {
        cut(&self.blob, self.nodes[index].payload)
    }

    fn write_names(
        &self,
        writer: &mut Writer,
        numbers: &mut [Option<u32>],
        queue: &mut Vec<(Index, u32)>,
        (index, number): (Index, u32),
    ) -> Result<(), BuildError> {
        writer.open(number);
        let Some(directory) = &self.nodes[index].directory else {
            return Ok(());
        };
        for (name, child) in &directory.children {
            let child = *child;
            let child_number = match numbers[child] {
                Some(known) => known,
                None => self.write(writer, child, number)?,
            };
            match self.nodes[child].kind {
                Kind::Directory => queue.push((child, child_number)),
                // Each is a node of its own: there is nothing to share.
                Kind::Whiteout => {}
                _ => numbers[child] = Some(child_number),
            }
            writer.name(number, name, child_number)?;
        }
        Ok(())
    }

    fn write(&self, writer: &mut Writer, index: Index, parent: u32) -> Result<u32, BuildError> {
        let node = &self.nodes[index];
        let opaque = node.directory.as_ref().is_some_and(|it| it.opaque);
        let draft = Draft {
            kind: node.kind,
            flags: if node.implicit { IMPLICIT } else { 0 } | if opaque { OPAQUE } else { 0 },
            layer: 0,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            mtime: node.mtime,
            mtime_nanos: node.mtime_nanos,
            size: node.size,
            rdev: node.rdev,
            target: if node.kind.has_target() {
                self.target(index)
            } else {
                &[]
            },
        };
        let xattrs = node
            .xattrs
            .iter()
            .map(|(name, value)| (&name[..], &value[..]));
        let extents = match node.kind {
            Kind::File => cut(&self.extents, node.payload),
            _ => &[],
        };
        let extents = extents.iter().map(|extent| Extent {
            offset: extent.offset,
            length: extent.length,
            content: cut(&self.blob, extent.content),
        });
        Ok(writer.node(&draft, parent, xattrs, extents)?)
    }
}

impl Node {
    /// What most runtimes give a directory that no entry names.
    fn implicit_directory() -> Self {
        Self {
            kind: Kind::Directory,
            implicit: true,
            mode: 0o755,
            ..Self::default()
        }
    }

    /// An entry's node without its payload.
    fn attributes_of(entry: Entry) -> Self {
        // Sorted by name; of equal names the last, which a stable sort leaves last.
        let mut xattrs = entry.xattrs;
        xattrs.sort_by(|a, b| a.0.cmp(&b.0));
        xattrs.reverse();
        xattrs.dedup_by(|later, kept| later.0 == kept.0);
        xattrs.reverse();
        Self {
            kind: entry.kind,
            mode: (entry.mode & 0o7777) as u16,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            mtime_nanos: entry.mtime_nanos,
            size: entry.size,
            rdev: if entry.kind.is_device() {
                entry.rdev
            } else {
                0
            },
            xattrs: xattrs.into_boxed_slice(),
            ..Self::default()
        }
    }
}

/// The `length` items from `first` on, of a pool of the builder's own.
fn cut<T>(pool: &[T], (first, length): (usize, usize)) -> &[T] {
    pool.get(first..first + length).unwrap_or_default()
}

fn bad_path(path: &[u8]) -> BuildError {
    BuildError::BadPath { path: path.into() }
}

fn check_path(path: &[u8]) -> Result<(), BuildError> {
    path::check(path).map_err(|fault| match fault {
        Fault::BadName => bad_path(path),
        Fault::TooLong => BuildError::PathTooLong {
            path: path.get(..80).unwrap_or(path).into(),
        },
    })
}

/// Whether a directory's path goes through what AUFS kept for itself.
fn below_metadata(directory: &[u8]) -> bool {
    path::components(directory).any(|name| whiteout::interpret(name) == Name::Metadata)
}

fn check_entry(path: &[u8], entry: &Entry) -> Result<(), BuildError> {
    let bad = |what| {
        let path = path.into();
        Err(BuildError::BadEntry { path, what })
    };
    if entry.kind == Kind::Link {
        return bad("kind: hardlinks have a method of their own");
    }
    if entry.mtime_nanos >= 1_000_000_000 {
        return bad("time: more nanoseconds than a second has");
    }
    let target = &entry.symlink;
    let target_fits = !target.is_empty() && target.len() <= MAX_PATH && !target.contains(&0);
    if entry.kind == Kind::Symlink && !target_fits {
        return bad("target of a symlink");
    }
    if entry.xattrs.len() > MAX_XATTRS {
        return bad("number of extended attributes");
    }
    for (name, value) in &entry.xattrs {
        if name.is_empty() || name.len() > 255 || name.contains(&0) {
            return bad("name of an extended attribute");
        }
        if value.len() > MAX_XATTR_VALUE {
            return bad("value of an extended attribute");
        }
    }
    let mut covered = 0;
    for (offset, length, content) in &entry.extents {
        let end = offset.checked_add(*length).filter(|end| *end <= entry.size);
        let Some(end) = end else {
            return bad("extent: past the end of the file");
        };
        if *offset < covered || *length == 0 || content.len() > MAX_CONTENT {
            return bad("extent");
        }
        covered = end;
    }
    Ok(())
}
