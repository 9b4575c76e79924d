//! One at a time for each key; whoever comes meanwhile gets the same outcome.
//!
//! The leader holds a [`Flight`]. If it fails *or unwinds*, dropping the flight wakes the
//! passengers with [`Outcome::Abandoned`] and the first of them that joins again leads.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Flights under way.
pub(crate) struct SingleFlight<K, V> {
    flights: Mutex<HashMap<K, Arc<Seat<V>>>>,
}

/// What a caller is to do.
pub(crate) enum Role<'a, K: Hash + Eq + Clone, V: Clone> {
    /// Do the work, then [`Flight::land`].
    Leader(Flight<'a, K, V>),
    /// Somebody does it: wait.
    Passenger(Wait<V>),
}

/// How a flight ended, as a passenger sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome<V> {
    /// Done, with this value.
    Landed(V),
    /// The leader failed, unwound or had nothing to hand over: join again.
    Abandoned,
    /// The passenger's own deadline came first.
    TimedOut,
}

/// The right to work on a key alone; given back on drop.
pub(crate) struct Flight<'a, K: Hash + Eq + Clone, V: Clone> {
    group: &'a SingleFlight<K, V>,
    key: K,
    seat: Arc<Seat<V>>,
}

/// A passenger's ticket.
pub(crate) struct Wait<V> {
    seat: Arc<Seat<V>>,
}

struct Seat<V> {
    state: Mutex<State<V>>,
    over: Condvar,
}

enum State<V> {
    Flying,
    Landed(V),
    Abandoned,
}

impl<K: Hash + Eq + Clone, V: Clone> SingleFlight<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            flights: Mutex::new(HashMap::new()),
        }
    }

    /// Leads if nobody does, else takes a seat.
    pub(crate) fn join(&self, key: &K) -> Role<'_, K, V> {
        match self.lock().entry(key.clone()) {
            Entry::Occupied(flight) => Role::Passenger(Wait {
                seat: flight.get().clone(),
            }),
            Entry::Vacant(place) => {
                let seat = Arc::new(Seat {
                    state: Mutex::new(State::Flying),
                    over: Condvar::new(),
                });
                place.insert(seat.clone());
                Role::Leader(Flight {
                    group: self,
                    key: key.clone(),
                    seat,
                })
            }
        }
    }

    /// Leads if nobody does, else `None`. Never waits.
    pub(crate) fn try_lead(&self, key: &K) -> Option<Flight<'_, K, V>> {
        match self.join(key) {
            Role::Leader(flight) => Some(flight),
            Role::Passenger(_) => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<Seat<V>>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Flight<'_, K, V> {
    /// Hands `value` to all passengers.
    pub(crate) fn land(self, value: V) {
        *self.seat.lock() = State::Landed(value);
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Drop for Flight<'_, K, V> {
    fn drop(&mut self) {
        // Out of the map first: who is woken and joins again must not find this flight.
        self.group.lock().remove(&self.key);
        let mut state = self.seat.lock();
        if matches!(*state, State::Flying) {
            *state = State::Abandoned;
        }
        drop(state);
        self.seat.over.notify_all();
    }
}

impl<V: Clone> Wait<V> {
    /// Waits for the leader, at most until `deadline`.
    pub(crate) fn until(self, deadline: Instant) -> Outcome<V> {
        let mut state = self.seat.lock();
        loop {
            match &*state {
                State::Landed(value) => return Outcome::Landed(value.clone()),
                State::Abandoned => return Outcome::Abandoned,
                State::Flying => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Outcome::TimedOut;
            }
            let woken = self.seat.over.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<V> Seat<V> {
    fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
