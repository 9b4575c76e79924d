//! The worker's memory for answers: header and body in one piece, always resident.

use sys::{Resident, locked_buffer};
use zerocopy::IntoBytes;

use crate::abi;
use crate::errno::Errno;
use crate::init::MAX_READ;

/// Where bodies start: room for the header before, on a cache line.
const BODY: usize = 64;
const HEADER: usize = BODY - size_of::<abi::OutHeader>();
/// Bodies up to this fit the part that every worker keeps: any listing that C libraries ask for, the largest extended
/// attribute, reads of small files.
const SMALL: usize = 64 << 10;
const LARGE: usize = MAX_READ as usize;

/// Memory for one answer at a time.
pub(crate) struct ReplyBuffer {
    small: Resident,
    /// Mapped at the first large read and given back when the worker has nothing to do.
    large: Option<Resident>,
}

/// One answer, its header yet unwritten.
pub(crate) struct Reply<'a> {
    bytes: &'a mut [u8],
}

impl ReplyBuffer {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            small: locked_buffer(BODY + SMALL)?,
            large: None,
        })
    }

    /// Room for a body of `size` bytes.
    ///
    /// # Errors
    /// `EINVAL` for more than the largest READ, `ENOMEM` when the memory cannot be had.
    pub(crate) fn reply(&mut self, size: usize) -> Result<Reply<'_>, Errno> {
        let memory = if size <= SMALL {
            &mut self.small
        } else if size <= LARGE {
            match &mut self.large {
                Some(large) => large,
                large => large.insert(locked_buffer(BODY + LARGE).map_err(|_| Errno::ENOMEM)?),
            }
        } else {
            return Err(Errno::EINVAL);
        };
        Ok(Reply {
            bytes: &mut memory[..BODY + size],
        })
    }

    /// Room for the header alone.
    pub(crate) fn header_only(&mut self) -> Reply<'_> {
        Reply {
            bytes: &mut self.small[..BODY],
        }
    }

    /// Gives back what only large reads need.
    pub(crate) fn shrink(&mut self) {
        self.large = None;
    }
}

impl<'a> Reply<'a> {
    pub(crate) fn body(&mut self) -> &mut [u8] {
        &mut self.bytes[BODY..]
    }

    /// The whole answer: header, then the first `len` bytes of the body.
    pub(crate) fn finish(self, unique: u64, len: usize) -> &'a [u8] {
        self.seal(unique, 0, len)
    }

    /// An answer without a body.
    pub(crate) fn fail(self, unique: u64, errno: Errno) -> &'a [u8] {
        self.seal(unique, -errno.number(), 0)
    }

    fn seal(self, unique: u64, error: i32, len: usize) -> &'a [u8] {
        let header = abi::OutHeader {
            // Bodies are bounded by `LARGE`.
            #[allow(clippy::cast_possible_truncation)]
            len: (size_of::<abi::OutHeader>() + len) as u32,
            error,
            unique,
        };
        self.bytes[HEADER..BODY].copy_from_slice(header.as_bytes());
        &self.bytes[HEADER..BODY + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_body_are_one_piece() {
        let mut buffer = ReplyBuffer::new().unwrap();
        let mut reply = buffer.reply(10).unwrap();
        assert_eq!(reply.body().len(), 10);
        reply.body()[..3].copy_from_slice(b"abc");
        let bytes = reply.finish(1 << 63 | 5, 3);
        let mut expected = Vec::new();
        expected.extend_from_slice(&19u32.to_ne_bytes());
        expected.extend_from_slice(&0i32.to_ne_bytes());
        expected.extend_from_slice(&(1u64 << 63 | 5).to_ne_bytes());
        expected.extend_from_slice(b"abc");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn errors_are_negative_and_have_no_body() {
        let mut buffer = ReplyBuffer::new().unwrap();
        let bytes = buffer.reply(100).unwrap().fail(7, Errno::ENOENT).to_vec();
        assert_eq!(bytes.len(), 16);
        assert_eq!(bytes[4..8], (-2i32).to_ne_bytes());
        assert_eq!(buffer.header_only().fail(7, Errno::ENOENT), bytes);
    }

    #[test]
    fn sizes_up_to_the_largest_read_have_room() {
        let mut buffer = ReplyBuffer::new().unwrap();
        for size in [0, SMALL, SMALL + 1, LARGE] {
            assert_eq!(buffer.reply(size).unwrap().body().len(), size);
        }
        assert_eq!(buffer.reply(LARGE + 1).err(), Some(Errno::EINVAL));
        buffer.shrink();
        assert!(buffer.large.is_none());
        assert_eq!(
            buffer.reply(LARGE).unwrap().finish(1, LARGE).len(),
            LARGE + 16
        );
    }
}
