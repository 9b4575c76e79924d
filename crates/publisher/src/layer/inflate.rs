//! The blob as an uncompressed, bounded and hashed stream.

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use image::Digest;
use sha2::{Digest as _, Sha256};

use super::error::LayerError;
use super::limits::LayerLimits;

/// Largest window of a zstd frame (2^27 = 128 MiB), as the reference decoder allows.
const ZSTD_WINDOW_LOG: u32 = 27;
const BUFFER: usize = 128 << 10;

type Source<'a> = BufReader<Counted<io::Chain<Cursor<Vec<u8>>, Box<dyn Read + Send + 'a>>>>;

/// Counts bytes as they pass.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

enum Codec<'a> {
    Plain(Source<'a>),
    Gzip(Box<MultiGzDecoder<Source<'a>>>),
    Zstd(zstd::stream::read::Decoder<'static, Source<'a>>),
}

/// Uncompressed bytes. [`Inflated::finish`] must be called, or neither the blob's digest nor the diffID has been looked at.
pub(crate) struct Inflated<'a> {
    codec: Codec<'a>,
    hasher: Sha256,
    limits: LayerLimits,
    compressed: Arc<AtomicU64>,
    position: u64,
}

impl<'a> Inflated<'a> {
    /// The compression is what the first bytes say: manifests err about it, and readers of images go by the bytes.
    pub(crate) fn new(
        mut blob: Box<dyn Read + Send + 'a>,
        limits: LayerLimits,
    ) -> Result<Self, LayerError> {
        let compressed = Arc::new(AtomicU64::new(0));
        let magic = magic(&mut blob).map_err(LayerError::from_io)?;
        let counted = Counted {
            inner: Cursor::new(magic.clone()).chain(blob),
            count: Arc::clone(&compressed),
        };
        let source = BufReader::with_capacity(BUFFER, counted);
        let codec = match magic[..] {
            [0x1f, 0x8b, ..] => Codec::Gzip(Box::new(MultiGzDecoder::new(source))),
            // A frame, or a skippable frame before it.
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)
                    .map_err(LayerError::from_io)?;
                decoder
                    .window_log_max(ZSTD_WINDOW_LOG)
                    .map_err(LayerError::from_io)?;
                Codec::Zstd(decoder)
            }
            _ => Codec::Plain(source),
        };
        Ok(Self {
            codec,
            hasher: Sha256::new(),
            limits,
            compressed,
            position: 0,
        })
    }

    /// Compressed bytes so far.
    pub(crate) fn compressed(&self) -> u64 {
        self.compressed.load(Ordering::Relaxed)
    }

    /// Reads what is left and gives the diffID. The blob's own reader verifies it at its end.
    pub(crate) fn finish(mut self) -> Result<Finished, LayerError> {
        let mut buffer = vec![0; BUFFER];
        while self.read(&mut buffer).map_err(LayerError::from_io)? > 0 {}
        let mut rest = match self.codec {
            Codec::Plain(source) => source,
            Codec::Gzip(decoder) => decoder.into_inner(),
            Codec::Zstd(decoder) => decoder.finish(),
        };
        if !rest.fill_buf().map_err(LayerError::from_io)?.is_empty() {
            let reason = "bytes follow the compressed layer";
            return Err(LayerError::Blob(io::Error::new(
                io::ErrorKind::InvalidData,
                reason,
            )));
        }
        Ok(Finished {
            diff_id: Digest::from_bytes(self.hasher.finalize().into()),
            uncompressed: self.position,
            compressed: self.compressed.load(Ordering::Relaxed),
        })
    }

    fn check(&self) -> Result<(), LayerError> {
        let limits = &self.limits;
        if self.position > limits.inflated_bytes {
            return Err(LayerError::Limit {
                what: "uncompressed bytes",
                limit: limits.inflated_bytes,
            });
        }
        let allowed = self.compressed().saturating_mul(limits.ratio);
        if self.position > allowed.max(LayerLimits::RATIO_FREE) {
            return Err(LayerError::Limit {
                what: "uncompressed bytes for each compressed one",
                limit: limits.ratio,
            });
        }
        Ok(())
    }
}

/// What the whole stream came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished {
    pub(crate) diff_id: Digest,
    pub(crate) uncompressed: u64,
    pub(crate) compressed: u64,
}

impl Read for Inflated<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.codec {
            Codec::Plain(source) => source.read(buffer),
            Codec::Gzip(decoder) => decoder.read(buffer),
            Codec::Zstd(decoder) => decoder.read(buffer),
        }
        .map_err(|error| named(error, &self.codec))?;
        self.hasher.update(&buffer[..count]);
        self.position += count as u64;
        self.check().map_err(LayerError::into_io)?;
        Ok(count)
    }
}

/// zstd calls damaged frames `Other`; the blob's own failures pass unchanged, whatever their kind.
fn named(error: io::Error, codec: &Codec<'_>) -> io::Error {
    let plain_other = error.kind() == io::ErrorKind::Other
        && error
            .get_ref()
            .is_none_or(|inner| !inner.is::<LayerError>());
    match codec {
        Codec::Zstd(_) if plain_other => io::Error::new(io::ErrorKind::InvalidData, error),
        _ => error,
    }
}

/// The first bytes, at most four, however few each read brings.
fn magic(blob: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut magic = Vec::with_capacity(4);
    blob.take(4).read_to_end(&mut magic)?;
    Ok(magic)
}
