//! The error numbers that an answer may carry.

use std::fmt;
use std::io;

use rustix::io::Errno as Raw;

/// An error number of Linux, as a caller of the mount sees it in `errno`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(Raw);

/// The kernel takes an answer with a larger number for malformed and leaves the request waiting.
const LARGEST: i32 = 511;

macro_rules! constants {
    ($($name:ident = $raw:ident: $meaning:literal;)*) => {
        impl Errno {
            $(#[doc = $meaning] pub const $name: Self = Self(Raw::$raw);)*
        }

        /// Numbers and names of the constants above.
        const NAMES: &[(Errno, &str)] = &[$((Errno::$name, stringify!($name)),)*];
    };
}

constants! {
    EPERM = PERM: "Operation not permitted.";
    ENOENT = NOENT: "No such file or directory.";
    EINTR = INTR: "Interrupted.";
    EIO = IO: "Input or output failed: the content cannot be had, or not as it should be.";
    ENXIO = NXIO: "No such device or address.";
    E2BIG = TOOBIG: "Too big, of extended attributes.";
    EAGAIN = AGAIN: "Try again.";
    ENOMEM = NOMEM: "Out of memory.";
    EACCES = ACCESS: "Permission denied.";
    EBUSY = BUSY: "In use.";
    EEXIST = EXIST: "Exists already.";
    ENODEV = NODEV: "No such device.";
    ENOTDIR = NOTDIR: "Not a directory.";
    EISDIR = ISDIR: "Is a directory.";
    EINVAL = INVAL: "Invalid argument.";
    EFBIG = FBIG: "File too large.";
    ENOSPC = NOSPC: "No space left, on the disk of the cache.";
    EROFS = ROFS: "Read-only file system.";
    ERANGE = RANGE: "The caller's buffer is too small.";
    ENAMETOOLONG = NAMETOOLONG: "Name too long.";
    ENOSYS = NOSYS: "Not implemented. The kernel remembers this for the life of a mount, for most operations.";
    ELOOP = LOOP: "Too many symbolic links.";
    ENODATA = NODATA: "No such extended attribute.";
    EPROTO = PROTO: "Protocol error.";
    EOVERFLOW = OVERFLOW: "Value too large.";
    EOPNOTSUPP = OPNOTSUPP: "Not supported.";
    ETIMEDOUT = TIMEDOUT: "Timed out.";
    ESTALE = STALE: "The inode number names nothing.";
}

impl Errno {
    /// The positive number, as in `errno.h`.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0.raw_os_error()
    }

    /// The error with this number; `EIO` for numbers that the kernel would not take (below 1 or above 511).
    #[must_use]
    pub fn from_number(number: i32) -> Self {
        if (1..=LARGEST).contains(&number) {
            Self(Raw::from_raw_os_error(number))
        } else {
            Self::EIO
        }
    }

    /// The symbol of `errno.h` for the numbers that have a constant here, otherwise `other`.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(errno, _)| *errno == self)
            .map_or("other", |(_, name)| name)
    }
}

/// The error's own number, `EIO` when it has none.
impl From<&io::Error> for Errno {
    fn from(error: &io::Error) -> Self {
        Self::from_number(error.raw_os_error().unwrap_or_default())
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        Self::from(&error)
    }
}

impl From<Raw> for Errno {
    fn from(raw: Raw) -> Self {
        Self::from_number(raw.raw_os_error())
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.number())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&io::Error::from(self.0), f)
    }
}

impl std::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_linux() {
        for (errno, number) in [
            (Errno::ENOENT, 2),
            (Errno::EIO, 5),
            (Errno::ENOSYS, 38),
            (Errno::ENODATA, 61),
            (Errno::EOPNOTSUPP, 95),
            (Errno::ESTALE, 116),
        ] {
            assert_eq!(errno.number(), number);
            assert_eq!(Errno::from_number(number), errno);
        }
    }

    #[test]
    fn numbers_that_the_kernel_refuses_become_eio() {
        for number in [i32::MIN, -2, 0, 512, 4095, i32::MAX] {
            assert_eq!(Errno::from_number(number), Errno::EIO, "{number}");
        }
        assert_eq!(Errno::from_number(511).number(), 511);
    }

    #[test]
    fn io_errors_keep_their_number() {
        assert_eq!(Errno::from(io::Error::from_raw_os_error(28)), Errno::ENOSPC);
        assert_eq!(Errno::from(io::Error::other("no number")), Errno::EIO);
    }

    #[test]
    fn names_are_symbols() {
        assert_eq!(Errno::EIO.name(), "EIO");
        assert_eq!(format!("{:?}", Errno::from_number(500)), "other(500)");
    }
}
