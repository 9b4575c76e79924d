//! `outcrop repository info`

use super::{time, warn};
use crate::cli::ReadArgs;
use crate::commands::print;
use crate::error::Error;
use crate::publishing::backend;
use crate::publishing::table::bytes;
use crate::wiring;
use publisher::{Head, Info, Tag};
use std::io::Write;

/// Below this, somebody should know.
const FEW_DAYS: i64 = 7;

/// How long clients accept the whitelist.
struct Validity {
    expired: bool,
    /// Rounded; below zero if it has expired long ago.
    days: i64,
}

impl Validity {
    fn of(expiry: jiff::Timestamp, now: jiff::Timestamp) -> Self {
        const HOUR: i64 = 3600;
        const DAY: i64 = 24 * HOUR;
        let left = expiry.as_second() - now.as_second();
        Self {
            // Clients compare whole hours.
            expired: now.as_second().div_euclid(HOUR) >= expiry.as_second().div_euclid(HOUR),
            days: (left + DAY / 2).div_euclid(DAY),
        }
    }

    fn warning(&self) -> Option<String> {
        let next = "`outcrop repository resign`";
        if self.expired {
            return Some(format!(
                "the whitelist has expired: clients refuse the repository until {next}"
            ));
        }
        let days = self.days;
        (days < FEW_DAYS)
            .then(|| format!("the whitelist expires in {days} days: sign it anew with {next}"))
    }
}

/// What there is to know.
pub(super) fn run(args: &ReadArgs, out: &mut dyn Write) -> Result<(), Error> {
    let runtime = wiring::runtime()?;
    let repository = backend::open(&args.backend, &runtime)?;
    let (info, tags) = (repository.info()?, repository.tags()?);
    let validity = Validity::of(info.whitelist_expiry, jiff::Timestamp::now());
    if let Some(line) = validity.warning() {
        warn(&line);
    }
    if args.json {
        return print(out, &json(&info, &tags, &validity).to_string());
    }
    for (name, value) in lines(&info, &tags, &validity) {
        print(out, &format!("{name:<19} {value}"))?;
    }
    Ok(())
}

fn lines(info: &Info, tags: &[Tag], validity: &Validity) -> Vec<(&'static str, String)> {
    let head = &info.head;
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let names: Vec<_> = tags.iter().map(|tag| tag.name.as_str()).collect();
    let expires = match validity.expired {
        true => "expired",
        false => "expires",
    };
    let days = validity.days;
    vec![
        ("name", head.fqrn.clone()),
        ("location", info.location.clone()),
        ("revision", head.revision.to_string()),
        ("published", time(head.published)),
        ("root catalog", head.root_catalog.to_string()),
        ("hash", algorithm(head).to_owned()),
        ("time to live", format!("{} s", head.time_to_live)),
        ("garbage collection", yes_no(head.garbage_collectable)),
        (
            "whitelist",
            format!("{expires} {} ({days} days)", info.whitelist_expiry),
        ),
        ("fingerprints", info.fingerprints.join(" ")),
        ("tags", format!("{}: {}", tags.len(), names.join(" "))),
        ("files", info.files.to_string()),
        ("directories", info.directories.to_string()),
        ("symlinks", info.symlinks.to_string()),
        ("catalogs", (info.nested_catalogs + 1).to_string()),
        ("size of files", bytes(info.file_bytes)),
    ]
}

/// As `outcrop repository init --hash` takes it.
fn algorithm(head: &Head) -> &'static str {
    match head.root_catalog.algorithm {
        cvmfs::Algorithm::Sha1 => "sha1",
        cvmfs::Algorithm::Ripemd160 => "rmd160",
        cvmfs::Algorithm::Shake128 => "shake128",
    }
}

fn json(info: &Info, tags: &[Tag], validity: &Validity) -> serde_json::Value {
    let head = &info.head;
    serde_json::json!({
        "fqrn": head.fqrn,
        "location": info.location,
        "revision": head.revision,
        "published": head.published,
        "root_catalog": head.root_catalog.to_string(),
        "root_catalog_bytes": head.root_catalog_size,
        "hash_algorithm": algorithm(head),
        "time_to_live_seconds": head.time_to_live,
        "garbage_collectable": head.garbage_collectable,
        "whitelist_expiry": info.whitelist_expiry.as_second(),
        "whitelist_expired": validity.expired,
        "whitelist_days_left": validity.days,
        "fingerprints": info.fingerprints,
        "tags": tags.iter().map(|tag| &tag.name).collect::<Vec<_>>(),
        "files": info.files,
        "directories": info.directories,
        "symlinks": info.symlinks,
        "catalogs": info.nested_catalogs + 1,
        "file_bytes": info.file_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_told_a_week_before() {
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let expiry = 1_800_000_000 / 3600 * 3600;
        for (left, days, expired, said) in [
            (30 * 86_400, 30, false, None),
            (7 * 86_400, 7, false, None),
            (6 * 86_400, 6, false, Some("expires in 6 days")),
            (3600, 0, false, Some("expires in 0 days")),
            (0, 0, true, Some("has expired")),
            (-3 * 86_400, -3, true, Some("has expired")),
        ] {
            let validity = Validity::of(at(expiry), at(expiry - left));
            assert_eq!((validity.days, validity.expired), (days, expired), "{left}");
            let warning = validity.warning();
            assert_eq!(warning.is_some(), said.is_some(), "{left}");
            assert!(
                warning
                    .unwrap_or_default()
                    .contains(said.unwrap_or_default())
            );
        }
    }
}
