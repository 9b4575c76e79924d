//! `st_ino` of a repository's nodes: below 2^32, because 32-bit programs break above.

use std::collections::HashMap;
use std::sync::Mutex;

use cvmfs::NodeId;

use crate::builds::lock;

/// Rows of one catalog that get neighbouring numbers.
const BLOCK_BITS: u32 = 12;
/// Numbers below are nobody's but the root's.
const FIRST_BLOCK: u32 = 1;

/// Gives numbers out in blocks, as nodes are seen. The names of one hardlink group get one number.
#[derive(Default)]
pub(crate) struct InodeNumbers {
    blocks: Mutex<HashMap<Block, u32>>,
}

/// Neighbouring rows, or neighbouring hardlink groups, of one catalog.
#[derive(PartialEq, Eq, Hash)]
struct Block {
    catalog: u32,
    of_groups: bool,
    number: u64,
}

impl InodeNumbers {
    /// The number of a node; `link_group` is 0 for files with a name of their own.
    pub(crate) fn of(&self, node: NodeId, link_group: u32) -> u64 {
        let of_groups = link_group != 0;
        let within = if of_groups {
            u64::from(link_group)
        } else {
            node.row()
        };
        let block = Block {
            catalog: node.slot(),
            of_groups,
            number: within >> BLOCK_BITS,
        };
        let mut blocks = lock(&self.blocks);
        let next = FIRST_BLOCK.saturating_add(u32::try_from(blocks.len()).unwrap_or(u32::MAX));
        let base = *blocks.entry(block).or_insert(next);
        u64::from(base) << BLOCK_BITS | within & ((1 << BLOCK_BITS) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn different_nodes_have_different_numbers_and_links_have_one() {
        let numbers = InodeNumbers::default();
        let node = |slot: u64, row: u64| NodeId(slot << 40 | row);
        let mut seen = HashSet::new();
        for slot in 0..3 {
            for row in [1, 2, 4095, 4096, 1 << 30] {
                assert!(seen.insert(numbers.of(node(slot, row), 0)));
            }
            assert!(seen.insert(numbers.of(node(slot, 7), 2)));
            assert_eq!(numbers.of(node(slot, 9), 2), numbers.of(node(slot, 7), 2));
        }
        assert!(seen.iter().all(|number| (4096..1 << 32).contains(number)));
        assert_eq!(numbers.of(node(1, 2), 0), numbers.of(node(1, 2), 0));
    }
}
