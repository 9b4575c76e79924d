//! Where inodes lie: as dense as blocks that nothing may cross allow.

use super::format::{BLOCK, METADATA_AT, SLOT};

/// Ends of blocks that are remembered for what is small enough.
const MAX_GAPS: usize = 64;

/// Gives out places behind each other, and fills what stayed free at the ends of blocks.
#[derive(Debug)]
pub(super) struct Packer {
    next: u64,
    /// Places and lengths.
    gaps: Vec<(u64, u64)>,
}

impl Packer {
    pub(super) const fn new() -> Self {
        Self {
            next: METADATA_AT,
            gaps: Vec::new(),
        }
    }

    /// A place for an inode with what lies behind it. It crosses no block, which old kernels ask
    /// for; only what is longer than a block does, and begins with one.
    pub(super) fn inode(&mut self, length: u64) -> u64 {
        let length = length.next_multiple_of(SLOT);
        let left = self.next.next_multiple_of(BLOCK) - self.next;
        if length <= left {
            return self.take(length);
        }
        if let Some(at) = self.fill_gap(length) {
            return at;
        }
        self.keep_gap(left);
        self.next += left;
        self.take(length)
    }

    /// A place for bytes that may cross blocks.
    pub(super) fn run(&mut self, length: u64) -> u64 {
        self.take(length.next_multiple_of(SLOT))
    }

    /// First block behind everything.
    pub(super) const fn end(&self) -> u64 {
        self.next.div_ceil(BLOCK)
    }

    const fn take(&mut self, length: u64) -> u64 {
        let at = self.next;
        self.next += length;
        at
    }

    /// The smallest gap that is long enough.
    fn fill_gap(&mut self, length: u64) -> Option<u64> {
        let fitting = self
            .gaps
            .iter_mut()
            .filter(|(_, free)| *free >= length)
            .min_by_key(|(_, free)| *free)?;
        let at = fitting.0;
        *fitting = (at + length, fitting.1 - length);
        self.gaps.retain(|(_, free)| *free != 0);
        Some(at)
    }

    /// Keeps a gap, at the cost of the smallest.
    fn keep_gap(&mut self, length: u64) {
        if length == 0 {
            return;
        }
        if self.gaps.len() == MAX_GAPS
            && let Some((smallest, _)) = (self.gaps.iter().enumerate()).min_by_key(|(_, gap)| gap.1)
        {
            self.gaps.swap_remove(smallest);
        }
        self.gaps.push((self.next, length));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_end_of_a_block_is_filled_later() {
        let mut packer = Packer::new();
        assert_eq!(packer.inode(64), 4096);
        assert_eq!(packer.inode(4060), 8192);
        assert_eq!(packer.inode(4000), 4096 + 64);
        assert_eq!(packer.inode(32), 8192 + 4064);
        assert_eq!(packer.inode(64), 12288);
        assert_eq!(packer.inode(5000), 16384);
        assert_eq!(packer.run(5000), 16384 + 5024);
        assert_eq!(packer.end(), 7);
    }

    proptest! {
        #[test]
        fn nothing_overlaps_and_nothing_crosses_a_block(
            lengths in prop::collection::vec((1_u64..9000, any::<bool>()), 1..300),
        ) {
            let mut packer = Packer::new();
            let mut places: Vec<(u64, u64)> = Vec::new();
            for (length, run) in lengths {
                let at = if run { packer.run(length) } else { packer.inode(length) };
                prop_assert_eq!(at % SLOT, 0);
                if !run && length <= BLOCK {
                    prop_assert_eq!(at / BLOCK, (at + length - 1) / BLOCK);
                }
                places.push((at, at + length));
            }
            places.sort_unstable();
            prop_assert!(places[0].0 >= METADATA_AT);
            prop_assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            prop_assert!(places[places.len() - 1].1 <= packer.end() * BLOCK);
        }
    }
}
