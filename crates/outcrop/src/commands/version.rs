//! `outcrop version`

use crate::error::Error;
use std::io::Write;

/// Name and version, as `--version` prints them.
pub(super) fn run(out: &mut dyn Write) -> Result<(), Error> {
    super::print(out, &format!("outcrop {}", env!("CARGO_PKG_VERSION")))
}
