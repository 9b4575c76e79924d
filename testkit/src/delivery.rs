//! One answer on its way: ranges, faults and the throttle.

use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::net::TcpStream;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::http::{Answer, Body, Incoming, reason};
use crate::server::{Request, Shared};

/// Bytes per write; small enough for an even bandwidth.
const PIECE: usize = 16 << 10;

/// One answer on its way.
pub(crate) struct Delivery<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) stream: &'a TcpStream,
    pub(crate) fault: Option<Fault>,
    /// generation and index of its entry in the log
    pub(crate) place: Option<(u64, usize)>,
    pub(crate) began: Instant,
    pub(crate) sent: u64,
}

impl Delivery<'_> {
    /// Changes the log's entry. Done *before* bytes go out: a client that has them all must find them in the log.
    pub(crate) fn record(&self, change: impl FnOnce(&mut Request)) {
        let Some((generation, index)) = self.place else {
            return;
        };
        let mut state = self.shared.state();
        if state.generation == generation {
            state.log[index].elapsed = self.began.elapsed();
            change(&mut state.log[index]);
        }
    }

    pub(crate) fn run(&mut self, request: &Incoming) -> io::Result<()> {
        let closed = || Err(io::ErrorKind::ConnectionAborted.into());
        let answer = match self.fault.clone() {
            Some(Fault::Close) => return closed(),
            Some(Fault::CloseMidHeader) => {
                self.stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le")?;
                return closed();
            }
            Some(Fault::StatusCode(status)) => Answer::status(status),
            Some(Fault::RetryAfter(status, seconds)) => {
                Answer::status(status).with("Retry-After", &seconds.to_string())
            }
            Some(Fault::Redirect(url)) => Answer::status(302).with("Location", &url),
            Some(Fault::Body(bytes)) => Answer::bytes("application/octet-stream", &bytes),
            Some(Fault::Stall(time)) => {
                self.shared.pause(time)?;
                self.handler_answer(request)
            }
            _ => self.handler_answer(request),
        };
        self.send(request, answer)
    }

    fn handler_answer(&self, request: &Incoming) -> Answer {
        match request.method.as_str() {
            "GET" | "HEAD" => self.shared.handler.answer(request),
            _ if self.shared.handler.takes_writes() => self.shared.handler.answer(request),
            _ => Answer::status(405),
        }
    }

    pub(crate) fn send(&mut self, request: &Incoming, mut answer: Answer) -> io::Result<()> {
        let length = answer.body.len();
        let mut range = 0..length;
        let ignore = matches!(self.fault, Some(Fault::IgnoreRange)) || answer.status != 200;
        match request.range(length).filter(|_| !ignore) {
            Some(Ok(wanted)) => {
                let text = format!("bytes {}-{}/{length}", wanted.start, wanted.end - 1);
                answer = Answer {
                    status: 206,
                    ..answer.with("Content-Range", &text)
                };
                range = wanted;
            }
            Some(Err(())) => {
                answer = Answer::status(416).with("Content-Range", &format!("bytes */{length}"));
                range = 0..answer.body.len();
            }
            None => {}
        }
        self.record(|entry| entry.status = answer.status);
        if self.place.is_some()
            && self.fault.is_none()
            && request.method == "GET"
            && matches!(answer.status, 200 | 206)
        {
            self.shared.note_delivery(request);
        }
        let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!(
            "Accept-Ranges: bytes\r\nContent-Length: {}\r\n\r\n",
            range.end - range.start
        ));
        let mut stream = self.stream;
        stream.write_all(head.as_bytes())?;
        if request.method == "HEAD" {
            return Ok(());
        }
        match &answer.body {
            Body::Bytes(bytes) => {
                self.send_body(&mut &bytes[range.start as usize..range.end as usize])
            }
            Body::File(path, _) => {
                let mut file = std::fs::File::open(path)?;
                file.seek(SeekFrom::Start(range.start))?;
                let Range { start, end } = range;
                self.send_body(&mut file.take(end - start))
            }
        }
    }

    fn send_body(&mut self, body: &mut dyn Read) -> io::Result<()> {
        let piece = match self.fault {
            Some(Fault::SlowDrip(bytes, _)) => bytes.clamp(1, PIECE),
            _ => PIECE,
        };
        let mut buffer = vec![0; piece];
        loop {
            let length = fill(body, &mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            self.send_piece(&mut buffer[..length])?;
        }
    }

    fn send_piece(&mut self, piece: &mut [u8]) -> io::Result<()> {
        let start = self.sent as usize;
        let covers = |offset: usize| (start..start + piece.len()).contains(&offset);
        match self.fault {
            Some(Fault::Truncate(keep)) if start + piece.len() >= keep => {
                self.write(&piece[..keep.saturating_sub(start)])?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            // A body shorter than the offset is damaged at its last byte: the last piece is the only short one.
            Some(Fault::FlipByte(offset)) if covers(offset) => piece[offset - start] ^= 0xff,
            Some(Fault::FlipByte(offset)) if offset >= start && piece.len() < PIECE => {
                piece[piece.len() - 1] ^= 0xff;
            }
            Some(Fault::StallAfter(offset, time)) if covers(offset) => {
                let (before, after) = piece.split_at(offset - start);
                self.write(before)?;
                self.shared.pause(time)?;
                return self.write(after);
            }
            Some(Fault::SlowDrip(_, time)) => self.shared.pause(time)?,
            _ => {}
        }
        self.write(piece)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(bandwidth) = self.shared.bandwidth {
            self.wait_for_line(bytes.len(), bandwidth)?;
        }
        self.sent += bytes.len() as u64;
        self.record(|entry| entry.bytes = self.sent);
        let mut stream = self.stream;
        stream.write_all(bytes)
    }

    /// All connections share one line: each piece waits until those before it have passed.
    fn wait_for_line(&self, bytes: usize, bandwidth: u64) -> io::Result<()> {
        let takes = Duration::from_secs_f64(bytes as f64 / bandwidth as f64);
        let now = Instant::now();
        let free = {
            let mut state = self.shared.state();
            state.line_free = state.line_free.max(now) + takes;
            state.line_free
        };
        self.shared.pause(free.saturating_duration_since(now))
    }
}

fn fill(body: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match body.read(&mut buffer[length..])? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}
