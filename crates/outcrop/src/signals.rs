//! The signals that end a command.

use crate::error::{Error, Kind};
use std::future::Future;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// From now on SIGTERM and SIGINT no longer kill: the future waits for the next one and names it. Call it within the
/// runtime.
///
/// # Errors
/// The handlers cannot be installed.
pub fn stop() -> Result<impl Future<Output = &'static str>, Error> {
    let mut terminate = handler(SignalKind::terminate())?;
    let mut interrupt = handler(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

fn handler(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(|error| Error::new(Kind::Internal, "cannot handle signals").because(error))
}
