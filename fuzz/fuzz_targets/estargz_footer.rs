//! The end of a blob from a hostile registry: 8 bytes are the blob's length, the rest is its tail.
#![no_main]

use image::estargz::{Footer, tail_length_to_fetch};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((size, tail)) = input.split_first_chunk::<8>() else {
        return;
    };
    let size = u64::from_le_bytes(*size);
    assert!(tail_length_to_fetch(size) <= size);
    if let Ok(footer) = Footer::parse(tail, size) {
        assert!(footer.data_end() < size);
        if let Some(range) = footer.toc_range() {
            assert!(range.start < range.end && range.end <= size);
            assert!(footer.data_end() <= range.start);
        }
    }
});
