//! Work that may never end, such as looking into a directory that somebody else serves: done by
//! threads that may be lost, in bounded number, while whoever asked waits no longer than a
//! deadline.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::builds::lock;

/// Threads at most, lost ones included.
const MOST_THREADS: usize = 64;
/// After so many works in a row that did not end, none is begun for a while.
const MOST_UNANSWERED: usize = 8;
/// A thread without work ends after this.
const IDLE: Duration = Duration::from_secs(30);

/// Why a work gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// The deadline passed.
    #[error("does not answer within {} s", .0.as_secs_f64())]
    Deadline(Duration),
    /// Not even begun: none of the last ones has ended.
    #[error("does not answer: the last {0} requests are still unanswered")]
    Unanswered(usize),
    /// The work panicked, or no thread can be started for it.
    #[error("cannot be asked: a thread ended or none can be started")]
    Thread,
}

/// A pool of threads that may be lost.
pub(crate) struct Patience {
    pool: Arc<Pool>,
    deadline: Duration,
    /// How long nothing is begun after too many did not end; then one is tried.
    pause: Duration,
}

#[derive(Default)]
struct Pool {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    /// Threads that wait for work, or are about to.
    idle: usize,
    /// Works in a row that did not end in time.
    unanswered: usize,
    begun: Option<Instant>,
    closed: bool,
}

/// What hands an answer over.
type Deliver = Box<dyn FnOnce()>;

struct Job {
    work: Box<dyn FnOnce() -> Deliver + Send>,
    pulse: Pulse,
}

/// How long work says that it gets on.
#[derive(Clone)]
pub(crate) struct Pulse {
    last: Arc<Mutex<Instant>>,
    given_up: Arc<AtomicBool>,
}

impl Pulse {
    fn new() -> Self {
        Self {
            last: Arc::new(Mutex::new(Instant::now())),
            given_up: Arc::default(),
        }
    }

    /// Gets on: the deadline counts from here. False when nobody waits any more.
    pub(crate) fn beat(&self) -> bool {
        *lock(&self.last) = Instant::now();
        !self.given_up.load(Ordering::Relaxed)
    }
}

impl Patience {
    pub(crate) fn new(deadline: Duration, pause: Duration) -> Self {
        Self {
            pool: Arc::default(),
            deadline,
            pause,
        }
    }

    /// Does `work` in another thread and waits for it, as long as it ends or beats its pulse in
    /// time. Given up, it goes on until it ends, if ever; whoever is left behind counts.
    pub(crate) fn wait_for<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Pulse) -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let pulse = Pulse::new();
        let theirs = pulse.clone();
        let (answer, answered) = mpsc::sync_channel(1);
        let job = Job {
            work: Box::new(move || {
                let done = work(&theirs);
                Box::new(move || drop(answer.send(done)))
            }),
            pulse: pulse.clone(),
        };
        self.begin(job)?;
        loop {
            let left = self.deadline.saturating_sub(lock(&pulse.last).elapsed());
            match answered.recv_timeout(left) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(NoAnswer::Thread),
                Err(RecvTimeoutError::Timeout) if lock(&pulse.last).elapsed() < self.deadline => {}
                Err(RecvTimeoutError::Timeout) => {
                    pulse.given_up.store(true, Ordering::Relaxed);
                    lock(&self.pool.state).unanswered += 1;
                    return Err(NoAnswer::Deadline(self.deadline));
                }
            }
        }
    }

    fn begin(&self, job: Job) -> Result<(), NoAnswer> {
        let mut state = lock(&self.pool.state);
        let lately = state.begun.is_some_and(|at| at.elapsed() < self.pause);
        let lost = state.threads == MOST_THREADS && state.unanswered >= MOST_THREADS;
        if lost || state.unanswered >= MOST_UNANSWERED && lately {
            return Err(NoAnswer::Unanswered(state.unanswered));
        }
        state.begun = Some(Instant::now());
        // Those that were given up before they were begun.
        state
            .queue
            .retain(|job| !job.pulse.given_up.load(Ordering::Relaxed));
        state.queue.push_back(job);
        if state.queue.len() > state.idle && state.threads < MOST_THREADS {
            let pool = Arc::clone(&self.pool);
            let started = thread::Builder::new()
                .name("outside".to_owned())
                .spawn(move || pool.work());
            if started.is_ok() {
                state.threads += 1;
                state.idle += 1;
            } else if state.threads == 0 {
                state.queue.clear();
                return Err(NoAnswer::Thread);
            }
        }
        drop(state);
        self.pool.filled.notify_one();
        Ok(())
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        lock(&self.pool.state).closed = true;
        self.pool.filled.notify_all();
    }
}

impl Pool {
    fn work(&self) {
        while let Some(job) = self.next() {
            let given_up = job.pulse.given_up.load(Ordering::Relaxed);
            // Dropped by unwinding, the channel tells whoever waits.
            let done = (!given_up).then(|| catch_unwind(AssertUnwindSafe(job.work)));
            let mut state = lock(&self.state);
            state.idle += 1;
            if !given_up {
                // However late: it answers.
                state.unanswered = 0;
            }
            drop(state);
            match done {
                Some(Ok(deliver)) => deliver(),
                Some(Err(_)) => tracing::error!("looking into a mounted repository panicked"),
                None => {}
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = lock(&self.state);
        let deadline = Instant::now() + IDLE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let job = state.queue.pop_front();
            if job.is_some() || state.closed || left.is_zero() {
                state.idle -= 1;
                state.threads -= usize::from(job.is_none());
                return job;
            }
            let woken = self.filled.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::Receiver;

    const NEVER: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_millis(20);

    /// Work that hangs until the sender is dropped.
    fn hanging() -> (mpsc::Sender<()>, impl Fn() + Clone + Send + 'static) {
        let (go, wait) = mpsc::channel::<()>();
        let wait: Arc<Mutex<Receiver<()>>> = Arc::new(Mutex::new(wait));
        let hang = move || {
            let _ = lock(&wait).recv();
        };
        (go, hang)
    }

    #[test]
    fn answers_come_and_threads_are_used_again() {
        let patience = Patience::new(NEVER, NEVER);
        for number in 0..50 {
            assert_eq!(patience.wait_for(move |_| number), Ok(number));
        }
        assert_eq!(lock(&patience.pool.state).threads, 1);
    }

    #[test]
    fn what_hangs_is_left_and_soon_nothing_is_begun() {
        let (go, hang) = hanging();
        let patience = Patience::new(SOON, NEVER);
        for _ in 0..MOST_UNANSWERED {
            let hang = hang.clone();
            assert_eq!(
                patience.wait_for(move |_| hang()),
                Err(NoAnswer::Deadline(SOON))
            );
        }
        let threads = lock(&patience.pool.state).threads;
        assert_eq!(
            patience.wait_for(|_| ()),
            Err(NoAnswer::Unanswered(MOST_UNANSWERED))
        );
        assert_eq!(lock(&patience.pool.state).threads, threads);
        // It answers after all, so it is asked again.
        drop(go);
        while lock(&patience.pool.state).unanswered > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        let patience = Patience {
            deadline: NEVER,
            pool: Arc::clone(&patience.pool),
            pause: NEVER,
        };
        assert_eq!(patience.wait_for(|_| 7), Ok(7));
    }

    #[test]
    fn threads_are_bounded_however_long_it_hangs() {
        let (go, hang) = hanging();
        // Tried again at once each time.
        let patience = Patience::new(Duration::from_millis(1), Duration::ZERO);
        let mut tries = 0;
        loop {
            let hang = hang.clone();
            let error = patience.wait_for(move |_| hang()).unwrap_err();
            if matches!(error, NoAnswer::Unanswered(_)) {
                break;
            }
            // On a busy machine some are given up before a thread has begun them.
            tries += 1;
            assert!(tries < MOST_THREADS * 1000, "never refused");
        }
        assert_eq!(lock(&patience.pool.state).threads, MOST_THREADS);
        drop(go);
    }

    #[test]
    fn long_work_that_gets_on_is_waited_for() {
        let patience = Patience::new(Duration::from_millis(300), NEVER);
        let answer = patience.wait_for(|pulse| {
            for _ in 0..10 {
                thread::sleep(Duration::from_millis(50));
                assert!(pulse.beat());
            }
            7
        });
        assert_eq!(answer, Ok(7));
    }

    #[test]
    fn a_panic_is_no_wait() {
        let patience = Patience::new(NEVER, NEVER);
        let panics = patience.wait_for(|_| panic!("on purpose"));
        assert_eq!(panics, Err::<(), _>(NoAnswer::Thread));
        assert_eq!(patience.wait_for(|_| 7), Ok(7));
    }
}
