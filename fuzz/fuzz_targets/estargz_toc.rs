//! The JSON of a TOC from a hostile registry, and then every chunk that it names from a blob of zeros.
#![no_main]

use image::estargz::{Chunk, EntryKind, Footer, Limits, Toc, TocDigest, decode_unverified};
use libfuzzer_sys::fuzz_target;

const DATA: usize = 1 << 16;

fuzz_target!(|json: &[u8]| {
    let mut header = tar_header(json.len());
    header.extend_from_slice(json);
    let member = stored(&header);
    let size = (DATA + member.len() + 51) as u64;
    let footer = Footer::parse(&footer(DATA as u64), size).expect("a good footer");
    let limits = Limits {
        chunks: 10_000,
        chunk: 1 << 20,
        member: 2 << 20,
        ..Limits::default()
    };
    let Ok(toc) = Toc::parse(&member, &footer, &TocDigest::Unverified, &limits) else {
        return;
    };
    for entry in toc.entries() {
        let path = entry.path();
        assert!(
            path.split(|byte| *byte == b'/')
                .all(|name| name != b"." && name != b"..")
        );
        assert!(!path.starts_with(b"/") && !path.contains(&0));
        assert_eq!(
            entry.kind() == EntryKind::Hardlink && entry.target().is_empty(),
            false
        );
        let mut filled = 0;
        for chunk in entry.chunks() {
            assert_eq!(chunk.file_offset, filled);
            assert!(chunk.size > 0);
            filled += chunk.size;
            assert!(chunk.range().end <= DATA as u64);
            let reference = chunk.to_reference();
            assert_eq!(
                Chunk::from_reference(&reference, chunk.file_offset, chunk.size),
                Some(*chunk)
            );
        }
        assert_eq!(filled, entry.size());
        assert!(entry.xattrs().all(|(name, _)| !name.is_empty()));
    }
    if let Some(chunk) = toc.chunks().first() {
        let _ = decode_unverified(&[0; 64], chunk);
    }
});

/// A gzip member of stored blocks: the fuzzer changes the JSON itself.
fn stored(content: &[u8]) -> Vec<u8> {
    let mut member = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    for block in content.chunks(65_535) {
        let length = block.len() as u16;
        member.push(0);
        member.extend(length.to_le_bytes());
        member.extend((!length).to_le_bytes());
        member.extend(block);
    }
    member.extend(b"\x01\0\0\xff\xff");
    // The sum is wrong; the reader ends before it.
    member.extend([0; 8]);
    member
}

fn tar_header(length: usize) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..17].copy_from_slice(b"stargz.index.json");
    header[124..135].copy_from_slice(format!("{length:011o}").as_bytes());
    header[156] = b'0';
    header
}

fn footer(offset: u64) -> Vec<u8> {
    let mut footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0".to_vec();
    footer.extend(format!("{offset:016x}STARGZ").as_bytes());
    footer.extend(b"\x01\0\0\xff\xff\0\0\0\0\0\0\0\0");
    footer
}
