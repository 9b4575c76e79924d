/// What a layer may cost. Beyond, it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerLimits {
    /// Bytes of the uncompressed tar, and as many bytes of files' contents with the holes of sparse ones.
    pub inflated_bytes: u64,
    /// Uncompressed bytes for each compressed one, once [`LayerLimits::RATIO_FREE`] bytes have come.
    pub ratio: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of all extended headers of one entry: long names, attributes.
    pub header_bytes: u64,
    /// Pieces of one sparse file.
    pub sparse_pieces: usize,
    /// Hardlinks that wait for their target.
    pub waiting_links: usize,
}

impl LayerLimits {
    /// Uncompressed bytes that may come in any ratio: a small layer of zeros is no bomb.
    pub const RATIO_FREE: u64 = 256 << 20;
}

impl Default for LayerLimits {
    /// 128 GiB, 400 : 1, 20 million entries, 1 MiB of headers, 100 000 pieces, 1 million waiting links.
    fn default() -> Self {
        Self {
            inflated_bytes: 128 << 30,
            ratio: 400,
            entries: 20_000_000,
            header_bytes: 1 << 20,
            sparse_pieces: 100_000,
            waiting_links: 1_000_000,
        }
    }
}
