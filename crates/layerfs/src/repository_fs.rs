//! A whole repository as the kernel sees it: catalogs are loaded as they are needed, never a tree.

use std::collections::BTreeMap;
use std::time::Duration;

use cvmfs::{Chunk, Content, Dirent, Kind, NodeId, Repository, expand_variables};
use fuse::{Attr, DirReply, Entry, Errno, FileSystem, Inode, ReadReply, StatFs};
use prometheus_client::metrics::counter::Counter;

use crate::inode_numbers::InodeNumbers;
use crate::read_ahead::{CHUNKS_AHEAD, ReadAhead};

/// Entries fetched from a catalog at a time while a directory is listed: one reply of the kernel's
/// usual size holds about 25.
const LIST_BATCH: usize = 32;
/// READDIR offsets of `.` and `..`; those of children are above.
const DOTS: u64 = 2;
/// Names below `user.` that the client makes up; never listed, so that copying tools leave them.
const MAGIC: &str = "user.";
/// The stored target of a symlink by the name by which it can be asked for: the kernel answers
/// `user.` attributes of symlinks itself, with ENODATA.
const RAWLINK: &str = "xfsroot.rawlink";

/// Who owns what is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The owners that the repository states.
    Stored,
    /// One owner for everything (`CVMFS_CLAIM_OWNERSHIP=yes`): uid, gid.
    Claimed(u32, u32),
}

/// How a repository is shown.
#[derive(Debug, Clone)]
pub struct RepositoryFsOptions {
    /// Values of variables in symlinks, `$(NAME)`.
    pub variables: BTreeMap<String, String>,
    /// Owners.
    pub ownership: Ownership,
    /// How long the kernel may keep names and attributes; `Duration::MAX` for a fixed revision.
    pub valid: Duration,
}

/// The file system of a whole repository.
pub struct RepositoryFs {
    repository: Repository,
    options: RepositoryFsOptions,
    numbers: InodeNumbers,
    ahead: ReadAhead,
    failed: Counter,
}

impl RepositoryFs {
    /// Shows `repository`.
    pub fn new(repository: Repository, options: RepositoryFsOptions) -> Self {
        Self {
            repository,
            options,
            numbers: InodeNumbers::default(),
            ahead: ReadAhead::default(),
            failed: Counter::default(),
        }
    }

    /// Number of operations that failed with EIO.
    pub fn failed(&self) -> &Counter {
        &self.failed
    }

    /// The kernel knows the root by number 1, whichever revision it comes from.
    fn node(&self, inode: Inode) -> NodeId {
        if inode == Inode::ROOT {
            self.repository.root()
        } else {
            NodeId(inode.0.wrapping_sub(1))
        }
    }

    /// Numbers of nodes begin at 1, which is the kernel's name for the root: one more it is.
    fn inode(node: NodeId) -> Inode {
        Inode(node.0 + 1)
    }

    fn errno(&self, error: &cvmfs::Error) -> Errno {
        let errno = errno(error);
        if errno == Errno::EIO {
            self.failed.inc();
            tracing::error!(%error, "an operation fails with EIO");
        }
        errno
    }

    fn target(&self, dirent: &Dirent) -> Vec<u8> {
        expand_variables(&dirent.symlink, &|name| {
            self.options.variables.get(name).cloned()
        })
    }

    fn attr(&self, node: NodeId, dirent: &Dirent) -> Result<Attr, Errno> {
        let (uid, gid) = match self.options.ownership {
            Ownership::Stored => (dirent.uid, dirent.gid),
            Ownership::Claimed(uid, gid) => (uid, gid),
        };
        let ino = self.numbers.of(node, dirent.link_group);
        Ok(Attr {
            ino: Inode(if node == self.repository.root() {
                1
            } else {
                ino
            }),
            size: match dirent.kind {
                Kind::Symlink => self.target(dirent).len() as u64,
                _ => dirent.size,
            },
            mode: dirent.mode,
            nlink: dirent.nlink,
            uid,
            gid,
            rdev: dirent.rdev,
            mtime: dirent.mtime,
            mtime_nanos: dirent.mtime_nanos,
        })
    }

    fn entry(&self, node: NodeId, dirent: &Dirent) -> Result<Entry, Errno> {
        Ok(Entry {
            inode: Self::inode(node),
            attr: self.attr(node, dirent)?,
            entry_valid: self.options.valid,
            attr_valid: self.options.valid,
        })
    }

    fn dirent(&self, inode: Inode) -> Result<(NodeId, Dirent), Errno> {
        let node = self.node(inode);
        let dirent = self.repository.node(node).map_err(|error| match error {
            // A number that was never given out, or is from another life of this mount.
            cvmfs::Error::NotFound(_) => Errno::ESTALE,
            error => self.errno(&error),
        })?;
        Ok((node, dirent))
    }

    /// Appends bytes from the piece of the content at `offset`; returns how many.
    fn read_piece(
        &self,
        content: &Content,
        size: u64,
        (offset, end): (u64, u64),
        out: &mut ReadReply<'_>,
    ) -> Result<u64, Errno> {
        let failed = |error| self.errno(&error);
        let (object, start, length) = match content {
            Content::None => return Err(Errno::EIO),
            Content::Whole(object) => (
                self.repository.fetch(object, Some(size)).map_err(failed)?,
                0,
                size,
            ),
            Content::Chunked(chunks) => {
                let index = chunks.partition_point(|chunk| chunk.offset <= offset);
                let chunk = index
                    .checked_sub(1)
                    .and_then(|i| chunks.get(i))
                    .ok_or(Errno::EIO)?;
                if ReadAhead::is_sequential(index - 1, chunk.offset, offset) {
                    self.fetch_ahead(chunks.iter().skip(index).take(CHUNKS_AHEAD));
                }
                let object = self.repository.fetch(&chunk.object, Some(chunk.size));
                (object.map_err(failed)?, chunk.offset, chunk.size)
            }
            Content::External(chunks) => {
                let index = chunks.partition_point(|chunk| chunk.offset <= offset);
                let chunk = index
                    .checked_sub(1)
                    .and_then(|i| chunks.get(i))
                    .ok_or(Errno::EIO)?;
                let object = self.repository.fetch_external(
                    &chunk.path,
                    chunk.offset,
                    chunk.size,
                    &chunk.hash,
                );
                (object.map_err(failed)?, chunk.offset, chunk.size)
            }
        };
        let wanted = end.min(start.saturating_add(length)).saturating_sub(offset);
        let read = out.push_file(object.file(), offset - start, wanted)? as u64;
        // Shorter than the catalog says: never pad with zeros.
        if read < wanted {
            Err(Errno::EIO)
        } else {
            Ok(read)
        }
    }

    fn fetch_ahead<'a>(&self, chunks: impl Iterator<Item = &'a Chunk>) {
        for chunk in chunks.copied() {
            let repository = self.repository.clone();
            self.ahead.start(move || {
                let _ = repository.fetch(&chunk.object, Some(chunk.size));
            });
        }
    }

    fn magic(&self, node: NodeId, dirent: &Dirent, name: &str) -> Result<Option<String>, Errno> {
        let revision = self.repository.current();
        let value = match name {
            "fqrn" => self.repository.fqrn().to_owned(),
            "revision" => revision.number().to_string(),
            "root_hash" => revision.root_hash().to_string(),
            "tag" => revision.tag().unwrap_or("trunk").to_owned(),
            "rawlink" if dirent.kind == Kind::Symlink => {
                String::from_utf8_lossy(&dirent.symlink).into_owned()
            }
            "catalog_counters" => {
                let hash = self
                    .repository
                    .node_catalog(node)
                    .map_err(|error| self.errno(&error))?;
                format!("catalog_hash: {hash}\n")
            }
            _ => return Ok(None),
        };
        Ok(Some(value))
    }
}

/// Error number that a reader sees; exhaustive, so that a new failure has to be decided here.
fn errno(error: &cvmfs::Error) -> Errno {
    match error {
        cvmfs::Error::NotFound(_) => Errno::ENOENT,
        cvmfs::Error::NotADirectory(_) => Errno::ENOTDIR,
        // Everything else is a failure of I/O: never ENOENT, for the file exists.
        _ => Errno::EIO,
    }
}

impl FileSystem for RepositoryFs {
    fn lookup(&self, parent: Inode, name: &[u8]) -> Result<Option<Entry>, Errno> {
        let found = self.repository.lookup_child(self.node(parent), name);
        match found.map_err(|error| self.errno(&error))? {
            Some((node, dirent)) => self.entry(node, &dirent).map(Some),
            None => Ok(None),
        }
    }

    fn negative_valid(&self) -> Duration {
        self.options.valid
    }

    fn getattr(&self, inode: Inode) -> Result<(Attr, Duration), Errno> {
        let (node, dirent) = self.dirent(inode)?;
        Ok((self.attr(node, &dirent)?, self.options.valid))
    }

    fn readlink(&self, inode: Inode) -> Result<Vec<u8>, Errno> {
        let (_, dirent) = self.dirent(inode)?;
        if dirent.kind == Kind::Symlink {
            Ok(self.target(&dirent))
        } else {
            Err(Errno::EINVAL)
        }
    }

    fn read(&self, inode: Inode, offset: u64, out: &mut ReadReply<'_>) -> Result<(), Errno> {
        let (node, dirent) = self.dirent(inode)?;
        if dirent.kind != Kind::File {
            return Err(Errno::EISDIR);
        }
        let end = dirent
            .size
            .min(offset.saturating_add(out.remaining() as u64));
        if offset >= end {
            return Ok(());
        }
        let content = self
            .repository
            .node_content(node)
            .map_err(|error| self.errno(&error))?;
        let mut at = offset;
        while at < end {
            at += match self.read_piece(&content, dirent.size, (at, end), out)? {
                0 => return Err(Errno::EIO),
                read => read,
            };
        }
        Ok(())
    }

    fn readdir(&self, inode: Inode, offset: u64, out: &mut DirReply<'_>) -> Result<(), Errno> {
        let (directory, dirent) = self.dirent(inode)?;
        if dirent.kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        // The kernel takes nothing but the names from the two.
        for (name, next) in [(&b"."[..], 1), (b"..", DOTS)] {
            if offset < next && !out.add(name, next, &self.entry(directory, &dirent)?) {
                return Ok(());
            }
        }
        let mut after = offset.saturating_sub(DOTS);
        loop {
            let children = self
                .repository
                .children(directory, after, LIST_BATCH)
                .map_err(|error| self.errno(&error))?;
            if children.is_empty() {
                return Ok(());
            }
            for (cookie, node, dirent) in children {
                if !out.add(&dirent.name, cookie + DOTS, &self.entry(node, &dirent)?) {
                    return Ok(());
                }
                after = cookie;
            }
        }
    }

    fn has_xattrs(&self) -> bool {
        true
    }

    fn getxattr(&self, inode: Inode, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let (node, dirent) = self.dirent(inode)?;
        let magic = std::str::from_utf8(name).ok().and_then(|name| {
            let other = (name == RAWLINK).then_some("rawlink");
            name.strip_prefix(MAGIC).or(other)
        });
        if let Some(name) = magic
            && let Some(value) = self.magic(node, &dirent, name)?
        {
            return Ok(value.into_bytes());
        }
        if dirent.xattr_blob.is_empty() {
            return Err(Errno::ENODATA);
        }
        let xattrs = dirent.xattrs().map_err(|_| Errno::EIO)?;
        let found = xattrs.into_iter().find(|(stored, _)| stored == name);
        found.map(|(_, value)| value).ok_or(Errno::ENODATA)
    }

    fn listxattr(&self, inode: Inode) -> Result<Vec<Vec<u8>>, Errno> {
        let (_, dirent) = self.dirent(inode)?;
        let xattrs = dirent.xattrs().map_err(|_| Errno::EIO)?;
        Ok(xattrs.into_iter().map(|(name, _)| name).collect())
    }

    fn statfs(&self) -> StatFs {
        let counters = self.repository.statistics().unwrap_or_default();
        StatFs {
            content_bytes: counters.file_bytes,
            inodes: counters.entries(),
        }
    }
}
