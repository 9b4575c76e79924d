//! Merges the layers of a chain into one tree, whiteouts applied.
//!
//! The rules (each has a property test against a naive model, `tests/merge.rs`):
//!
//! 1. The topmost explicit entry gives a directory's attributes; an implicit one takes those of
//!    the layer below. Directories merge only if no non-directory lies between them.
//! 2. A file over a directory hides what is below it; a directory over a file starts empty.
//! 3. Whiteouts act on lower layers only, and none is left. (What they do within their own layer
//!    the [`Builder`](crate::Builder) has settled.)
//! 4. Names count as links of one file if layer and node are the same; a layer that occurs twice
//!    counts as two.
//! 5. A hardlink to a path of a lower layer is another name of the file which the layers below
//!    have there.
//!
//! It goes through all layers at once, one directory of the result after the other, so no layer
//! is copied and the result comes out in the order in which it is written.

use std::collections::VecDeque;

use crate::entry::{Kind, NodeId};
use crate::format::{IMPLICIT, MERGED};
use crate::path;
use crate::view::{Children, Tree};
use crate::write::{Draft, TooLarge, Writer};

/// Why layers cannot be merged. Paths are from the root, without a leading slash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// A chain without layers.
    #[error("a chain needs at least one layer")]
    NoLayers,
    /// More layers than a node's record can tell apart.
    #[error("a chain of {layers} layers, at most 65535 are possible")]
    TooManyLayers {
        /// How many there are.
        layers: usize,
    },
    /// A hardlink to what no layer below has, or to a directory.
    #[error(
        "layer {layer}: hardlink to {}, which is no file of the layers below",
        target.escape_ascii()
    )]
    BrokenLink {
        /// Position of the link's layer, 0 = bottom.
        layer: u16,
        /// Where it should lead.
        target: Vec<u8>,
    },
    /// More than 2³² of something, or sizes that add up to more than 2⁶⁴.
    #[error("the chain is too large for a tree")]
    TooLarge,
}

impl From<TooLarge> for MergeError {
    fn from(_: TooLarge) -> Self {
        Self::TooLarge
    }
}

/// A node of one of the layers: (position in the chain, its number there).
type Source = (u16, NodeId);

/// What the layers have under one name.
enum Found {
    Nothing,
    /// No directory; possibly a link to a lower layer.
    File(Source),
    Directory(Merged),
}

/// A directory of the result.
struct Merged {
    /// Whose attributes it has.
    attributes: Source,
    /// The directories whose names it holds, topmost first.
    parts: Vec<Source>,
}

/// Merges the layers of a chain, given bottom to top.
///
/// # Errors
/// [`MergeError`]. A [`BrokenLink`](MergeError::BrokenLink) that a layer above hides is none.
pub fn merge<B: AsRef<[u8]>>(layers: &[&Tree<B>]) -> Result<Vec<u8>, MergeError> {
    if layers.is_empty() {
        return Err(MergeError::NoLayers);
    }
    let top = u16::try_from(layers.len()).map_err(|_| MergeError::TooManyLayers {
        layers: layers.len(),
    })?;
    let mut merger = Merger {
        layers,
        writer: Writer::default(),
        numbers: layers
            .iter()
            .map(|layer| vec![None; layer.node_count() as usize])
            .collect(),
        queue: VecDeque::new(),
    };
    let root = merger.chain().root(top);
    let number = merger.write(root.attributes, 0)?;
    merger.queue.push_back((number, root));
    while let Some((number, directory)) = merger.queue.pop_front() {
        merger.write_names(number, &directory)?;
    }
    Ok(merger.writer.finish(MERGED)?)
}

struct Merger<'a, B> {
    layers: &'a [&'a Tree<B>],
    writer: Writer,
    /// The numbers in the result of each layer's nodes (no directories), by layer and number.
    numbers: Vec<Vec<Option<u32>>>,
    /// Directories whose names are to be written, with their numbers in the result.
    queue: VecDeque<(u32, Merged)>,
}

impl<'a, B: AsRef<[u8]>> Merger<'a, B> {
    const fn chain(&self) -> Chain<'a, B> {
        Chain {
            layers: self.layers,
        }
    }

    fn write_names(&mut self, number: u32, directory: &Merged) -> Result<(), MergeError> {
        self.writer.open(number);
        let chain = self.chain();
        let mut lists = Lists::new(&chain, &directory.parts);
        while let Some((name, candidates)) = lists.next_name() {
            let child = match chain.topmost(candidates) {
                Found::Nothing => continue,
                Found::Directory(merged) => {
                    let child = self.write(merged.attributes, number)?;
                    self.queue.push_back((child, merged));
                    child
                }
                Found::File(source) => self.write_file(chain.follow(source)?)?,
            };
            self.writer.name(number, name, child)?;
        }
        Ok(())
    }

    /// Numbers a file at its first name; at the others it is the same one.
    fn write_file(&mut self, source: Source) -> Result<u32, MergeError> {
        let (layer, NodeId(node)) = source;
        let numbers = &self.numbers[usize::from(layer)];
        if let Some(known) = numbers.get(node as usize).copied().flatten() {
            return Ok(known);
        }
        let number = self.write(source, 0)?;
        if let Some(slot) = self.numbers[usize::from(layer)].get_mut(node as usize) {
            *slot = Some(number);
        }
        Ok(number)
    }

    fn write(&mut self, (layer, id): Source, parent: u32) -> Result<u32, MergeError> {
        let tree = self.layers[usize::from(layer)];
        let attributes = tree.attributes(id);
        let draft = Draft {
            kind: attributes.kind,
            flags: if tree.is_implicit(id) { IMPLICIT } else { 0 },
            layer,
            mode: (attributes.mode & 0o7777) as u16,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: attributes.mtime,
            mtime_nanos: attributes.mtime_nanos,
            size: attributes.size,
            rdev: attributes.rdev,
            target: tree.symlink(id),
        };
        let number = self
            .writer
            .node(&draft, parent, tree.xattrs(id), tree.extents(id))?;
        Ok(number)
    }
}

/// The layers and what they have under a name when looked at from above.
struct Chain<'a, B> {
    layers: &'a [&'a Tree<B>],
}

impl<'a, B: AsRef<[u8]>> Chain<'a, B> {
    fn tree(&self, layer: u16) -> &'a Tree<B> {
        self.layers[usize::from(layer)]
    }

    /// The root as the layers below `top` make it.
    fn root(&self, top: u16) -> Merged {
        let mut roots = (0..top).rev().map(|layer| (layer, NodeId::ROOT));
        let first = roots.next().unwrap_or((0, NodeId::ROOT));
        self.directory(first, roots)
    }

    /// What a name is, given what each layer has under it, topmost first.
    fn topmost(&self, candidates: impl IntoIterator<Item = Source>) -> Found {
        let mut candidates = candidates.into_iter();
        let Some((layer, id)) = candidates.next() else {
            return Found::Nothing;
        };
        match self.tree(layer).kind(id) {
            Kind::Whiteout => Found::Nothing,
            Kind::Directory => Found::Directory(self.directory((layer, id), candidates)),
            _ => Found::File((layer, id)),
        }
    }

    /// Merges a directory with those of the layers below it, down to the first thing that is
    /// none. What lies below an opaque one adds no names, yet an implicit one has its attributes.
    fn directory(&self, first: Source, below: impl Iterator<Item = Source>) -> Merged {
        let mut explicit = None;
        let mut lowest = first;
        let mut opaque = false;
        let mut parts = Vec::new();
        for (layer, id) in std::iter::once(first).chain(below) {
            let tree = self.tree(layer);
            if tree.kind(id) != Kind::Directory {
                break;
            }
            lowest = (layer, id);
            if !opaque {
                parts.push((layer, id));
            }
            opaque |= tree.is_opaque(id);
            if explicit.is_none() && !tree.is_implicit(id) {
                explicit = Some((layer, id));
            }
            if opaque && explicit.is_some() {
                break;
            }
        }
        Merged {
            attributes: explicit.unwrap_or(lowest),
            parts,
        }
    }

    /// The file that a hardlink to lower layers means, through further ones. Ends, as each lies
    /// in a lower layer than the one before.
    fn follow(&self, mut source: Source) -> Result<Source, MergeError> {
        while self.tree(source.0).kind(source.1) == Kind::Link {
            let (layer, id) = source;
            let target = self.tree(layer).symlink(id);
            source = match self.resolve(layer, target) {
                Found::File(next) => next,
                Found::Nothing | Found::Directory(_) => {
                    let target = target.into();
                    return Err(MergeError::BrokenLink { layer, target });
                }
            };
        }
        Ok(source)
    }

    /// What the layers below `top` have at a path.
    fn resolve(&self, top: u16, path: &[u8]) -> Found {
        if top == 0 {
            return Found::Nothing;
        }
        let mut found = Found::Directory(self.root(top));
        for name in path::components(path) {
            let Found::Directory(directory) = found else {
                return Found::Nothing;
            };
            found = self.lookup(&directory, name);
        }
        found
    }

    fn lookup(&self, directory: &Merged, name: &[u8]) -> Found {
        self.topmost(directory.parts.iter().filter_map(|(layer, id)| {
            let child = self.tree(*layer).lookup(*id, name)?;
            Some((*layer, child))
        }))
    }
}

/// The names of several directories in one order, each name with all that have it.
struct Lists<'a> {
    /// Layer, its next name, and the rest; topmost first.
    heads: Vec<Head<'a>>,
    candidates: Vec<Source>,
}

struct Head<'a> {
    layer: u16,
    name: &'a [u8],
    id: NodeId,
    rest: Children<'a>,
}

impl<'a> Lists<'a> {
    fn new<B: AsRef<[u8]>>(chain: &Chain<'a, B>, parts: &[Source]) -> Self {
        let heads = parts.iter().filter_map(|(layer, id)| {
            let mut rest = chain.tree(*layer).children(*id, 0);
            let (_, name, id) = rest.next()?;
            let layer = *layer;
            Some(Head {
                layer,
                name,
                id,
                rest,
            })
        });
        Self {
            heads: heads.collect(),
            candidates: Vec::new(),
        }
    }

    /// The smallest name left and what the layers have under it, topmost first. Costs a look at
    /// each list: a chain has at most some tens of layers.
    fn next_name(&mut self) -> Option<(&'a [u8], impl Iterator<Item = Source> + '_)> {
        let name = self.heads.iter().map(|head| head.name).min()?;
        self.candidates.clear();
        let candidates = &mut self.candidates;
        self.heads.retain_mut(|head| {
            if head.name != name {
                return true;
            }
            candidates.push((head.layer, head.id));
            match head.rest.next() {
                Some((_, name, id)) => {
                    (head.name, head.id) = (name, id);
                    true
                }
                None => false,
            }
        });
        Some((name, candidates.iter().copied()))
    }
}
