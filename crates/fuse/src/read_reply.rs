//! The answer to a READ while it is filled.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::errno::Errno;

/// Room for the bytes of one READ: as many as were asked for, in resident memory of the worker.
///
/// Less than was asked for means that the file ends there.
pub struct ReadReply<'a> {
    buffer: &'a mut [u8],
    filled: usize,
}

impl<'a> ReadReply<'a> {
    /// An answer of up to `buffer.len()` bytes.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, filled: 0 }
    }

    /// How many more bytes are wanted.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.buffer.len() - self.filled
    }

    /// Bytes put so far.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Appends as much of `bytes` as is wanted, and says how much.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(self.remaining());
        self.space(len).copy_from_slice(&bytes[..len]);
        self.filled += len;
        len
    }

    /// Appends up to `len` zeros (a hole), and says how many.
    pub fn push_zeros(&mut self, len: u64) -> usize {
        let len = self.wanted(len);
        self.space(len).fill(0);
        self.filled += len;
        len
    }

    /// Appends up to `len` bytes of `file` from `offset` on; fewer only when enough are there or the file ends.
    ///
    /// # Errors
    /// What pread(2) says; nothing is appended then.
    pub fn push_file(&mut self, file: &File, offset: u64, len: u64) -> Result<usize, Errno> {
        let len = self.wanted(len);
        let space = self.space(len);
        let mut read = 0;
        while read < len {
            match file.read_at(&mut space[read..], offset.saturating_add(read as u64)) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.filled += read;
        Ok(read)
    }

    /// Appends up to `len` bytes written in place by `fill`, which gets room for them (perhaps less than `len`, if
    /// fewer are wanted) and says how many it wrote; more than the room count as all of it.
    ///
    /// # Errors
    /// Those of `fill`; nothing is appended then.
    pub fn push_with<E>(
        &mut self,
        len: u64,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let len = self.wanted(len);
        let written = fill(self.space(len))?.min(len);
        self.filled += written;
        Ok(written)
    }

    fn wanted(&self, len: u64) -> usize {
        usize::try_from(len)
            .unwrap_or(usize::MAX)
            .min(self.remaining())
    }

    fn space(&mut self, len: usize) -> &mut [u8] {
        &mut self.buffer[self.filled..self.filled + len]
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn pushes_append_and_stop_at_the_end() {
        let mut buffer = [9u8; 10];
        let mut reply = ReadReply::new(&mut buffer);
        assert_eq!(reply.push(b"abc"), 3);
        assert_eq!(reply.push_zeros(2), 2);
        assert_eq!(reply.remaining(), 5);
        assert_eq!(reply.push(b"defghijk"), 5);
        assert_eq!(reply.push(b"x"), 0);
        assert_eq!(reply.push_zeros(u64::MAX), 0);
        assert_eq!(reply.filled(), b"abc\0\0defgh");
    }

    #[test]
    fn files_are_read_at_their_offset_up_to_their_end() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut buffer = [0u8; 8];
        let mut reply = ReadReply::new(&mut buffer);
        assert_eq!(reply.push_file(&file, 2, 3), Ok(3));
        assert_eq!(reply.push_file(&file, 8, 100), Ok(2));
        assert_eq!(reply.push_file(&file, 10, 100), Ok(0));
        assert_eq!(reply.push_file(&file, 0, u64::MAX), Ok(3));
        assert_eq!(reply.filled(), b"23489012");
    }

    #[test]
    fn a_failed_read_appends_nothing() {
        let directory = File::open("/").unwrap();
        let mut buffer = [0u8; 8];
        let mut reply = ReadReply::new(&mut buffer);
        assert_eq!(reply.push_file(&directory, 0, 8), Err(Errno::EISDIR));
        assert_eq!(reply.push_with(8, |_| Err::<usize, _>("no")), Err("no"));
        assert_eq!(reply.filled(), b"");
    }

    #[test]
    fn bytes_written_in_place_count_as_far_as_said() {
        let mut buffer = [0u8; 4];
        let mut reply = ReadReply::new(&mut buffer);
        let written = reply.push_with(100, |space| {
            assert_eq!(space.len(), 4);
            space[..2].copy_from_slice(b"ab");
            Ok::<_, ()>(2)
        });
        assert_eq!(written, Ok(2));
        assert_eq!(reply.push_with(1, |_| Ok::<_, ()>(1000)), Ok(1));
        assert_eq!(reply.filled(), b"ab\0");
    }
}
