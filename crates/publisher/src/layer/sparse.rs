//! Files with holes: which parts of them a tar holds.
//!
//! GNU tar has four ways to write them: its own header type `S`, and PAX records in versions 0.0 (a record for each number), 0.1 (all
//! numbers in one) and 1.0 (numbers before the content).

use std::io::{self, Read};

use super::error::LayerError;
use super::limits::LayerLimits;
use super::pax::{Records, decimal};

/// Parts that are there: offset and length, ascending, not touching what lies outside of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Map {
    pub(crate) pieces: Vec<(u64, u64)>,
    /// Of the file, holes included.
    pub(crate) size: u64,
}

impl Map {
    /// Checks a map against the bytes that are stored.
    pub(crate) fn checked(self, path: &[u8], stored: u64) -> Result<Self, LayerError> {
        let mut end = 0_u64;
        let mut sum = 0_u64;
        for (offset, length) in &self.pieces {
            let next = offset.checked_add(*length);
            let Some(next) = next.filter(|next| *offset >= end && *next <= self.size) else {
                return Err(LayerError::entry(
                    path,
                    "its map of holes is out of order or exceeds its size",
                ));
            };
            end = next;
            sum += length;
        }
        if sum != stored {
            return Err(LayerError::entry(
                path,
                format!("its map of holes speaks of {sum} bytes, the tar holds {stored}"),
            ));
        }
        Ok(self)
    }
}

/// What PAX records say about holes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stated {
    /// Nothing.
    Dense,
    /// Everything (0.0 and 0.1).
    Map(Map),
    /// The size; the map comes before the content (1.0).
    Ahead(u64),
}

/// The name that the sparse file really has.
pub(crate) fn name(records: &Records) -> Option<&[u8]> {
    records.get("GNU.sparse.name")
}

/// Reads what the records say.
pub(crate) fn stated(
    path: &[u8],
    records: &Records,
    limits: &LayerLimits,
) -> Result<Stated, LayerError> {
    let size = match records.number(path, "GNU.sparse.realsize")? {
        Some(size) => Some(size),
        None => records.number(path, "GNU.sparse.size")?,
    };
    let Some(size) = size else {
        return Ok(Stated::Dense);
    };
    if let Some(major) = records.get("GNU.sparse.major") {
        return match (major, records.get("GNU.sparse.minor")) {
            (b"1", Some(b"0")) => Ok(Stated::Ahead(size)),
            _ => Err(LayerError::entry(
                path,
                "its kind of sparse file is unknown",
            )),
        };
    }
    let mut numbers = Vec::new();
    for (key, value) in records.iter() {
        match key {
            b"GNU.sparse.map" => {
                numbers = value.split(|byte| *byte == b',').collect();
            }
            b"GNU.sparse.offset" if numbers.len() % 2 == 0 => numbers.push(value),
            b"GNU.sparse.numbytes" if numbers.len() % 2 == 1 => numbers.push(value),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                return Err(LayerError::entry(path, "its map of holes is out of order"));
            }
            _ => {}
        }
    }
    let numbers: Option<Vec<u64>> = numbers.into_iter().map(decimal).collect();
    let numbers = numbers
        .filter(|numbers| numbers.len() % 2 == 0)
        .ok_or_else(|| LayerError::entry(path, "its map of holes is malformed"))?;
    pieces_within(path, numbers.len() / 2, limits)?;
    let pieces = numbers.chunks(2).map(|pair| (pair[0], pair[1])).collect();
    Ok(Stated::Map(Map { pieces, size }))
}

pub(crate) fn pieces_within(
    path: &[u8],
    pieces: usize,
    limits: &LayerLimits,
) -> Result<(), LayerError> {
    if pieces > limits.sparse_pieces {
        return Err(LayerError::entry(
            path,
            format!("it has more than {} pieces", limits.sparse_pieces),
        ));
    }
    Ok(())
}

/// Reads the map before the content (1.0): how many pieces, then offset and length of each, a number a line, padded to whole blocks.
/// Gives the map and how many bytes it took.
pub(crate) fn read_ahead(
    path: &[u8],
    content: &mut dyn Read,
    size: u64,
    limits: &LayerLimits,
) -> Result<(Map, u64), LayerError> {
    let malformed = || LayerError::entry(path, "its map of holes is malformed");
    let mut lines = Lines::default();
    let count = lines.number(content)?.ok_or_else(malformed)?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    pieces_within(path, count, limits)?;
    let mut pieces = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        let offset = lines.number(content)?.ok_or_else(malformed)?;
        let length = lines.number(content)?.ok_or_else(malformed)?;
        pieces.push((offset, length));
    }
    Ok((Map { pieces, size }, lines.taken))
}

/// Numbers, one a line, read in whole blocks.
#[derive(Default)]
struct Lines {
    block: Vec<u8>,
    at: usize,
    taken: u64,
}

impl Lines {
    fn byte(&mut self, content: &mut dyn Read) -> Result<u8, LayerError> {
        if self.at == self.block.len() {
            self.block.resize(512, 0);
            content
                .read_exact(&mut self.block)
                .map_err(LayerError::from_io)?;
            self.at = 0;
            self.taken += 512;
        }
        self.at += 1;
        Ok(self.block[self.at - 1])
    }

    fn number(&mut self, content: &mut dyn Read) -> Result<Option<u64>, LayerError> {
        let mut digits = Vec::new();
        loop {
            match self.byte(content)? {
                b'\n' => return Ok(decimal(&digits)),
                byte if byte.is_ascii_digit() && digits.len() < 20 => digits.push(byte),
                _ => return Ok(None),
            }
        }
    }
}

/// The whole file: zeros where the tar holds nothing.
pub(crate) struct Expanded<'a> {
    pub(crate) stored: &'a mut dyn Read,
    pub(crate) map: &'a Map,
    piece: usize,
    position: u64,
}

impl<'a> Expanded<'a> {
    pub(crate) fn new(stored: &'a mut dyn Read, map: &'a Map) -> Self {
        Self {
            stored,
            map,
            piece: 0,
            position: 0,
        }
    }

    /// How many bytes follow of the same sort, and whether they are stored.
    fn run(&mut self) -> (u64, bool) {
        while let Some((offset, length)) = self.map.pieces.get(self.piece) {
            if self.position < *offset {
                return (offset - self.position, false);
            }
            if self.position < offset + length {
                return (offset + length - self.position, true);
            }
            self.piece += 1;
        }
        (self.map.size - self.position, false)
    }
}

impl Read for Expanded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (left, stored) = self.run();
        let room = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = match stored {
            true => self.stored.read(&mut buffer[..room])?,
            false => {
                buffer[..room].fill(0);
                room
            }
        };
        if count == 0 && room > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += count as u64;
        Ok(count)
    }
}
