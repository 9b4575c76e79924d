//! The program as users run it, killed at any moment of a publication: the old revision stands, and the next publication and collection leave
//! nothing of the killed one.
//!
//! `OUTCROP_KILLS` sets how many kills there are, `OUTCROP_KILL_SEED` which moments are chosen, `OUTCROP_KILL_FILES` how much is published
//! (files of 330 kB in each of six layers).
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod image;
mod moments;
mod truth;
mod world;

use std::collections::BTreeMap;

use moments::{Killed, Moment, Random};
use world::World;

/// Enough of each kind for an ordinary run.
const KILLS: u64 = 8;

fn from_environment(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn a_publication_killed_at_any_moment_changes_nothing() {
    let kills = from_environment("OUTCROP_KILLS", KILLS).max(3);
    // Many kills are worth a publication of some seconds.
    let files = if kills > KILLS { 80 } else { 25 };
    let files = from_environment("OUTCROP_KILL_FILES", files);
    let Some(world) = World::new(files) else {
        println!("skipped: no program: run `cargo build --release -p outcrop`");
        return;
    };
    let seed = from_environment("OUTCROP_KILL_SEED", 20_261_124);
    let whole = world.measure();
    println!(
        "a whole publication: {:.1} s, the last {:.1} s after its first of {} new catalogs; seed {seed}",
        whole.took.as_secs_f64(),
        whole.after_first_catalog.as_secs_f64(),
        whole.catalogs
    );
    let mut random = Random::new(seed);
    let mut classes: BTreeMap<Killed, u64> = BTreeMap::new();
    for number in 0..kills {
        let moment = Moment::choose(number, &whole, &mut random);
        let killed = world.killed_at(moment);
        println!("{:3}: {moment:?}: {killed:?}", number + 1);
        *classes.entry(killed).or_default() += 1;
    }
    println!("{kills} kills: {classes:?}");
    let within = classes.get(&Killed::BeforeTheManifest).copied();
    // Those that wait for an early catalog come before the manifest for sure.
    assert!(within.unwrap_or_default() * 10 >= kills * 3, "{classes:?}");
}
