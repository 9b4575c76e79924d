//! Layers as bytes, what `tar` makes of them, and images as sources.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write as _};
use std::path::Path;
use std::process::Command;

use image::{Descriptor, Digest, LayerCompression, MediaType, Reference};
use publisher::layer::{LayerBlob, LayerError, LayerLimits, Unpacked, unpack};
use publisher::source::Document;
use publisher::{ImageSource, SourceError};
use testkit::{Field, Truth};

use crate::memory::Nodes;

pub(crate) const NOW: i64 = 1_795_500_000;

pub(crate) fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_second(NOW).unwrap()
}

pub(crate) fn descriptor(bytes: &[u8], media_type: MediaType) -> Descriptor {
    Descriptor {
        media_type,
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        annotations: BTreeMap::new(),
        platform: None,
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Unpacks a blob whose descriptor is right.
pub(crate) fn unpack_blob(
    blob: &[u8],
    diff_id: Option<Digest>,
    limits: LayerLimits,
) -> Result<(Nodes, Unpacked), LayerError> {
    let descriptor = descriptor(blob, MediaType::OciLayer(LayerCompression::Gzip));
    unpack_as(blob, &descriptor, diff_id, limits)
}

pub(crate) fn unpack_as(
    blob: &[u8],
    descriptor: &Descriptor,
    diff_id: Option<Digest>,
    limits: LayerLimits,
) -> Result<(Nodes, Unpacked), LayerError> {
    let mut nodes = Nodes::new(NOW);
    let blob = LayerBlob {
        reader: Box::new(Cursor::new(blob.to_vec())),
        descriptor,
        diff_id,
    };
    let unpacked = unpack(blob, limits, &mut nodes, &mut |_| {})?;
    Ok((nodes, unpacked))
}

pub(crate) fn unpack_tar(tar: &[u8]) -> Result<(Nodes, Unpacked), LayerError> {
    unpack_blob(tar, Some(Digest::of(tar)), LayerLimits::default())
}

/// What `tar` (as root) makes of it.
pub(crate) fn tar_truth(tar: &[u8]) -> Truth {
    let directory = tempfile::TempDir::new().unwrap();
    let archive = directory.path().join("layer.tar");
    std::fs::write(&archive, tar).unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let output = Command::new("tar")
        .args([
            "-x",
            "-p",
            "--numeric-owner",
            "--same-owner",
            "--delay-directory-restore",
        ])
        .args([
            "--xattrs",
            "--xattrs-include=*",
            "--warning=no-timestamp",
            "-P",
            "-C",
        ])
        .arg(&root)
        .arg("-f")
        .arg(&archive)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    testkit::walk(&root).unwrap()
}

/// The same of what a sink got, through a real directory: `testkit` then reads both alike.
pub(crate) fn nodes_truth(nodes: &Nodes) -> Truth {
    let directory = tempfile::TempDir::new().unwrap();
    materialise(nodes, directory.path());
    testkit::walk(directory.path()).unwrap()
}

fn materialise(nodes: &Nodes, root: &Path) {
    use rustix::fs::{AtFlags, CWD, Mode};
    use std::os::unix::ffi::OsStrExt as _;
    let place = |path: &[u8]| root.join(std::ffi::OsStr::from_bytes(path));
    for (path, node) in &nodes.nodes {
        let at = place(path);
        let first = nodes.first_name(node.inode);
        if first != path {
            std::fs::hard_link(place(first), &at).unwrap();
            continue;
        }
        let entry = &node.entry;
        let special = |kind| {
            rustix::fs::mknodat(CWD, &at, kind, Mode::empty(), entry.rdev).unwrap();
        };
        match entry.kind {
            cvmfs::Kind::Directory if path.is_empty() => {}
            cvmfs::Kind::Directory => std::fs::create_dir(&at).unwrap(),
            cvmfs::Kind::File => std::fs::write(&at, &node.content).unwrap(),
            cvmfs::Kind::Symlink => {
                let target = std::ffi::OsStr::from_bytes(&entry.symlink);
                std::os::unix::fs::symlink(target, &at).unwrap();
            }
            cvmfs::Kind::CharDevice => special(rustix::fs::FileType::CharacterDevice),
            cvmfs::Kind::BlockDevice => special(rustix::fs::FileType::BlockDevice),
            cvmfs::Kind::Fifo => special(rustix::fs::FileType::Fifo),
            cvmfs::Kind::Socket => special(rustix::fs::FileType::Socket),
        }
        std::os::unix::fs::lchown(&at, Some(entry.uid), Some(entry.gid)).unwrap();
        for (name, value) in &entry.xattrs {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::lsetxattr(&at, name.as_slice(), value, flags).unwrap();
        }
        if entry.kind != cvmfs::Kind::Symlink {
            rustix::fs::chmodat(CWD, &at, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .unwrap();
        }
    }
    // Times last: what is made in a directory changes its.
    for (path, node) in nodes.nodes.iter().rev() {
        let time = rustix::fs::Timespec {
            tv_sec: node.entry.mtime,
            tv_nsec: node.entry.mtime_nanos.into(),
        };
        let times = rustix::fs::Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(CWD, place(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Implicit directories have tar's time there and ours here; sizes of directories are the file system's.
pub(crate) fn compare(expected: Truth, found: Truth, implicit: &[String]) -> Result<(), String> {
    let neutral = |mut truth: Truth| {
        for (path, row) in &mut truth.rows {
            if row.get(Field::Kind) == "d" {
                row.set(Field::Size, "-");
                row.set(Field::Nlink, "-");
            }
            if implicit.contains(path) {
                row.set(Field::Mtime, "-");
            }
        }
        truth
    };
    neutral(expected)
        .compare(&neutral(found), &[])
        .map_err(|difference| difference.to_string())
}

/// Paths of implicit directories as [`Truth`] has them.
pub(crate) fn implicit(nodes: &Nodes) -> Vec<String> {
    let escaped = |path: &Vec<u8>| {
        let mut text = String::from("/");
        for byte in path {
            match byte {
                b'%' => text.push_str("%25"),
                0..=31 | 127.. => text.push_str(&format!("%{byte:02X}")),
                _ => text.push(char::from(*byte)),
            }
        }
        text
    };
    nodes.implicit.iter().map(escaped).collect()
}

/// An image in memory.
#[derive(Clone)]
pub(crate) struct MemorySource {
    pub(crate) top: Digest,
    pub(crate) documents: BTreeMap<Digest, Vec<u8>>,
    pub(crate) blobs: BTreeMap<Digest, Vec<u8>>,
    pub(crate) reference: Option<Reference>,
    /// Layers must not be read.
    pub(crate) closed: bool,
}

impl MemorySource {
    pub(crate) fn of(image: &testkit::Image, name: &str) -> Self {
        let mut source = Self {
            top: image.digest.parse().unwrap(),
            documents: BTreeMap::new(),
            blobs: BTreeMap::new(),
            reference: Some(name.parse().unwrap()),
            closed: false,
        };
        source.add(image);
        source
    }

    pub(crate) fn add(&mut self, image: &testkit::Image) {
        let manifest = &image.manifest;
        self.documents
            .insert(Digest::of(manifest), manifest.clone());
        self.blobs
            .insert(Digest::of(&image.config), image.config.clone());
        for layer in &image.layers {
            self.blobs
                .insert(layer.digest.parse().unwrap(), layer.blob.clone());
        }
    }
}

impl ImageSource for MemorySource {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn manifest(&self, digest: Option<&Digest>) -> Result<Document, SourceError> {
        let bytes = self.documents[digest.unwrap_or(&self.top)].clone();
        Ok(Document::new(bytes, None, digest).unwrap())
    }

    /// Not verified: publishing must do that itself.
    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, SourceError> {
        let bytes = self.blobs.get(&descriptor.digest).cloned();
        let bytes = bytes.ok_or_else(|| SourceError::Missing {
            name: self.name(),
            digest: descriptor.digest,
        })?;
        if self.closed && !descriptor.media_type.is_config() {
            return Ok(Box::new(Unreadable));
        }
        Ok(Box::new(Cursor::new(bytes)))
    }

    fn reference(&self) -> Option<Reference> {
        self.reference.clone()
    }
}

struct Unreadable;

impl Read for Unreadable {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::new(
            io::ErrorKind::ConnectionReset,
            "no layer may be read",
        ))
    }
}
