//! What is fetched before anybody asks: the files that the layer's maker marked, and, where the
//! configuration wants it, all the rest, whenever no container waits for a read.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use image::estargz::Chunk;

use super::chunks::Chunks;
use super::members::MembersOf;
use crate::builds::lock;
use crate::metrics::LazyMetrics;
use crate::source::{Blob, Layer};
use crate::tree_store::TreeStore;

/// Compressed bytes of one step: a read that comes meanwhile waits for no more than shares the line
/// with it.
const STEP: u64 = 2 << 20;
/// Chunks of one step.
const STEP_CHUNKS: usize = 128;
/// The rest waits until no read has for so long.
const QUIET: Duration = Duration::from_millis(500);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);
/// After a failure, and how many.
const PAUSE: Duration = Duration::from_secs(10);
const MOST_FAILURES: u32 = 5;
/// Layers that were fetched whole, remembered so that each is walked once; then all are again.
const MAX_REMEMBERED: usize = 4096;

/// One thread for all layers, while there is one to fetch.
pub(super) struct Background {
    shared: Arc<Shared>,
}

struct Shared {
    chunks: Arc<Chunks>,
    members: Arc<MembersOf>,
    trees: Arc<TreeStore>,
    metrics: LazyMetrics,
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    prefetches: VecDeque<(Blob, Vec<Chunk>)>,
    rest: VecDeque<Rest>,
    known: HashSet<String>,
    running: bool,
    closed: bool,
}

/// A layer that is to be fetched whole.
struct Rest {
    layer: Layer,
    /// Everything before is done.
    at: u64,
    failures: u32,
    not_before: Instant,
}

/// What to do next.
enum Step {
    Prefetch(Blob, Vec<Chunk>),
    Rest(Rest),
    Wait(Duration),
    End,
}

impl Background {
    pub(super) fn new(
        chunks: Arc<Chunks>,
        members: Arc<MembersOf>,
        trees: Arc<TreeStore>,
        metrics: LazyMetrics,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                chunks,
                members,
                trees,
                metrics,
                state: Mutex::default(),
                filled: Condvar::new(),
            }),
        }
    }

    /// Fetches these chunks soon, in this order.
    pub(super) fn prefetch(&self, blob: &Blob, chunks: &[Chunk]) {
        let mut chunks = chunks;
        let mut state = lock(&self.shared.state);
        while !chunks.is_empty() {
            let (step, rest) = chunks.split_at(step_of(chunks.iter()));
            state.prefetches.push_back((blob.clone(), step.to_vec()));
            chunks = rest;
        }
        self.shared
            .metrics
            .prefetch_steps
            .set(i64::try_from(state.prefetches.len()).unwrap_or(i64::MAX));
        self.run(&mut state);
    }

    /// Fetches all of a layer, in the order of its blob, while nothing else is to do.
    pub(super) fn rest(&self, layer: &Layer) {
        let mut state = lock(&self.shared.state);
        if state.known.len() >= MAX_REMEMBERED {
            state.known.clear();
        }
        if !state.known.insert(layer.tree.clone()) {
            return;
        }
        state.rest.push_back(Rest {
            layer: layer.clone(),
            at: 0,
            failures: 0,
            not_before: Instant::now(),
        });
        self.shared.metrics.layers_behind.inc();
        self.run(&mut state);
    }

    fn run(&self, state: &mut State) {
        self.shared.filled.notify_one();
        if state.running {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let started = thread::Builder::new()
            .name("background".to_owned())
            .spawn(move || shared.work());
        match started {
            Ok(_) => state.running = true,
            Err(error) => tracing::warn!(%error, "nothing is fetched in the background"),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        lock(&self.shared.state).closed = true;
        self.shared.filled.notify_all();
    }
}

impl Shared {
    fn work(&self) {
        loop {
            let mut state = lock(&self.state);
            match self.next(&mut state) {
                Step::End => {
                    state.running = false;
                    return;
                }
                Step::Wait(pause) => {
                    drop(
                        self.filled
                            .wait_timeout(state, pause)
                            .unwrap_or_else(PoisonError::into_inner),
                    );
                }
                Step::Prefetch(blob, chunks) => {
                    drop(state);
                    let here = self.chunks.warm(&blob, &chunks);
                    self.metrics.prefetched_chunks.inc_by(here as u64);
                }
                Step::Rest(mut rest) => {
                    drop(state);
                    if self.fetch_some(&mut rest) {
                        lock(&self.state).rest.push_front(rest);
                    } else {
                        self.metrics.layers_behind.dec();
                    }
                }
            }
        }
    }

    fn next(&self, state: &mut State) -> Step {
        if state.closed {
            return Step::End;
        }
        if let Some((blob, chunks)) = state.prefetches.pop_front() {
            self.metrics
                .prefetch_steps
                .set(i64::try_from(state.prefetches.len()).unwrap_or(i64::MAX));
            return Step::Prefetch(blob, chunks);
        }
        let now = Instant::now();
        let ready = state.rest.iter().position(|rest| rest.not_before <= now);
        match ready {
            _ if state.rest.is_empty() => Step::End,
            Some(at) if self.chunks.quiet_for() >= QUIET => {
                state.rest.remove(at).map_or(Step::End, Step::Rest)
            }
            _ => Step::Wait(LOOK),
        }
    }

    /// One step of a layer; false when it is done or given up.
    fn fetch_some(&self, rest: &mut Rest) -> bool {
        let members = match self.members.get(&self.trees, &rest.layer.tree) {
            Ok(Some(members)) => members,
            _ => return false,
        };
        let all: Vec<Chunk> = members.from(rest.at).take(STEP_CHUNKS).collect();
        let mut step = step_of(all.iter());
        // A member is never cut in two: the next step begins after its start.
        while step < all.len() && step > 0 && all[step].start == all[step - 1].start {
            step += 1;
        }
        let Some(last) = all[..step].last() else {
            return false;
        };
        let here = self.chunks.warm(&rest.layer.blob, &all[..step]);
        self.metrics.background_chunks.inc_by(here as u64);
        if here < step {
            rest.failures += 1;
            rest.not_before = Instant::now() + PAUSE;
            return rest.failures < MOST_FAILURES;
        }
        rest.at = last.start + 1;
        rest.failures = 0;
        true
    }
}

/// How many of these chunks make one step; at least one.
fn step_of<'a>(chunks: impl Iterator<Item = &'a Chunk>) -> usize {
    let mut bytes = 0;
    let taken = chunks.take(STEP_CHUNKS).take_while(|chunk| {
        let first = bytes == 0;
        bytes += chunk.end.saturating_sub(chunk.start).max(1);
        first || bytes <= STEP
    });
    taken.count()
}
