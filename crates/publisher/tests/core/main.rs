//! A repository from the outside: what is written is read by the client library, and what is damaged is found.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod backends;
mod check;
mod gc;
mod lifecycle;
mod recovery;
mod s3;
mod support;
