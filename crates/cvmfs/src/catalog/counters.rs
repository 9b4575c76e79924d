//! Statistics that catalogs carry of themselves.

use std::collections::HashMap;

/// Sums over a whole revision, from the counters of its root catalog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Regular files.
    pub files: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Devices, pipes and sockets.
    pub specials: u64,
    /// Directories.
    pub directories: u64,
    /// Nested catalogs.
    pub nested_catalogs: u64,
    /// Bytes of all regular files.
    pub file_bytes: u64,
}

impl Counters {
    /// Own and subtree counters together; missing ones count as 0.
    pub(crate) fn from_table(table: &HashMap<String, u64>) -> Self {
        let sum = |name: &str| {
            ["self_", "subtree_"]
                .iter()
                .filter_map(|prefix| table.get(&format!("{prefix}{name}")))
                .fold(0_u64, |sum, value| sum.saturating_add(*value))
        };
        Self {
            files: sum("regular"),
            symlinks: sum("symlink"),
            specials: sum("special"),
            directories: sum("dir"),
            nested_catalogs: sum("nested"),
            file_bytes: sum("file_size"),
        }
    }

    /// All entries, as `statfs` counts inodes.
    pub fn entries(&self) -> u64 {
        [self.files, self.symlinks, self.specials, self.directories]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}
