use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

/// What is at one path, as the columns of a truth file state it (all but the path, as text).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    columns: [String; 12],
}

/// A column of a truth file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `f d l p c b s`
    Kind,
    /// four octal digits
    Mode,
    /// owner
    Uid,
    /// group
    Gid,
    /// bytes
    Size,
    /// ns since the epoch
    Mtime,
    /// number of names
    Nlink,
    /// `major:minor` of devices
    Rdev,
    /// the first path that names the same file, if it has several
    HardlinkGroup,
    /// target
    Symlink,
    /// `name=base64;…`
    Xattrs,
    /// of the content
    Sha256,
}

impl Field {
    /// All columns in their order.
    pub const ALL: [Self; 12] = [
        Self::Kind,
        Self::Mode,
        Self::Uid,
        Self::Gid,
        Self::Size,
        Self::Mtime,
        Self::Nlink,
        Self::Rdev,
        Self::HardlinkGroup,
        Self::Symlink,
        Self::Xattrs,
        Self::Sha256,
    ];

    /// As `--ignore` of the command line and the truth file's header name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kind => "type",
            Self::Mode => "mode",
            Self::Uid => "uid",
            Self::Gid => "gid",
            Self::Size => "size",
            Self::Mtime => "mtime_ns",
            Self::Nlink => "nlink",
            Self::Rdev => "rdev",
            Self::HardlinkGroup => "hardlink_group",
            Self::Symlink => "symlink_target",
            Self::Xattrs => "xattrs",
            Self::Sha256 => "sha256",
        }
    }
}

impl Row {
    /// One column's text; `-` where it does not apply.
    #[must_use]
    pub fn get(&self, field: Field) -> &str {
        &self.columns[field as usize]
    }

    /// Changes one column.
    pub fn set(&mut self, field: Field, value: impl Into<String>) {
        self.columns[field as usize] = value.into();
    }

    fn is_directory(&self) -> bool {
        self.get(Field::Kind) == "d"
    }
}

/// A directory tree by path (absolute, `/` for the root, escaped as `truth.py` escapes: `%XX`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// path → what is there
    pub rows: BTreeMap<String, Row>,
}

/// How two trees differ, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The first difference in the order of paths.
    pub first: String,
    /// Paths that should be there and are not.
    pub missing: usize,
    /// Paths that are there and should not.
    pub unexpected: usize,
    /// Paths whose columns differ.
    pub changed: usize,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            first,
            missing,
            unexpected,
            changed,
        } = self;
        write!(
            formatter,
            "{first} (in all: {missing} missing, {unexpected} unexpected, {changed} different)"
        )
    }
}

impl std::error::Error for Difference {}

impl Truth {
    /// Parses a truth file.
    ///
    /// # Errors
    /// If a line has not thirteen columns.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(text);
        let mut rows = BTreeMap::new();
        for line in text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
        {
            let (path, rest) = line
                .split_once('\t')
                .with_context(|| format!("no columns in {line:?}"))?;
            let columns: Vec<String> = rest.split('\t').map(str::to_owned).collect();
            let columns = columns
                .try_into()
                .map_err(|_| anyhow::anyhow!("not 13 columns in {line:?}"))?;
            rows.insert(path.to_owned(), Row { columns });
        }
        Ok(Self { rows })
    }

    /// The tree as a truth file.
    #[must_use]
    pub fn to_tsv(&self) -> String {
        let names: Vec<_> = Field::ALL.iter().map(|field| field.name()).collect();
        let lines = self
            .rows
            .iter()
            .map(|(path, row)| format!("{path}\t{}\n", row.columns.join("\t")));
        format!("#path\t{}\n", names.join("\t")) + &lines.collect::<String>()
    }

    /// What is below `path` (escaped, absolute), seen from there: `path` itself becomes `/`.
    #[must_use]
    pub fn below(&self, path: &str) -> Self {
        let path = path.trim_end_matches('/');
        let rebased = |one: &str| {
            let rest = one.strip_prefix(path)?;
            match rest {
                "" => Some("/".to_owned()),
                rest if rest.starts_with('/') => Some(rest.to_owned()),
                _ => None,
            }
        };
        let rows = self.rows.iter().filter_map(|(one, row)| {
            let mut row = row.clone();
            if let Some(group) = rebased(row.get(Field::HardlinkGroup)) {
                row.set(Field::HardlinkGroup, group);
            }
            Some((rebased(one)?, row))
        });
        Self {
            rows: rows.collect(),
        }
    }

    /// Leaves out the paths for which `keep` is false.
    #[must_use]
    pub fn filtered(mut self, keep: impl Fn(&str, &Row) -> bool) -> Self {
        self.rows.retain(|path, row| keep(path, row));
        self
    }

    /// Compares what was found with what should be there; `ignored` columns are not looked at.
    ///
    /// # Errors
    /// The first difference in words, and counts.
    pub fn compare(&self, found: &Self, ignored: &[Field]) -> Result<(), Difference> {
        let mut difference = Difference {
            first: String::new(),
            missing: 0,
            unexpected: 0,
            changed: 0,
        };
        let mut paths: Vec<&String> = self.rows.keys().chain(found.rows.keys()).collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            let words = match (self.rows.get(path), found.rows.get(path)) {
                (Some(_), None) => {
                    difference.missing += 1;
                    Some(format!("{path} is missing"))
                }
                (None, Some(row)) => {
                    difference.unexpected += 1;
                    Some(format!(
                        "{path} ({}) should not be there",
                        row.get(Field::Kind)
                    ))
                }
                (Some(expected), Some(actual)) => {
                    let words = changed(path, expected, actual, ignored);
                    difference.changed += usize::from(words.is_some());
                    words
                }
                (None, None) => None,
            };
            if let (true, Some(words)) = (difference.first.is_empty(), words) {
                difference.first = words;
            }
        }
        if difference.first.is_empty() {
            Ok(())
        } else {
            Err(difference)
        }
    }
}

fn changed(path: &str, expected: &Row, actual: &Row, ignored: &[Field]) -> Option<String> {
    let differing: Vec<String> = Field::ALL
        .into_iter()
        .filter(|field| !ignored.contains(field) && expected.get(*field) != actual.get(*field))
        .map(|field| {
            format!(
                "{} should be {} but is {}",
                field.name(),
                expected.get(field),
                actual.get(field)
            )
        })
        .collect();
    (!differing.is_empty()).then(|| format!("{path}: {}", differing.join("; ")))
}

/// Reads a directory tree: every attribute, target, xattr and content.
///
/// Through a FUSE mount this can hang with its server: never call it in the process that serves; the binary's
/// `compare-truth` and `walk` exist for that.
///
/// # Errors
/// If something cannot be read; a file whose *content* cannot be read has `EIO:<errno>` as its SHA-256 instead.
pub fn walk(directory: &Path) -> Result<Truth> {
    let mut walker = Walker::default();
    walker.visit(directory, "")?;
    let mut truth = walker.truth;
    for paths in walker.links.into_values() {
        let first = paths.iter().min().cloned().unwrap_or_default();
        for path in paths {
            if let Some(row) = truth.rows.get_mut(&path) {
                row.set(Field::HardlinkGroup, first.clone());
            }
        }
    }
    Ok(truth)
}

#[derive(Default)]
struct Walker {
    truth: Truth,
    /// (device, inode) → its names
    links: BTreeMap<(u64, u64), Vec<String>>,
}

impl Walker {
    fn visit(&mut self, path: &Path, name: &str) -> Result<()> {
        let row = self
            .row(path, name)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let directory = row.is_directory();
        self.truth.rows.insert(
            if name.is_empty() {
                "/".to_owned()
            } else {
                name.to_owned()
            },
            row,
        );
        if directory {
            let entries =
                fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
            for entry in entries {
                let entry = entry.with_context(|| format!("cannot list {}", path.display()))?;
                self.visit(
                    &entry.path(),
                    &format!("{name}/{}", escape(entry.file_name().as_bytes())),
                )?;
            }
        }
        Ok(())
    }

    fn row(&mut self, path: &Path, name: &str) -> Result<Row> {
        let metadata = fs::symlink_metadata(path)?;
        let kind = match metadata.mode() & 0o170_000 {
            0o100_000 => "f",
            0o040_000 => "d",
            0o120_000 => "l",
            0o010_000 => "p",
            0o020_000 => "c",
            0o060_000 => "b",
            _ => "s",
        };
        if kind != "d" && metadata.nlink() > 1 {
            self.links
                .entry((metadata.dev(), metadata.ino()))
                .or_default()
                .push(name.to_owned());
        }
        let none = || "-".to_owned();
        let device = metadata.rdev();
        let mtime =
            i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Ok(Row {
            columns: [
                kind.to_owned(),
                format!("{:04o}", metadata.mode() & 0o7777),
                metadata.uid().to_string(),
                metadata.gid().to_string(),
                metadata.size().to_string(),
                mtime.to_string(),
                metadata.nlink().to_string(),
                match kind {
                    "c" | "b" => format!(
                        "{}:{}",
                        rustix::fs::major(device),
                        rustix::fs::minor(device)
                    ),
                    _ => none(),
                },
                none(),
                if kind == "l" {
                    escape(fs::read_link(path)?.as_os_str().as_bytes())
                } else {
                    none()
                },
                xattrs(path),
                if kind == "f" {
                    content_hash(path)
                } else {
                    none()
                },
            ],
        })
    }
}

fn content_hash(path: &Path) -> String {
    let hash = || {
        let mut file = fs::File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex(&hasher.finalize())),
                length => hasher.update(&buffer[..length]),
            }
        }
    };
    hash().unwrap_or_else(|error: std::io::Error| {
        format!("EIO:{}", error.raw_os_error().unwrap_or(0))
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `name=base64` joined by `;`, sorted by name.
fn xattrs(path: &Path) -> String {
    let read = || -> rustix::io::Result<Vec<String>> {
        let mut names = vec![0_u8; 64 << 10];
        let length = rustix::fs::llistxattr(path, &mut names)?;
        let mut names: Vec<&[u8]> = names[..length]
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .collect();
        names.sort_unstable();
        let value = |name: &&[u8]| {
            let mut value = vec![0_u8; 64 << 10];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value)?;
            Ok(format!(
                "{}={}",
                String::from_utf8_lossy(name),
                base64(&value[..length])
            ))
        };
        names.iter().map(value).collect()
    };
    match read() {
        Ok(lines) if lines.is_empty() => "-".to_owned(),
        Ok(lines) => lines.join(";"),
        // No xattrs at all is no xattrs, whichever way a file system says so.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => "-".to_owned(),
        Err(error) => format!("ERR={}", error.raw_os_error()),
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for triple in bytes.chunks(3) {
        let value = triple
            .iter()
            .fold(0_u32, |value, byte| value << 8 | u32::from(*byte))
            << (8 * (3 - triple.len()));
        for index in 0..4 {
            let digit = DIGITS[(value >> (18 - 6 * index)) as usize & 63];
            text.push(if index <= triple.len() {
                digit as char
            } else {
                '='
            });
        }
    }
    text
}

/// `%XX` for control characters and `%`; if the name is not UTF-8, for all bytes beyond ASCII too.
fn escape(name: &[u8]) -> String {
    let utf8 = std::str::from_utf8(name).is_ok();
    let plain = |byte: u8| byte != b'%' && byte >= 32 && byte != 127 && (utf8 || byte < 127);
    let mut escaped = Vec::with_capacity(name.len());
    for byte in name {
        if plain(*byte) {
            escaped.push(*byte);
        } else {
            escaped.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    String::from_utf8_lossy(&escaped).into_owned()
}
