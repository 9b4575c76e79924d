//! `outcrop publish`: images into a repository, once or again and again.
//!
//! Each image is published in a revision of its own, in the order in which they are named: what is done stays done whatever becomes of the
//! others. The first failure ends a call that names images; a wishlist goes on with its others, and the exit code tells.

mod round;
mod stop;

use crate::cli::PublishArgs;
use crate::commands::print;
use crate::error::{Error, Kind};
use crate::publishing::summary::Run;
use crate::publishing::{metrics, wishlist_file};
use crate::wiring;
use image::Reference;
use publisher::wishlist::WishlistName;
use round::{Known, Round};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::time::Duration;
use stop::Stop;

/// More often than that, a registry is only bothered.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// Publishes what is named.
pub(super) fn run(args: &PublishArgs, out: &mut dyn Write) -> Result<(), Error> {
    // What is wrong with the command line is said before anything is asked of anybody.
    let order = Order::of(args)?;
    let runtime = wiring::runtime()?;
    let stop = Stop::begin(&runtime)?;
    let round = Round {
        args,
        order: &order,
        runtime: &runtime,
        stop: &stop,
    };
    match args.watch {
        None => once(args, &round, out),
        Some(interval) => watch(args, &round, interval, out),
    }
}

/// What the command line says, as far as it must be understood.
struct Order {
    name: Option<Reference>,
    list: Option<WishlistName>,
}

impl Order {
    fn of(args: &PublishArgs) -> Result<Self, Error> {
        let usage = |message: &str| Error::new(Kind::Usage, message);
        let name = args.name.as_deref().map(str::parse).transpose();
        let name = name.map_err(|error: image::ReferenceError| {
            usage("--name is no reference").because(error)
        })?;
        // The parser takes no notice of it where images are named.
        if args.prune && args.wishlist.is_none() {
            return Err(usage(
                "--prune needs --wishlist: only a list says what is to stay",
            ));
        }
        if name.is_some() && args.images.len() > 1 {
            return Err(usage("--name with several images: one name is one image's"));
        }
        if args
            .watch
            .is_some_and(|interval| interval < SHORTEST_INTERVAL)
        {
            return Err(usage("--watch needs an interval of 1s or more"));
        }
        let list = args
            .wishlist
            .as_deref()
            .map(wishlist_file::name)
            .transpose()?;
        Ok(Self { name, list })
    }
}

fn once(args: &PublishArgs, round: &Round<'_>, out: &mut dyn Write) -> Result<(), Error> {
    let run = round.run(&mut Known::default())?;
    report(args, &run, out)?;
    run.into_failure().map_or(Ok(()), Err)
}

/// Until a signal. What goes wrong is said and tried again; only the first round's own failure ends it, because it will not get better.
fn watch(
    args: &PublishArgs,
    round: &Round<'_>,
    interval: Duration,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut known = Known::default();
    let mut first = true;
    while round.stop.signal().is_none() {
        match round.run(&mut known) {
            Ok(run) => {
                if args.json || first || run.is_eventful() {
                    report(args, &run, out)?;
                } else {
                    figures(args, &run)?;
                }
                // All other failures were said when they happened.
                if let Some(error) = run.ended.then(|| run.into_failure()).flatten() {
                    say(&error);
                }
            }
            Err(error) if first => return Err(error),
            Err(error) => say(&error),
        }
        first = false;
        round.stop.wait(jittered(interval));
    }
    Ok(())
}

fn report(args: &PublishArgs, run: &Run, out: &mut dyn Write) -> Result<(), Error> {
    let text = match args.json {
        true => run.json().to_string(),
        false => run.text(),
    };
    if !text.is_empty() {
        print(out, &text)?;
    }
    figures(args, run)
}

fn figures(args: &PublishArgs, run: &Run) -> Result<(), Error> {
    match &args.metrics_file {
        Some(file) => metrics::write(file, run, jiff::Timestamp::now()),
        None => Ok(()),
    }
}

fn say(text: &dyn std::fmt::Display) {
    // A closed stderr must not end what goes well otherwise.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A tenth more or less, so that many publishers do not ask a registry at the same moments.
fn jittered(interval: Duration) -> Duration {
    // Each state is seeded anew.
    let random = RandomState::new().hash_one(0_u8) % 2001;
    interval.mul_f64(0.9 + random as f64 / 10_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_a_tenth() {
        let interval = Duration::from_secs(100);
        let all: Vec<_> = (0..100).map(|_| jittered(interval)).collect();
        let within = Duration::from_secs(90)..=Duration::from_millis(110_001);
        assert!(all.iter().all(|time| within.contains(time)), "{all:?}");
        assert!(all.iter().any(|time| *time != all[0]));
    }
}
