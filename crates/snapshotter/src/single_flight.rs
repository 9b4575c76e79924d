//! One call does the work, others that want the same wait for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Work in progress by key.
#[derive(Debug)]
pub(crate) struct SingleFlight<K, V> {
    flights: Mutex<HashMap<K, Arc<Flight<V>>>>,
}

#[derive(Debug)]
struct Flight<V> {
    state: Mutex<State<V>>,
    changed: Condvar,
}

#[derive(Debug)]
enum State<V> {
    Flying,
    Landed(V),
    Abandoned,
}

/// What a call has to do.
pub(crate) enum Role<'a, K: Eq + Hash + Clone, V: Clone> {
    /// Do the work; dropping the guard without landing wakes the others empty-handed.
    Leader(Leader<'a, K, V>),
    /// Wait.
    Passenger(Passenger<V>),
}

/// The one who works.
pub(crate) struct Leader<'a, K: Eq + Hash + Clone, V: Clone> {
    owner: &'a SingleFlight<K, V>,
    key: K,
    flight: Arc<Flight<V>>,
}

/// One who waits.
pub(crate) struct Passenger<V> {
    flight: Arc<Flight<V>>,
}

/// How waiting ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome<V> {
    Landed(V),
    /// The leader died; try again.
    Abandoned,
    TimedOut,
}

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self {
            flights: Mutex::default(),
        }
    }
}

impl<K: Eq + Hash + Clone, V: Clone> SingleFlight<K, V> {
    pub(crate) fn join(&self, key: &K) -> Role<'_, K, V> {
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(key) {
            return Role::Passenger(Passenger {
                flight: Arc::clone(flight),
            });
        }
        let flight = Arc::new(Flight {
            state: Mutex::new(State::Flying),
            changed: Condvar::new(),
        });
        flights.insert(key.clone(), Arc::clone(&flight));
        Role::Leader(Leader {
            owner: self,
            key: key.clone(),
            flight,
        })
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Leader<'_, K, V> {
    /// Hands the result to all who wait.
    pub(crate) fn land(self, value: V) {
        *lock(&self.flight.state) = State::Landed(value);
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Drop for Leader<'_, K, V> {
    fn drop(&mut self) {
        lock(&self.owner.flights).remove(&self.key);
        let mut state = lock(&self.flight.state);
        if matches!(*state, State::Flying) {
            *state = State::Abandoned;
        }
        drop(state);
        self.flight.changed.notify_all();
    }
}

impl<V: Clone> Passenger<V> {
    /// Waits for the leader, but not longer than `deadline`.
    pub(crate) fn outcome(&self, deadline: Duration) -> Outcome<V> {
        let flying = |state: &mut State<V>| matches!(state, State::Flying);
        let waited =
            self.flight
                .changed
                .wait_timeout_while(lock(&self.flight.state), deadline, flying);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Flying => Outcome::TimedOut,
            State::Landed(value) => Outcome::Landed(value.clone()),
            State::Abandoned => Outcome::Abandoned,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn passenger(flights: &SingleFlight<&'static str, u8>) -> Passenger<u8> {
        match flights.join(&"key") {
            Role::Passenger(passenger) => passenger,
            Role::Leader(_) => panic!("somebody leads already"),
        }
    }

    #[test]
    fn passengers_get_the_result_or_are_told_that_there_is_none() {
        let flights = SingleFlight::default();
        let Role::Leader(leader) = flights.join(&"key") else {
            panic!("first leads")
        };
        let waiting = passenger(&flights);
        assert_eq!(waiting.outcome(Duration::ZERO), Outcome::TimedOut);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| waiting.outcome(LONG));
            leader.land(7);
            assert_eq!(waiter.join().unwrap(), Outcome::Landed(7));
        });

        let Role::Leader(leader) = flights.join(&"key") else {
            panic!("free again")
        };
        let waiting = passenger(&flights);
        std::thread::scope(|scope| {
            let died = scope.spawn(move || {
                let _leader = leader;
                panic!("a leader dies (expected by the test)");
            });
            assert!(died.join().is_err());
        });
        assert_eq!(waiting.outcome(LONG), Outcome::Abandoned);
        assert!(matches!(flights.join(&"key"), Role::Leader(_)));
    }
}
