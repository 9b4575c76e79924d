//! How long work goes on, for whoever shows it.

/// Where a long operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is being done, such as `reading catalogs`.
    pub what: &'static str,
    /// How many of it are done.
    pub done: u64,
    /// Of how many, where that is known.
    pub total: Option<u64>,
}

/// Hears of each step; calls must return soon.
pub type OnStep<'a> = &'a dyn Fn(Step);
