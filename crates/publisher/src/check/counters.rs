use std::collections::BTreeMap;

use crate::root_catalog::COUNTERS;
use crate::stored_catalog::{StoredRow, flags};

/// What entries add up to, in the order of [`COUNTERS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters([u64; COUNTERS.len()]);

impl Counters {
    /// Adds an entry. `chunks` = number of its rows in table `chunks`.
    pub(super) fn count(&mut self, row: &StoredRow, chunks: usize) {
        let size = row.size.unsigned_abs();
        if !row.xattr.is_empty() {
            self.bump("xattr", 1);
        }
        if row.has(flags::DIRECTORY) {
            self.bump("dir", 1);
        } else if row.has(flags::SYMLINK) {
            self.bump("symlink", 1);
        } else if row.has(flags::SPECIAL) {
            self.bump("special", 1);
        } else {
            self.bump("regular", 1);
            self.bump("file_size", size);
            if row.has(flags::CHUNKED) {
                self.bump("chunked", 1);
                self.bump("chunked_size", size);
                self.bump("chunks", chunks as u64);
            }
            if row.has(flags::EXTERNAL) {
                self.bump("external", 1);
                self.bump("external_file_size", size);
            }
        }
    }

    pub(super) fn set_nested(&mut self, nested: usize) {
        self.bump("nested", nested as u64);
    }

    fn bump(&mut self, name: &str, by: u64) {
        if let Some(index) = COUNTERS.iter().position(|counter| *counter == name) {
            self.0[index] = self.0[index].saturating_add(by);
        }
    }

    pub(super) fn add(mut self, other: &Self) -> Self {
        for (sum, value) in self.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_add(value);
        }
        self
    }

    /// Those that differ from what is stored: name, stored, computed. Absent ones are zero.
    pub(super) fn differing(
        &self,
        scope: &str,
        stored: &BTreeMap<String, i64>,
    ) -> Vec<(String, i64, u64)> {
        let all = COUNTERS.iter().zip(self.0).map(|(name, computed)| {
            let name = format!("{scope}_{name}");
            let stored = stored.get(&name).copied().unwrap_or(0);
            (name, stored, computed)
        });
        all.filter(|(_, stored, computed)| u64::try_from(*stored) != Ok(*computed))
            .collect()
    }
}
