//! Images into repositories: layers against plain `tar`, hostile ones, layouts against DUCC's, removal.

// Test code: what fails here is a failed test.
#![allow(clippy::unwrap_used)]

mod ducc;
mod erofs;
mod flat;
mod hostile;
mod listing;
mod memory;
mod publishing;
mod real;
mod removing;
mod support;
mod tars;
