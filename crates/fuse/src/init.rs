//! INIT: what the kernel offers and what both sides then keep to.

use zerocopy::FromBytes;

use crate::abi::{self, feature};

/// The largest READ, in bytes: 256 pages of 4 KiB.
pub const MAX_READ: u32 = 1 << 20;
/// Smallest value; nothing is ever written, and it keeps request slots at the kernel's minimum of 8 KiB.
const MAX_WRITE: u32 = 4096;
/// Reads ahead that may be under way. The kernel's own 12 would stop all reading ahead while a daemon restarts.
const MAX_BACKGROUND: u16 = 64;
/// Where the kernel calls the connection congested: three quarters, as it does by default.
const CONGESTION_THRESHOLD: u16 = 48;
/// Times are exact to this many nanoseconds.
const TIME_GRANULARITY: u32 = 1;

/// Features asked for wherever the kernel offers them.
const WANTED: u64 = feature::ASYNC_READ
    | feature::DO_READDIRPLUS
    | feature::ASYNC_DIO
    | feature::NO_OPEN_SUPPORT
    | feature::PARALLEL_DIROPS
    | feature::MAX_PAGES
    | feature::CACHE_SYMLINKS
    | feature::NO_OPENDIR_SUPPORT
    | feature::INIT_EXT;

/// What the kernel offers in INIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Major version of the protocol.
    pub major: u32,
    /// Minor version of the protocol.
    pub minor: u32,
    /// Bytes that the kernel would read ahead.
    pub max_readahead: u32,
    /// Features, `flags2` in the upper half.
    pub features: u64,
}

/// What the sides agreed on. INIT comes once in the life of a connection: whoever takes a connection over needs this
/// from its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Minor version that both sides speak.
    pub minor: u32,
    /// Features that the kernel offered, `flags2` in the upper half.
    pub offered: u64,
    /// Features in use.
    pub features: u64,
    /// Bytes that the kernel may read ahead.
    pub max_readahead: u32,
    /// Bytes of the largest WRITE.
    pub max_write: u32,
    /// Pages of the largest READ.
    pub max_pages: u16,
    /// Reads ahead that may be under way.
    pub max_background: u16,
    /// Exactness of times, in nanoseconds.
    pub time_granularity: u32,
    /// Whether the kernel can be told to send unanswered requests again (FUSE_NOTIFY_RESEND).
    pub has_resend: bool,
}

/// How INIT is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The kernel speaks a newer major version: say ours, and it asks again.
    AskAgain,
    /// Older than [`abi::OLDEST_MINOR`], or another protocol.
    TooOld,
    Agree(Negotiated),
}

/// Our side of the negotiation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Bytes to read ahead; the kernel lowers its own value to this, and raises it only through the bdi.
    pub(crate) max_readahead: u32,
    /// The kernel accepts id-mapped mounts only together with `default_permissions`, and fails INIT otherwise.
    pub(crate) default_permissions: bool,
}

impl Proposal {
    /// Reads the body of INIT; `None` when it is too short.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let (init, rest) = abi::InitIn::read_from_prefix(body).ok()?;
        let low = u64::from(init.flags);
        // Kernels before 7.36 send neither the flag nor the word.
        let high = match u32::read_from_prefix(rest) {
            Ok((flags2, _)) if low & feature::INIT_EXT != 0 => u64::from(flags2),
            _ => 0,
        };
        Some(Self {
            major: init.major,
            minor: init.minor,
            max_readahead: init.max_readahead,
            features: low | high << 32,
        })
    }

    pub(crate) fn answer(&self, terms: Terms) -> Answer {
        if self.major > abi::MAJOR {
            return Answer::AskAgain;
        }
        if self.major < abi::MAJOR || self.minor < abi::OLDEST_MINOR {
            return Answer::TooOld;
        }
        let idmap = if terms.default_permissions {
            feature::ALLOW_IDMAP
        } else {
            0
        };
        Answer::Agree(Negotiated {
            minor: self.minor.min(abi::NEWEST_MINOR),
            offered: self.features,
            features: self.features & (WANTED | idmap),
            max_readahead: terms.max_readahead.max(self.max_readahead),
            max_write: MAX_WRITE,
            max_pages: max_pages(),
            max_background: MAX_BACKGROUND,
            time_granularity: TIME_GRANULARITY,
            has_resend: self.features & feature::HAS_RESEND != 0,
        })
    }
}

/// Pages of this machine in [`MAX_READ`].
#[allow(clippy::cast_possible_truncation)]
fn max_pages() -> u16 {
    (MAX_READ as usize / rustix::param::page_size()).clamp(1, 256) as u16
}

impl Negotiated {
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn encode(&self) -> abi::InitOut {
        abi::InitOut {
            major: abi::MAJOR,
            minor: self.minor,
            max_readahead: self.max_readahead,
            flags: self.features as u32,
            max_background: self.max_background,
            congestion_threshold: CONGESTION_THRESHOLD,
            max_write: self.max_write,
            time_gran: self.time_granularity,
            max_pages: self.max_pages,
            map_alignment: 0,
            flags2: (self.features >> 32) as u32,
            max_stack_depth: 0,
            unused: [0; 6],
        }
    }
}

/// Only our version, which makes a newer kernel ask again in it.
pub(crate) fn version_only() -> abi::InitOut {
    let mut out = abi::InitOut::read_from_bytes(&[0; size_of::<abi::InitOut>()])
        .unwrap_or_else(|_| unreachable!());
    out.major = abi::MAJOR;
    out.minor = abi::NEWEST_MINOR;
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        max_readahead: MAX_READ,
        default_permissions: true,
    };

    fn body(major: u32, minor: u32, flags: u32, flags2: Option<u32>) -> Vec<u8> {
        let words = [major, minor, 131_072, flags].into_iter().chain(flags2);
        words.flat_map(u32::to_ne_bytes).collect()
    }

    fn agree(body: &[u8], terms: Terms) -> Negotiated {
        match Proposal::parse(body).unwrap().answer(terms) {
            Answer::Agree(negotiated) => negotiated,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_smaller_minor_version_counts() {
        assert_eq!(agree(&body(7, 31, 0, None), TERMS).minor, 31);
        assert_eq!(agree(&body(7, 45, 0, None), TERMS).minor, 40);
    }

    #[test]
    fn other_major_and_old_minor_versions_are_told_apart() {
        let answer = |major, minor| {
            Proposal::parse(&body(major, minor, 0, None))
                .unwrap()
                .answer(TERMS)
        };
        assert_eq!(answer(8, 0), Answer::AskAgain);
        assert_eq!(answer(7, 27), Answer::TooOld);
        assert_eq!(answer(6, 99), Answer::TooOld);
        assert_eq!(version_only().major, 7);
    }

    #[test]
    fn only_offered_features_are_taken() {
        assert_eq!(agree(&body(7, 40, 0, Some(u32::MAX)), TERMS).features, 0);
        let all = agree(&body(7, 40, u32::MAX, Some(u32::MAX)), TERMS);
        assert_eq!(all.features, WANTED | feature::ALLOW_IDMAP);
        assert_eq!(all.offered, u64::MAX);
    }

    #[test]
    fn the_second_word_counts_only_where_it_is_announced() {
        let without = agree(&body(7, 40, !(1 << 30), Some(u32::MAX)), TERMS);
        assert!(!without.has_resend);
        let missing = agree(&body(7, 35, u32::MAX, None), TERMS);
        assert!(!missing.has_resend);
        let resend = agree(&body(7, 40, 1 << 30, Some(1 << 7)), TERMS);
        assert!(resend.has_resend);
        assert_eq!(resend.features, feature::INIT_EXT);
    }

    #[test]
    fn id_mapping_needs_the_kernels_permission_checks() {
        let lax = Terms {
            default_permissions: false,
            ..TERMS
        };
        assert_eq!(
            agree(&body(7, 40, u32::MAX, Some(u32::MAX)), lax).features,
            WANTED
        );
    }

    #[test]
    fn reading_ahead_is_never_lowered() {
        let small = Terms {
            max_readahead: 4096,
            ..TERMS
        };
        assert_eq!(agree(&body(7, 40, 0, None), small).max_readahead, 131_072);
        assert_eq!(agree(&body(7, 40, 0, None), TERMS).max_readahead, MAX_READ);
    }

    #[test]
    fn both_words_are_sent_back() {
        let out = agree(&body(7, 40, u32::MAX, Some(u32::MAX)), TERMS).encode();
        assert_eq!(out.flags2, 1 << 8);
        assert_eq!(u64::from(out.flags), WANTED);
        assert_eq!(
            (out.max_write, out.max_pages, out.time_gran),
            (4096, 256, 1)
        );
        assert!(out.max_background >= 64);
    }
}
