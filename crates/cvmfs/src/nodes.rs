//! The node-level view for mounts: numbers that name immutable content for life, without handles and without a table of paths.

/// A node: the number of an attached catalog in the upper 24 bits, the row in it in the lower 40.
/// Numbers of catalogs are never used again, so a number names the same content as long as the repository is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);
