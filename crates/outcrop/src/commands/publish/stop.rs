//! Ends a publication at a signal: reading fails from then on, so that nothing is committed that is not whole.

use crate::error::{Error, Kind};
use crate::signals;
use image::{Descriptor, Digest, Reference};
use publisher::{ImageSource, SourceError};
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// What waits for a server or for another publisher is not waited for longer.
const GRACE: Duration = Duration::from_secs(10);

/// Whether a signal has come. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<Shared>);

#[derive(Default)]
struct Shared {
    signal: Mutex<Option<&'static str>>,
    changed: Condvar,
}

impl Stop {
    /// From now on SIGTERM and SIGINT end the work in an orderly way; the second one, or ten seconds, at once.
    pub(super) fn begin(runtime: &Runtime) -> Result<Self, Error> {
        let _entered = runtime.enter();
        let stop = Self::default();
        let first = signals::stop()?;
        let told = stop.clone();
        runtime.spawn(async move {
            told.tell(first.await);
            match signals::stop() {
                // Either way it is time to go.
                Ok(second) => drop(tokio::time::timeout(GRACE, second).await),
                Err(_) => tokio::time::sleep(GRACE).await,
            }
            give_up();
        });
        Ok(stop)
    }

    fn signal_now(&self) -> MutexGuard<'_, Option<&'static str>> {
        self.0.signal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, signal: &'static str) {
        *self.signal_now() = Some(signal);
        self.0.changed.notify_all();
    }

    /// The signal, once it has come.
    pub(super) fn signal(&self) -> Option<&'static str> {
        *self.signal_now()
    }

    /// Waits, but not beyond a signal.
    pub(super) fn wait(&self, time: Duration) {
        let end = Instant::now() + time;
        let mut signal = self.signal_now();
        while signal.is_none() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.0.changed.wait_timeout(signal, left);
            signal = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The manifest is replaced as a whole, so that a process may end at any moment.
fn give_up() {
    let text = "error: ended at once\n  hint: the repository has its old revision or the new one, whole; \
                what was stored in vain is removed by the next publication";
    // Nobody may be left to read it.
    let _ = writeln!(io::stderr(), "{text}");
    std::process::exit(Kind::Interrupted.code().into());
}

/// An image that can be read until a signal comes.
pub(super) struct Stoppable {
    source: Box<dyn ImageSource>,
    stop: Stop,
}

impl Stoppable {
    pub(super) fn new(source: Box<dyn ImageSource>, stop: &Stop) -> Self {
        Self {
            source,
            stop: stop.clone(),
        }
    }

    fn check(&self) -> Result<(), SourceError> {
        match self.stop.signal() {
            Some(_) => Err(SourceError::Interrupted),
            None => Ok(()),
        }
    }
}

impl ImageSource for Stoppable {
    fn name(&self) -> String {
        self.source.name()
    }

    fn manifest(&self, digest: Option<&Digest>) -> Result<registry::Document, SourceError> {
        self.check()?;
        self.source.manifest(digest)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, SourceError> {
        self.check()?;
        Ok(Box::new(StoppableBlob {
            blob: self.source.blob(descriptor)?,
            stop: self.stop.clone(),
        }))
    }

    fn reference(&self) -> Option<Reference> {
        self.source.reference()
    }
}

struct StoppableBlob {
    blob: Box<dyn Read + Send>,
    stop: Stop,
}

impl Read for StoppableBlob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stop.signal() {
            // Not `ErrorKind::Interrupted`: that asks for another try.
            Some(signal) => Err(io::Error::other(signal)),
            None => self.blob.read(buffer),
        }
    }
}
