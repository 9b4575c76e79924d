//! zstd frames, the sole home of zstd in this crate.

use std::io::{self, BufRead, Read};

use zstd::stream::read::Decoder;
use zstd::stream::write::Encoder;

/// 8 MiB: what zstd's levels up to 19 and Go's encoder use. Bounds what a hostile frame makes the decoder allocate to
/// 128 MiB (`--ultra --long=27`), the most that zstd itself accepts without being told to.
const MAX_WINDOW_LOG: u32 = 27;

/// One frame that states its length.
pub(crate) fn compress_frame(input: &[u8], level: i32) -> io::Result<Vec<u8>> {
    zstd::bulk::compress(input, level)
}

/// One frame, written piece by piece.
pub(crate) fn compressor(level: i32) -> io::Result<Encoder<'static, Vec<u8>>> {
    Encoder::new(Vec::new(), level)
}

/// The first `length` bytes of what the frames in `input` hold.
pub(crate) fn decompress_prefix(input: &[u8], length: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(length);
    decompressor(input)?
        .take(length as u64)
        .read_to_end(&mut content)?;
    if content.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(content)
}

/// Reads all frames, one after another.
pub(crate) fn decompressor<'a, R: BufRead + 'a>(input: R) -> io::Result<impl Read + 'a> {
    let mut decoder = Decoder::with_buffer(input)?;
    decoder.window_log_max(MAX_WINDOW_LOG)?;
    Ok(decoder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefixes() {
        let mut input = compress_frame(b"abc", 3).unwrap();
        input.extend(crate::zstd_chunked::skippable_frame(b"skipped").unwrap());
        input.extend(compress_frame(b"def", 3).unwrap());
        assert_eq!(decompress_prefix(&input, 2).unwrap(), b"ab");
        assert_eq!(decompress_prefix(&input, 6).unwrap(), b"abcdef");
        assert!(decompress_prefix(&input, 7).is_err());
        assert!(decompress_prefix(b"no frame at all", 1).is_err());
    }

    proptest! {
        #[test]
        fn frames_come_back(input in proptest::collection::vec(any::<u8>(), 0..40_000)) {
            let frame = compress_frame(&input, 3).unwrap();
            prop_assert_eq!(decompress_prefix(&frame, input.len()).unwrap(), input);
        }
    }
}
