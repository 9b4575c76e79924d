//! The server that Stratum 1, registry and proxy share: a thread per connection, faults, throttle, log.

use std::collections::HashMap;
use std::io::{self, BufReader};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::delivery::Delivery;
use crate::fault::{Fault, Rule, When, parse_rule};
use crate::http::{Answer, Headers, Incoming, header, read_request};

/// A client that takes nothing for so long is dropped.
const WRITE_DEADLINE: Duration = Duration::from_secs(120);

/// Answers requests; everything about time and faults is the server's.
pub trait Handler: Send + Sync + 'static {
    /// The answer to a GET or HEAD.
    fn answer(&self, request: &Incoming) -> Answer;

    /// Whether other methods are answered too.
    fn takes_writes(&self) -> bool {
        false
    }

    /// The object that a path names, if fetching it twice is wrong in strict mode.
    fn object(&self, path: &str) -> Option<String>;
}

/// One request as the server saw it.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `HEAD` …
    pub method: String,
    /// Path with query, without the host of an absolute target.
    pub path: String,
    /// The request's header lines.
    pub headers: Headers,
    /// Status sent; 0 if the connection was closed before.
    pub status: u16,
    /// Bytes of the body that were sent.
    pub bytes: u64,
    /// Since the server's start.
    pub started: Duration,
    /// Until the last byte.
    pub elapsed: Duration,
    /// Whether a fault struck.
    pub faulted: bool,
}

impl Request {
    /// The `Range` header.
    #[must_use]
    pub fn range(&self) -> Option<&str> {
        header(&self.headers, "range")
    }
}

/// What a server does beyond answering.
#[derive(Debug, Default)]
pub(crate) struct Behaviour {
    pub(crate) rules: Vec<Rule>,
    pub(crate) latency: Duration,
    /// bytes a second, all connections together
    pub(crate) bandwidth: Option<u64>,
    pub(crate) strict: bool,
}

/// A running server; stops when dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

pub(crate) struct Shared {
    address: SocketAddr,
    pub(crate) handler: Box<dyn Handler>,
    state: Mutex<State>,
    /// Wakes stalled connections when the server stops.
    stopped: Condvar,
    stop: AtomicBool,
    started: Instant,
    latency: Duration,
    pub(crate) bandwidth: Option<u64>,
    strict: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Shared")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

pub(crate) struct State {
    rules: Vec<Arc<Rule>>,
    pub(crate) log: Vec<Request>,
    /// Counts how often the log was cleared: requests under way then must not write into it.
    pub(crate) generation: u64,
    /// object → deliveries
    delivered: HashMap<String, u64>,
    connections: Vec<TcpStream>,
    /// When the throttled line is free again.
    pub(crate) line_free: Instant,
}

impl State {
    fn forget(&mut self) {
        self.log.clear();
        self.delivered.clear();
        self.generation += 1;
    }
}

impl Server {
    pub(crate) fn start(
        handler: Box<dyn Handler>,
        behaviour: Behaviour,
        listen: &str,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        let started = Instant::now();
        let state = State {
            rules: behaviour.rules.into_iter().map(Arc::new).collect(),
            log: Vec::new(),
            generation: 0,
            delivered: HashMap::new(),
            connections: Vec::new(),
            line_free: started,
        };
        let shared = Arc::new(Shared {
            address: listener.local_addr()?,
            handler,
            state: Mutex::new(state),
            stopped: Condvar::new(),
            stop: AtomicBool::new(false),
            started,
            latency: behaviour.latency,
            bandwidth: behaviour.bandwidth,
            strict: behaviour.strict,
        });
        let theirs = Arc::clone(&shared);
        let acceptor = std::thread::Builder::new()
            .name("acceptor".into())
            .spawn(move || accept(&listener, &theirs))?;
        Ok(Self {
            shared,
            acceptor: Some(acceptor),
        })
    }

    /// `http://127.0.0.1:<port>`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// Address with port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// All requests so far, in the order in which they came.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().log.clone()
    }

    /// The requests whose path contains `text`.
    #[must_use]
    pub fn requests_for(&self, text: &str) -> Vec<Request> {
        self.requests()
            .into_iter()
            .filter(|request| request.path.contains(text))
            .collect()
    }

    /// Bytes of all bodies sent.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.shared
            .state()
            .log
            .iter()
            .map(|request| request.bytes)
            .sum()
    }

    /// Forgets the log and what strict mode has seen.
    pub fn clear_log(&self) {
        self.shared.state().forget();
    }

    /// Adds a fault while the server runs.
    pub fn fault(&self, when: When, fault: Fault) {
        self.shared
            .state()
            .rules
            .push(Arc::new(Rule::new(when, fault)));
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.shared.state().rules.clear();
    }

    /// # Panics
    /// In strict mode, if an object was delivered whole (or the same range of it) more than once.
    pub fn assert_strict(&self) {
        assert!(
            self.shared.strict,
            "the server was not started in strict mode"
        );
        let state = self.shared.state();
        let mut twice: Vec<_> = state
            .delivered
            .iter()
            .filter(|(_, count)| **count > 1)
            .collect();
        twice.sort();
        assert!(
            twice.is_empty(),
            "objects fetched more than once: {twice:?}"
        );
    }

    /// The log as JSON, as `GET /_testkit/log` gives it.
    #[must_use]
    pub fn log_json(&self) -> String {
        self.shared.log_json()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        self.shared.stop.store(true, Ordering::SeqCst);
        for connection in state.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.stopped.notify_all();
        // Wakes the acceptor out of accept().
        let _ = TcpStream::connect(self.shared.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let Ok(twin) = stream.try_clone() else {
            continue;
        };
        {
            let mut state = shared.state();
            // Those that ended have no peer any more.
            state
                .connections
                .retain(|connection| connection.peer_addr().is_ok());
            state.connections.push(twin);
        }
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            // A client that hangs up is no failure of the server.
            let _ = serve(&stream, &shared);
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(WRITE_DEADLINE))?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        let close = header(&request.headers, "connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if request.path().starts_with("/_testkit/") {
            let answer = shared.control(&request);
            Delivery {
                shared,
                stream,
                fault: None,
                place: None,
                began: Instant::now(),
                sent: 0,
            }
            .send(&request, answer)?;
        } else {
            shared.handle(&request, stream)?;
        }
        if close {
            break;
        }
    }
    Ok(())
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps, or until the server stops.
    pub(crate) fn pause(&self, time: Duration) -> io::Result<()> {
        let deadline = Instant::now() + time;
        let mut state = self.state();
        while !self.stop.load(Ordering::SeqCst) {
            let Some(left) = deadline
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())
            else {
                return Ok(());
            };
            state = self
                .stopped
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    fn handle(&self, request: &Incoming, stream: &TcpStream) -> io::Result<()> {
        let began = Instant::now();
        let rules = self.state().rules.clone();
        // Every rule counts every request that matches it; the first that strikes wins.
        let fault = rules
            .iter()
            .filter_map(|rule| rule.strike(request.path()))
            .collect::<Vec<_>>()
            .into_iter()
            .next();
        let entry = Request {
            method: request.method.clone(),
            path: request.path().to_owned(),
            headers: request.headers.clone(),
            status: 0,
            bytes: 0,
            started: began - self.started,
            elapsed: Duration::ZERO,
            faulted: fault.is_some(),
        };
        let place = {
            let mut state = self.state();
            state.log.push(entry);
            Some((state.generation, state.log.len() - 1))
        };
        let mut delivery = Delivery {
            shared: self,
            stream,
            fault,
            place,
            began,
            sent: 0,
        };
        let result = self
            .pause(self.latency)
            .and_then(|()| delivery.run(request));
        // Notes the time until the last byte.
        delivery.record(|_| ());
        result
    }

    /// Strict mode: notes that an object goes out undamaged.
    pub(crate) fn note_delivery(&self, request: &Incoming) {
        if let Some(object) = self.handler.object(request.path()) {
            let range = header(&request.headers, "range").unwrap_or_default();
            *self
                .state()
                .delivered
                .entry(format!("{object} {range}").trim_end().to_owned())
                .or_default() += 1;
        }
    }

    fn control(&self, request: &Incoming) -> Answer {
        match (request.method.as_str(), request.path()) {
            ("GET", "/_testkit/log") => {
                Answer::bytes("application/json", self.log_json().as_bytes())
            }
            ("POST", "/_testkit/reset") => {
                let mut state = self.state();
                state.rules.clear();
                state.forget();
                Answer::bytes("application/json", b"{}")
            }
            ("POST", "/_testkit/fault") => match parse_rule(&request.body) {
                Ok((when, fault)) => {
                    self.state().rules.push(Arc::new(Rule::new(when, fault)));
                    Answer::bytes("application/json", b"{}")
                }
                Err(error) => Answer {
                    status: 400,
                    ..Answer::bytes("text/plain", error.to_string().as_bytes())
                },
            },
            _ => Answer::status(404),
        }
    }

    fn log_json(&self) -> String {
        let state = self.state();
        let lines: Vec<_> = state.log.iter().map(request_json).collect();
        serde_json::Value::Array(lines).to_string()
    }
}

fn request_json(request: &Request) -> serde_json::Value {
    let headers: serde_json::Map<_, _> = request
        .headers
        .iter()
        .map(|(name, value)| (name.to_lowercase(), value.as_str().into()))
        .collect();
    json!({
        "method": request.method, "path": request.path, "status": request.status, "bytes": request.bytes,
        "started_ms": request.started.as_secs_f64() * 1e3, "elapsed_ms": request.elapsed.as_secs_f64() * 1e3,
        "faulted": request.faulted, "headers": headers,
    })
}
