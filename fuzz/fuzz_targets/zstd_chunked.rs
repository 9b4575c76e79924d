//! A whole zstd:chunked (or eStargz) blob: footer, TOC, and each chunk from where it says.
#![no_main]

use image::estargz::{
    Footer, Limits, Toc, TocDigest, decode_chunks, decode_unverified, tail_length_to_fetch,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|blob: &[u8]| {
    let size = blob.len() as u64;
    let tail = &blob[(size - tail_length_to_fetch(size)) as usize..];
    let Ok(footer) = Footer::parse(tail, size) else {
        return;
    };
    let Some(range) = footer.toc_range() else {
        return;
    };
    let limits = Limits {
        json: 4 << 20,
        chunks: 10_000,
        chunk: 1 << 20,
        member: 2 << 20,
        ..Limits::default()
    };
    let toc = &blob[range.start as usize..range.end as usize];
    let Ok(toc) = Toc::parse(toc, &footer, &TocDigest::Unverified, &limits) else {
        return;
    };
    for chunks in toc
        .chunks()
        .chunk_by(|a, b| a.start == b.start && a.codec == b.codec)
        .take(20)
    {
        let member = &blob[chunks[0].start as usize..chunks[0].end as usize];
        let together = decode_chunks(member, chunks);
        for chunk in chunks.iter().take(20) {
            if let Ok(content) = decode_unverified(member, chunk) {
                assert_eq!(content.len() as u64, chunk.size);
                continue;
            }
            assert!(together.is_err());
        }
    }
});
