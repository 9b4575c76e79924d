//! Trees being built in the background: each once, whoever asks; waiting has a deadline.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Work of the background threads.
type Job = Box<dyn FnOnce() + Send>;

/// What became of a build.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The tree is in the store.
    Built,
    /// It failed, in words.
    Failed(String),
}

/// A pool of threads, and the builds that they have in hand.
pub(crate) struct Builds {
    queue: Arc<Queue>,
    in_hand: Mutex<HashMap<String, Arc<Build>>>,
}

/// One build.
pub(crate) struct Build {
    outcome: Mutex<Option<Outcome>>,
    done: Condvar,
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    filled: Condvar,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// Ends a build however its job ends, unwinding included, so that nobody waits for the dead.
struct EndOfBuild {
    builds: Arc<Builds>,
    key: String,
    build: Arc<Build>,
    outcome: Outcome,
}

impl Drop for EndOfBuild {
    fn drop(&mut self) {
        lock(&self.builds.in_hand).remove(&self.key);
        *lock(&self.build.outcome) = Some(self.outcome.clone());
        self.build.done.notify_all();
    }
}

impl Builds {
    pub(crate) fn start(threads: usize) -> std::io::Result<Arc<Self>> {
        let queue = Arc::new(Queue::default());
        for number in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            thread::Builder::new()
                .name(format!("layers-{number}"))
                .spawn(move || queue.work())?;
        }
        Ok(Arc::new(Self {
            queue,
            in_hand: Mutex::default(),
        }))
    }

    /// Runs a job some time.
    pub(crate) fn later(&self, job: impl FnOnce() + Send + 'static) {
        self.queue.push(Box::new(job));
    }

    /// The build of `key`, if one goes on.
    pub(crate) fn in_hand(&self, key: &str) -> Option<Arc<Build>> {
        lock(&self.in_hand).get(key).cloned()
    }

    /// Builds `key` unless that is in hand already.
    pub(crate) fn build(
        self: &Arc<Self>,
        key: &str,
        job: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Arc<Build> {
        let mut in_hand = lock(&self.in_hand);
        if let Some(build) = in_hand.get(key) {
            return Arc::clone(build);
        }
        let build = Arc::new(Build {
            outcome: Mutex::new(None),
            done: Condvar::new(),
        });
        in_hand.insert(key.to_owned(), Arc::clone(&build));
        drop(in_hand);
        let end = EndOfBuild {
            builds: Arc::clone(self),
            key: key.to_owned(),
            build: Arc::clone(&build),
            outcome: Outcome::Failed("the building thread ended".to_owned()),
        };
        self.queue.push(Box::new(move || {
            // The whole of it, so that its Drop runs in the job, not here.
            let mut end = end;
            end.outcome = match job() {
                Ok(()) => Outcome::Built,
                Err(reason) => Outcome::Failed(reason),
            };
        }));
        build
    }
}

impl Drop for Builds {
    fn drop(&mut self) {
        lock(&self.queue.state).closed = true;
        self.queue.filled.notify_all();
    }
}

impl Build {
    /// Waits for the end; `None` when `deadline` passes first.
    pub(crate) fn wait(&self, deadline: Instant) -> Option<Outcome> {
        let mut outcome = lock(&self.outcome);
        loop {
            if let Some(outcome) = outcome.as_ref() {
                return Some(outcome.clone());
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            outcome = self
                .done
                .wait_timeout(outcome, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Queue {
    fn push(&self, job: Job) {
        lock(&self.state).jobs.push_back(job);
        self.filled.notify_one();
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            // A panic in one layer must not take the thread from all others.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
                tracing::error!("building a tree panicked");
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state = self
                .filled
                .wait_timeout(state, Duration::from_secs(60))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Locks hold plain maps that no panic can leave half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn one_key_is_built_once_at_a_time() {
        let builds = Builds::start(2).unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let (go, wait) = mpsc::channel::<()>();
        let first = {
            let count = Arc::clone(&count);
            builds.build("a", move || {
                let _ = wait.recv();
                count.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        };
        let second = builds.build("a", || panic!("built twice"));
        go.send(()).unwrap();
        assert!(matches!(first.wait(soon()), Some(Outcome::Built)));
        assert!(matches!(second.wait(soon()), Some(Outcome::Built)));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failure_is_told_and_the_next_try_is_a_new_one() {
        let builds = Builds::start(1).unwrap();
        let failed = builds.build("a", || Err("no catalog".to_owned()));
        assert!(
            matches!(failed.wait(soon()), Some(Outcome::Failed(reason)) if reason == "no catalog")
        );
        assert!(matches!(
            builds.build("a", || Ok(())).wait(soon()),
            Some(Outcome::Built)
        ));
    }

    #[test]
    fn a_panic_frees_the_waiters_and_the_thread_lives_on() {
        let builds = Builds::start(1).unwrap();
        let build = builds.build("a", || panic!("on purpose"));
        assert!(matches!(build.wait(soon()), Some(Outcome::Failed(_))));
        assert!(matches!(
            builds.build("b", || Ok(())).wait(soon()),
            Some(Outcome::Built)
        ));
    }

    #[test]
    fn waiting_ends_at_the_deadline() {
        let builds = Builds::start(1).unwrap();
        let (_go, wait) = mpsc::channel::<()>();
        let build = builds.build("a", move || {
            let _ = wait.recv_timeout(Duration::from_secs(5));
            Ok(())
        });
        assert!(build.wait(Instant::now()).is_none());
    }
}
