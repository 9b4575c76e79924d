//! Random tars, and what plain `tar -x` makes of them as root.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses its own part; a test may fail"
)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use tree::{Builder, Entry, Kind, Tree};

use super::generate::{Shown, any_entry, any_path};

pub(crate) const KINDS: &[Kind] = &[
    Kind::File,
    Kind::File,
    Kind::Directory,
    Kind::Directory,
    Kind::Symlink,
    Kind::CharDevice,
    Kind::Fifo,
];

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Entry(Vec<u8>, Entry),
    Link(Vec<u8>, Vec<u8>),
}

pub(crate) fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let entry = (any_path(), any_entry(KINDS)).prop_map(|(path, entry)| Step::Entry(path, entry));
    let link = (any_path(), any::<prop::sample::Index>())
        .prop_map(|(path, at)| Step::Link(path, vec![at.index(250) as u8]));
    let long = (any_path(), any_entry(KINDS)).prop_map(|(path, entry)| {
        let path = [&path, &b"/"[..], &[b'l'; 255]].concat();
        Step::Entry(path, entry)
    });
    let step = prop_oneof![8 => entry, 2 => link, 1 => long];
    prop::collection::vec(step, 0..30).prop_map(possible)
}

/// Leaves out what plain `tar` refuses: names below a file, a file over a directory, links to
/// nothing. Link targets become one of the files that are there.
pub(crate) fn possible(steps: Vec<Step>) -> Vec<Step> {
    let mut there: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
    let mut kept = Vec::new();
    for step in steps {
        let (Step::Entry(path, _) | Step::Link(path, _)) = &step;
        let path = path.clone();
        let above: Vec<_> = (0..path.len())
            .filter(|at| path[*at] == b'/')
            .map(|at| path[..at].to_vec())
            .collect();
        if above.iter().any(|above| there.get(above) == Some(&false)) {
            continue;
        }
        let is_directory = matches!(&step, Step::Entry(_, entry) if entry.kind == Kind::Directory);
        if !is_directory && there.get(&path) == Some(&true) {
            continue;
        }
        let step = match step {
            Step::Entry(path, entry) => Step::Entry(path, entry),
            Step::Link(path, choice) => {
                let files: Vec<_> = there.iter().filter(|(_, directory)| !**directory).collect();
                let Some((target, _)) = files.get(usize::from(choice[0]) % files.len().max(1))
                else {
                    continue;
                };
                Step::Link(path, (*target).clone())
            }
        };
        there.extend(above.into_iter().map(|above| (above, true)));
        there.insert(path, is_directory);
        kept.push(step);
    }
    kept
}

/// The entries as a tar file: GNU records for names of any length, PAX for what the plain header
/// cannot say.
pub(crate) fn tar(steps: &[Step]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for step in steps {
        let mut header = tar::Header::new_gnu();
        match step {
            Step::Link(name, target) => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                append_named(&mut tar, &mut header, name, target, b"");
            }
            Step::Entry(name, entry) => append(&mut tar, &mut header, name, entry),
        }
    }
    tar.into_inner().unwrap()
}

pub(crate) fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    header: &mut tar::Header,
    name: &[u8],
    entry: &Entry,
) {
    let time = format!("{}.{:09}", entry.mtime, entry.mtime_nanos);
    let mut records = vec![("mtime".to_owned(), time.as_bytes())];
    for (name, value) in &entry.xattrs {
        let name = String::from_utf8(name.clone()).unwrap();
        records.push((format!("SCHILY.xattr.{name}"), value));
    }
    let records = records.iter().map(|(name, value)| (&name[..], *value));
    tar.append_pax_extensions(records).unwrap();
    header.set_mode(entry.mode);
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_mtime(entry.mtime as u64);
    header.set_size(entry.size);
    header.set_entry_type(match entry.kind {
        Kind::File => tar::EntryType::Regular,
        Kind::Symlink => tar::EntryType::Symlink,
        Kind::Directory => tar::EntryType::Directory,
        Kind::Fifo => tar::EntryType::Fifo,
        _ => tar::EntryType::Char,
    });
    header.set_device_major((entry.rdev >> 8) as u32).unwrap();
    header.set_device_minor((entry.rdev & 0xff) as u32).unwrap();
    let content = entry.extents.first().map_or(&[][..], |it| &it.2);
    append_named(tar, header, name, &entry.symlink, content);
}

/// The `tar` crate tidies names and targets up; these must arrive as they are.
pub(crate) fn append_named(
    tar: &mut tar::Builder<Vec<u8>>,
    header: &mut tar::Header,
    name: &[u8],
    target: &[u8],
    content: &[u8],
) {
    for (kind, text) in [(b'L', name), (b'K', target)] {
        let mut long = tar::Header::new_gnu();
        long.set_path("././@LongLink").unwrap();
        long.set_entry_type(tar::EntryType::new(kind));
        long.set_size(text.len() as u64 + 1);
        long.set_cksum();
        tar.append(&long, &[text, b"\0"].concat()[..]).unwrap();
    }
    header.set_cksum();
    tar.append(header, content).unwrap();
}

pub(crate) fn unpack(tar: &[u8], directory: &Path) {
    let archive = directory.join("layer.tar");
    fs::write(&archive, tar).unwrap();
    fs::create_dir(directory.join("root")).unwrap();
    let output = Command::new("tar")
        .args([
            "-x",
            "-p",
            "-P",
            "--numeric-owner",
            "--delay-directory-restore",
        ])
        .args(["--xattrs", "--xattrs-include=*", "-f"])
        .arg(&archive)
        .arg("-C")
        .arg(directory.join("root"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Everything below a directory, as [`show_all`] has it of a tree.
pub(crate) fn list(root: &Path) -> BTreeMap<Vec<u8>, Shown> {
    let mut all = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        for child in fs::read_dir(root.join(&directory)).unwrap() {
            let child = directory.join(child.unwrap().file_name());
            let metadata = fs::symlink_metadata(root.join(&child)).unwrap();
            if metadata.is_dir() {
                open.push(child.clone());
            }
            all.insert(child.as_os_str().as_bytes().to_vec(), (metadata, child));
        }
    }
    let mut first_names = HashMap::new();
    all.into_iter()
        .map(|(name, (metadata, child))| {
            let first = first_names
                .entry(metadata.ino())
                .or_insert_with(|| name.clone());
            let shown = look(&root.join(child), &metadata, first.clone());
            (name, shown)
        })
        .collect()
}

pub(crate) fn look(file: &Path, metadata: &fs::Metadata, first_name: Vec<u8>) -> Shown {
    let kind = Kind::from_type_bits(metadata.mode()).unwrap();
    let target = match kind {
        Kind::Symlink => fs::read_link(file).unwrap().as_os_str().as_bytes().to_vec(),
        _ => Vec::new(),
    };
    Shown {
        kind,
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
        size: metadata.size(),
        mtime: (metadata.mtime(), metadata.mtime_nsec() as u32),
        rdev: metadata.rdev(),
        nlink: metadata.nlink() as u32,
        target,
        xattrs: xattrs(file),
        content: if kind == Kind::File {
            fs::read(file).unwrap()
        } else {
            Vec::new()
        },
        first_name,
    }
}

pub(crate) fn xattrs(file: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = [0; 4096];
    let length = rustix::fs::llistxattr(file, &mut names[..]).unwrap();
    let mut xattrs: Vec<_> = names[..length]
        .split(|byte| *byte == 0)
        // What the file system adds of itself was in no tar.
        .filter(|name| name.starts_with(b"user.") || name.starts_with(b"trusted."))
        .map(|name| {
            let mut value = [0; 4096];
            let length = rustix::fs::lgetxattr(file, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect();
    xattrs.sort();
    xattrs
}

/// What differs by nature, on both sides: the size and the links of a directory are the file
/// system's, attributes of an implicit one are tar's invention, a symlink's mode is always 0777,
/// and only files and directories can have `user.` attributes.
pub(crate) fn comparable(
    mut all: BTreeMap<Vec<u8>, Shown>,
    implicit: &[Vec<u8>],
) -> BTreeMap<Vec<u8>, Shown> {
    for (path, shown) in &mut all {
        if shown.kind == Kind::Directory {
            (shown.size, shown.nlink) = (0, 0);
        }
        if shown.kind == Kind::Symlink {
            shown.mode = 0o777;
        }
        if !matches!(shown.kind, Kind::File | Kind::Directory) {
            shown.xattrs.retain(|(name, _)| !name.starts_with(b"user."));
        }
        if implicit.contains(path) {
            (shown.mode, shown.owner, shown.mtime) = (0, (0, 0), (0, 0));
            shown.xattrs.clear();
        }
    }
    all
}

/// Why the oracle cannot be asked here, if it cannot.
pub(crate) fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let directory = tempfile::tempdir().unwrap();
    let probe = directory.path().join("probe");
    fs::write(&probe, b"").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    let set = |name| rustix::fs::setxattr(&probe, name, b"1", flags);
    if let Err(error) = set("user.a").and_then(|()| set("trusted.c")) {
        return Some(format!("no xattrs on the temporary directory: {error}"));
    }
    let device = directory.path().join("device");
    let status = Command::new("mknod")
        .arg(device)
        .args(["c", "1", "3"])
        .status();
    match status {
        Ok(status) if status.success() => None,
        other => Some(format!("no device nodes: {other:?}")),
    }
}

/// The tree that the steps make.
pub(crate) fn tree_of(steps: &[Step]) -> Tree<Vec<u8>> {
    let mut builder = Builder::new();
    for step in steps {
        match step {
            Step::Entry(path, entry) => builder.add(path, entry.clone()).unwrap(),
            Step::Link(path, target) => builder.hardlink(path, target).unwrap(),
        }
    }
    Tree::parse(builder.finish().unwrap()).unwrap()
}

/// Paths of the directories that no entry names.
pub(crate) fn implicit(tree: &Tree<Vec<u8>>) -> Vec<Vec<u8>> {
    tree.walk()
        .filter(|(_, id)| tree.is_implicit(*id))
        .map(|(path, _)| path)
        .collect()
}
