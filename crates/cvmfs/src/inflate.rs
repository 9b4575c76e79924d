//! zlib streams. libdeflate for whole buffers, stock zlib for streams; both stop one byte past the size that is expected.

use std::io::{self, Write};

/// Whole buffers up to this decoded size are inflated at once; larger ones as streams.
pub(crate) const WHOLE_BUFFER_LIMIT: u64 = 8 << 20;

const PIECE: usize = 64 << 10;

/// Why stored bytes do not decode.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InflateError {
    #[error("not a valid zlib stream")]
    BadData,
    #[error("the zlib stream ends early")]
    Truncated,
    #[error("more than the expected {0} bytes")]
    TooLong(u64),
    #[error(transparent)]
    Sink(#[from] io::Error),
}

/// Inflates a whole stream of at most `limit` bytes. `expected` sizes the buffer; it is a hint, not believed.
pub(crate) fn whole(
    stored: &[u8],
    expected: Option<u64>,
    limit: u64,
) -> Result<Vec<u8>, InflateError> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut inflater = libdeflater::Decompressor::new();
    let guess = expected.map_or(stored.len().saturating_mul(4), |size| {
        usize::try_from(size).unwrap_or(usize::MAX)
    });
    let mut room = guess.clamp(64, limit.max(64));
    loop {
        let mut bytes = vec![0; room];
        match inflater.zlib_decompress(stored, &mut bytes) {
            Ok(length) if length > limit => return Err(InflateError::TooLong(limit as u64)),
            Ok(length) => {
                bytes.truncate(length);
                return Ok(bytes);
            }
            Err(libdeflater::DecompressionError::BadData) => return Err(InflateError::BadData),
            Err(libdeflater::DecompressionError::InsufficientSpace) if room >= limit => {
                return Err(InflateError::TooLong(limit as u64));
            }
            Err(libdeflater::DecompressionError::InsufficientSpace) => {
                room = room.saturating_mul(4).min(limit);
            }
        }
    }
}

/// A stream inflated piece by piece into a sink.
pub(crate) struct Stream {
    state: flate2::Decompress,
    piece: Vec<u8>,
    limit: u64,
    ended: bool,
}

impl Stream {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            state: flate2::Decompress::new(true),
            piece: vec![0; PIECE],
            limit,
            ended: false,
        }
    }

    /// Decodes what follows and hands it on.
    pub(crate) fn push(
        &mut self,
        mut stored: &[u8],
        sink: &mut dyn Write,
    ) -> Result<(), InflateError> {
        loop {
            if self.ended {
                // Bytes behind the end of the stream are no part of it; the hash covers them all the same.
                return Ok(());
            }
            let (read, written) = (self.state.total_in(), self.state.total_out());
            let status = self
                .state
                .decompress(stored, &mut self.piece, flate2::FlushDecompress::None)
                .map_err(|_| InflateError::BadData)?;
            // Both differences are bounded by the buffers passed.
            let read = (self.state.total_in() - read) as usize;
            let written = (self.state.total_out() - written) as usize;
            stored = &stored[read..];
            if self.state.total_out() > self.limit {
                return Err(InflateError::TooLong(self.limit));
            }
            sink.write_all(&self.piece[..written])?;
            self.ended = status == flate2::Status::StreamEnd;
            if stored.is_empty() && written < self.piece.len() {
                return Ok(());
            }
            if read == 0 && written == 0 && !self.ended {
                return Err(InflateError::BadData);
            }
        }
    }

    /// Decoded bytes so far.
    pub(crate) fn decoded(&self) -> u64 {
        self.state.total_out()
    }

    /// Refuses a stream whose end has not come.
    pub(crate) fn finish(&self) -> Result<(), InflateError> {
        if self.ended {
            Ok(())
        } else {
            Err(InflateError::Truncated)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut stored = Vec::new();
        flate2::read::ZlibEncoder::new(bytes, flate2::Compression::default())
            .read_to_end(&mut stored)
            .unwrap();
        stored
    }

    fn streamed(stored: &[u8], step: usize, limit: u64) -> Result<Vec<u8>, InflateError> {
        let mut stream = Stream::new(limit);
        let mut bytes = Vec::new();
        for piece in stored.chunks(step) {
            stream.push(piece, &mut bytes)?;
        }
        stream.finish()?;
        assert_eq!(stream.decoded(), bytes.len() as u64);
        Ok(bytes)
    }

    #[test]
    fn the_empty_object() {
        let stored = deflate(b"");
        assert_eq!(
            crate::Algorithm::Sha1.digest(&stored).to_string(),
            "e8ec3d88b62ebf526e4e5a4ff6162a3aa48a6b78"
        );
        assert_eq!(whole(&stored, Some(0), 0).unwrap(), b"");
        assert_eq!(streamed(&stored, 1, 0).unwrap(), b"");
    }

    #[test]
    fn bombs_are_stopped() {
        let stored = deflate(&vec![0; 1 << 20]);
        assert!(matches!(
            whole(&stored, Some(10), 1000),
            Err(InflateError::TooLong(1000))
        ));
        assert!(matches!(
            streamed(&stored, 100, 1000),
            Err(InflateError::TooLong(1000))
        ));
        assert!(whole(&stored, Some(1 << 20), 1 << 20).is_ok());
        assert!(whole(&stored, None, 1 << 20).is_ok());
        assert!(whole(&stored, Some((1 << 20) - 1), (1 << 20) - 1).is_err());
    }

    proptest::proptest! {
        #[test]
        fn both_ways_agree(bytes in proptest::collection::vec(0_u8..4, 0..5000), step in 1_usize..700, cut in 1_usize..40) {
            let stored = deflate(&bytes);
            let limit = bytes.len() as u64;
            proptest::prop_assert_eq!(&whole(&stored, None, limit).unwrap(), &bytes);
            proptest::prop_assert_eq!(&streamed(&stored, step, limit).unwrap(), &bytes);
            let cut = &stored[..stored.len().saturating_sub(cut)];
            proptest::prop_assert!(whole(cut, Some(limit), limit).is_err());
            proptest::prop_assert!(streamed(cut, step, limit).is_err());
        }
    }
}
