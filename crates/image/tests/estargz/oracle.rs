//! What a layer holds: by the crate `tar` from the tar, and by our reader from the blob.

use std::collections::BTreeMap;
use std::io::Read;

use image::estargz::{
    EntryKind, Error, Footer, Limits, Toc, TocDigest, decode_member, decode_unverified,
    tail_length_to_fetch,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, u32),
    pub(crate) target: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) content: Vec<u8>,
}

pub(crate) fn of_tar(bytes: &[u8]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let kind = match entry.header().entry_type() {
            tar::EntryType::Directory => EntryKind::Directory,
            tar::EntryType::Symlink => EntryKind::Symlink,
            tar::EntryType::Link => EntryKind::Hardlink,
            tar::EntryType::Char => EntryKind::CharDevice,
            tar::EntryType::Block => EntryKind::BlockDevice,
            tar::EntryType::Fifo => EntryKind::Fifo,
            _ => EntryKind::File,
        };
        let path = clean(&entry.path_bytes());
        if [
            &b".no.prefetch.landmark"[..],
            b".prefetch.landmark",
            b"stargz.index.json",
        ]
        .contains(&&path[..])
        {
            continue;
        }
        let (mut mtime, mut xattrs) = ((entry.header().mtime().unwrap() as i64, 0), Vec::new());
        for pair in entry.pax_extensions().unwrap().into_iter().flatten() {
            let pair = pair.unwrap();
            if let Some(name) = pair.key_bytes().strip_prefix(b"SCHILY.xattr.") {
                xattrs.push((name.to_vec(), pair.value_bytes().to_vec()));
            } else if pair.key_bytes() == b"mtime" {
                let value: f64 = pair.value().unwrap().parse().unwrap();
                let nanos = (value.rem_euclid(1.0) * 1e9).round();
                mtime = (value.floor() as i64, nanos as u32);
            }
        }
        xattrs.sort();
        let header = entry.header().clone();
        let device = match kind {
            EntryKind::CharDevice | EntryKind::BlockDevice => (
                header.device_major().unwrap().unwrap_or(0),
                header.device_minor().unwrap().unwrap_or(0),
            ),
            _ => (0, 0),
        };
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        lines.push(Line {
            path,
            kind,
            mode: header.mode().unwrap() & 0o7777,
            owner: (header.uid().unwrap() as u32, header.gid().unwrap() as u32),
            mtime,
            target: match kind {
                EntryKind::Hardlink => clean(&target),
                EntryKind::Symlink => target,
                _ => Vec::new(),
            },
            device,
            xattrs,
            content,
        });
    }
    lines
}

fn clean(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names.join(&b"/"[..])
}

/// Footer and TOC as the lazy source gets them.
pub(crate) fn toc_of(blob: &[u8], annotations: &BTreeMap<String, String>) -> Result<Toc, Error> {
    let size = blob.len() as u64;
    let tail = &blob[(size - tail_length_to_fetch(size)) as usize..];
    let footer = Footer::find(annotations, tail, size)?;
    let range = footer.toc_range().expect("a TOC in the blob");
    let bytes = &blob[range.start as usize..range.end as usize];
    let expected = TocDigest::from_annotations(annotations)?.unwrap_or(TocDigest::Unverified);
    Toc::parse(bytes, &footer, &expected, &Limits::default())
}

/// Every file chunk by chunk, each from the range that it names, verified.
pub(crate) fn of_toc(blob: &[u8], toc: &Toc) -> Vec<Line> {
    toc.entries()
        .map(|entry| {
            let mut content = Vec::new();
            for chunk in entry.chunks() {
                assert_eq!(chunk.file_offset, content.len() as u64);
                let kept = image::estargz::Chunk::from_reference(
                    &chunk.to_reference(),
                    chunk.file_offset,
                    chunk.size,
                );
                assert_eq!(kept.as_ref(), Some(chunk));
                let member = &blob[chunk.start as usize..chunk.end as usize];
                let part = match chunk.digest {
                    None => decode_unverified(member, chunk),
                    Some(_) => decode_member(member, chunk),
                };
                content.extend(part.unwrap());
            }
            assert_eq!(content.len() as u64, entry.size());
            if let Some(digest) = entry.digest().filter(|_| !content.is_empty()) {
                assert!(digest.verify(&content));
            }
            let mut xattrs: Vec<_> = entry
                .xattrs()
                .map(|(name, value)| (name.to_vec(), value.to_vec()))
                .collect();
            xattrs.sort();
            Line {
                path: entry.path().to_vec(),
                kind: entry.kind(),
                mode: entry.mode(),
                owner: (entry.uid(), entry.gid()),
                mtime: entry.mtime(),
                target: entry.target().to_vec(),
                device: entry.device(),
                xattrs,
                content,
            }
        })
        .collect()
}

pub(crate) fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes)
        .read_to_end(&mut tar)
        .unwrap();
    tar
}
