//! The next chunks of a file that is read front to back, fetched while the present one is read.
//!
//! A chunk is fetched whole (it verifies only whole), so without this a sequential reader waits for
//! each chunk in turn while network and second processor idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Chunks fetched ahead of the reader. More gains nothing on few processors and wastes more when
/// the reader stops.
pub(crate) const CHUNKS_AHEAD: usize = 2;
/// A read this near the start of a chunk that is not the file's first comes from a reader that has
/// just finished the one before.
const NEAR_START: u64 = 128 << 10;
/// Bounds threads and memory, whoever reads.
const MOST_IN_FLIGHT: usize = 8;

/// Fetches in flight.
#[derive(Default)]
pub(crate) struct ReadAhead {
    in_flight: Arc<AtomicUsize>,
}

/// Gives a place back however the fetch ends.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ReadAhead {
    /// Whether a read at `offset` in the chunk `index` that begins at `start` goes front to back.
    pub(crate) fn is_sequential(index: usize, start: u64, offset: u64) -> bool {
        index > 0 && offset - start < NEAR_START
    }

    /// Runs a fetch in the background. Dropped when too many run; its failure is the reader's to
    /// find, who asks for the same chunk soon.
    pub(crate) fn start(&self, fetch: impl FnOnce() + Send + 'static) {
        let place = Place(Arc::clone(&self.in_flight));
        // The place's own count is given back by its drop, also when it is not used.
        if self.in_flight.fetch_add(1, Ordering::Relaxed) >= MOST_IN_FLIGHT {
            return;
        }
        let spawned = thread::Builder::new()
            .name("read-ahead".to_owned())
            .spawn(move || {
                let _place = place;
                fetch();
            });
        if let Err(error) = spawned {
            tracing::debug!(%error, "no thread to read ahead");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn only_a_reader_that_crosses_into_a_chunk_is_sequential() {
        assert!(!ReadAhead::is_sequential(0, 0, 0));
        assert!(ReadAhead::is_sequential(1, 100, 100));
        assert!(!ReadAhead::is_sequential(1, 0, 1 << 20));
    }

    #[test]
    fn fetches_are_bounded_and_places_come_back() {
        let ahead = ReadAhead::default();
        let (began, begun) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let wait = Arc::new(std::sync::Mutex::new(wait));
        for _ in 0..MOST_IN_FLIGHT + 3 {
            let (began, wait) = (began.clone(), Arc::clone(&wait));
            ahead.start(move || {
                began.send(()).unwrap();
                let _ = wait.lock().unwrap().recv();
            });
        }
        for _ in 0..MOST_IN_FLIGHT {
            begun.recv_timeout(Duration::from_secs(20)).unwrap();
        }
        assert!(begun.recv_timeout(Duration::from_millis(200)).is_err());
        drop(go);
        while ahead.in_flight.load(Ordering::Relaxed) > 0 {
            thread::sleep(Duration::from_millis(5));
        }
        ahead.start(move || began.send(()).unwrap());
        begun.recv_timeout(Duration::from_secs(20)).unwrap();
    }
}
