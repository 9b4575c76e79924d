//! `outcrop repository`: repositories made, looked at and kept.

mod init;

use crate::cli::RepositoryCommand;
use crate::error::{Error, Kind};
use std::io::Write;

/// Carries out one of its subcommands.
pub(super) fn run(command: RepositoryCommand, out: &mut dyn Write) -> Result<(), Error> {
    match command {
        RepositoryCommand::Init(args) => init::run(&args, out),
        _ => Err(Error::new(Kind::Internal, "not built yet")),
    }
}
