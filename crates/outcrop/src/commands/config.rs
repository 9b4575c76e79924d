//! `outcrop config`

use crate::config::DEFAULT;
use crate::error::Error;
use std::io::Write;

/// `outcrop config show`: the commented default, as compiled in.
pub(super) fn show(out: &mut dyn Write) -> Result<(), Error> {
    super::print(out, DEFAULT.trim_end())
}
