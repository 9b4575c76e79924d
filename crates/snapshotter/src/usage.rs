//! Disk use of a directory, counted as containerd's `fs.DiskUsage` counts.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::store::Usage;

/// Entries after which a scan stops: the number is for eviction decisions, not for bills.
const ENTRIES: usize = 4_000_000;
/// `st_blocks` counts these, whatever the file system's block size.
const BLOCK: u64 = 512;

/// Scans `directory`. What vanishes meanwhile counts nothing; after [`ENTRIES`] entries the sum so far is returned.
pub(crate) fn scan(directory: &Path) -> Usage {
    scan_at_most(directory, ENTRIES)
}

fn scan_at_most(directory: &Path, entries: usize) -> Usage {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let mut open = vec![directory.to_owned()];
    count(directory, &mut usage, &mut linked);
    let mut left = entries;
    while let Some(directory) = open.pop() {
        let Ok(list) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in list.map_while(Result::ok) {
            let Some(rest) = left.checked_sub(1) else {
                return usage;
            };
            left = rest;
            let path = entry.path();
            if count(&path, &mut usage, &mut linked) {
                open.push(path);
            }
        }
    }
    usage
}

/// Adds one inode unless it was counted by another name; tells whether it is a directory.
fn count(path: &Path, usage: &mut Usage, linked: &mut HashSet<(u64, u64)>) -> bool {
    let Ok(metadata) = path.symlink_metadata() else {
        return false;
    };
    let directory = metadata.is_dir();
    if directory || metadata.nlink() == 1 || linked.insert((metadata.dev(), metadata.ino())) {
        usage.inodes += 1;
        usage.size = usage
            .size
            .saturating_add(metadata.blocks().saturating_mul(BLOCK));
    }
    directory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_count_once_and_the_bound_holds() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("a"), vec![7; 100_000]).unwrap();
        std::fs::hard_link(path("a"), path("b")).unwrap();
        std::fs::create_dir(path("c")).unwrap();
        std::os::unix::fs::symlink("/nowhere", path("c/d")).unwrap();
        let whole = scan(directory.path());
        assert_eq!(whole.inodes, 4, "root, a=b, c, d");
        assert!(whole.size >= 100_000 && whole.size < 200_000, "{whole:?}");
        assert_eq!(scan_at_most(directory.path(), 0).inodes, 1);
        assert_eq!(scan(&path("none")), Usage::default());
    }
}
