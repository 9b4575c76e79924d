//! Where large files are cut: by content, with the rolling checksum of `cvmfs_server` (its `chunk_detector.cc`), so that both cut alike.

/// The checksum depends on this many last bytes.
const WINDOW: u64 = 32;
/// Centre of the values that mean a cut.
const MAGIC: i32 = i32::MAX;

/// Sizes of chunks in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunking {
    /// Files up to here stay whole, and no chunk but a file's last is shorter; at least 32.
    pub min: u64,
    /// Between min and max.
    pub average: u64,
    /// No chunk is longer; also of those cut at given boundaries.
    pub max: u64,
}

impl Default for Chunking {
    /// 4, 8 and 16 MiB, as `cvmfs_server`.
    fn default() -> Self {
        Self {
            min: 4 << 20,
            average: 8 << 20,
            max: 16 << 20,
        }
    }
}

/// Finds the cuts of one file, fed with its bytes in order.
#[derive(Debug)]
pub(crate) struct CutDetector {
    chunking: Chunking,
    threshold: i32,
    /// Offset of the last cut.
    start: u64,
    /// Offset of the next byte to feed.
    position: u64,
    checksum: u32,
}

impl CutDetector {
    pub(crate) fn new(chunking: Chunking) -> Self {
        let average = u32::try_from(chunking.average.max(1)).unwrap_or(u32::MAX);
        Self {
            chunking,
            threshold: i32::try_from(u32::MAX / average).unwrap_or(i32::MAX),
            start: 0,
            position: 0,
            checksum: 0,
        }
    }

    /// Looks at the bytes that follow those of the last call. A cut ends the look: the next call goes on at the offset given back,
    /// with the bytes from there on.
    pub(crate) fn next_cut(&mut self, bytes: &[u8]) -> Option<u64> {
        let beginning = self.position;
        let end = beginning + bytes.len() as u64;
        let index = |offset: u64| usize::try_from(offset - beginning).unwrap_or(bytes.len());
        let clamp = |offset: u64| offset.clamp(beginning, end);
        let checked = self.start + self.chunking.min;
        let warm_up = clamp(checked.saturating_sub(WINDOW));
        let search = clamp(checked);
        let hard = self.start + self.chunking.max;
        for byte in &bytes[index(warm_up)..index(search)] {
            self.checksum = self.checksum << 1 ^ u32::from(*byte);
        }
        for (byte, offset) in bytes[index(search)..index(clamp(hard))]
            .iter()
            .zip(search..)
        {
            self.checksum = self.checksum << 1 ^ u32::from(*byte);
            if self
                .checksum
                .cast_signed()
                .wrapping_sub(MAGIC)
                .wrapping_abs()
                < self.threshold
            {
                return Some(self.cut(offset));
            }
        }
        if end >= hard {
            return Some(self.cut(hard));
        }
        self.position = end;
        None
    }

    fn cut(&mut self, offset: u64) -> u64 {
        self.start = offset;
        self.position = offset;
        self.checksum = 0;
        offset
    }
}
