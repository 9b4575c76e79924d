//! From a clean machine to a running container.

use anyhow::{Result, bail};

/// Runs it.
pub(crate) fn run() -> Result<()> {
    bail!("not yet")
}
