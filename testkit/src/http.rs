//! HTTP/1.1 messages, as much as clients of Stratum 1s and registries need.

use std::io::{self, BufRead, Read as _};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Longest accepted line of a header.
const MAX_LINE: u64 = 16 << 10;
/// Most accepted header lines.
const MAX_HEADERS: usize = 200;
/// Longest accepted request body: control requests, and uploads, which some clients send whole.
const MAX_BODY: u64 = 1 << 30;

/// Header lines in their order.
pub type Headers = Vec<(String, String)>;

/// The first value of a header, whatever the case of its name.
pub(crate) fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(one, _)| one.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// A parsed request.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// `GET`, `HEAD` …
    pub method: String,
    /// As it stands in the request line; absolute when a proxy is asked.
    pub target: String,
    /// header lines
    pub headers: Headers,
    /// What followed the header.
    pub body: Vec<u8>,
}

impl Incoming {
    /// Path and query, without the scheme and host of an absolute target.
    #[must_use]
    pub fn path(&self) -> &str {
        match self.target.split_once("://") {
            Some((scheme, rest)) if !scheme.contains('/') => {
                rest.find('/').map_or("/", |slash| &rest[slash..])
            }
            _ => &self.target,
        }
    }

    /// The path without its query, percent-decoded.
    #[must_use]
    pub fn decoded_path(&self) -> Vec<u8> {
        decode(self.path().split('?').next().unwrap_or_default())
    }

    /// Values of a parameter of the query, decoded.
    #[must_use]
    pub fn query(&self, name: &str) -> Vec<String> {
        let query = self.path().split_once('?').map_or("", |(_, query)| query);
        form(query, name)
    }

    /// The single byte range that is asked for of an object of `length` bytes. Err: unsatisfiable.
    pub fn range(&self, length: u64) -> Option<Result<Range<u64>, ()>> {
        let (from, to) = header(&self.headers, "range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        let range = match (from.parse::<u64>(), to.parse::<u64>()) {
            (Ok(from), Ok(to)) if from <= to => from..to.saturating_add(1).min(length),
            (Ok(from), Err(_)) if to.is_empty() => from..length,
            (Err(_), Ok(suffix)) if from.is_empty() => length.saturating_sub(suffix)..length,
            // Malformed or several ranges: a server may answer with the whole.
            _ => return None,
        };
        Some(if range.start < range.end {
            Ok(range)
        } else {
            Err(())
        })
    }
}

/// Values of a field of a form or query.
pub(crate) fn form(text: &str, name: &str) -> Vec<String> {
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| String::from_utf8_lossy(&decode(&value.replace('+', " "))).into_owned())
        .collect()
}

fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let escape = bytes
            .get(index + 1..index + 3)
            .and_then(|hex| std::str::from_utf8(hex).ok());
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if bytes[index] == b'%' => {
                decoded.push(byte);
                index += 3;
            }
            _ => {
                decoded.push(bytes[index]);
                index += 1;
            }
        }
    }
    decoded
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    reader.take(MAX_LINE).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return if line.is_empty() {
            Ok(None)
        } else {
            Err(io::ErrorKind::InvalidData.into())
        };
    }
    let text = String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Header lines up to the empty one.
pub(crate) fn read_headers(reader: &mut impl BufRead) -> io::Result<Headers> {
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(headers);
        }
        let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
        headers.push((name.to_owned(), value.trim().to_owned()));
        if headers.len() > MAX_HEADERS {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// The next request of a connection; None if the client closed it.
pub(crate) fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Incoming>> {
    let Some(line) = read_line(reader)? else {
        return Ok(None);
    };
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(_version)) = (words.next(), words.next(), words.next())
    else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let headers = read_headers(reader)?;
    let length = header(&headers, "content-length")
        .and_then(|length| length.parse::<u64>().ok())
        .unwrap_or(0);
    if length > MAX_BODY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    Ok(Some(Incoming {
        method: method.to_owned(),
        target: target.to_owned(),
        headers,
        body,
    }))
}

/// First line and headers of a response.
pub(crate) fn read_status(reader: &mut impl BufRead) -> io::Result<(u16, Headers)> {
    let line = read_line(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, read_headers(reader)?))
}

/// What a handler answers; the server cuts ranges out of it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// status code
    pub status: u16,
    /// Without Content-Length, which the server knows.
    pub headers: Headers,
    /// whole body
    pub body: Body,
}

/// Where a body's bytes are.
#[derive(Clone, Debug)]
pub enum Body {
    /// in memory
    Bytes(Arc<[u8]>),
    /// in a file, read when it is sent
    File(PathBuf, u64),
}

impl Body {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, length) => *length,
        }
    }
}

impl Answer {
    /// 200 with these bytes.
    #[must_use]
    pub fn bytes(content_type: &str, bytes: &[u8]) -> Self {
        let headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
        Self {
            status: 200,
            headers,
            body: Body::Bytes(bytes.into()),
        }
    }

    /// This status with a line of text.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::bytes(
                "text/plain",
                format!("{status} {}\n", reason(status)).as_bytes(),
            )
        }
    }

    /// 200 with a file's content, or 404.
    #[must_use]
    pub fn file(content_type: &str, path: PathBuf) -> Self {
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Self {
                body: Body::File(path, metadata.len()),
                ..Self::bytes(content_type, b"")
            },
            _ => Self::status(404),
        }
    }

    /// Adds a header line.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// The words after a status code.
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        302 => "Found",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Incoming {
        read_request(&mut text.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn targets() {
        for (target, path) in [
            ("/a?b", "/a?b"),
            ("http://h:1/a/b", "/a/b"),
            ("http://h", "/"),
            ("/x?u=http://h/", "/x?u=http://h/"),
        ] {
            assert_eq!(
                request(&format!("GET {target} HTTP/1.1\r\n\r\n")).path(),
                path
            );
        }
        assert_eq!(
            request("GET /a%20b%2f%zz%?q HTTP/1.1\r\n\r\n").decoded_path(),
            b"/a b/%zz%"
        );
    }

    #[test]
    fn ranges() {
        for (text, expected) in [
            ("bytes=0-0", Some(Ok(0..1))),
            ("bytes=5-", Some(Ok(5..10))),
            ("bytes=-3", Some(Ok(7..10))),
            ("bytes=-30", Some(Ok(0..10))),
            ("bytes=8-99", Some(Ok(8..10))),
            ("bytes=10-", Some(Err(()))),
            ("bytes=4-3", None),
            ("bytes=0-1,3-4", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(
                request(&format!("GET / HTTP/1.1\r\nRange: {text}\r\n\r\n")).range(10),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn bad_requests_are_errors() {
        for text in [
            "GET\r\n\r\n",
            "GET / HTTP/1.1\r\nx\r\n\r\n",
            "GET / HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        ] {
            assert!(read_request(&mut text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(read_request(&mut &b""[..]).unwrap().is_none());
    }
}
