//! One module for each subcommand.

mod config;

use crate::cli::{Command, ConfigCommand};
use crate::error::{Error, Kind};
use std::io::Write;

/// Carries out a parsed command; what it has to say goes to `out`, errors are returned.
///
/// # Errors
/// Whatever the command failed with; the error's kind is the exit code.
pub fn run(command: Command, out: &mut dyn Write) -> Result<(), Error> {
    match command {
        Command::Config(ConfigCommand::Show) => config::show(out),
        Command::Version => print(out, &format!("outcrop {}", env!("CARGO_PKG_VERSION"))),
        _ => Err(Error::new(Kind::Internal, "not built yet")),
    }
}

/// One line. A closed pipe (`outcrop config show | head -1`) is the reader's wish, not a failure.
fn print(out: &mut dyn Write, line: &str) -> Result<(), Error> {
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(Kind::Unavailable, "cannot write the output").because(error))
        }
        _ => Ok(()),
    }
}
