//! The threads that take requests from one connection and answer them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno as Raw;
use sys::{Resident, locked_buffer};

use crate::answer::Responder;
use crate::reply_buffer::ReplyBuffer;

/// The kernel's minimum, and all that `max_write` of 4096 needs.
const SLOT: usize = 8192;
/// Kept by an idle mount: one to work and one to take over when that one blocks.
const FEWEST: usize = 2;
/// Virtual; only what is touched counts. File systems run decompressors and database queries on it.
const STACK: usize = 1 << 20;
/// A worker with nothing to do for so long gives back memory, and leaves if others remain.
const IDLE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};
/// After an error that no documentation foresees, so that a loop of them does not take a whole processor.
const PAUSE: Duration = Duration::from_millis(20);

const DEVICE: u64 = 0;
const PARK: u64 = 1;

/// One mounted `/dev/fuse` and who serves it.
///
/// Workers share one descriptor: a cloned one would take its requests with it when this process dies.
pub(crate) struct Connection {
    pub(crate) device: OwnedFd,
    /// Readable once serving shall stop.
    park: OwnedFd,
    pub(crate) responder: Responder,
    most: usize,
    /// Workers that wait for a request. At 0, a request that comes would wait for the slowest of us.
    idle: AtomicUsize,
    crew: Mutex<Crew>,
    changed: Condvar,
}

#[derive(Default)]
struct Crew {
    workers: usize,
    /// The kernel has let go of the connection.
    ended: bool,
}

impl Connection {
    pub(crate) fn new(device: OwnedFd, responder: Responder, most: usize) -> io::Result<Self> {
        Ok(Self {
            device,
            park: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            responder,
            most: most.max(FEWEST),
            idle: AtomicUsize::new(0),
            crew: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Starts the first workers.
    pub(crate) fn serve(self: &Arc<Self>) -> io::Result<()> {
        for _ in 0..FEWEST {
            self.hire()?;
        }
        Ok(())
    }

    /// Tells all workers to stop after what they are doing. The connection stays, unserved.
    pub(crate) fn park(&self) -> io::Result<()> {
        rustix::io::write(&self.park, &1u64.to_ne_bytes())?;
        Ok(())
    }

    pub(crate) fn is_served(&self) -> bool {
        let crew = self.crew();
        crew.workers > 0 && !crew.ended
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.crew().ended
    }

    /// Waits until nobody serves any more; `false` when that takes longer than `timeout`.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> bool {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut crew = self.crew();
        while crew.workers > 0 {
            crew = match deadline {
                None => self
                    .changed
                    .wait(crew)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    let woken = self.changed.wait_timeout(crew, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }

    fn crew(&self) -> MutexGuard<'_, Crew> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one more worker, unless there are enough.
    fn hire(self: &Arc<Self>) -> io::Result<()> {
        {
            let mut crew = self.crew();
            if crew.workers >= self.most || crew.ended {
                return Ok(());
            }
            crew.workers += 1;
        }
        self.idle.fetch_add(1, Ordering::Relaxed);
        self.responder.metrics.workers.inc();
        // From here on, dropping the seat takes all of that back.
        let seat = Seat {
            connection: Arc::clone(self),
            counted: true,
        };
        let worker = Worker::new(&seat)?;
        thread::Builder::new()
            .name("fuse-worker".into())
            .stack_size(STACK)
            .spawn(move || worker.run(seat))?;
        Ok(())
    }
}

/// A worker's place in the crew, given up even when it panics.
struct Seat {
    connection: Arc<Connection>,
    /// Counted among `Crew::workers`.
    counted: bool,
}

impl Seat {
    /// Notes that the kernel has let go of the connection.
    fn end(&self) {
        self.connection.crew().ended = true;
    }

    /// Gives the place up unless too few others would remain.
    fn leave(&mut self) -> bool {
        let mut crew = self.connection.crew();
        if crew.workers <= FEWEST {
            return false;
        }
        crew.workers -= 1;
        self.counted = false;
        true
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connection.idle.fetch_sub(1, Ordering::Relaxed);
        self.connection.responder.metrics.workers.dec();
        if self.counted {
            self.connection.crew().workers -= 1;
        }
        self.connection.changed.notify_all();
    }
}

/// What the wait for the next request brought.
enum Woken {
    Request,
    Park,
    Idle,
}

/// What became of a request.
enum Taken {
    /// Answered, or it was not there after all.
    Done,
    /// The connection is gone.
    Ended,
}

/// One worker's own: where it waits, and memory for a request and its answer.
struct Worker {
    events: OwnedFd,
    slot: Resident,
    reply: ReplyBuffer,
}

impl Worker {
    fn new(seat: &Seat) -> io::Result<Self> {
        let connection = &seat.connection;
        let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Exclusive: one request wakes one of the waiting workers, preferably the one that waits longest in the queue,
        // which is the one whose memory is warm.
        epoll::add(
            &events,
            &connection.device,
            epoll::EventData::new_u64(DEVICE),
            epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE,
        )?;
        epoll::add(
            &events,
            &connection.park,
            epoll::EventData::new_u64(PARK),
            epoll::EventFlags::IN,
        )?;
        Ok(Self {
            events,
            slot: locked_buffer(SLOT)?,
            reply: ReplyBuffer::new()?,
        })
    }

    fn run(mut self, mut seat: Seat) {
        let mut events = Vec::with_capacity(2);
        loop {
            match self.sleep(&mut events) {
                Woken::Request => {
                    if let Taken::Ended = self.take(&seat) {
                        return seat.end();
                    }
                }
                Woken::Park => return,
                Woken::Idle => {
                    self.reply.shrink();
                    if seat.leave() {
                        return;
                    }
                }
            }
        }
    }

    fn sleep(&self, events: &mut Vec<epoll::Event>) -> Woken {
        events.clear();
        match epoll::wait(&self.events, spare_capacity(events), Some(&IDLE)) {
            Ok(0) => Woken::Idle,
            Ok(_) if events.iter().any(|event| event.data.u64() == PARK) => Woken::Park,
            // An interrupted wait is followed by a read that finds nothing.
            Ok(_) | Err(_) => Woken::Request,
        }
    }

    /// Takes one request, if there still is one, and answers it.
    fn take(&mut self, seat: &Seat) -> Taken {
        let connection = &seat.connection;
        let len = match rustix::io::read(&connection.device, &mut *self.slot) {
            Ok(len) => len,
            // Another worker was faster, or the caller gave up (ENOENT).
            Err(Raw::AGAIN | Raw::INTR | Raw::NOENT) => return Taken::Done,
            Err(Raw::NODEV | Raw::CONNABORTED) => return Taken::Ended,
            Err(errno) => {
                tracing::error!(error = %errno, "reading a request failed");
                thread::sleep(PAUSE);
                return Taken::Done;
            }
        };
        if connection.idle.fetch_sub(1, Ordering::Relaxed) == 1
            && let Err(error) = connection.hire()
        {
            tracing::warn!(%error, "no further worker can be started");
        }
        if let Some(answer) = connection
            .responder
            .answer(&self.slot[..len], &mut self.reply)
        {
            match rustix::io::write(&connection.device, answer) {
                // ENOENT: the caller was killed meanwhile.
                Ok(_) | Err(Raw::NOENT | Raw::NODEV) => {}
                Err(errno) => tracing::error!(error = %errno, "the kernel refused an answer"),
            }
        }
        connection.idle.fetch_add(1, Ordering::Relaxed);
        Taken::Done
    }
}
