//! `outcrop convert`: an image with layers that can be read piece by piece.

use crate::cli::ConvertArgs;
use crate::error::{Error, Kind};
use std::io::Write;

pub(super) fn run(_args: &ConvertArgs, _out: &mut dyn Write) -> Result<(), Error> {
    Err(Error::new(Kind::Internal, "not built yet"))
}
