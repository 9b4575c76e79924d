//! The tar in a layer's blob, however it is compressed.

use std::io::{self, BufRead, Read};

use crate::deflate;
use crate::zstd_chunked::frame;

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// Decompresses a layer: gzip, zstd or neither, whatever its media type claims. Reads on over members and frames.
///
/// # Errors
/// `blob` cannot be read.
pub fn layer_tar<'a>(mut blob: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let start = blob.fill_buf()?;
    Ok(if start.starts_with(GZIP) {
        Box::new(deflate::decompressor(blob))
    } else if start.starts_with(ZSTD) {
        Box::new(frame::decompressor(blob)?)
    } else {
        Box::new(blob)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_compression_is_known_by_its_bytes() {
        let text = b"a tar, for instance".repeat(100);
        let gzip = deflate::compress_member(&text, 6).unwrap();
        let zstd = frame::compress_frame(&text, 3).unwrap();
        for blob in [
            &text[..],
            &gzip,
            &zstd,
            &[&gzip[..], &deflate::compress_member(b"", 6).unwrap()].concat(),
        ] {
            let mut found = Vec::new();
            layer_tar(blob).unwrap().read_to_end(&mut found).unwrap();
            assert_eq!(found, text);
        }
        assert!(io::copy(&mut layer_tar(&gzip[..50]).unwrap(), &mut io::sink()).is_err());
        assert_eq!(layer_tar(&b""[..]).unwrap().read(&mut [0]).unwrap(), 0);
    }
}
