use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

type Flights = SingleFlight<u32, u32>;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn leader(flights: &Flights, key: u32) -> Flight<'_, u32, u32> {
    flights.try_lead(&key).expect("nobody else leads")
}

fn passenger(flights: &Flights, key: u32) -> Wait<u32> {
    match flights.join(&key) {
        Role::Passenger(wait) => wait,
        Role::Leader(_) => panic!("somebody leads already"),
    }
}

#[test]
fn passengers_get_what_the_leader_landed() {
    let flights = Flights::new();
    let flight = leader(&flights, 1);
    let waits = [passenger(&flights, 1), passenger(&flights, 1)];
    flight.land(7);
    assert!(
        waits
            .into_iter()
            .all(|wait| wait.until(soon()) == Outcome::Landed(7))
    );
}

#[test]
fn a_leader_that_gives_up_or_unwinds_frees_its_passengers_and_the_key() {
    let flights = Flights::new();
    let flight = leader(&flights, 1);
    let wait = passenger(&flights, 1);
    drop(flight);
    assert_eq!(wait.until(soon()), Outcome::Abandoned);

    let flight = leader(&flights, 1);
    let wait = passenger(&flights, 1);
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _flight = flight;
        panic!("as planned");
    }));
    assert!(unwound.is_err());
    assert_eq!(wait.until(soon()), Outcome::Abandoned);
    leader(&flights, 1).land(1);
}

#[test]
fn keys_do_not_wait_for_each_other_and_waiting_ends_at_the_deadline() {
    let flights = Flights::new();
    let _one = leader(&flights, 1);
    leader(&flights, 2).land(2);
    assert_eq!(
        passenger(&flights, 1).until(Instant::now()),
        Outcome::TimedOut
    );
}

#[test]
fn there_is_never_more_than_one_leader() {
    const THREADS: usize = 8;
    let flights = Flights::new();
    let (flying, landings) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let start = Barrier::new(THREADS);
    let lead = |flight: Flight<'_, u32, u32>, round: u32| {
        assert_eq!(flying.fetch_add(1, Ordering::SeqCst), 0);
        flying.fetch_sub(1, Ordering::SeqCst);
        landings.fetch_add(1, Ordering::SeqCst);
        if !round.is_multiple_of(3) {
            flight.land(round);
        }
    };
    let work = || {
        start.wait();
        for round in 0..2_000 {
            match flights.join(&1) {
                Role::Passenger(wait) => assert_ne!(wait.until(soon()), Outcome::TimedOut),
                Role::Leader(flight) => lead(flight, round),
            }
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(work))));
    assert!(landings.into_inner() > 0);
    assert!(flights.lock().is_empty());
}
