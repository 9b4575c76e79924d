//! The end of a layer: hardlinks and whiteouts find their meaning, the tree is written.

use std::collections::HashMap;

use crate::entry::{Extent, Kind};
use crate::format::{IMPLICIT, OPAQUE};
use crate::write::{Draft, Writer};

use super::node::Node;
use super::{BuildError, Builder, Index, MAX_LINKS, ROOT};

impl Builder {
    /// Writes the tree.
    ///
    /// # Errors
    /// [`BuildError::TooLarge`], [`BuildError::LinkToDirectory`], [`BuildError::LinkChain`].
    pub fn finish(mut self) -> Result<Vec<u8>, BuildError> {
        self.settle_links()?;
        self.settle_whiteouts();
        let mut writer = Writer::default();
        let mut numbers = vec![None; self.nodes.len()];
        let mut queue = vec![(ROOT, self.write(&mut writer, ROOT, 0)?)];
        let mut next = 0;
        while let Some((index, number)) = queue.get(next).copied() {
            next += 1;
            self.write_names(&mut writer, &mut numbers, &mut queue, (index, number))?;
        }
        Ok(writer.finish(0)?)
    }
    /// Links whose target this layer has after all become names of the target.
    fn settle_links(&mut self) -> Result<(), BuildError> {
        let links: Vec<Index> = (0..self.nodes.len())
            .filter(|index| self.nodes[*index].kind == Kind::Link)
            .collect();
        if links.is_empty() {
            return Ok(());
        }
        let mut settled = HashMap::new();
        for link in links {
            if let Some(target) = self.settle(link)? {
                settled.insert(link, target);
            }
        }
        for node in &mut self.nodes {
            let Some(directory) = &mut node.directory else {
                continue;
            };
            for child in directory.children.values_mut() {
                *child = settled.get(child).copied().unwrap_or(*child);
            }
        }
        Ok(())
    }

    /// Where a link leads within this layer, through other links; nothing if it leads below, or
    /// in a circle.
    fn settle(&self, link: Index) -> Result<Option<Index>, BuildError> {
        let mut visited = vec![link];
        let mut index = link;
        while self.nodes[index].kind == Kind::Link {
            let Some(found) = self.find(self.target(index)) else {
                break;
            };
            if visited.contains(&found) {
                return Ok(None);
            }
            if visited.len() > MAX_LINKS {
                let path = self.target(link).to_vec();
                return Err(BuildError::LinkChain { path });
            }
            visited.push(found);
            index = found;
        }
        if self.is_directory(index) {
            let path = self.target(link).to_vec();
            return Err(BuildError::LinkToDirectory { path });
        }
        Ok((index != link).then_some(index))
    }

    /// A whiteout acts on lower layers only: beside an entry of its name it leaves just its
    /// effect on directories, which then start empty.
    fn settle_whiteouts(&mut self) {
        let whiteout = self.push(Node {
            kind: Kind::Whiteout,
            ..Node::default()
        });
        for index in 0..self.nodes.len() {
            let Some(mut directory) = self.nodes[index].directory.take() else {
                continue;
            };
            for name in std::mem::take(&mut directory.whiteouts) {
                let child = *directory.children.entry(name).or_insert(whiteout);
                if self.is_directory(child) {
                    self.directory_mut(child).opaque = true;
                    // Nothing is left below whose attributes it could take.
                    self.nodes[child].implicit = false;
                }
            }
            self.nodes[index].directory = Some(directory);
        }
    }

    fn target(&self, index: Index) -> &[u8] {
        cut(&self.blob, self.nodes[index].payload)
    }

    fn write_names(
        &self,
        writer: &mut Writer,
        numbers: &mut [Option<u32>],
        queue: &mut Vec<(Index, u32)>,
        (index, number): (Index, u32),
    ) -> Result<(), BuildError> {
        writer.open(number);
        let Some(directory) = &self.nodes[index].directory else {
            return Ok(());
        };
        for (name, child) in &directory.children {
            let child = *child;
            let child_number = match numbers[child] {
                Some(known) => known,
                None => self.write(writer, child, number)?,
            };
            match self.nodes[child].kind {
                Kind::Directory => queue.push((child, child_number)),
                // Each is a node of its own: there is nothing to share.
                Kind::Whiteout => {}
                _ => numbers[child] = Some(child_number),
            }
            writer.name(number, name, child_number)?;
        }
        Ok(())
    }

    fn write(&self, writer: &mut Writer, index: Index, parent: u32) -> Result<u32, BuildError> {
        let node = &self.nodes[index];
        let opaque = node.directory.as_ref().is_some_and(|it| it.opaque);
        let draft = Draft {
            kind: node.kind,
            flags: if node.implicit { IMPLICIT } else { 0 } | if opaque { OPAQUE } else { 0 },
            layer: 0,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            mtime: node.mtime,
            mtime_nanos: node.mtime_nanos,
            size: node.size,
            rdev: node.rdev,
            target: if node.kind.has_target() {
                self.target(index)
            } else {
                &[]
            },
        };
        let xattrs = node
            .xattrs
            .iter()
            .map(|(name, value)| (&name[..], &value[..]));
        let extents = match node.kind {
            Kind::File => cut(&self.extents, node.payload),
            _ => &[],
        };
        let extents = extents.iter().map(|extent| Extent {
            offset: extent.offset,
            length: extent.length,
            content: cut(&self.blob, extent.content),
        });
        Ok(writer.node(&draft, parent, xattrs, extents)?)
    }
}

/// The `length` items from `first` on, of a pool of the builder's own.
fn cut<T>(pool: &[T], (first, length): (usize, usize)) -> &[T] {
    pool.get(first..first + length).unwrap_or_default()
}
