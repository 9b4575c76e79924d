//! Hardlinks of a TOC, before anyone follows them.

use std::collections::HashMap;

use super::EntryFault;
use super::entry::{EntryKind, Record};

/// Most links that lead through each other: as many symlinks Linux follows. Bounds what a hostile TOC may cost.
const MAX_LINKS: usize = 40;

/// Refuses links that lead in a circle or to a directory; gives the place of the bad record. A target that is not in the
/// layer is one of a layer below, as in a tar.
pub(crate) fn check(records: &[Record], texts: &[u8]) -> Result<(), (usize, EntryFault)> {
    let links = || {
        let all = records.iter().enumerate();
        all.filter(|(_, record)| record.kind == EntryKind::Hardlink)
    };
    // Only names that links lead to are worth a place in the map.
    let mut targets: HashMap<&[u8], Option<&Record>> = links()
        .map(|(_, link)| (link.target.of(texts), None))
        .collect();
    if targets.is_empty() {
        return Ok(());
    }
    for record in records {
        if let Some(found) = targets.get_mut(record.path.of(texts)) {
            // Where a name occurs as a file and as a link, links before the latter lead to the file.
            if found.is_none_or(|found| found.kind == EntryKind::Hardlink) {
                *found = Some(record);
            }
        }
    }
    for (index, link) in links() {
        let mut at = link;
        for step in 0.. {
            if step > MAX_LINKS {
                return Err((index, EntryFault::LinkCycle));
            }
            match targets.get(at.target.of(texts)).copied().flatten() {
                Some(next) if next.kind == EntryKind::Hardlink => at = next,
                Some(next) if next.kind == EntryKind::Directory => {
                    return Err((index, EntryFault::LinkToDirectory));
                }
                _ => break,
            }
        }
    }
    Ok(())
}
