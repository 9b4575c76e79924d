//! `outcrop repository tag` and `rollback`

use super::or_listed;
use crate::cli::{RollbackArgs, TagArgs};
use crate::commands::print;
use crate::error::Error;
use crate::publishing::backend;
use crate::wiring;
use publisher::NewTag;
use std::io::Write;

/// Names a revision, or takes a name away.
pub(super) fn run(args: &TagArgs, out: &mut dyn Write) -> Result<(), Error> {
    let runtime = wiring::runtime()?;
    let now = jiff::Timestamp::now();
    let repository = backend::open_writable(&args.backend, &runtime, false)?;
    let lock = backend::lock(&repository, &args.backend)?;
    let name = &args.name;
    if args.remove {
        let removed = repository.remove_tag(&lock, name, now);
        // Nothing was stored: the next publisher need not look for leftovers.
        if let Err(error) = removed {
            lock.release_unused()?;
            return Err(or_listed(error, "tags"));
        }
        let json = serde_json::json!({ "removed": name });
        return print(
            out,
            &text(args.json, &json, &format!("removed the tag {name}")),
        );
    }
    let new = NewTag {
        name: name.clone(),
        description: args.description.clone(),
    };
    if let Err(error) = repository.add_tag(&lock, new, args.of.as_deref(), now) {
        lock.release_unused()?;
        return Err(or_listed(error, "tags"));
    }
    let revision = repository.tag(name)?.revision;
    let json = serde_json::json!({ "tag": name, "revision": revision });
    print(
        out,
        &text(args.json, &json, &format!("{name} is revision {revision}")),
    )
}

/// Publishes an old revision's content as the newest one.
pub(super) fn rollback(args: &RollbackArgs, out: &mut dyn Write) -> Result<(), Error> {
    let runtime = wiring::runtime()?;
    let now = jiff::Timestamp::now();
    let repository = backend::open_writable(&args.backend, &runtime, false)?;
    let lock = backend::lock(&repository, &args.backend)?;
    let tag = &args.tag;
    let old = match repository.tag(tag) {
        Ok(tag) => tag.revision,
        Err(error) => {
            lock.release_unused()?;
            return Err(or_listed(error, "tags"));
        }
    };
    let revision = repository.rollback(&lock, tag, now)?.revision;
    let json = serde_json::json!({ "revision": revision, "tag": tag, "content_of": old });
    let line = format!("revision {revision} has the content of {tag}, which is revision {old}");
    print(out, &text(args.json, &json, &line))
}

fn text(json: bool, value: &serde_json::Value, line: &str) -> String {
    match json {
        true => value.to_string(),
        false => line.to_owned(),
    }
}
