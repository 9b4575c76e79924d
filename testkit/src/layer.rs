use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;

/// The time of every entry that states none: 2023-11-14T22:13:20Z.
pub const DEFAULT_MTIME: i64 = 1_700_000_000;

/// One name in a layer or repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the layer's root, without leading or trailing slash; empty for the root itself.
    pub path: Vec<u8>,
    /// What the name is.
    pub kind: EntryKind,
    /// Permission bits, with set-user-ID and the like (0o7777).
    pub mode: u32,
    /// owner
    pub uid: u32,
    /// group
    pub gid: u32,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Nanoseconds, below 10⁹.
    pub mtime_nanos: u32,
    /// Full names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// How a repository stores the content; a tar knows nothing of it.
    pub storage: Storage,
    /// Repository only: found by lookup, left out of listings.
    pub hidden: bool,
    /// Repository only: the direct-I/O flag.
    pub direct_io: bool,
}

/// What a name is, with what belongs to that kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// content
    File(Arc<[u8]>),
    /// directory
    Directory,
    /// target, verbatim
    Symlink(Vec<u8>),
    /// Another name of the file at this path (relative to the layer's root).
    Hardlink(Vec<u8>),
    /// major, minor
    CharDevice(u32, u32),
    /// major, minor
    BlockDevice(u32, u32),
    /// named pipe
    Fifo,
    /// Repository only: a tar has no sockets.
    Socket,
}

/// How a repository stores a file's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Storage {
    /// one zlib object
    #[default]
    Compressed,
    /// one object of the plain bytes
    Plain,
    /// zlib objects of this many uncompressed bytes each (the last may be shorter)
    Chunked(usize),
    /// plain objects of this many bytes each
    PlainChunked(usize),
    /// not an object but a file below the external URL
    External,
    /// as `External`, hashed in parts of this many bytes
    ExternalChunked(usize),
}

impl Storage {
    pub(crate) fn chunk_size(self) -> Option<usize> {
        match self {
            Self::Chunked(size) | Self::PlainChunked(size) | Self::ExternalChunked(size) => {
                Some(size.max(1))
            }
            Self::Compressed | Self::Plain | Self::External => None,
        }
    }

    pub(crate) fn is_compressed(self) -> bool {
        matches!(self, Self::Compressed | Self::Chunked(_))
    }

    pub(crate) fn is_external(self) -> bool {
        matches!(self, Self::External | Self::ExternalChunked(_))
    }
}

impl Entry {
    /// An entry with mode 0644 (directories 0755, symlinks 0777), owner 0:0 and [`DEFAULT_MTIME`].
    #[must_use]
    pub fn new(path: impl AsRef<[u8]>, kind: EntryKind) -> Self {
        let mode = match kind {
            EntryKind::Directory => 0o755,
            EntryKind::Symlink(_) => 0o777,
            _ => 0o644,
        };
        Self {
            path: path.as_ref().to_vec(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: DEFAULT_MTIME,
            mtime_nanos: 0,
            xattrs: Vec::new(),
            storage: Storage::Compressed,
            hidden: false,
            direct_io: false,
        }
    }

    /// A regular file.
    #[must_use]
    pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        Self::new(path, EntryKind::File(content.as_ref().into()))
    }

    /// A directory.
    #[must_use]
    pub fn directory(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, EntryKind::Directory)
    }

    /// A symlink.
    #[must_use]
    pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::new(path, EntryKind::Symlink(target.as_ref().to_vec()))
    }

    /// Another name of `target`; in a tar it repeats the target's mode, owner and time if the layer has the target.
    #[must_use]
    pub fn hardlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::new(path, EntryKind::Hardlink(target.as_ref().to_vec()))
    }

    /// `.wh.<name>`: removes `path` of lower layers.
    #[must_use]
    pub fn whiteout(path: impl AsRef<[u8]>) -> Self {
        let path = path.as_ref();
        let cut = path
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(0, |slash| slash + 1);
        Self::file([&path[..cut], b".wh.", &path[cut..]].concat(), b"")
    }

    /// `.wh..wh..opq`: hides what lower layers have in `directory`.
    #[must_use]
    pub fn opaque(directory: impl AsRef<[u8]>) -> Self {
        let directory = directory.as_ref();
        let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
        Self::file([directory, slash, b".wh..wh..opq"].concat(), b"")
    }

    /// Sets the permission bits.
    #[must_use]
    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    /// Sets owner and group.
    #[must_use]
    pub fn owner(self, uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..self }
    }

    /// Sets the time.
    #[must_use]
    pub fn mtime(self, mtime: i64, mtime_nanos: u32) -> Self {
        Self {
            mtime,
            mtime_nanos,
            ..self
        }
    }

    /// Adds an extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.xattrs
            .push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// Sets how a repository stores the content.
    #[must_use]
    pub fn storage(self, storage: Storage) -> Self {
        Self { storage, ..self }
    }

    /// Hides it from a repository's listings.
    #[must_use]
    pub fn hidden(self) -> Self {
        Self {
            hidden: true,
            ..self
        }
    }

    /// Sets the direct-I/O flag.
    #[must_use]
    pub fn direct_io(self) -> Self {
        Self {
            direct_io: true,
            ..self
        }
    }
}

/// The entries of one layer in the order in which its tar has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// May name a path twice (the later wins) and may leave out parents (implicit directories).
    pub entries: Vec<Entry>,
}

impl Layer {
    /// A layer of these entries.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        Self {
            entries: entries.into_iter().collect(),
        }
    }

    /// `files` small regular files in directories of 500, with 997 different contents: as large as layers come, quickly
    /// made. Names and contents are the same in each call.
    #[must_use]
    pub fn bulk(files: usize) -> Self {
        let contents: Vec<Arc<[u8]>> = (0..997)
            .map(|number| {
                format!("content {number}\n")
                    .repeat(1 + number % 7)
                    .into_bytes()
                    .into()
            })
            .collect();
        let mut entries = Vec::with_capacity(files + files / 500 + 1);
        for number in 0..files {
            if number % 500 == 0 {
                entries.push(Entry::directory(format!("d{:04}", number / 500)));
            }
            let path = format!("d{:04}/file{number:06}", number / 500);
            entries.push(Entry::new(
                path,
                EntryKind::File(contents[number % contents.len()].clone()),
            ));
        }
        Self { entries }
    }

    /// The layer as an uncompressed POSIX (PAX) tar.
    ///
    /// # Errors
    /// If it holds a socket, or a name that no PAX record can carry.
    pub fn tar(&self) -> Result<Vec<u8>> {
        let mut writer = tar::Builder::new(Vec::new());
        let mut known: HashMap<&[u8], &Entry> = HashMap::new();
        for entry in &self.entries {
            // Extractors disagree whether a link's own attributes count, so real tars repeat those of its target.
            let repeated = match &entry.kind {
                EntryKind::Hardlink(target) => known.get(target.as_slice()).map(|target| Entry {
                    path: entry.path.clone(),
                    kind: entry.kind.clone(),
                    xattrs: Vec::new(),
                    ..(*target).clone()
                }),
                _ => None,
            };
            append(&mut writer, repeated.as_ref().unwrap_or(entry))?;
            let original = match &entry.kind {
                EntryKind::Hardlink(target) => known.get(target.as_slice()).copied(),
                _ => None,
            };
            known.insert(&entry.path, original.unwrap_or(entry));
        }
        Ok(writer.into_inner()?)
    }
}

fn append(writer: &mut tar::Builder<Vec<u8>>, entry: &Entry) -> Result<()> {
    use tar::EntryType;
    let mut path = if entry.path.is_empty() {
        b"./".to_vec()
    } else {
        entry.path.clone()
    };
    let (kind, link, content): (_, &[u8], &[u8]) = match &entry.kind {
        EntryKind::File(content) => (EntryType::Regular, b"", content),
        EntryKind::Directory => (EntryType::Directory, b"", b""),
        EntryKind::Symlink(target) => (EntryType::Symlink, target, b""),
        EntryKind::Hardlink(target) => (EntryType::Link, target, b""),
        EntryKind::CharDevice(..) => (EntryType::Char, b"", b""),
        EntryKind::BlockDevice(..) => (EntryType::Block, b"", b""),
        EntryKind::Fifo => (EntryType::Fifo, b"", b""),
        EntryKind::Socket => anyhow::bail!(
            "a tar cannot hold the socket {}",
            String::from_utf8_lossy(&entry.path)
        ),
    };
    if kind == EntryType::Directory && path.last() != Some(&b'/') {
        path.push(b'/');
    }
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(entry.mode);
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_mtime(u64::try_from(entry.mtime).unwrap_or(0));
    header.set_size(content.len() as u64);
    if let EntryKind::CharDevice(major, minor) | EntryKind::BlockDevice(major, minor) = entry.kind {
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
    }
    let extensions = pax_records(entry, &path, link);
    writer.append_pax_extensions(
        extensions
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_slice())),
    )?;
    let old = header.as_old_mut();
    copy_field(&mut old.name, &path);
    copy_field(&mut old.linkname, link);
    header.set_cksum();
    writer.append(&header, content)?;
    Ok(())
}

/// A field that is too short for its text is truncated: a PAX record carries the whole.
fn copy_field(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

fn pax_records(entry: &Entry, path: &[u8], link: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut records = Vec::new();
    if path.len() > 100 {
        records.push(("path".to_owned(), path.to_vec()));
    }
    if link.len() > 100 {
        records.push(("linkpath".to_owned(), link.to_vec()));
    }
    if entry.mtime_nanos != 0 || entry.mtime < 0 {
        // Decimal seconds: −0.25 s is stored as −1 s + 750 000 000 ns.
        let nanos = i128::from(entry.mtime) * 1_000_000_000 + i128::from(entry.mtime_nanos);
        let sign = if nanos < 0 { "-" } else { "" };
        let text = format!(
            "{sign}{}.{:09}",
            nanos.abs() / 1_000_000_000,
            nanos.abs() % 1_000_000_000
        );
        records.push(("mtime".to_owned(), text.into_bytes()));
    }
    for (name, value) in &entry.xattrs {
        records.push((
            format!("SCHILY.xattr.{}", String::from_utf8_lossy(name)),
            value.clone(),
        ));
    }
    records
}
