//! Chunks that are being fetched: whoever wants one of them waits instead of fetching it again.
//! Several chunks may be one fetch, so this is not the cache's own single flight.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use cache::Key;

use crate::builds::lock;

/// All fetches.
#[derive(Default)]
pub(super) struct Flights {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    flying: Mutex<HashSet<Key>>,
    landed: Condvar,
}

/// One fetch; dropped, its chunks are free again, whatever became of them.
pub(super) struct Flight {
    shared: Arc<Shared>,
    keys: Vec<Key>,
}

/// What became of a wish to fetch.
pub(super) enum Turn {
    /// Nobody else does.
    Mine(Flight),
    /// Somebody did, with or without success.
    Landed,
    /// Somebody does, for too long.
    TimedOut,
}

impl Flights {
    /// Begins a fetch of `key`, or waits for the one that goes on.
    pub(super) fn turn(&self, key: &Key, deadline: Instant) -> Turn {
        let mut flying = lock(&self.shared.flying);
        if flying.insert(key.clone()) {
            return Turn::Mine(Flight {
                shared: Arc::clone(&self.shared),
                keys: vec![key.clone()],
            });
        }
        while flying.contains(key) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Turn::TimedOut;
            };
            flying = self
                .shared
                .landed
                .wait_timeout(flying, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Turn::Landed
    }
}

impl Flight {
    /// Takes another chunk along; false if somebody else fetches it.
    pub(super) fn take(&mut self, key: &Key) -> bool {
        let taken = lock(&self.shared.flying).insert(key.clone());
        if taken {
            self.keys.push(key.clone());
        }
        taken
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut flying = lock(&self.shared.flying);
        for key in &self.keys {
            flying.remove(key);
        }
        drop(flying);
        self.shared.landed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key(name: &str) -> Key {
        Key::new(&format!("{name}-is-long-enough")).unwrap()
    }

    #[test]
    fn one_fetches_and_the_others_wait_until_it_ends() {
        let flights = Flights::default();
        let far = Instant::now() + Duration::from_secs(20);
        let Turn::Mine(mut flight) = flights.turn(&key("a"), far) else {
            panic!("nobody else is there");
        };
        assert!(flight.take(&key("b")) && !flight.take(&key("a")));
        assert!(matches!(
            flights.turn(&key("b"), Instant::now()),
            Turn::TimedOut
        ));
        assert!(matches!(flights.turn(&key("c"), far), Turn::Mine(_)));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| flights.turn(&key("b"), far));
            drop(flight);
            // Landed, or it came too late to wait at all.
            assert!(!matches!(waits.join().unwrap(), Turn::TimedOut));
        });
        assert!(matches!(flights.turn(&key("a"), far), Turn::Mine(_)));
    }
}
