//! What the index knows of an object, and its 96 bytes on disk.
//!
//! ```text
//!  0  kind        u64   1 present, 2 removed
//!  8  key         u128  XXH3-128 of the key's text
//! 24  len         u64   bytes of content
//! 32  digest      u128  XXH3-128 of the content
//! 48  boot        u64   tag of the boot in which the content was last known to be intact
//! 56  inode       u64   ┐
//! 64  modified    i64   │ the file's stamp then; times in nanoseconds
//! 72  changed     i64   ┘
//! 80  checksum    u128  XXH3-128 of the 80 bytes before
//! ```
//! Little endian. The order of the records is the order of last use.

use rustix::fs::Stat;
use twox_hash::XxHash3_128;

use crate::Key;

/// Bytes of one record.
pub(crate) const RECORD: usize = 96;
/// Bytes of a record that its checksum covers.
const COVERED: usize = 80;
const PRESENT: u64 = 1;
const REMOVED: u64 = 2;
/// Never equals a real boot: such rows are verified at first use.
pub(crate) const UNKNOWN_BOOT: u64 = 0;

/// An object that is present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) len: u64,
    pub(crate) digest: u128,
    pub(crate) boot: u64,
    pub(crate) stamp: Stamp,
}

/// What changes when somebody else touches the file.
///
/// The change time is the part that cannot be set back (`utimensat` restores only the other).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) inode: u64,
    pub(crate) modified: i64,
    pub(crate) changed: i64,
}

/// One entry of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    Present { key: u128, row: Row },
    Removed { key: u128 },
}

impl Stamp {
    #[allow(
        clippy::unnecessary_cast,
        reason = "the types of stat's fields differ between platforms"
    )]
    pub(crate) fn of(stat: &Stat) -> Self {
        let nanos =
            |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self {
            inode: stat.st_ino as u64,
            modified: nanos(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: nanos(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }
}

/// How the log names a key: collisions only cost a fetch, since the digest then differs.
pub(crate) fn key_tag(key: &Key) -> u128 {
    XxHash3_128::oneshot(key.as_str().as_bytes())
}

/// How the log names a boot. An empty id is an unknown one.
pub(crate) fn boot_tag(boot_id: &str) -> u64 {
    if boot_id.is_empty() {
        return UNKNOWN_BOOT;
    }
    // 64 of the 128 bits are ample for telling a machine's boots apart; 0 is taken.
    (XxHash3_128::oneshot(boot_id.as_bytes()) as u64).max(1)
}

impl Record {
    pub(crate) fn encode(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        let mut put = |offset: usize, field: &[u8]| {
            bytes[offset..offset + field.len()].copy_from_slice(field);
        };
        match self {
            Self::Removed { key } => {
                put(0, &REMOVED.to_le_bytes());
                put(8, &key.to_le_bytes());
            }
            Self::Present { key, row } => {
                put(0, &PRESENT.to_le_bytes());
                put(8, &key.to_le_bytes());
                put(24, &row.len.to_le_bytes());
                put(32, &row.digest.to_le_bytes());
                put(48, &row.boot.to_le_bytes());
                put(56, &row.stamp.inode.to_le_bytes());
                put(64, &row.stamp.modified.to_le_bytes());
                put(72, &row.stamp.changed.to_le_bytes());
            }
        }
        let checksum = XxHash3_128::oneshot(&bytes[..COVERED]);
        bytes[COVERED..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` if the checksum or the kind is wrong.
    pub(crate) fn decode(bytes: &[u8; RECORD]) -> Option<Self> {
        let checksum = XxHash3_128::oneshot(&bytes[..COVERED]);
        if u128::from_le_bytes(field(bytes, COVERED)) != checksum {
            return None;
        }
        let key = u128::from_le_bytes(field(bytes, 8));
        match u64::from_le_bytes(field(bytes, 0)) {
            REMOVED => Some(Self::Removed { key }),
            PRESENT => Some(Self::Present {
                key,
                row: Row {
                    len: u64::from_le_bytes(field(bytes, 24)),
                    digest: u128::from_le_bytes(field(bytes, 32)),
                    boot: u64::from_le_bytes(field(bytes, 48)),
                    stamp: Stamp {
                        inode: u64::from_le_bytes(field(bytes, 56)),
                        modified: i64::from_le_bytes(field(bytes, 64)),
                        changed: i64::from_le_bytes(field(bytes, 72)),
                    },
                },
            }),
            _ => None,
        }
    }
}

fn field<const N: usize>(bytes: &[u8; RECORD], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[offset..offset + N]);
    field
}
