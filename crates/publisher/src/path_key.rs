//! Keys of rows: MD5 of the path, halved.

use md5::{Digest as _, Md5};

/// MD5 of an absolute path, as two little-endian numbers that SQLite stores signed.
pub(crate) fn of(path: &[u8]) -> (i64, i64) {
    let digest: [u8; 16] = Md5::digest(path).into();
    let half = |from: usize| {
        digest[from..from + 8]
            .iter()
            .rev()
            .fold(0_i64, |sum, byte| sum << 8 | i64::from(*byte))
    };
    (half(0), half(8))
}
