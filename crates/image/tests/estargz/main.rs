//! Layers that are read piece by piece, against plain tar and against what other tools write.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::too_many_lines, reason = "tables")]
#![allow(clippy::redundant_clone, reason = "all cases of a table look alike")]

mod conformance;
mod fixtures;
mod hostile;
mod oracle;
mod written;
