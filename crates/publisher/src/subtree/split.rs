//! Where a subtree with too many rows for one catalog is cut.

use std::collections::HashMap;

use super::failed;
use super::nodes::{Nodes, ROOT};
use crate::error::Error;

/// Directories with fewer rows than this part of the limit get no catalog: many small ones cost more than one large.
const LEAST_PART: u64 = 64;

/// Cuts at the heaviest directories until no catalog has more than `max_rows` rows, where directories can be cut at all.
pub(super) fn split(nodes: &Nodes, max_rows: u64) -> Result<(), Error> {
    let count: i64 = nodes
        .connection
        .query_row("SELECT count(*) FROM node", [], |row| row.get(0))
        .map_err(failed)?;
    if count.cast_unsigned() <= max_rows {
        return Ok(());
    }
    let cuts = cuts(nodes, max_rows).map_err(failed)?;
    cuts.into_iter().try_for_each(|id| nodes.cut(id))
}

/// A directory is always made before what lies in it: its number is smaller.
fn cuts(nodes: &Nodes, max_rows: u64) -> rusqlite::Result<Vec<i64>> {
    let files = "SELECT count(*) FROM node WHERE parent = ?1 AND directory = 0";
    let mut files = nodes.connection.prepare(files)?;
    let directories = "SELECT id, parent, cut FROM node WHERE directory = 1 ORDER BY id DESC";
    let mut directories = nodes.connection.prepare(directories)?;
    let mut rows = directories.query([])?;
    let mut cuts = Vec::new();
    // Rows below each directory that is still to come, and its heavy children.
    let mut below: HashMap<i64, (u64, Vec<(u64, i64)>)> = HashMap::new();
    while let Some(row) = rows.next()? {
        let (id, parent, cut): (i64, i64, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (inside, mut heavy) = below.remove(&id).unwrap_or_default();
        let own: i64 = files.query_row([id], |row| row.get(0))?;
        let mut weight = 1 + own.cast_unsigned() + inside;
        heavy.sort_unstable_by(|a, b| b.cmp(a));
        for (child, child_id) in heavy {
            if weight <= max_rows {
                break;
            }
            cuts.push(child_id);
            weight -= child - 1;
        }
        if id == ROOT {
            break;
        }
        let seen = if cut { 1 } else { weight };
        let entry = below.entry(parent).or_default();
        entry.0 += seen;
        if !cut && weight > 1 && weight >= max_rows / LEAST_PART {
            entry.1.push((weight, id));
        }
    }
    Ok(cuts)
}
