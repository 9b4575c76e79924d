//! The blocks of a directory.

use zerocopy::IntoBytes;

use crate::entry::{Kind, NodeId};
use crate::view::{Children, Tree};

use super::format::{BLOCK, DIRENT, Dirent};

/// The names of a directory as an image lists them: sorted by their bytes, `.` and `..` among them.
pub(super) struct Names<'a> {
    dots: &'static [&'static [u8]],
    children: std::iter::Peekable<Children<'a>>,
    this: NodeId,
    parent: NodeId,
}

impl<'a> Names<'a> {
    pub(super) fn of<B: AsRef<[u8]>>(tree: &'a Tree<B>, directory: NodeId) -> Self {
        Self {
            dots: &[b".", b".."],
            children: tree.children(directory, 0).peekable(),
            this: directory,
            parent: tree.parent(directory),
        }
    }
}

impl<'a> Iterator for Names<'a> {
    type Item = (&'a [u8], NodeId);

    fn next(&mut self) -> Option<Self::Item> {
        let child = self.children.peek();
        if let Some((dot, rest)) = self.dots.split_first()
            && child.is_none_or(|(_, name, _)| *dot < *name)
        {
            self.dots = rest;
            let node = if *dot == b"." { self.this } else { self.parent };
            return Some((dot, node));
        }
        self.children.next().map(|(_, name, node)| (name, node))
    }
}

/// Bytes of a directory: all blocks but the last count whole.
pub(super) fn length<'a>(names: impl Iterator<Item = (&'a [u8], NodeId)>) -> u64 {
    let mut full = 0;
    let mut used = 0;
    for (name, _) in names {
        let cost = (DIRENT + name.len()) as u64;
        if used + cost > BLOCK {
            full += 1;
            used = 0;
        }
        used += cost;
    }
    full * BLOCK + used
}

/// The blocks of a directory, the last as long as it is.
pub(super) struct Blocks<'a, F> {
    names: std::iter::Peekable<Names<'a>>,
    /// Number and type byte of a node.
    describe: F,
}

impl<'a, F: Fn(NodeId) -> (u64, u8)> Blocks<'a, F> {
    pub(super) fn new(names: Names<'a>, describe: F) -> Self {
        Self {
            names: names.peekable(),
            describe,
        }
    }
}

impl<F: Fn(NodeId) -> (u64, u8)> Iterator for Blocks<'_, F> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut chosen = Vec::new();
        let mut used = 0;
        let fits = |used: &mut usize, name: &[u8]| {
            *used += DIRENT + name.len();
            *used as u64 <= BLOCK
        };
        while let Some(entry) = self.names.next_if(|(name, _)| fits(&mut used, name)) {
            chosen.push(entry);
        }
        let mut block = Vec::with_capacity(used);
        // Below a block's size, so the conversion holds.
        let mut name_at = chosen.len() * DIRENT;
        for (name, node) in &chosen {
            let (inode, file_type) = (self.describe)(*node);
            let dirent = Dirent {
                inode: inode.into(),
                name_at: (name_at as u16).into(),
                file_type,
                reserved: 0,
            };
            block.extend_from_slice(dirent.as_bytes());
            name_at += name.len();
        }
        for (name, _) in &chosen {
            block.extend_from_slice(name);
        }
        (!block.is_empty()).then_some(block)
    }
}

/// The byte that tells a name's kind without its inode.
pub(super) const fn file_type(kind: Kind) -> u8 {
    match kind {
        Kind::File => 1,
        Kind::Directory => 2,
        Kind::CharDevice | Kind::Whiteout => 3,
        Kind::BlockDevice => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Symlink => 7,
        Kind::Link => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, Entry};

    fn names(list: &[&[u8]]) -> Tree<Vec<u8>> {
        let mut builder = Builder::new();
        for name in list {
            builder.add(name, Entry::new(Kind::File, 0o644)).unwrap();
        }
        Tree::parse(builder.finish().unwrap()).unwrap()
    }

    #[test]
    fn dots_stand_where_they_sort() {
        let tree = names(&[b"a", b"-", b"..a", b".a", b"+x", b"\xff"]);
        let sorted: Vec<&[u8]> = Names::of(&tree, NodeId::ROOT)
            .map(|(name, _)| name)
            .collect();
        let expected: [&[u8]; 8] = [b"+x", b"-", b".", b"..", b"..a", b".a", b"a", b"\xff"];
        assert_eq!(sorted, expected);
    }

    #[test]
    fn blocks_are_filled_to_the_last_byte_and_no_further() {
        // 12 + 1 and 12 + 2 for the dots, 12 + 255 for each name.
        let rest = BLOCK as usize - 27 - 15 * 267;
        for (last, blocks, length_of_all) in
            [(rest, 1, BLOCK), (rest + 1, 2, BLOCK + rest as u64 + 1)]
        {
            let mut list: Vec<Vec<u8>> = (b'a'..b'a' + 15).map(|byte| vec![byte; 255]).collect();
            list.push(vec![b'z'; last - DIRENT]);
            let list: Vec<&[u8]> = list.iter().map(Vec::as_slice).collect();
            let tree = names(&list);
            assert_eq!(length(Names::of(&tree, NodeId::ROOT)), length_of_all);
            let made = Blocks::new(Names::of(&tree, NodeId::ROOT), |_| (0, 0)).collect::<Vec<_>>();
            assert_eq!(made.len(), blocks);
            let bytes = (blocks as u64 - 1) * BLOCK + made[blocks - 1].len() as u64;
            assert_eq!(bytes, length_of_all);
        }
    }
}
