//! Layers applied to a map, one after the other: what a chain must show. The rules of merging, by
//! the simplest means.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use testkit::{Entry, EntryKind, Layer, Truth};

/// What a publisher keeps of a layer.
#[derive(Clone, Copy)]
pub(crate) struct Kept {
    pub(crate) xattrs: bool,
    pub(crate) hardlinks: bool,
    /// Time of directories that no entry names.
    pub(crate) implicit_mtime: i64,
}

impl Kept {
    pub(crate) const ALL: Self = Self {
        xattrs: true,
        hardlinks: true,
        implicit_mtime: super::world::IMPLICIT,
    };
    pub(crate) const DUCC: Self = Self {
        xattrs: false,
        hardlinks: false,
        ..Self::ALL
    };
}

/// Entries by path, with a number that the names of one file share.
type Merged = BTreeMap<Vec<u8>, (Entry, u64)>;

/// The chain's root file system; `layers` bottom to top.
pub(crate) fn merged(layers: &[Layer], kept: Kept) -> Truth {
    let mut merged = Merged::new();
    // The lowest layer gives an implicit root its attributes, and the empty layer is an empty tree
    // that no publisher ever saw: nothing gives it a time.
    let time = match layers.first() {
        Some(lowest) if lowest.entries.is_empty() => 0,
        _ => kept.implicit_mtime,
    };
    let root = Entry::directory("").mtime(time, 0);
    merged.insert(Vec::new(), (root, 0));
    let mut number = 0;
    for layer in layers {
        apply(&mut merged, layer, kept, &mut number);
    }
    listing(&merged)
}

fn apply(merged: &mut Merged, layer: &Layer, kept: Kept, number: &mut u64) {
    // Whiteouts act on the layers below only, wherever they stand.
    for entry in &layer.entries {
        let (folder, name) = split(&entry.path);
        if name == b".wh..wh..opq" {
            merged.retain(|known, _| !is_below(known, folder));
        } else if let Some(hidden) = name.strip_prefix(b".wh.") {
            remove(merged, &join(folder, hidden));
        }
    }
    let mut own = BTreeSet::new();
    for entry in &layer.entries {
        if split(&entry.path).1.starts_with(b".wh.") {
            // The directory of a whiteout is there, as unpacking makes it.
            add_parents(merged, &entry.path, kept.implicit_mtime);
            continue;
        }
        *number += 1;
        let mut new = (entry.clone(), *number);
        if let EntryKind::Hardlink(target) = &entry.kind {
            // A publisher does not know lower layers.
            if !own.contains(target) {
                continue;
            }
            new = merged[target].clone();
            if !kept.hardlinks {
                new.1 = *number;
            }
        }
        if !kept.xattrs {
            new.0.xattrs.clear();
        }
        add_parents(merged, &entry.path, kept.implicit_mtime);
        let directory = |known: &Entry| known.kind == EntryKind::Directory;
        if !(directory(&new.0)
            && merged
                .get(&entry.path)
                .is_some_and(|known| directory(&known.0)))
        {
            remove(merged, &entry.path);
        }
        merged.insert(entry.path.clone(), new);
        own.insert(entry.path.clone());
    }
}

fn add_parents(merged: &mut Merged, path: &[u8], implicit_mtime: i64) {
    let mut above = path;
    while !above.is_empty() {
        above = split(above).0;
        if merged
            .get(above)
            .is_some_and(|known| known.0.kind != EntryKind::Directory)
        {
            merged.remove(above);
        }
        let implicit = Entry::directory(above).mtime(implicit_mtime, 0);
        merged.entry(above.to_vec()).or_insert((implicit, 0));
    }
}

fn remove(merged: &mut Merged, path: &[u8]) {
    merged.retain(|known, _| known != path && !is_below(known, path));
}

fn is_below(path: &[u8], folder: &[u8]) -> bool {
    match folder {
        b"" => !path.is_empty(),
        _ => path
            .strip_prefix(folder)
            .is_some_and(|rest| rest.starts_with(b"/")),
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder {
        b"" => name.to_vec(),
        _ => [folder, b"/", name].concat(),
    }
}

/// In the form in which a walk comes back.
fn listing(merged: &Merged) -> Truth {
    let mut links: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut directories: BTreeMap<&[u8], u32> = BTreeMap::new();
    for (path, (entry, number)) in merged {
        if entry.kind != EntryKind::Directory {
            links.entry(*number).or_default().push(shown(path));
        } else if !path.is_empty() {
            *directories.entry(split(path).0).or_default() += 1;
        }
    }
    let mut text = String::new();
    for (path, (entry, number)) in merged {
        let names = links.get(number).map_or(&[][..], Vec::as_slice);
        let nlink = match entry.kind {
            EntryKind::Directory => 2 + directories.get(&path[..]).copied().unwrap_or(0),
            _ => u32::try_from(names.len()).unwrap(),
        };
        let group = match &entry.kind {
            EntryKind::Directory => None,
            _ => names.iter().min().filter(|_| names.len() > 1),
        };
        row(&mut text, &shown(path), entry, nlink, group);
    }
    Truth::parse(text.as_bytes()).unwrap()
}

fn row(text: &mut String, path: &str, entry: &Entry, nlink: u32, group: Option<&String>) {
    let none = || "-".to_owned();
    let (mut rdev, mut target, mut sha256, mut size) = (none(), none(), none(), 0);
    let kind = match &entry.kind {
        EntryKind::File(content) => {
            sha256 = testkit::digest(content)
                .trim_start_matches("sha256:")
                .to_owned();
            size = content.len();
            'f'
        }
        EntryKind::Directory => 'd',
        EntryKind::Symlink(to) => {
            target = escaped(to);
            size = to.len();
            'l'
        }
        EntryKind::CharDevice(major, minor) => {
            rdev = format!("{major}:{minor}");
            'c'
        }
        EntryKind::BlockDevice(major, minor) => {
            rdev = format!("{major}:{minor}");
            'b'
        }
        EntryKind::Fifo => 'p',
        EntryKind::Socket => 's',
        EntryKind::Hardlink(_) => panic!("links are resolved"),
    };
    let mtime = i128::from(entry.mtime) * 1_000_000_000 + i128::from(entry.mtime_nanos);
    let mut xattrs: Vec<_> = entry
        .xattrs
        .iter()
        .map(|(name, value)| format!("{}={}", String::from_utf8_lossy(name), base64(value)))
        .collect();
    xattrs.sort();
    let xattrs = if xattrs.is_empty() {
        none()
    } else {
        xattrs.join(";")
    };
    let group = group.cloned().unwrap_or_else(none);
    writeln!(
        text,
        "{path}\t{kind}\t{:04o}\t{}\t{}\t{size}\t{mtime}\t{nlink}\t{rdev}\t{group}\t{target}\t{xattrs}\t{sha256}",
        entry.mode, entry.uid, entry.gid
    )
    .unwrap();
}

fn shown(path: &[u8]) -> String {
    // Each name for itself: a walk escapes so.
    let names = path.split(|&byte| byte == b'/').map(escaped);
    format!("/{}", names.collect::<Vec<_>>().join("/"))
}

fn escaped(name: &[u8]) -> String {
    let utf8 = std::str::from_utf8(name).is_ok();
    let plain = |byte: u8| byte != b'%' && byte >= 32 && byte != 127 && (utf8 || byte < 127);
    let mut escaped = Vec::new();
    for &byte in name {
        match plain(byte) {
            true => escaped.push(byte),
            false => escaped.extend(format!("%{byte:02X}").into_bytes()),
        }
    }
    String::from_utf8(escaped).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]);
            text.push(if place <= group.len() { digit } else { '=' });
        }
    }
    text
}
