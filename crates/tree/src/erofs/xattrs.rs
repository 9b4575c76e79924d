//! Extended attributes: behind the inode, or once for all inodes that have the same.

use std::collections::HashMap;

use zerocopy::IntoBytes;

use crate::entry::{Kind, NodeId};
use crate::view::Tree;

use super::format::{XATTR_ENTRY, XATTR_HEADER, XattrEntry, XattrHeader, xattr_count};

/// Hides the children that a directory has in lower layers.
const OPAQUE: Xattr<'static> = (b"trusted.overlay.opaque", b"y");
/// Tells overlayfs that a directory may hold whiteouts, so that it never lists them, also where
/// the layer is the only one that has the directory.
const ORIGIN: Xattr<'static> = (b"trusted.overlay.origin", b"");
/// Attributes with which a layer would give orders to the overlay above it.
const OVERLAY_PREFIX: &[u8] = b"trusted.overlay.";

/// Most shared attributes of one inode.
const MAX_SHARED: usize = u8::MAX as usize;

/// Prefixes that Linux has attributes for, with their numbers; of the last two the whole name.
const PREFIXES: &[(&[u8], u8)] = &[(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
const WHOLE_NAMES: &[(&[u8], u8)] = &[
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
];

/// Name and value.
pub(super) type Xattr<'a> = (&'a [u8], &'a [u8]);

/// An attribute is longer than the format can say, or a file has too many.
#[derive(Debug)]
pub(super) struct TooLong;

/// The attributes that are stored once, and their numbers.
#[derive(Debug, Default)]
pub(super) struct Shared<'a> {
    /// In the order in which they are written.
    list: Vec<Xattr<'a>>,
    /// Distance of each from the first, in units of 4 bytes.
    places: HashMap<Xattr<'a>, u32>,
    /// Number of the first.
    base: u32,
    length: u64,
}

/// What a node gets in the image: the tree's attributes, and overlayfs's marks of a layer.
pub(super) fn of_node<B: AsRef<[u8]>>(
    tree: &Tree<B>,
    node: NodeId,
) -> impl Iterator<Item = Xattr<'_>> + Clone {
    let kind = tree.kind(node);
    let directory = kind == Kind::Directory;
    let opaque = directory && tree.is_opaque(node);
    let whiteouts = directory
        && !tree.is_merged()
        && tree
            .children(node, 0)
            .any(|(_, _, child)| tree.kind(child) == Kind::Whiteout);
    tree.xattrs(node)
        .filter(move |(name, _)| is_kept(kind, name))
        .chain(opaque.then_some(OPAQUE))
        .chain(whiteouts.then_some(ORIGIN))
}

/// Whether the image can hold an attribute of this name, and an overlay leaves it alone. Linux has
/// `user.` only on files and directories: of others it could be listed but not read.
pub(super) fn is_kept(kind: Kind, name: &[u8]) -> bool {
    let has_users = matches!(kind, Kind::File | Kind::Directory);
    split(name).is_some()
        && !name.starts_with(OVERLAY_PREFIX)
        && (has_users || !name.starts_with(b"user."))
}

impl<'a> Shared<'a> {
    /// Finds out what is worth sharing: whatever two inodes have.
    pub(super) fn collect<B: AsRef<[u8]>>(tree: &'a Tree<B>) -> Result<Self, TooLong> {
        let mut shared = Self::default();
        let mut once: HashMap<Xattr<'a>, ()> = HashMap::new();
        for node in (0..tree.node_count()).map(NodeId) {
            for xattr in of_node(tree, node) {
                if once.insert(xattr, ()).is_some() && !shared.places.contains_key(&xattr) {
                    let place = u32::try_from(shared.length / 4).map_err(|_| TooLong)?;
                    shared.places.insert(xattr, place);
                    shared.list.push(xattr);
                    shared.length += entry_length(xattr) as u64;
                }
            }
        }
        Ok(shared)
    }

    /// Bytes of all shared attributes.
    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    /// States where in the image they lie.
    pub(super) fn place(&mut self, at: u64) -> Result<(), TooLong> {
        u32::try_from((at + self.length) / 4).map_err(|_| TooLong)?;
        self.base = u32::try_from(at / 4).map_err(|_| TooLong)?;
        Ok(())
    }

    /// The shared attributes as the image holds them.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for xattr in &self.list {
            push_entry(&mut bytes, *xattr);
        }
        bytes
    }

    /// Bytes behind an inode with these attributes.
    pub(super) fn length_of<'x>(
        &self,
        xattrs: impl Iterator<Item = Xattr<'x>>,
    ) -> Result<usize, TooLong> {
        let mut shared = 0;
        let mut length = 0;
        for xattr in xattrs {
            if xattr.1.len() > usize::from(u16::MAX) {
                return Err(TooLong);
            }
            length += match self.places.contains_key(&xattr) && shared < MAX_SHARED {
                true => {
                    shared += 1;
                    4
                }
                false => entry_length(xattr),
            };
        }
        let length = if length == 0 {
            0
        } else {
            XATTR_HEADER + length
        };
        xattr_count(length).map(|_| length).ok_or(TooLong)
    }

    /// Writes the bytes behind an inode.
    pub(super) fn push<'x>(
        &self,
        bytes: &mut Vec<u8>,
        xattrs: impl Iterator<Item = Xattr<'x>> + Clone,
    ) {
        let mut numbers = Vec::new();
        let mut own = Vec::new();
        for xattr in xattrs {
            match self.places.get(&xattr) {
                Some(place) if numbers.len() < MAX_SHARED => numbers.push(self.base + place),
                _ => own.push(xattr),
            }
        }
        if numbers.is_empty() && own.is_empty() {
            return;
        }
        let header = XattrHeader {
            name_filter: 0.into(),
            shared: u8::try_from(numbers.len()).unwrap_or(u8::MAX),
            reserved: [0; 7],
        };
        bytes.extend_from_slice(header.as_bytes());
        for number in numbers {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for xattr in own {
            push_entry(bytes, xattr);
        }
    }
}

/// The number of a name's prefix, and the rest; nothing for names that Linux has no handler for.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    let whole = WHOLE_NAMES.iter().find(|(whole, _)| *whole == name);
    if let Some((_, number)) = whole {
        return Some((*number, b""));
    }
    PREFIXES.iter().find_map(|(prefix, number)| {
        let rest = name.strip_prefix(*prefix)?;
        (!rest.is_empty() && name.len() <= 255).then_some((*number, rest))
    })
}

fn entry_length((name, value): Xattr<'_>) -> usize {
    let rest = split(name).map_or(0, |(_, rest)| rest.len());
    (XATTR_ENTRY + rest + value.len()).next_multiple_of(4)
}

/// Lengths were checked by [`Shared::length_of`].
fn push_entry(bytes: &mut Vec<u8>, (name, value): Xattr<'_>) {
    let end = bytes.len() + entry_length((name, value));
    let (prefix, rest) = split(name).unwrap_or_default();
    let entry = XattrEntry {
        name_length: u8::try_from(rest.len()).unwrap_or(u8::MAX),
        prefix,
        value_length: u16::try_from(value.len()).unwrap_or(u16::MAX).into(),
    };
    bytes.extend_from_slice(entry.as_bytes());
    bytes.extend_from_slice(rest);
    bytes.extend_from_slice(value);
    bytes.resize(end, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name, and the prefix's number with the rest of it.
    type Split = (&'static [u8], Option<(u8, &'static [u8])>);

    #[test]
    fn names_are_kept_where_linux_has_a_handler() {
        let table: &[Split] = &[
            (b"user.x", Some((1, b"x"))),
            (b"user.", None),
            (b"trusted.x", Some((4, b"x"))),
            (b"security.capability", Some((6, b"capability"))),
            (b"system.posix_acl_access", Some((2, b""))),
            (b"system.posix_acl_default", Some((3, b""))),
            (b"system.posix_acl_accessx", None),
            (b"system.nfs4_acl", None),
            (b"com.apple.provenance", None),
            (b"", None),
        ];
        for (name, expected) in table {
            assert_eq!(split(name), *expected, "{name:?}");
        }
        assert!(!is_kept(Kind::File, b"trusted.overlay.redirect"));
        assert!(is_kept(Kind::File, b"trusted.overlayx"));
        assert!(is_kept(Kind::Directory, b"user.x"));
        assert!(!is_kept(Kind::Symlink, b"user.x"));
        assert!(is_kept(Kind::Symlink, b"trusted.x"));
    }

    #[test]
    fn the_length_said_is_the_length_written() {
        let long = [b'v'; 300];
        let sets: &[&[Xattr<'_>]] = &[
            &[],
            &[(b"user.a", b"")],
            &[
                (b"user.a", b"x"),
                (b"user.b", b"xyz"),
                (b"security.capability", &long),
            ],
        ];
        let mut shared = Shared::default();
        shared.places.insert((b"user.b", b"xyz"), 7);
        shared.base = 100;
        for set in sets {
            let mut bytes = Vec::new();
            shared.push(&mut bytes, set.iter().copied());
            let said = shared.length_of(set.iter().copied()).unwrap();
            assert_eq!(said, bytes.len());
        }
    }

    #[test]
    fn an_attribute_too_long_for_the_format_is_refused() {
        let long = vec![0; 65536];
        let shared = Shared::default();
        let fits: Xattr<'_> = (b"user.a", &long[1..]);
        assert!(shared.length_of([fits].into_iter()).is_ok());
        let one: Xattr<'_> = (b"user.a", &long);
        assert!(shared.length_of([one].into_iter()).is_err());
        let many = (0..5).map(|_| fits);
        assert!(shared.length_of(many).is_err());
    }
}
