//! A tiny HTTP/1.1 server: keep-alive, ranges, absolute-form requests (as a proxy gets them), scripted faults, a log.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong with requests for a path.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This status, with a header line or none.
    Status(u16, &'static str),
    /// Other bytes, as a complete answer.
    Body(Vec<u8>),
    /// The right length is announced, the connection closes after this many bytes.
    CloseAfter(usize),
    /// Silence after this many bytes.
    StallAfter(usize),
}

/// One request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Logged {
    /// Path without leading slash.
    pub(crate) path: String,
    pub(crate) absolute: bool,
    pub(crate) no_cache: bool,
    pub(crate) range: Option<String>,
}

#[derive(Default)]
struct Shared {
    roots: Vec<PathBuf>,
    /// Faults by path, with the number of requests that they last.
    faults: Mutex<HashMap<String, (Fault, usize)>>,
    replaced: Mutex<HashMap<String, Vec<u8>>>,
    log: Mutex<Vec<Logged>>,
    stopped: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

/// A running server; stops on drop.
pub(crate) struct Server {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    /// Serves the files below any of the directories.
    pub(crate) fn serving(roots: Vec<PathBuf>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            roots,
            ..Shared::default()
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                stream.set_nodelay(true).unwrap();
                serving
                    .connections
                    .lock()
                    .unwrap()
                    .push(stream.try_clone().unwrap());
                let serving = serving.clone();
                std::thread::spawn(move || serve(&stream, &serving));
            }
        });
        Self { address, shared }
    }

    /// The fixture's repository.
    pub(crate) fn fixture() -> Self {
        Self::serving(vec![super::backend()])
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on requests for a path fail, at most `times`.
    pub(crate) fn fault(&self, path: &str, fault: Fault, times: usize) {
        self.shared
            .faults
            .lock()
            .unwrap()
            .insert(path.to_owned(), (fault, times));
    }

    /// From now on a path has other content.
    pub(crate) fn replace(&self, path: &str, body: Vec<u8>) {
        self.shared
            .replaced
            .lock()
            .unwrap()
            .insert(path.to_owned(), body);
    }

    pub(crate) fn log(&self) -> Vec<Logged> {
        self.shared.log.lock().unwrap().clone()
    }

    /// How often a path was asked for.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.log()
            .iter()
            .filter(|logged| logged.path == path)
            .count()
    }

    /// Stops: connections close, new ones are refused.
    pub(crate) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener, which then goes away.
        let _ = TcpStream::connect(self.address);
        for stream in self.shared.connections.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(stream: &TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader) {
        if shared.stopped.load(Ordering::SeqCst) || answer(stream, shared, &request).is_none() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<Logged> {
    let mut line = String::new();
    reader
        .read_line(&mut line)
        .ok()
        .filter(|length| *length > 0)?;
    let target = line.split(' ').nth(1)?.to_owned();
    let absolute = target.starts_with("http://");
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.split_once('/')?.1.to_owned(),
        None => target.trim_start_matches('/').to_owned(),
    };
    let mut logged = Logged {
        path,
        absolute,
        no_cache: false,
        range: None,
    };
    loop {
        let mut header = String::new();
        reader
            .read_line(&mut header)
            .ok()
            .filter(|length| *length > 0)?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            return Some(logged);
        }
        logged.no_cache |= header == "cache-control: no-cache";
        if let Some(range) = header.strip_prefix("range: ") {
            logged.range = Some(range.to_owned());
        }
    }
}

fn answer(stream: &TcpStream, shared: &Shared, request: &Logged) -> Option<()> {
    shared.log.lock().unwrap().push(request.clone());
    let fault = take_fault(shared, &request.path);
    let mut stream = stream;
    if let Some(Fault::Status(code, header)) = fault {
        let end = if header.is_empty() { "" } else { "\r\n" };
        let head = format!("HTTP/1.1 {code} Scripted\r\nContent-Length: 0\r\n{header}{end}\r\n");
        return stream.write_all(head.as_bytes()).ok();
    }
    let body = match &fault {
        Some(Fault::Body(body)) => Some(body.clone()),
        _ => content(shared, &request.path),
    };
    let Some(body) = body else {
        return stream
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            .ok();
    };
    let (status, body) = match request.range.as_deref().and_then(|range| cut(range, &body)) {
        Some(part) => ("206 Partial Content", part.to_vec()),
        None => ("200 OK", body),
    };
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    let head = bytes.len();
    bytes.extend_from_slice(&body);
    match fault {
        Some(Fault::CloseAfter(length)) => {
            let _ = stream.write_all(&bytes[..(head + length).min(bytes.len())]);
            None
        }
        Some(Fault::StallAfter(length)) => {
            let _ = stream.write_all(&bytes[..(head + length).min(bytes.len())]);
            std::thread::sleep(Duration::from_secs(5));
            None
        }
        _ => stream.write_all(&bytes).ok(),
    }
}

fn take_fault(shared: &Shared, path: &str) -> Option<Fault> {
    let mut faults = shared.faults.lock().unwrap();
    let (fault, times) = faults.get_mut(path)?;
    *times = times.checked_sub(1)?;
    Some(fault.clone())
}

fn content(shared: &Shared, path: &str) -> Option<Vec<u8>> {
    if let Some(body) = shared.replaced.lock().unwrap().get(path) {
        return Some(body.clone());
    }
    let path = decode(path);
    shared
        .roots
        .iter()
        .find_map(|root| std::fs::read(root.join(&path)).ok())
}

fn decode(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first == b'%' {
            let hex = std::str::from_utf8(&behind[..2]).unwrap();
            bytes.push(u8::from_str_radix(hex, 16).unwrap());
            rest = &behind[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn cut<'a>(range: &str, body: &'a [u8]) -> Option<&'a [u8]> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    body.get(first.parse().ok()?..=last.parse().ok()?)
}
