//! The `outcrop` binary.

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = outcrop::cli::Cli::parse();
    match outcrop::commands::run(cli.command, &mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stderr must not turn an exit code into a panic.
            let _ = writeln!(std::io::stderr(), "{error}");
            error.kind().into()
        }
    }
}
