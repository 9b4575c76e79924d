//! `outcrop publish`, as somebody at a terminal or a script uses it, from a registry into a directory.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod faults;
mod images;
mod support;
mod wishlists;
