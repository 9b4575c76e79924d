//! Copies of whole subtrees: rows and references only, no object is read.

use std::collections::HashMap;

use super::{Change, Transaction, check, refused};
use crate::catalog::{Row, flags};
use crate::error::Error;

/// Numbers of hardlink groups in the copy, by catalog of the original, group and catalog of the copy.
type Groups = HashMap<(Vec<u8>, i64, Vec<u8>), i64>;

impl Transaction {
    /// Makes `to` a copy of `from`, in place of what is there, with nested catalogs where `from` has them.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no `from`, [`Error::Refused`] if one lies below the other; those of reading catalogs.
    pub fn clone_subtree(&mut self, from: &[u8], to: &[u8]) -> Result<(), Error> {
        check(from)?;
        check(to)?;
        let below = |a: &[u8], b: &[u8]| a == b || a.starts_with(&[b, b"/"].concat());
        if below(from, to) || below(to, from) {
            return Err(refused(to, "original and copy lie in each other"));
        }
        let Some(row) = self.row(from)? else {
            return Err(Error::NotFound(from.escape_ascii().to_string()));
        };
        self.changes.push(Change::Write(to.to_vec()));
        self.parents(to)?;
        self.take_away(to)?;
        let mut groups = Groups::new();
        let mut pending = vec![(from.to_vec(), to.to_vec(), row)];
        while let Some((from, to, row)) = pending.pop() {
            self.copy_row(&from, &to, row, &mut groups, &mut pending)?;
        }
        Ok(())
    }

    fn copy_row(
        &mut self,
        from: &[u8],
        to: &[u8],
        mut row: Row,
        groups: &mut Groups,
        pending: &mut Vec<(Vec<u8>, Vec<u8>, Row)>,
    ) -> Result<(), Error> {
        let nested = row.has(flags::NESTED_MOUNTPOINT);
        row.flags &= !flags::PLACE;
        if !row.is_directory() {
            self.renumber(from, to, &mut row, groups)?;
            return self.put(to, &row);
        }
        row.hardlinks = 2;
        self.put(to, &row)?;
        if nested {
            self.begin_catalog(to)?;
        }
        let at = self.catalogs.locate_inside(from)?;
        let source = &self.catalogs.get(&at)?.file;
        // The last in is copied first: names keep their order.
        for (name, _) in source.children(from)?.into_iter().rev() {
            let below = |path: &[u8]| [path, b"/", &name].concat();
            if let Some(child) = source.get(&below(from))? {
                pending.push((below(from), below(to), child));
            }
        }
        Ok(())
    }

    /// Groups are numbers of one catalog.
    fn renumber(
        &mut self,
        from: &[u8],
        to: &[u8],
        row: &mut Row,
        groups: &mut Groups,
    ) -> Result<(), Error> {
        let group = row.link_group();
        if group == 0 {
            return Ok(());
        }
        let target = self.catalogs.locate(to)?;
        let key = (self.catalogs.locate(from)?, group, target.clone());
        let new = match groups.get(&key) {
            Some(new) => *new,
            None => {
                let new = self.catalogs.get(&target)?.file.new_link_group()?;
                groups.insert(key, new);
                new
            }
        };
        row.hardlinks = new << 32 | row.hardlinks & 0xffff_ffff;
        Ok(())
    }
}
