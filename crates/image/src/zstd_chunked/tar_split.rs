//! All of a tar but the contents of its files, so that containers/storage can give back the very tar of an unpacked layer.
//! Format: `tar/storage` of vbatts/tar-split, one JSON object a line, in a zstd frame.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use zstd::stream::write::Encoder;

use super::frame;

const FILE: u8 = 1;
const SEGMENT: u8 = 2;

#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    payload: Option<String>,
    position: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

pub(crate) struct TarSplit {
    encoder: Encoder<'static, Vec<u8>>,
    position: u64,
    length: u64,
}

impl TarSplit {
    pub(crate) fn new(level: i32) -> io::Result<Self> {
        Ok(Self {
            encoder: frame::compressor(level)?,
            position: 0,
            length: 0,
        })
    }

    /// Bytes of the tar that are no content: padding, headers, the end.
    pub(crate) fn segment(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.line(SEGMENT, "", 0, Some(bytes))
    }

    /// A file of the tar, in the place of its content.
    pub(crate) fn file(&mut self, name: &str, size: u64, checksum: Crc64) -> io::Result<()> {
        let sum = checksum.finish();
        self.line(FILE, name, size, (size > 0).then_some(&sum[..]))
    }

    fn line(&mut self, kind: u8, name: &str, size: u64, payload: Option<&[u8]>) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Line {
            kind,
            name,
            size,
            payload: payload.map(|bytes| STANDARD.encode(bytes)),
            position: self.position,
        })?;
        line.push(b'\n');
        self.position += 1;
        self.length += line.len() as u64;
        self.encoder.write_all(&line)
    }

    /// The frame, and the length of what it holds.
    pub(crate) fn finish(self) -> io::Result<(Vec<u8>, u64)> {
        Ok((self.encoder.finish()?, self.length))
    }
}

/// CRC-64 of ISO 3309, as Go's `crc64.ISO`.
#[derive(Clone, Copy)]
pub(crate) struct Crc64(u64);

const POLYNOMIAL: u64 = 0xd800_0000_0000_0000;

const TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut sum = index as u64;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 {
                sum >> 1 ^ POLYNOMIAL
            } else {
                sum >> 1
            };
            bit += 1;
        }
        table[index] = sum;
        index += 1;
    }
    table
};

impl Crc64 {
    pub(crate) const fn new() -> Self {
        Self(!0)
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = TABLE[usize::from(self.0 as u8 ^ byte)] ^ self.0 >> 8;
        }
    }

    fn finish(self) -> [u8; 8] {
        (!self.0).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_as_go_computes_it() {
        // From Go's hash/crc64 tests.
        for (text, sum) in [
            ("", 0u64),
            ("a", 0x3420_0000_0000_0000),
            ("abcdefghij", 0x7f5b_6e21_b002_d367),
        ] {
            let mut checksum = Crc64::new();
            checksum.update(text.as_bytes());
            assert_eq!(checksum.finish(), sum.to_be_bytes(), "{text}");
        }
    }

    #[test]
    fn lines() {
        let mut split = TarSplit::new(3).unwrap();
        split.segment(b"abc").unwrap();
        split.segment(b"").unwrap();
        split.file("f", 0, Crc64::new()).unwrap();
        split.file("g", 1, Crc64::new()).unwrap();
        let (frame, length) = split.finish().unwrap();
        let text = frame::decompress_prefix(&frame, length as usize).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "{\"type\":2,\"payload\":\"YWJj\",\"position\":0}\n\
             {\"type\":1,\"name\":\"f\",\"payload\":null,\"position\":1}\n\
             {\"type\":1,\"name\":\"g\",\"size\":1,\"payload\":\"AAAAAAAAAAA=\",\"position\":2}\n"
        );
    }
}
