//! What a directory tree holds, as some user sees it, and how two of them differ.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, openat, readlinkat, statat,
};
use rustix::io::Errno;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use sha2::{Digest, Sha256};

/// Reading a mount of ours may hang if it is broken; a test must not.
const LIMIT: Duration = Duration::from_secs(120);

/// One entry, by all that a container can see of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As in `find -printf %y`: `f d l c b p s`.
    pub kind: char,
    /// Permission bits with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a regular file, else 0.
    pub size: u64,
    /// Device number as `stat` shows it, of devices, else 0.
    pub rdev: u64,
    /// Seconds; none if nothing states it.
    pub mtime: Option<i64>,
    /// A symbolic link's.
    pub target: Vec<u8>,
    /// SHA-256 of a regular file in hex; none if it may not be read.
    pub content: Option<String>,
    /// Extended attributes; only root's listing has them.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Equal for names of one inode; 0 for those with one name.
    pub link_group: u64,
}

impl Entry {
    /// The kind of a name that `readdir` gives and `stat` does not find: overlayfs shows a whiteout so in a directory that one lower only has.
    pub const GHOST: char = '?';

    /// What nothing states more of than that it is there: root's, 0755, of no time.
    pub fn implicit(kind: char) -> Self {
        Self {
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            size: 0,
            rdev: 0,
            mtime: None,
            target: Vec::new(),
            content: None,
            xattrs: BTreeMap::new(),
            link_group: 0,
        }
    }
}

/// Entries by path without a leading slash; the root itself is the empty path.
pub type Listing = BTreeMap<Vec<u8>, Entry>;

/// Lists what lies below `root` as user and group `id`, with no other group and no capability unless it is 0.
///
/// The root is opened before the user is changed: what lies above it may be closed to that user.
pub fn list(root: &Path, id: u32) -> Result<Listing> {
    let (root, (done, listed)) = (root.to_owned(), mpsc::channel());
    // Credentials are a thread's own in Linux, and this thread ends.
    std::thread::spawn(move || done.send(list_here(&root, id)));
    listed
        .recv_timeout(LIMIT)
        .map_err(|_| anyhow!("listing took longer than {LIMIT:?}"))?
}

fn list_here(root: &Path, id: u32) -> Result<Listing> {
    let opened = File::open(root).with_context(|| format!("cannot open {}", root.display()))?;
    if id != 0 {
        let (group, user) = (Gid::from_raw(id), Uid::from_raw(id));
        set_thread_groups(&[])?;
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
    }
    let mut listing = Listing::new();
    add(opened.as_fd(), b".", Vec::new(), &mut listing)?;
    if id == 0 {
        add_xattrs(root, &mut listing)?;
    }
    Ok(listing)
}

fn add(parent: BorrowedFd<'_>, name: &[u8], path: Vec<u8>, listing: &mut Listing) -> Result<()> {
    let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        // The directory may be read, but not searched.
        Err(Errno::ACCESS) => return Ok(()),
        Err(Errno::NOENT) => {
            listing.insert(path, Entry::implicit(Entry::GHOST));
            return Ok(());
        }
        other => {
            other.with_context(|| format!("cannot stat {}", String::from_utf8_lossy(&path)))?
        }
    };
    let entry = entry(parent, name, &stat)
        .with_context(|| format!("cannot read {}", String::from_utf8_lossy(&path)))?;
    let is_directory = entry.kind == 'd';
    listing.insert(path.clone(), entry);
    if !is_directory {
        return Ok(());
    }
    let directory = match open(parent, name, OFlags::DIRECTORY)? {
        None => return Ok(()),
        Some(directory) => directory,
    };
    for child in Dir::read_from(&directory)? {
        let child = child?;
        let child = child.file_name().to_bytes();
        if child != b"." && child != b".." {
            let below = if path.is_empty() {
                child.to_vec()
            } else {
                [&path[..], b"/", child].concat()
            };
            add(directory.as_fd(), child, below, listing)?;
        }
    }
    Ok(())
}

fn entry(parent: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<Entry> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => 'f',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::Unknown => Entry::GHOST,
    };
    let content = match (kind, open(parent, name, OFlags::NONBLOCK)) {
        ('f', Ok(Some(file))) => Some(sha256(file)?),
        ('f', Err(error)) => return Err(error),
        _ => None,
    };
    Ok(Entry {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: if kind == 'f' {
            stat.st_size.cast_unsigned()
        } else {
            0
        },
        rdev: if matches!(kind, 'c' | 'b') {
            stat.st_rdev
        } else {
            0
        },
        mtime: Some(stat.st_mtime),
        target: if kind == 'l' {
            readlinkat(parent, name, Vec::new())?.into_bytes()
        } else {
            Vec::new()
        },
        content,
        xattrs: BTreeMap::new(),
        link_group: if kind != 'd' && stat.st_nlink > 1 {
            stat.st_ino
        } else {
            0
        },
    })
}

/// None if it may not be read.
fn open(parent: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<Option<OwnedFd>> {
    // Opening a device or a fifo for reading would have effects.
    let kind = FileType::from_raw_mode(statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Ok(None);
    }
    match openat(
        parent,
        name,
        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::ACCESS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn sha256(file: OwnedFd) -> Result<String> {
    let (mut file, mut hash, mut buffer) = (File::from(file), Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn add_xattrs(root: &Path, listing: &mut Listing) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    for (path, entry) in listing
        .iter_mut()
        .filter(|(_, entry)| entry.kind != Entry::GHOST)
    {
        let file = root.join(std::ffi::OsStr::from_bytes(path));
        let mut names = vec![0; 1 << 16];
        let length = match rustix::fs::llistxattr(&file, &mut names) {
            Err(Errno::NOTSUP | Errno::NOSYS) => 0,
            other => other?,
        };
        for name in names[..length]
            .split(|&byte| byte == 0)
            .filter(|name| !name.is_empty())
        {
            let mut value = vec![0; 1 << 16];
            let length = rustix::fs::lgetxattr(&file, name, &mut value)?;
            entry.xattrs.insert(
                String::from_utf8_lossy(name).into_owned(),
                value[..length].to_vec(),
            );
        }
    }
    Ok(())
}

/// What user and group `id`, not root, sees of a tree that root sees as `listing`.
pub fn seen_by(listing: &Listing, id: u32) -> Listing {
    let may = |entry: &Entry, bits: u32| {
        let shift = if entry.uid == id {
            6
        } else if entry.gid == id {
            3
        } else {
            0
        };
        (entry.mode >> shift) & bits == bits
    };
    let visible = |path: &[u8]| {
        // Every directory on the way must be searchable, and readable to have been walked.
        let mut ancestors = (0..path.len())
            .filter(|&end| path[end] == b'/')
            .map(|end| &path[..end])
            .chain([&b""[..]]);
        path.is_empty()
            || ancestors.all(|above| listing.get(above).is_none_or(|entry| may(entry, 0o5)))
    };
    let seen = listing.iter().filter(|(path, _)| visible(path));
    seen.map(|(path, entry)| {
        let content = entry.content.clone().filter(|_| may(entry, 0o4));
        (
            path.clone(),
            Entry {
                content,
                xattrs: BTreeMap::new(),
                ..entry.clone()
            },
        )
    })
    .collect()
}

/// The first difference in words; hardlink groups and xattrs are not compared here. An expected entry without mtime may have any.
pub fn difference(expected: &Listing, found: &Listing) -> Option<String> {
    for (path, wanted) in expected {
        let shown = format!("/{}", String::from_utf8_lossy(path));
        let Some(got) = found.get(path) else {
            return Some(format!("{shown} is missing"));
        };
        let comparable = Entry {
            mtime: wanted.mtime.and(got.mtime),
            xattrs: wanted.xattrs.clone(),
            link_group: wanted.link_group,
            ..got.clone()
        };
        if comparable != *wanted {
            return Some(format!(
                "{shown} should be\n  {wanted:?}\nand is\n  {comparable:?}"
            ));
        }
    }
    let more = found.keys().find(|path| !expected.contains_key(*path))?;
    Some(format!(
        "/{} should not be there",
        String::from_utf8_lossy(more)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("open")).unwrap();
        fs::create_dir(at("closed")).unwrap();
        fs::write(at("open/secret"), "1").unwrap();
        fs::write(at("closed/file"), "2").unwrap();
        symlink("open", at("link")).unwrap();
        fs::hard_link(at("open/secret"), at("again")).unwrap();
        let allow = |name: &str, mode| {
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        allow("", 0o755);
        allow("open/secret", 0o600);
        allow("closed", 0o700);
        folder
    }

    #[test]
    fn another_user_sees_what_modes_allow() {
        let folder = tree();
        let root = list(folder.path(), 0).unwrap();
        let other = list(folder.path(), 1000).unwrap();
        assert_eq!(difference(&seen_by(&root, 1000), &other), None);
        assert_eq!(
            root[&b"open/secret"[..]].content.as_deref(),
            Some(&*hex(&Sha256::digest("1")))
        );
        assert_eq!(other[&b"open/secret"[..]].content, None);
        assert!(root.contains_key(&b"closed/file"[..]) && !other.contains_key(&b"closed/file"[..]));
        assert_ne!(root[&b"again"[..]].link_group, 0);
    }

    #[test]
    fn differences_are_found() {
        let folder = tree();
        let before = list(folder.path(), 0).unwrap();
        assert_eq!(difference(&before, &before), None);
        fs::write(folder.path().join("closed/file"), "3").unwrap();
        let changed = list(folder.path(), 0).unwrap();
        assert!(
            difference(&before, &changed)
                .unwrap()
                .starts_with("/closed/file should be")
        );
        fs::remove_file(folder.path().join("closed/file")).unwrap();
        fs::set_permissions(
            folder.path().join("closed"),
            fs::Permissions::from_mode(0o700),
        )
        .unwrap();
        let fewer = list(folder.path(), 0).unwrap();
        let files = |listing: &Listing| {
            listing
                .iter()
                .filter(|(_, entry)| entry.kind != 'd')
                .map(|(a, b)| (a.clone(), b.clone()))
                .collect()
        };
        assert_eq!(
            difference(&files(&before), &files(&fewer)).unwrap(),
            "/closed/file is missing"
        );
        assert_eq!(
            difference(&files(&fewer), &files(&before)).unwrap(),
            "/closed/file should not be there"
        );
    }
}
