//! Walks over whole subtrees: two scans of each catalog instead of a lookup for each entry.

use crate::content::Content;
use crate::dirent::Dirent;

/// An entry met on a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkEntry {
    /// The entry.
    pub dirent: Dirent,
    /// Where its bytes are.
    pub content: Content,
    /// Extended attributes: full name, value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The catalog in which the entry's row lies; hardlink groups count within one catalog.
    pub catalog: u32,
}
