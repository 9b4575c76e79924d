//! Directory entries on their way to the kernel.

use zerocopy::{FromBytes, IntoBytes};

use crate::abi;
use crate::attr::{Entry, Inode};

/// Entries and names are padded to this.
const ALIGNMENT: usize = 8;
/// Where the type lies in `st_mode`; directory entries carry those four bits.
const TYPE_SHIFT: u32 = 12;
/// The kernel's limit for one name; it fails the whole listing over a longer one.
const NAME_MAX: usize = 1024;

/// What is said about each entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirFormat {
    /// Name, inode number and type (READDIR).
    Plain,
    /// The same, and what a lookup would answer (READDIRPLUS): saves the kernel a request for each entry.
    Plus,
}

/// The answer to a READDIR or READDIRPLUS while it is filled, in resident memory of the worker.
pub struct DirReply<'a> {
    buffer: &'a mut [u8],
    filled: usize,
    format: DirFormat,
}

impl<'a> DirReply<'a> {
    /// An answer of up to `buffer.len()` bytes.
    pub fn new(buffer: &'a mut [u8], format: DirFormat) -> Self {
        Self {
            buffer,
            filled: 0,
            format,
        }
    }

    /// Adds an entry; `next_offset` (not 0) is what the kernel will say to continue behind it. `false` when there is
    /// no room: the entry was not added, stop.
    ///
    /// A name that the kernel would refuse (empty, longer than 1024 bytes, with a `/`) is left out, as otherwise the
    /// whole directory could not be listed.
    pub fn add(&mut self, name: &[u8], next_offset: u64, entry: &Entry) -> bool {
        if name.is_empty() || name.len() > NAME_MAX || name.contains(&b'/') {
            tracing::warn!(name = %name.escape_ascii(), "left an impossible name out of a directory");
            return true;
        }
        let dirent = abi::Dirent {
            ino: entry.attr.ino.0,
            off: next_offset,
            #[allow(clippy::cast_possible_truncation)]
            namelen: name.len() as u32,
            kind: (entry.attr.mode >> TYPE_SHIFT) & 0o17,
        };
        let plus = match self.format {
            DirFormat::Plain => 0,
            DirFormat::Plus => size_of::<abi::EntryOut>(),
        };
        let name_start = plus + size_of::<abi::Dirent>();
        let len = (name_start + name.len()).next_multiple_of(ALIGNMENT);
        let Some(space) = self.buffer.get_mut(self.filled..self.filled + len) else {
            return false;
        };
        if self.format == DirFormat::Plus {
            space[..plus].copy_from_slice(entry.encode().as_bytes());
        }
        space[plus..name_start].copy_from_slice(dirent.as_bytes());
        let (text, padding) = space[name_start..].split_at_mut(name.len());
        text.copy_from_slice(name);
        padding.fill(0);
        self.filled += len;
        true
    }

    /// What is said about each entry.
    #[must_use]
    pub fn format(&self) -> DirFormat {
        self.format
    }

    /// The encoded entries so far.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

/// An entry read back from an encoded listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedEntry {
    /// Name in the directory.
    pub name: Vec<u8>,
    /// Number that `readdir` shows.
    pub inode: Inode,
    /// Type bits of `st_mode`.
    pub kind: u32,
    /// Where to continue behind this entry.
    pub next_offset: u64,
}

/// Reads back what [`DirReply::filled`] gave, for tests of file systems without a mount; ends at the first entry that
/// is not whole.
#[must_use]
pub fn parse_directory(mut bytes: &[u8], format: DirFormat) -> Vec<ListedEntry> {
    let mut entries = Vec::new();
    while let Some((entry, rest)) = parse_entry(bytes, format) {
        entries.push(entry);
        bytes = rest;
    }
    entries
}

fn parse_entry(bytes: &[u8], format: DirFormat) -> Option<(ListedEntry, &[u8])> {
    let bytes = match format {
        DirFormat::Plain => bytes,
        DirFormat::Plus => bytes.get(size_of::<abi::EntryOut>()..)?,
    };
    let (dirent, rest) = abi::Dirent::read_from_prefix(bytes).ok()?;
    let namelen = usize::try_from(dirent.namelen).ok()?;
    let name = rest.get(..namelen)?;
    let rest = rest.get(namelen.checked_next_multiple_of(ALIGNMENT)?..)?;
    let entry = ListedEntry {
        name: name.to_vec(),
        inode: Inode(dirent.ino),
        kind: dirent.kind << TYPE_SHIFT,
        next_offset: dirent.off,
    };
    Some((entry, rest))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::attr::Attr;

    fn entry(inode: u64, mode: u32) -> Entry {
        Entry {
            inode: Inode(inode),
            attr: Attr {
                ino: Inode(inode),
                size: 0,
                mode,
                nlink: 1,
                uid: 0,
                gid: 0,
                rdev: 0,
                mtime: 0,
                mtime_nanos: 0,
            },
            entry_valid: Duration::MAX,
            attr_valid: Duration::MAX,
        }
    }

    #[test]
    fn plain_entries_have_the_kernels_form() {
        let mut buffer = [0xff; 64];
        let mut reply = DirReply::new(&mut buffer, DirFormat::Plain);
        assert!(reply.add(b"abc", 5, &entry(9, 0o040_755)));
        let mut expected = Vec::new();
        expected.extend_from_slice(&9u64.to_ne_bytes());
        expected.extend_from_slice(&5u64.to_ne_bytes());
        expected.extend_from_slice(&3u32.to_ne_bytes());
        expected.extend_from_slice(&4u32.to_ne_bytes());
        expected.extend_from_slice(b"abc\0\0\0\0\0");
        assert_eq!(reply.filled(), expected);
    }

    #[test]
    fn plus_entries_begin_with_what_a_lookup_answers() {
        let mut buffer = [0xff; 512];
        let mut reply = DirReply::new(&mut buffer, DirFormat::Plus);
        assert!(reply.add(b"12345678", 5, &entry(9, 0o100_644)));
        assert_eq!(reply.filled().len(), 128 + 24 + 8);
        assert_eq!(
            &reply.filled()[..128],
            entry(9, 0o100_644).encode().as_bytes()
        );
    }

    #[test]
    fn an_entry_without_room_is_not_added() {
        let mut buffer = [0; 63];
        let mut reply = DirReply::new(&mut buffer, DirFormat::Plain);
        assert!(reply.add(b"a", 1, &entry(2, 0o100_644)));
        assert!(!reply.add(b"b", 2, &entry(3, 0o100_644)));
        assert_eq!(reply.filled().len(), 32);
    }

    #[test]
    fn names_that_break_a_listing_are_left_out() {
        let mut buffer = [0; 4096];
        let mut reply = DirReply::new(&mut buffer, DirFormat::Plain);
        for name in [&b""[..], b"a/b", &[b'x'; 1025]] {
            assert!(reply.add(name, 1, &entry(2, 0o100_644)));
        }
        assert_eq!(reply.filled(), b"");
    }

    proptest! {
        #[test]
        fn entries_come_back_as_they_were_added(
            names in prop::collection::vec(prop::collection::vec(1u8..0x2f, 1..300), 0..40),
            room in 0usize..8192,
            plus: bool,
        ) {
            let format = if plus { DirFormat::Plus } else { DirFormat::Plain };
            let mut buffer = vec![0xaa; room];
            let mut reply = DirReply::new(&mut buffer, format);
            let mut expected = Vec::new();
            for (index, name) in names.iter().enumerate() {
                let inode = index as u64 + 2;
                if !reply.add(name, inode, &entry(inode, 0o120_777)) {
                    break;
                }
                expected.push(ListedEntry {
                    name: name.clone(),
                    inode: Inode(inode),
                    kind: 0o120_000,
                    next_offset: inode,
                });
            }
            prop_assert_eq!(parse_directory(reply.filled(), format), expected);
        }

        #[test]
        fn reading_back_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600), plus: bool) {
            let format = if plus { DirFormat::Plus } else { DirFormat::Plain };
            let _ = parse_directory(&bytes, format);
        }
    }
}
