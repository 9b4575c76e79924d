//! gzip members, the sole home of zlib in this crate.
//!
//! What is written goes through stock zlib, so that the same input gives the same layer wherever it is made. Members of a
//! known length are inflated by libdeflate, which is about twice as fast; all else by zlib, piece by piece.

use std::io::{self, BufRead, Read, Write};

use flate2::bufread::MultiGzDecoder;
use flate2::{Compression, GzBuilder};
use libdeflater::Decompressor;

/// What libdeflate may find after the bytes that were asked for: mostly the next tar header and its padding.
const SLACK: usize = 16 << 10;

/// One gzip member, without name or time.
pub(crate) fn compress_member(input: &[u8], level: u32) -> io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::new(level.min(9)));
    encoder.write_all(input)?;
    encoder.finish()
}

/// The first `length` bytes of what the members in `input` hold; nothing beyond is required to be whole.
pub(crate) fn decompress_prefix(input: &[u8], length: usize) -> io::Result<Vec<u8>> {
    if let Some(content) = decompress_whole(input, length) {
        return Ok(content);
    }
    let mut content = Vec::with_capacity(length);
    decompressor(input)
        .take(length as u64)
        .read_to_end(&mut content)?;
    if content.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(content)
}

/// By libdeflate, if the first member is whole and holds the bytes asked for and little more.
fn decompress_whole(input: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut content = vec![0; length.checked_add(SLACK)?];
    let found = Decompressor::new()
        .gzip_decompress(input, &mut content)
        .ok()?;
    (found >= length).then(|| {
        content.truncate(length);
        content
    })
}

/// Reads all members, one after another.
pub(crate) fn decompressor<R: BufRead>(input: R) -> impl Read {
    MultiGzDecoder::new(input)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Stock zlib's bytes: another deflater would change every layer that we write.
    #[test]
    fn golden_member() {
        let input: Vec<u8> = (0..20_000u32)
            .flat_map(|n| (n * n / 7).to_le_bytes())
            .collect();
        let member = compress_member(&input, 9).unwrap();
        assert_eq!(&member[..10], b"\x1f\x8b\x08\0\0\0\0\0\x02\xff");
        assert_eq!(
            crate::Digest::of(&member).to_string(),
            "sha256:136088e4e54eca8876222ec4933ba5d34631e0c7e9196bd8016b37d6cf45e2c2"
        );
    }

    #[test]
    fn a_prefix_of_several_members_and_of_a_cut_one() {
        let mut input = compress_member(b"abc", 9).unwrap();
        input.extend(compress_member(&[b'd'; 100_000], 9).unwrap());
        assert_eq!(decompress_prefix(&input, 2).unwrap(), b"ab");
        assert_eq!(decompress_prefix(&input, 5).unwrap(), b"abcdd");
        assert!(decompress_prefix(&input, 100_004).is_err());
        let cut = &compress_member(&(0..=255).collect::<Vec<u8>>().repeat(400), 9).unwrap()[..300];
        assert_eq!(decompress_prefix(cut, 100).unwrap().len(), 100);
        assert!(decompress_prefix(cut, 102_400).is_err());
        assert!(decompress_prefix(b"no gzip at all", 1).is_err());
    }

    proptest! {
        #[test]
        fn members_come_back(input in proptest::collection::vec(any::<u8>(), 0..40_000), level in 1u32..10) {
            let member = compress_member(&input, level).unwrap();
            prop_assert_eq!(decompress_prefix(&member, input.len()).unwrap(), &input[..]);
            let half = input.len() / 2;
            prop_assert_eq!(decompress_prefix(&member, half).unwrap(), &input[..half]);
        }
    }
}
