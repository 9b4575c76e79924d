//! The client against registries over real HTTP, with faults.

mod access;
mod hosts;
mod pull;
mod push;
mod ranges;
mod secrets;
mod support;
