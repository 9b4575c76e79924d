//! Subtrees and transactions: what they write is sound, and is what was asked for, as the client library reads it.

mod model;
mod objects;
mod real;
mod subtree;
mod support;
mod transaction;
