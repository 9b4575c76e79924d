//! What folders take on disk.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes that are allocated for everything below `folder` on its own file system: what is mounted there takes nothing. None of it is 0.
pub(super) fn allocated(folder: &Path) -> u64 {
    let Ok(top) = folder.symlink_metadata() else {
        return 0;
    };
    let mut seen = HashSet::new();
    let mut bytes = 0;
    let mut waiting = vec![folder.to_owned()];
    while let Some(path) = waiting.pop() {
        // What goes away meanwhile takes nothing.
        let Ok(metadata) = path.symlink_metadata() else {
            continue;
        };
        if metadata.dev() != top.dev() || !seen.insert(metadata.ino()) {
            continue;
        }
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            waiting.extend(entries.map(|entry| entry.path()));
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hard_link_takes_no_more_and_a_symlink_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(allocated(&folder.path().join("absent")), 0);
        let empty = allocated(folder.path());
        let below = folder.path().join("below");
        fs::create_dir(&below).unwrap();
        fs::write(below.join("one"), vec![1; 1 << 20]).unwrap();
        let full = allocated(folder.path());
        assert!(full >= empty + (1 << 20), "{empty} {full}");
        fs::hard_link(below.join("one"), below.join("two")).unwrap();
        std::os::unix::fs::symlink("/usr", below.join("three")).unwrap();
        assert!(allocated(folder.path()) < full + (1 << 16));
    }
}
