use std::fmt;

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Problem {
    /// An object or file is not there.
    Missing,
    /// Bytes differ from their hash or cannot be decoded.
    Corrupt,
    /// A counter differs from what was counted.
    WrongCounter,
    /// A recorded size differs from the real one.
    WrongSize,
    /// A catalog's number differs from that of manifest or tag.
    WrongRevision,
    /// A nested catalog and the catalog above disagree.
    MountpointMismatch,
    /// An entry that no path leads to, or whose key is not that of its path.
    DanglingRow,
    /// An entry that contradicts itself.
    BadRow,
    /// Chunks do not cover their file.
    WrongChunks,
    /// Hardlinks and their number disagree.
    WrongLinkCount,
    /// The reflog is not the one that the manifest names.
    WrongReflog,
    /// A tag that cannot be.
    WrongHistory,
}

impl Problem {
    /// For scripts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Corrupt => "corrupt",
            Self::WrongCounter => "wrong-counter",
            Self::WrongSize => "wrong-size",
            Self::WrongRevision => "wrong-revision",
            Self::MountpointMismatch => "mountpoint-mismatch",
            Self::DanglingRow => "dangling-row",
            Self::BadRow => "bad-row",
            Self::WrongChunks => "wrong-chunks",
            Self::WrongLinkCount => "wrong-link-count",
            Self::WrongReflog => "wrong-reflog",
            Self::WrongHistory => "wrong-history",
        }
    }
}

/// Something that is wrong with a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub problem: Problem,
    /// The object or file that is wrong, as a path of the backend.
    pub object: String,
    /// What about it, with the path in the repository where there is one.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.detail)
    }
}
