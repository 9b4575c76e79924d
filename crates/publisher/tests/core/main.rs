//! A repository from the outside: what is written is read by the client library, and what is damaged is found.

#![allow(clippy::unwrap_used)]

mod check;
mod lifecycle;
mod support;
