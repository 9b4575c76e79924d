use std::io::{self, Read};

use tokio::runtime::Handle;

/// An object that is read as it comes. The client's deadline between two pieces holds.
pub(super) struct ResponseReader {
    response: reqwest::Response,
    runtime: Handle,
    piece: Vec<u8>,
    at: usize,
}

impl ResponseReader {
    pub(super) fn new(response: reqwest::Response, runtime: Handle) -> Self {
        Self {
            response,
            runtime,
            piece: Vec::new(),
            at: 0,
        }
    }
}

impl Read for ResponseReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            let piece = self
                .runtime
                .block_on(self.response.chunk())
                .map_err(|error| io::Error::other(error.without_url()))?;
            let Some(piece) = piece else {
                return Ok(0);
            };
            self.piece = piece.to_vec();
            self.at = 0;
        }
        let length = buffer.len().min(self.piece.len() - self.at);
        buffer[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}
