//! `outcrop repository`: repositories made, looked at and kept.

mod check;
mod gc;
mod info;
mod init;
mod list;
mod remove;
mod resign;
mod tag;

use crate::cli::RepositoryCommand;
use crate::error::Error;
use std::io::Write;

/// Carries out one of its subcommands.
pub(super) fn run(command: RepositoryCommand, out: &mut dyn Write) -> Result<(), Error> {
    match command {
        RepositoryCommand::Init(args) => init::run(&args, out),
        RepositoryCommand::Info(args) => info::run(&args, out),
        RepositoryCommand::List(args) => list::run(&args, out),
        RepositoryCommand::Tag(args) => tag::run(&args, out),
        RepositoryCommand::Rollback(args) => tag::rollback(&args, out),
        RepositoryCommand::Resign(args) => resign::run(&args, out),
        RepositoryCommand::Remove(args) => remove::run(&args, out),
        RepositoryCommand::Gc(args) => gc::run(&args, out),
        RepositoryCommand::Check(args) => check::run(&args, out),
    }
}

/// What does not exist can be looked up: `what` is the argument of `outcrop repository list`.
fn or_listed(error: publisher::Error, what: &str) -> Error {
    let missing = matches!(error, publisher::Error::NotFound(_));
    let error = Error::from(error);
    match missing {
        true => error.hint(format!(
            "`outcrop repository list {what}` shows what there is"
        )),
        false => error,
    }
}

/// Seconds since the epoch, as people read them.
fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

/// `1 catalog`, `2 catalogs`.
fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// A line for people beside the output proper.
fn warn(line: &str) {
    // A closed stderr must not fail what is done already.
    let _ = writeln!(std::io::stderr(), "warning: {line}");
}
