//! The client against registries over real HTTP, with faults.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::too_many_lines, reason = "tables")]

mod access;
mod hosts;
mod proxies;
mod pull;
mod push;
mod ranges;
mod secrets;
mod support;
