//! An image's layers merged by plain means: tars applied to a map, one after the other. The oracle for what a container must see.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flate2::read::MultiGzDecoder;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::listing::{Entry, Listing, hex};

/// An image in a folder as the test registry serves it: `manifests/<name with _>:<tag>` and `blobs/sha256:<hex>`.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digests of the (compressed) layers, bottom first.
    pub layers: Vec<String>,
    /// Sum of the layers' sizes as the manifest states them: what a pull would fetch.
    pub layer_bytes: u64,
    /// Chain IDs, bottom first: names of the snapshots.
    pub chain_ids: Vec<String>,
    tars: Vec<Vec<u8>>,
}

impl Image {
    /// Reads `name:tag`.
    pub fn read(folder: &Path, name: &str, tag: &str) -> Result<Self> {
        let manifest = folder
            .join("manifests")
            .join(format!("{}:{tag}", name.replace('/', "_")));
        let manifest: Value = serde_json::from_slice(&fs::read(manifest)?)?;
        let blob = |descriptor: &Value| -> Result<Vec<u8>> {
            let digest = descriptor["digest"]
                .as_str()
                .context("a descriptor without digest")?;
            Ok(fs::read(folder.join("blobs").join(digest))?)
        };
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])?)?;
        let descriptors = manifest["layers"].as_array().context("no layers")?;
        let mut tars = Vec::new();
        for descriptor in descriptors {
            tars.push(unpacked(&blob(descriptor)?)?);
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Self {
            layers: descriptors
                .iter()
                .map(|layer| text(&layer["digest"]))
                .collect(),
            layer_bytes: descriptors
                .iter()
                .filter_map(|layer| layer["size"].as_u64())
                .sum(),
            chain_ids: chain_ids(
                config["rootfs"]["diff_ids"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(text),
            ),
            tars,
        })
    }

    /// The root file system.
    pub fn merged(&self) -> Result<Listing> {
        let mut merged = Listing::new();
        for (number, tar) in self.tars.iter().enumerate() {
            apply(&mut merged, tar, number as u64)?;
        }
        // Groups of which one name is left are no groups.
        let mut names: BTreeMap<u64, usize> = BTreeMap::new();
        merged
            .values()
            .for_each(|entry| *names.entry(entry.link_group).or_default() += 1);
        merged
            .values_mut()
            .filter(|entry| names[&entry.link_group] < 2)
            .for_each(|entry| entry.link_group = 0);
        Ok(merged)
    }
}

/// The tar in a layer's blob, by other tools than ours.
fn unpacked(blob: &[u8]) -> Result<Vec<u8>> {
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let mut tar = Vec::new();
    if blob.starts_with(&ZSTD) || blob.starts_with(&[0x50, 0x2a, 0x4d, 0x18]) {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(blob)?;
        let output = Command::new("zstd").arg("-dcq").arg(file.path()).output()?;
        ensure!(
            output.status.success(),
            "zstd: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        tar = output.stdout;
    } else {
        MultiGzDecoder::new(blob).read_to_end(&mut tar)?;
    }
    Ok(tar)
}

fn chain_ids(diff_ids: impl Iterator<Item = String>) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id,
            Some(parent) => format!(
                "sha256:{}",
                hex(&Sha256::digest(format!("{parent} {diff_id}")))
            ),
        };
        chain.push(next);
    }
    chain
}

fn apply(merged: &mut Listing, tar: &[u8], layer: u64) -> Result<()> {
    // Whiteouts act on the layers below only, wherever they stand.
    for entry in tar::Archive::new(tar).entries()? {
        let path = clean(&entry?.path_bytes());
        let (folder, name) = split(&path);
        if name == b".wh..wh..opq" {
            merged.retain(|known, _| !is_below(known, folder));
        } else if let Some(hidden) = name.strip_prefix(b".wh.") {
            remove(merged, &join(folder, hidden));
        }
    }
    for (number, entry) in tar::Archive::new(tar).entries()?.enumerate() {
        let mut entry = entry?;
        let path = clean(&entry.path_bytes());
        if split(&path).1.starts_with(b".wh.") {
            continue;
        }
        let new = if entry.header().entry_type().is_hard_link() {
            let target = clean(&entry.link_name_bytes().context("a link to nothing")?);
            let linked = merged
                .get_mut(&target)
                .context("a link to what is not there")?;
            if linked.link_group == 0 {
                linked.link_group = layer << 32 | (number as u64 + 1);
            }
            linked.clone()
        } else {
            read(&mut entry)?
        };
        add_parents(merged, &path);
        if !(new.kind == 'd' && merged.get(&path).is_some_and(|known| known.kind == 'd')) {
            remove(merged, &path);
        }
        merged.insert(path, new);
    }
    Ok(())
}

fn read(entry: &mut tar::Entry<'_, &[u8]>) -> Result<Entry> {
    let header = entry.header().clone();
    let kind = match header.entry_type() {
        tar::EntryType::Directory => 'd',
        tar::EntryType::Symlink => 'l',
        tar::EntryType::Char => 'c',
        tar::EntryType::Block => 'b',
        tar::EntryType::Fifo => 'p',
        _ => 'f',
    };
    let mut xattrs = BTreeMap::new();
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        if let Some(name) = extension.key()?.strip_prefix("SCHILY.xattr.") {
            xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
        }
    }
    let rdev = match kind {
        'c' | 'b' => rustix::fs::makedev(
            header.device_major()?.unwrap_or_default(),
            header.device_minor()?.unwrap_or_default(),
        ),
        _ => 0,
    };
    let size = entry.size();
    let target = entry
        .link_name_bytes()
        .map(|target| target.into_owned())
        .unwrap_or_default();
    let mut content = Vec::new();
    entry.read_to_end(&mut content)?;
    Ok(Entry {
        kind,
        // A symbolic link's permissions are always these in Linux.
        mode: if kind == 'l' {
            0o777
        } else {
            header.mode()? & 0o7777
        },
        uid: u32::try_from(header.uid()?)?,
        gid: u32::try_from(header.gid()?)?,
        size: if kind == 'f' { size } else { 0 },
        rdev,
        mtime: Some(header.mtime()?.cast_signed()),
        target: if kind == 'l' { target } else { Vec::new() },
        content: (kind == 'f').then(|| hex(&Sha256::digest(&content))),
        xattrs,
        link_group: 0,
    })
}

/// Directories that no entry names are root's, 0755, of no stated time.
fn add_parents(merged: &mut Listing, path: &[u8]) {
    let mut above = path;
    while !above.is_empty() {
        above = split(above).0;
        if merged.get(above).is_some_and(|known| known.kind != 'd') {
            merged.remove(above);
        }
        merged
            .entry(above.to_vec())
            .or_insert_with(|| Entry::implicit('d'));
    }
}

fn remove(merged: &mut Listing, path: &[u8]) {
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

/// Without `./`, `/` at either end.
fn clean(path: &[u8]) -> Vec<u8> {
    let parts = path
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".");
    parts.collect::<Vec<_>>().join(&b'/')
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() {
        name.to_vec()
    } else {
        [folder, b"/", name].concat()
    }
}
