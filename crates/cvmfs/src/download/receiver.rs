//! What becomes of a body while it arrives.

use std::io::{self, Write};

use super::failure::Failure;
use crate::hash::{ContentHash, Hasher};
use crate::inflate::{self, InflateError, Stream};
use crate::object::Compression;

/// Stored bytes up to this number stay in memory until verified; larger bodies stream.
const BUFFERED_BYTES: usize = 4 << 20;

/// Why a transfer ends early.
#[derive(Debug)]
pub(crate) enum Interrupt {
    /// The server's or proxy's fault.
    Failed(Failure),
    /// The local disk's; another server does not help.
    Local(io::Error),
}

impl From<Failure> for Interrupt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<InflateError> for Interrupt {
    fn from(error: InflateError) -> Self {
        match error {
            InflateError::Sink(error) => Self::Local(error),
            InflateError::BadData | InflateError::Truncated | InflateError::TooLong(_) => {
                Self::Failed(Failure::Data(error.to_string()))
            }
        }
    }
}

/// Takes one body, perhaps after failed attempts.
pub(crate) trait Receiver {
    /// Forgets what came so far; false if that is impossible because it was handed on.
    fn restart(&mut self) -> bool;
    fn push(&mut self, bytes: &[u8]) -> Result<(), Interrupt>;
    /// Called at the end of the body; refuses it unless it is right.
    fn complete(&mut self) -> Result<(), Interrupt>;
}

/// A body that is kept in memory as it is.
#[derive(Default)]
pub(crate) struct Memory(pub(crate) Vec<u8>);

impl Receiver for Memory {
    fn restart(&mut self) -> bool {
        self.0.clear();
        true
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Interrupt> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn complete(&mut self) -> Result<(), Interrupt> {
        Ok(())
    }
}

/// What a stored object must be.
#[derive(Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) hash: ContentHash,
    pub(crate) compression: Compression,
    /// Decoded bytes, if known.
    pub(crate) size: Option<u64>,
    /// Most decoded bytes.
    pub(crate) limit: u64,
}

/// An object that is verified, decoded and handed on.
pub(crate) struct Decoded<'a> {
    expected: Expected,
    sink: &'a mut dyn Write,
    buffer: Vec<u8>,
    streaming: Option<Streaming>,
    computed: Option<ContentHash>,
}

struct Streaming {
    hasher: Hasher,
    inflate: Option<Stream>,
    decoded: u64,
}

impl<'a> Decoded<'a> {
    pub(crate) fn new(expected: Expected, sink: &'a mut dyn Write) -> Self {
        Self {
            expected,
            sink,
            buffer: Vec::new(),
            streaming: None,
            computed: None,
        }
    }

    /// Hash of the stored bytes of the accepted body.
    pub(crate) fn computed(&self) -> Option<ContentHash> {
        self.computed
    }

    fn limit(&self) -> u64 {
        self.expected.size.unwrap_or(self.expected.limit)
    }

    fn stream(&mut self, bytes: &[u8]) -> Result<(), Interrupt> {
        let limit = self.limit();
        let compressed = self.expected.compression == Compression::Zlib;
        let streaming = self.streaming.get_or_insert_with(|| Streaming {
            hasher: Hasher::new(self.expected.hash.algorithm),
            inflate: compressed.then(|| Stream::new(limit)),
            decoded: 0,
        });
        streaming.hasher.update(bytes);
        if let Some(inflate) = &mut streaming.inflate {
            inflate.push(bytes, self.sink)?;
            streaming.decoded = inflate.decoded();
        } else {
            streaming.decoded += bytes.len() as u64;
            if streaming.decoded > limit {
                return Err(InflateError::TooLong(limit).into());
            }
            self.sink.write_all(bytes).map_err(Interrupt::Local)?;
        }
        Ok(())
    }

    fn check_hash(&mut self, computed: ContentHash) -> Result<(), Interrupt> {
        self.computed = Some(computed);
        if computed == self.expected.hash {
            return Ok(());
        }
        Err(Failure::Data(format!("its hash is {computed}")).into())
    }

    fn check_size(&self, size: u64) -> Result<(), Interrupt> {
        match self.expected.size {
            Some(expected) if size != expected => {
                Err(Failure::Data(format!("{size} bytes decoded, not {expected}")).into())
            }
            _ => Ok(()),
        }
    }
}

impl Receiver for Decoded<'_> {
    fn restart(&mut self) -> bool {
        self.buffer.clear();
        self.streaming.is_none()
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Interrupt> {
        let whole = self
            .expected
            .size
            .is_none_or(|size| size <= inflate::WHOLE_BUFFER_LIMIT);
        if self.streaming.is_none() && whole && self.buffer.len() + bytes.len() <= BUFFERED_BYTES {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        if !self.buffer.is_empty() {
            let buffered = std::mem::take(&mut self.buffer);
            self.stream(&buffered)?;
        }
        self.stream(bytes)
    }

    fn complete(&mut self) -> Result<(), Interrupt> {
        if let Some(streaming) = self.streaming.take() {
            let decoded = streaming.decoded;
            // Stays in place so that a refused body can be told from an untouched sink.
            let hash = streaming.hasher.clone().finish();
            let finished = streaming.inflate.as_ref().map_or(Ok(()), Stream::finish);
            self.streaming = Some(streaming);
            self.check_hash(hash)?;
            finished?;
            return self.check_size(decoded);
        }
        self.check_hash(self.expected.hash.algorithm.digest(&self.buffer))?;
        let limit = self.limit();
        let decoded;
        let bytes = match self.expected.compression {
            Compression::Zlib => {
                decoded = inflate::whole(&self.buffer, self.expected.size, limit)?;
                &decoded
            }
            Compression::None => &self.buffer,
        };
        self.check_size(bytes.len() as u64)?;
        self.sink.write_all(bytes).map_err(Interrupt::Local)
    }
}
