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

/// What there is to know.
pub(super) fn run(args: &ReadArgs, out: &mut dyn Write) -> Result<(), Error> {
    let runtime = wiring::runtime()?;
    let repository = backend::open(&args.backend, &runtime)?;
    let (info, tags) = (repository.info()?, repository.tags()?);
    let left = info.whitelist_expiry.as_second() - jiff::Timestamp::now().as_second();
    let days = left.div_euclid(86_400);
    if days < FEW_DAYS {
        warn(&match left {
            ..=0 => "the whitelist has expired: clients refuse the repository until `outcrop repository resign`".to_owned(),
            _ => format!("the whitelist expires in {days} days: sign it anew with `outcrop repository resign`"),
        });
    }
    if args.json {
        return print(out, &json(&info, &tags, days).to_string());
    }
    for (name, value) in lines(&info, &tags, days) {
        print(out, &format!("{name:<19} {value}"))?;
    }
    Ok(())
}

fn lines(info: &Info, tags: &[Tag], days: i64) -> Vec<(&'static str, String)> {
    let head = &info.head;
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let names: Vec<_> = tags.iter().map(|tag| tag.name.as_str()).collect();
    let expires = match days {
        ..0 => "expired",
        _ => "expires",
    };
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

fn json(info: &Info, tags: &[Tag], days: i64) -> serde_json::Value {
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
        "whitelist_days_left": days,
        "fingerprints": info.fingerprints,
        "tags": tags.iter().map(|tag| &tag.name).collect::<Vec<_>>(),
        "files": info.files,
        "directories": info.directories,
        "symlinks": info.symlinks,
        "catalogs": info.nested_catalogs + 1,
        "file_bytes": info.file_bytes,
    })
}
