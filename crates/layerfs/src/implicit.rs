//! Directories that no entry of a layer's tar names, as DUCC leaves them.
//!
//! `cvmfs_server ingest` makes them (0755, 0:0) with its own time while it reads the tar, the
//! layer's root directory first unless the tar names it, and the stray `.cvmfscatalog` last.

/// Seconds and nanoseconds since the epoch.
pub(crate) type Time = (i64, i64);

/// Longest ingestion of one layer, seconds.
const INGESTION: i64 = 3600;

/// From which time on a directory may be one that the ingestion made. The root's own time counts
/// only if it can be the ingestion's: a tar of `.` gives it any.
pub(crate) fn since(root: Time, marker: Option<Time>) -> Time {
    let earliest = marker.map(|(seconds, nanos)| (seconds.saturating_sub(INGESTION), nanos));
    earliest.map_or(root, |earliest| earliest.max(root))
}

/// Whether a directory with these attributes is one that the ingestion made.
pub(crate) fn is_implicit(since: Time, mode: u32, owner: (u32, u32), mtime: Time) -> bool {
    mode & 0o7777 == 0o755 && owner == (0, 0) && mtime >= since
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roots_time_counts_if_the_ingestion_made_it() {
        let ingested = (1_795_494_900, 0);
        let marker = Some((1_795_494_960, 0));
        assert_eq!(since(ingested, marker), ingested);
        assert_eq!(since(ingested, None), ingested);
        let built = (1_600_000_000, 0);
        assert!(!is_implicit(
            since(built, marker),
            0o755,
            (0, 0),
            (1_600_000_005, 0)
        ));
        assert!(is_implicit(
            since(built, marker),
            0o755,
            (0, 0),
            (1_795_494_930, 0)
        ));
    }

    #[test]
    fn only_what_an_ingestion_makes_is_implicit() {
        let time = (5, 0);
        assert!(is_implicit(time, 0o040_755, (0, 0), time));
        for (mode, owner, mtime) in [
            (0o700, (0, 0), time),
            (0o1755, (0, 0), time),
            (0o755, (0, 1), time),
            (0o755, (0, 0), (4, 999_999_999)),
        ] {
            assert!(!is_implicit(time, mode, owner, mtime));
        }
    }
}
