//! What a catalog counts of itself and of all below it.

use super::row::{Row, flags};
use crate::root_catalog::COUNTERS;

/// Values in the order of [`COUNTERS`].
pub(crate) type Values = [i64; COUNTERS.len()];

/// Position of the number of nested catalogs.
const NESTED: usize = 4;

/// Table `statistics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Rows of this catalog.
    pub(crate) own: Values,
    /// All catalogs below.
    pub(crate) subtree: Values,
}

/// One nested catalog.
pub(crate) fn nested_counter() -> Values {
    let mut values = Values::default();
    values[NESTED] = 1;
    values
}

/// `a + factor * b`
pub(crate) fn sum(a: Values, factor: i64, b: Values) -> Values {
    std::array::from_fn(|at| a[at] + factor * b[at])
}

impl Counters {
    /// This catalog and all below.
    pub(crate) fn total(&self) -> Values {
        sum(self.own, 1, self.subtree)
    }

    pub(crate) fn add_own(&mut self, factor: i64, values: Values) {
        self.own = sum(self.own, factor, values);
    }

    pub(crate) fn add_subtree(&mut self, factor: i64, values: Values) {
        self.subtree = sum(self.subtree, factor, values);
    }

    /// Name and value of each.
    pub(crate) fn named(&self) -> impl Iterator<Item = (String, i64)> {
        let of = |scope: &'static str, values: Values| {
            COUNTERS
                .into_iter()
                .zip(values)
                .map(move |(name, value)| (format!("{scope}_{name}"), value))
        };
        of("self", self.own).chain(of("subtree", self.subtree))
    }
}

/// What one row counts for.
pub(crate) fn of_row(row: &Row) -> Values {
    let one = |condition: bool| i64::from(condition);
    let has = |flag| row.flags & flag != 0;
    let directory = has(flags::DIRECTORY);
    let symlink = !directory && has(flags::SYMLINK);
    let special = !directory && !symlink && has(flags::SPECIAL);
    let file = !directory && !symlink && !special;
    let chunked = file && has(flags::CHUNKED);
    let external = file && has(flags::EXTERNAL);
    let chunks = i64::try_from(row.chunks.len()).unwrap_or(i64::MAX);
    [
        one(file),
        one(symlink),
        one(special),
        one(directory),
        0,
        one(chunked),
        chunks,
        one(file) * row.size,
        one(chunked) * row.size,
        one(!row.xattr.is_empty()),
        one(external),
        one(external) * row.size,
    ]
}
