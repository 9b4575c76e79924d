//! The table of contents that a tar does not have: made while it is read through.

use std::io::{self, Read};

use super::collect::Collector;
use super::{Limits, Toc};
use crate::Digest;
use crate::estargz::json::Sink as _;
use crate::estargz::tar_input::{self, Item};
use crate::estargz::{Error, WriteError};

/// Blocks and records of zeros may end a tar, and more bytes may follow; all is read, since a digest covers all.
const REST: usize = 64 << 10;

impl Toc {
    /// Lists an uncompressed tar, read to its end. Chunks are whole files, as [`Codec::Plain`](super::super::Codec::Plain), at their place in the
    /// tar; nothing in it is a landmark, and no digest is known.
    ///
    /// # Errors
    /// [`Error`] if the tar is damaged, or has what a lazy layer cannot have: then it is to be unpacked another way.
    pub fn of_tar(tar: impl Read) -> Result<Self, Error> {
        let limits = Limits {
            chunk: u64::MAX / 4,
            member: u64::MAX / 4,
            ..Limits::default()
        };
        let mut collector = Collector::of_tar(&limits);
        let mut bad = None;
        let mut visit = |item: Item<'_>| {
            add(&mut collector, item).map_err(|error| match error {
                Error::Tar(cause) => *cause,
                other => {
                    bad = Some(other);
                    WriteError::Input(io::ErrorKind::InvalidData.into())
                }
            })
        };
        let mut rest = match tar_input::each(tar, &mut visit) {
            Ok(rest) => rest,
            Err(error) => return Err(bad.unwrap_or_else(|| Error::Tar(Box::new(error)))),
        };
        let read = io::copy(
            &mut io::BufReader::with_capacity(REST, &mut rest),
            &mut io::sink(),
        );
        read.map_err(|error| Error::Tar(Box::new(WriteError::Input(error))))?;
        collector.finish(Digest::of(&[]))
    }
}

fn add(collector: &mut Collector<'_>, item: Item<'_>) -> Result<(), Error> {
    let Some(mut entry) = item.entry else {
        return Ok(());
    };
    if entry.kind == "reg" {
        let offset = item.start + item.headers.len() as u64;
        // Of a file with holes the tar holds only parts.
        if item.end.checked_sub(offset) != Some(padded(item.size)) {
            return Err(Error::Tar(Box::new(WriteError::Unsupported {
                path: entry.name,
                kind: 'S',
            })));
        }
        entry.size = item.size;
        entry.offset = offset;
    }
    collector.entry(entry)
}

fn padded(size: u64) -> u64 {
    size.next_multiple_of(tar_input::BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estargz::{Codec, EntryKind, decode_unverified};

    fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o640);
            header.set_mtime(7);
            header.set_uid(0);
            header.set_gid(0);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn files_are_where_the_tar_has_them() {
        let long = "d/".repeat(80) + "name";
        let big = vec![7; 300_000];
        let entries: [(&str, &[u8]); 5] = [
            ("a", b"first"),
            (&long, &big),
            ("empty", b""),
            (".prefetch.landmark", b"\x0f"),
            (".wh.gone", b""),
        ];
        let tar = tar(&entries);
        let toc = Toc::of_tar(&tar[..]).unwrap();
        assert_eq!(toc.entries().len(), entries.len());
        for (entry, (name, content)) in toc.entries().zip(entries) {
            assert_eq!(entry.path(), name.as_bytes());
            assert_eq!((entry.kind(), entry.mode()), (EntryKind::File, 0o640));
            let found: Vec<u8> = entry
                .chunks()
                .iter()
                .flat_map(|chunk| {
                    assert_eq!(chunk.codec, Codec::Plain);
                    let range = chunk.range();
                    let member = &tar[range.start as usize..range.end as usize];
                    decode_unverified(member, chunk).unwrap()
                })
                .collect();
            assert_eq!(found, content);
        }
    }

    #[test]
    fn damaged_tars_are_errors() {
        let whole = tar(&[("a", &[1; 2000])]);
        assert!(Toc::of_tar(&whole[..1000]).is_err());
        assert!(Toc::of_tar(&b"no tar at all".repeat(100)[..]).is_err());
        assert_eq!(Toc::of_tar(&[0; 1024][..]).unwrap().entries().len(), 0);
    }

    #[test]
    fn a_file_with_holes_is_for_another_way() {
        let mut header = tar::Header::new_gnu();
        header.set_path("sparse").unwrap();
        header.set_mode(0o644);
        header.set_mtime(7);
        header.set_uid(0);
        header.set_gid(0);
        header.set_entry_type(tar::EntryType::GNUSparse);
        header.set_size(512);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.sparse[0].offset.copy_from_slice(b"00000000000\0");
        gnu.sparse[0].numbytes.copy_from_slice(b"00000001000\0");
        gnu.realsize.copy_from_slice(b"00000010000\0");
        header.set_cksum();
        let mut tar = header.as_bytes().to_vec();
        tar.extend([1; 512]);
        tar.extend([0; 1024]);
        assert!(
            matches!(Toc::of_tar(&tar[..]), Err(Error::Tar(cause)) if cause.to_string().contains("sparse"))
        );
    }
}
