//! One module for each subcommand.

mod check;
mod config;
mod convert;
mod explain;
mod mount;
mod publish;
mod release;
mod repository;
mod serve;
mod version;

use crate::cli::{Command, ConfigCommand};
use crate::error::{Error, Kind};
use std::io::{Read, Write};
use std::path::Path;

/// Carries out a parsed command; what it has to say goes to `out`, errors are returned.
///
/// # Errors
/// Whatever the command failed with; the error's kind is the exit code.
pub fn run(command: Command, out: &mut dyn Write) -> Result<(), Error> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Mount(args) => mount::run(*args, out),
        Command::Check(args) => check::run(&args, out),
        Command::Explain(args) => explain::run(&args, out),
        Command::Release(args) => release::run(&args, out),
        Command::Publish(args) => publish::run(&args, out),
        Command::Convert(args) => convert::run(&args, out),
        Command::Repository(command) => repository::run(*command, out),
        Command::Config(ConfigCommand::Show) => config::show(out),
        Command::Version => version::run(out),
        Command::ProbeRead { file } => probe_read(&file, out),
        Command::ProbeOwners { directory } => probe_owners(&directory, out),
    }
}

/// One line. A closed pipe (`outcrop config show | head -1`) is the reader's wish, not a failure.
fn print(out: &mut dyn Write, line: &str) -> Result<(), Error> {
    written(writeln!(out, "{line}").and_then(|()| out.flush()))
}

fn written(result: std::io::Result<()>) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(Kind::Unavailable, "cannot write the output").because(error))
        }
        _ => Ok(()),
    }
}

fn probe_owners(directory: &Path, out: &mut dyn Write) -> Result<(), Error> {
    let owners = crate::check::mounted::owners(directory).map_err(|error| {
        Error::new(
            Kind::Unavailable,
            format!("cannot read {}: {error}", directory.display()),
        )
    })?;
    written(out.write_all(owners.as_bytes()).and_then(|()| out.flush()))
}

/// A trial file has a few bytes.
const PROBE_BYTES: u64 = 4096;

fn probe_read(file: &Path, out: &mut dyn Write) -> Result<(), Error> {
    let cannot = |error| {
        Error::new(Kind::Unavailable, format!("cannot read {}", file.display())).because(error)
    };
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .map_err(cannot)?
        .take(PROBE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    written(out.write_all(&bytes).and_then(|()| out.flush()))
}
