//! Going through all names of a tree.

use crate::entry::NodeId;
use crate::view::{Children, Tree};

/// All names below the root, depth first, in order of their bytes within a directory; the root
/// itself is left out. Made by [`Tree::walk`].
///
/// Yields the path from the root, without a leading slash, and the node. It keeps one path and one
/// place for each level that is open.
#[derive(Debug)]
pub struct Walk<'a, B> {
    tree: &'a Tree<B>,
    path: Vec<u8>,
    /// Open directories with the length of their paths.
    open: Vec<(usize, Children<'a>)>,
}

impl<'a, B: AsRef<[u8]>> Walk<'a, B> {
    pub(crate) fn new(tree: &'a Tree<B>) -> Self {
        Self {
            tree,
            path: Vec::new(),
            open: vec![(0, tree.children(NodeId::ROOT, 0))],
        }
    }
}

impl<B: AsRef<[u8]>> Iterator for Walk<'_, B> {
    type Item = (Vec<u8>, NodeId);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (length, children) = self.open.last_mut()?;
            let Some((_, name, id)) = children.next() else {
                self.open.pop();
                continue;
            };
            self.path.truncate(*length);
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            let below = self.tree.children(id, 0);
            if below.len() > 0 {
                self.open.push((self.path.len(), below));
            }
            return Some((self.path.clone(), id));
        }
    }
}
