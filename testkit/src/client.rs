//! A tiny HTTP client: one request, one connection, no pool; so that tests of servers depend on no other code.

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::http::{Headers, header, read_status};

/// No test waits longer for a byte.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// status code
    pub status: u16,
    /// header lines
    pub headers: Headers,
    /// the body, whole
    pub body: Vec<u8>,
}

impl Fetched {
    /// The first value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }
}

/// One request on a new connection: `request("GET", url, &[("Range", "bytes=0-9")], b"")`.
///
/// # Errors
/// If the server cannot be reached, or closes before its answer is complete.
pub fn request(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Fetched> {
    let (authority, path) = split_url(url)?;
    send(method, authority, authority, path, headers, body)
}

/// `GET` of a URL.
///
/// # Errors
/// As [`request`].
pub fn get(url: &str) -> io::Result<Fetched> {
    request("GET", url, &[], b"")
}

/// `GET` of a URL through the forward proxy at `proxy` (a URL).
///
/// # Errors
/// As [`request`].
pub fn get_via(proxy: &str, url: &str) -> io::Result<Fetched> {
    send("GET", split_url(proxy)?.0, split_url(url)?.0, url, &[], b"")
}

/// Host with port, and path with query.
pub(crate) fn split_url(url: &str) -> io::Result<(&str, &str)> {
    let rest = url
        .strip_prefix("http://")
        .ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rest
        .find('/')
        .map_or((rest, "/"), |slash| rest.split_at(slash)))
}

pub(crate) fn send(
    method: &str,
    peer: &str,
    host: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Fetched> {
    let stream = TcpStream::connect(peer)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    (&stream).write_all(text.as_bytes())?;
    (&stream).write_all(body)?;
    let mut reader = BufReader::new(&stream);
    let (status, headers) = read_status(&mut reader)?;
    let length = header(&headers, "content-length").and_then(|length| length.parse::<u64>().ok());
    let mut body = Vec::new();
    let expected = if method == "HEAD" { Some(0) } else { length };
    reader
        .take(expected.unwrap_or(u64::MAX))
        .read_to_end(&mut body)?;
    if expected.is_some_and(|expected| expected != body.len() as u64) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Fetched {
        status,
        headers,
        body,
    })
}
