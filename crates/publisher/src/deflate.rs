//! Stock zlib at its default level, as `cvmfs_server` deflates: equal content becomes equal objects, whoever publishes it.

use std::cell::RefCell;
use std::io::{Read, Write};

use cvmfs::{Algorithm, ContentHash, Hasher};
use flate2::{Compress, Compression, FlushCompress, Status};

/// Bytes read or written at once.
const BLOCK_BYTES: usize = 256 << 10;

thread_local! {
    /// zlib's state is 256 KiB, more than most files.
    static STATE: RefCell<Compress> = RefCell::new(Compress::new(Compression::default(), true));
}

/// One zlib stream of a buffer.
pub(crate) fn deflate(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    STATE.with_borrow_mut(|state| {
        state.reset();
        let mut out = Vec::with_capacity(bound(plain.len()));
        loop {
            let consumed = usize::try_from(state.total_in()).unwrap_or(usize::MAX);
            let rest = plain.get(consumed..).unwrap_or_default();
            match state.compress_vec(rest, &mut out, FlushCompress::Finish)? {
                Status::StreamEnd => break,
                Status::Ok | Status::BufError => out.reserve(BLOCK_BYTES),
            }
        }
        out.shrink_to(out.len() + out.len() / 4);
        Ok(out)
    })
}

/// What zlib needs at most (`compressBound`).
fn bound(length: usize) -> usize {
    length + (length >> 12) + (length >> 14) + (length >> 25) + 13
}

/// Deflates a stream into another; the hash of what was written, and how many bytes were read and written.
pub(crate) fn deflate_stream(
    reader: &mut dyn Read,
    writer: &mut dyn Write,
    algorithm: Algorithm,
) -> std::io::Result<(ContentHash, u64, u64)> {
    let mut encoder = flate2::write::ZlibEncoder::new(
        Hashed {
            inner: writer,
            hasher: Hasher::new(algorithm),
            written: 0,
        },
        Compression::default(),
    );
    let mut block = vec![0; BLOCK_BYTES];
    let mut read = 0;
    loop {
        let length = match reader.read(&mut block) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        encoder.write_all(&block[..length])?;
        read += length as u64;
    }
    let hashed = encoder.finish()?;
    Ok((hashed.hasher.finish(), read, hashed.written))
}

struct Hashed<'a> {
    inner: &'a mut dyn Write,
    hasher: Hasher,
    written: u64,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        self.written += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Inflates one zlib stream of at most `limit` bytes; nothing may follow it.
pub(crate) fn inflate(stored: &[u8], limit: u64) -> std::io::Result<Vec<u8>> {
    let mut decoder = flate2::bufread::ZlibDecoder::new(stored);
    let mut plain = Vec::new();
    decoder
        .by_ref()
        .take(limit.saturating_add(1))
        .read_to_end(&mut plain)?;
    let invalid = |reason: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, reason);
    if plain.len() as u64 > limit {
        return Err(invalid("inflates to more than is allowed"));
    }
    if !decoder.into_inner().is_empty() {
        return Err(invalid("bytes follow the end of the zlib stream"));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixture_objects_deflate_to_the_published_bytes() {
        let fixture = testkit::fixture();
        let mut count = 0;
        for directory in std::fs::read_dir(fixture.repository().join("data")).unwrap() {
            for file in std::fs::read_dir(directory.unwrap().path()).unwrap() {
                let stored = std::fs::read(file.unwrap().path()).unwrap();
                let Ok(plain) = inflate(&stored, 1 << 30) else {
                    continue;
                };
                assert!(deflate(&plain).unwrap() == stored, "buffer differs");
                let mut streamed = Vec::new();
                let (hash, read, written) =
                    deflate_stream(&mut &plain[..], &mut streamed, Algorithm::Sha1).unwrap();
                assert!(streamed == stored, "stream differs");
                assert_eq!(hash, Algorithm::Sha1.digest(&stored));
                assert_eq!((read, written), (plain.len() as u64, stored.len() as u64));
                count += 1;
            }
        }
        assert_eq!(count, 822);
    }

    #[test]
    fn empty_file_has_the_known_name() {
        let hash = Algorithm::Sha1.digest(&deflate(b"").unwrap());
        assert_eq!(hash.to_string(), "e8ec3d88b62ebf526e4e5a4ff6162a3aa48a6b78");
    }

    #[test]
    fn inflating_is_bounded_and_exact() {
        let stored = deflate(&[7; 1000]).unwrap();
        assert_eq!(inflate(&stored, 1000).unwrap(), [7; 1000]);
        assert!(inflate(&stored, 999).is_err());
        assert!(inflate(&stored[..stored.len() - 1], 1000).is_err());
        assert!(inflate(&[&stored[..], b"x"].concat(), 1000).is_err());
    }

    proptest::proptest! {
        #[test]
        fn incompressible_bytes_come_back(plain in proptest::collection::vec(0_u8.., 0..100_000)) {
            let stored = deflate(&plain).unwrap();
            proptest::prop_assert_eq!(inflate(&stored, plain.len() as u64).unwrap(), plain);
        }
    }
}
