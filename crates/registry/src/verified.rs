use std::io::{self, Read};

use image::{Descriptor, Digest};
use sha2::{Digest as _, Sha256};

/// Passes bytes on and fails at their end unless size and digest are those that were stated.
///
/// No byte beyond the stated size is passed on.
pub struct Verified<R> {
    inner: R,
    hasher: Option<Sha256>,
    digest: Digest,
    size: u64,
    left: u64,
}

impl<R: Read> Verified<R> {
    /// Expects what the descriptor says.
    pub fn new(inner: R, descriptor: &Descriptor) -> Self {
        Self {
            inner,
            hasher: Some(Sha256::new()),
            digest: descriptor.digest,
            size: descriptor.size,
            left: descriptor.size,
        }
    }

    fn bad(&self, what: &str) -> io::Error {
        let text = format!("blob {} of {} bytes {what}", self.digest, self.size);
        io::Error::new(io::ErrorKind::InvalidData, text)
    }

    /// All stated bytes have come: no further may, and the digest must be right.
    fn finish(&mut self) -> io::Result<()> {
        let Some(hasher) = self.hasher.take() else {
            return Ok(());
        };
        if self.inner.read(&mut [0])? != 0 {
            return Err(self.bad("is longer than stated"));
        }
        let actual = Digest::from_bytes(hasher.finalize().into());
        if actual != self.digest {
            return Err(self.bad(&format!("has digest {actual}")));
        }
        Ok(())
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return self.finish().map(|()| 0);
        }
        let room = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if room == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..room])?;
        if count == 0 {
            return Err(self.bad(&format!("ends after {}", self.size - self.left)));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use image::MediaType;
    use proptest::prelude::*;

    use super::*;

    fn descriptor(bytes: &[u8], size: u64) -> Descriptor {
        Descriptor {
            media_type: MediaType::OciConfig,
            digest: Digest::of(bytes),
            size,
            annotations: BTreeMap::new(),
            platform: None,
        }
    }

    #[test]
    fn only_the_stated_bytes_pass() {
        for (sent, stated, size, complaint) in [
            (&b"abc"[..], &b"abc"[..], 3, None),
            (b"", b"", 0, None),
            (b"abcd", b"abc", 3, Some("longer")),
            (b"ab", b"abc", 3, Some("ends after 2")),
            (b"abd", b"abc", 3, Some("has digest")),
            (b"abc", b"abc", 4, Some("ends after 3")),
            (b"x", b"", 0, Some("longer")),
        ] {
            let mut read = Vec::new();
            let result = Verified::new(sent, &descriptor(stated, size)).read_to_end(&mut read);
            assert!(read.len() as u64 <= size);
            match (result, complaint) {
                (Ok(_), None) => assert_eq!(read, sent),
                (Err(error), Some(text)) => {
                    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                    assert!(error.to_string().contains(text), "{error}");
                }
                (result, _) => panic!("{sent:?}: {result:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn any_damage_is_noticed(bytes in prop::collection::vec(any::<u8>(), 1..300), at in any::<prop::sample::Index>(), flip in 1u8..) {
            let descriptor = descriptor(&bytes, bytes.len() as u64);
            let mut damaged = bytes.clone();
            damaged[at.index(bytes.len())] ^= flip;
            prop_assert!(io::copy(&mut Verified::new(&damaged[..], &descriptor), &mut io::sink()).is_err());
            prop_assert!(io::copy(&mut Verified::new(&bytes[..], &descriptor), &mut io::sink()).is_ok());
        }
    }
}
