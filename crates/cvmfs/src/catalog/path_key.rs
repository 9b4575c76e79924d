//! Keys of rows: MD5 of the path, halved.

use md5::{Digest, Md5};

/// MD5 of an absolute path, as two little-endian numbers that SQLite stores signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PathKey(pub(crate) i64, pub(crate) i64);

impl PathKey {
    /// The parent of the root catalog's root row.
    pub(crate) const NONE: Self = Self(0, 0);

    pub(crate) fn of(path: &[u8]) -> Self {
        let digest: [u8; 16] = Md5::digest(path).into();
        let (low, high) = digest.split_at(8);
        let number = |half: &[u8]| {
            half.iter()
                .rev()
                .fold(0_i64, |sum, byte| sum << 8 | i64::from(*byte))
        };
        Self(number(low), number(high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root() {
        // md5("") = d41d8cd98f00b204 e9800998ecf8427e
        let low = i64::from_le_bytes([0xd4, 0x1d, 0x8c, 0xd9, 0x8f, 0x00, 0xb2, 0x04]);
        let high = i64::from_le_bytes([0xe9, 0x80, 0x09, 0x98, 0xec, 0xf8, 0x42, 0x7e]);
        assert_eq!(PathKey::of(b""), PathKey(low, high));
    }
}
