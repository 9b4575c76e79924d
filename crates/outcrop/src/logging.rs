//! Where `tracing` goes: stderr, as text or as JSON.

use crate::config::Log;
use crate::error::{Error, Kind};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging for the rest of the process's life.
///
/// # Errors
/// [`Kind::Config`] if the filter is none.
pub fn start(log: &Log) -> Result<(), Error> {
    let filter = EnvFilter::builder().parse(&log.filter).map_err(|error| {
        Error::new(
            Kind::Config,
            format!("log.filter {:?} is no filter", log.filter),
        )
        .because(error)
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = if log.json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init()
    };
    started.map_err(|error| Error::new(Kind::Internal, "logging was started twice").because(error))
}
