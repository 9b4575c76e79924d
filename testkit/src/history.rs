//! The history database (CVMFS.md §4) and the whitelist's calendar.

use std::fs;

use anyhow::Result;
use rusqlite::{Connection, params};
use tempfile::TempDir;

/// Seconds.
pub(crate) const DAY: i64 = 86_400;

/// A named revision.
#[derive(Clone, Debug)]
pub(crate) struct Tag {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) root_hash: String,
    pub(crate) revision: u64,
    pub(crate) timestamp: i64,
    pub(crate) size: u64,
}

/// The database's bytes.
pub(crate) fn history(fqrn: &str, previous: Option<&str>, tags: &[Tag]) -> Result<Vec<u8>> {
    let directory = TempDir::new()?;
    let path = directory.path().join("history");
    let connection = Connection::open(&path)?;
    connection.execute_batch(
        "CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key));
         CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER, \
         description TEXT, size INTEGER, branch TEXT, CONSTRAINT pk_tags PRIMARY KEY (name));
         CREATE TABLE branches (branch TEXT, parent TEXT, initial_revision INTEGER, \
         CONSTRAINT pk_branch PRIMARY KEY (branch));
         CREATE TABLE recycle_bin (hash TEXT, flags INTEGER, CONSTRAINT pk_hash PRIMARY KEY (hash));
         INSERT INTO branches VALUES ('', NULL, 0);
         INSERT INTO properties VALUES ('schema', '1.0'), ('schema_revision', '3');",
    )?;
    let property = |key: &str, value: &str| {
        connection.execute("INSERT INTO properties VALUES (?,?)", [key, value])
    };
    property("fqrn", fqrn)?;
    if let Some(previous) = previous {
        property("previous_revision", previous)?;
    }
    for tag in tags {
        connection.execute(
            "INSERT INTO tags VALUES (?,?,?,?,0,?,?,'')",
            params![
                tag.name,
                tag.root_hash,
                i64::try_from(tag.revision)?,
                tag.timestamp,
                tag.description,
                i64::try_from(tag.size)?
            ],
        )?;
    }
    connection.close().map_err(|(_, error)| error)?;
    Ok(fs::read(path)?)
}

/// `YYYYMMDDhhmmss` in UTC.
pub(crate) fn stamp(time: i64) -> String {
    let (days, seconds) = (time.div_euclid(DAY), time.rem_euclid(DAY));
    // Days since 0000-03-01, counted in eras of 400 years: leap days come last in a year that starts in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}{month:02}{day:02}{:02}{:02}{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps() {
        for (time, text) in [
            (0, "19700101000000"),
            (1_700_000_000, "20231114221320"),
            (951_782_399, "20000228235959"),
            (951_782_400, "20000229000000"),
            (2_425_438_521, "20461110045521"),
        ] {
            assert_eq!(stamp(time), text);
        }
    }
}
