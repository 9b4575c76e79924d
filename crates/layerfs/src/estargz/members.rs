//! Which chunks of a layer lie next to each other in its blob. Files that are used together mostly
//! do: one request then brings several.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use image::estargz::{Chunk, Codec};
use tree::NodeId;

use crate::builds::lock;
use crate::content::{ContentRef, decode};
use crate::error::AttachError;
use crate::tree_store::{MappedTree, TreeStore};

/// Memory for layers whose chunks are kept in order; the last one used may take more.
const BOUND: usize = 12 << 20;

/// The chunks of one layer, in the order of its blob.
pub(super) struct Members {
    tree: Arc<MappedTree>,
    /// Start of the member, file, offset in the file.
    chunks: Vec<(u64, u32, u64)>,
}

/// The layers that were read last.
#[derive(Default)]
pub(super) struct MembersOf {
    known: Mutex<VecDeque<(String, Arc<Members>)>>,
}

impl MembersOf {
    /// The chunks of the layer with this tree; `None` while there is no tree.
    pub(super) fn get(
        &self,
        trees: &TreeStore,
        tree: &str,
    ) -> Result<Option<Arc<Members>>, AttachError> {
        let mut known = lock(&self.known);
        let there = known.iter().position(|(name, _)| name == tree);
        if let Some(found) = there.and_then(|at| known.remove(at)) {
            let members = Arc::clone(&found.1);
            known.push_back(found);
            return Ok(Some(members));
        }
        // Under the lock: a layer's first readers come all at once, and it takes milliseconds.
        let Some(mapped) = trees.get(tree)? else {
            return Ok(None);
        };
        let members = Arc::new(Members::new(mapped));
        known.push_back((tree.to_owned(), Arc::clone(&members)));
        let mut kept: usize = known.iter().map(|(_, members)| members.bytes()).sum();
        while kept > BOUND && known.len() > 1 {
            let gone = known.pop_front();
            kept -= gone.map_or(0, |(_, members)| members.bytes());
        }
        Ok(Some(members))
    }
}

impl Members {
    fn new(tree: Arc<MappedTree>) -> Self {
        let mut chunks = Vec::new();
        for number in 0..u64::from(tree.node_count()) {
            let Some(node) = tree.node_id(number) else {
                continue;
            };
            for extent in tree.extents(node) {
                let chunk = chunk_of(&extent).filter(|chunk| chunk.codec != Codec::Zeros);
                chunks.extend(chunk.map(|chunk| (chunk.start, node.0, extent.offset)));
            }
        }
        chunks.sort_unstable();
        Self { tree, chunks }
    }

    fn bytes(&self) -> usize {
        self.chunks.len() * size_of::<(u64, u32, u64)>() + 256
    }

    /// All chunks from `start` on, in the order of the blob.
    pub(super) fn from(&self, start: u64) -> impl Iterator<Item = Chunk> + '_ {
        let at = self.chunks.partition_point(|(first, ..)| *first < start);
        self.chunks[at..].iter().filter_map(|&(_, node, offset)| {
            let extent = self.tree.extent_at(NodeId(node), offset)?;
            chunk_of(&extent)
        })
    }

    /// The chunks that one request brings along with `chunk`: those of its own member, and what
    /// follows within `budget` bytes from its start.
    pub(super) fn beside(&self, chunk: &Chunk, budget: u64) -> Vec<Chunk> {
        let limit = chunk.start.saturating_add(budget).max(chunk.end);
        self.from(chunk.start)
            .take_while(|other| other.start == chunk.start || other.end <= limit)
            .filter(|other| other != chunk)
            .collect()
    }
}

/// The chunk that an extent refers to.
pub(super) fn chunk_of(extent: &tree::Extent<'_>) -> Option<Chunk> {
    let Some(ContentRef::Chunk(reference)) = decode(extent.content) else {
        return None;
    };
    Chunk::from_reference(reference, extent.offset, extent.length)
}
