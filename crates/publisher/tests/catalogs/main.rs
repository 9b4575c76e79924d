//! Subtrees and transactions: what they write is sound, and is what was asked for, as the client library reads it.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a failed expectation is a failed test"
)]

mod giving_up;
mod model;
mod objects;
mod real;
mod subtree;
mod support;
mod transaction;
