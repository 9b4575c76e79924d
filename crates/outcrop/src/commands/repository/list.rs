//! `outcrop repository list`

use super::time;
use crate::cli::{ListArgs, Listing};
use crate::commands::print;
use crate::error::{Error, Kind};
use crate::publishing::backend;
use crate::publishing::table::{Align, bytes, render};
use crate::wiring;
use publisher::{ListedImage, Revision, Tag};
use std::io::Write;

/// A table, or one JSON object.
pub(super) fn run(args: &ListArgs, out: &mut dyn Write) -> Result<(), Error> {
    let runtime = wiring::runtime()?;
    let repository = backend::open(&args.backend, &runtime)?;
    let text = match (args.what, args.json) {
        (Listing::Images, false) => images(&repository.images()?),
        (Listing::Images, true) => object("images", repository.images()?)?,
        (Listing::Tags, false) => tags(&repository.tags()?),
        (Listing::Tags, true) => object("tags", tags_json(&repository.tags()?))?,
        (Listing::Revisions, false) => revisions(&repository.revisions()?),
        (Listing::Revisions, true) => {
            object("revisions", revisions_json(&repository.revisions()?))?
        }
    };
    print(out, &text)
}

fn object(name: &str, value: impl serde::Serialize) -> Result<String, Error> {
    let value = serde_json::to_value(value)
        .map_err(|error| Error::new(Kind::Internal, "cannot write JSON").because(error))?;
    Ok(serde_json::json!({ name: value }).to_string())
}

fn images(images: &[ListedImage]) -> String {
    let header = [
        ("IMAGE", Align::Left),
        ("DIGEST", Align::Left),
        ("PLATFORMS", Align::Left),
        ("LAYERS", Align::Right),
        ("SIZE", Align::Right),
        ("LAYOUTS", Align::Left),
    ];
    let rows = images.iter().map(|image| {
        let layouts: Vec<_> = image.layouts.iter().map(|layout| layout.name()).collect();
        vec![
            image.name.clone(),
            image.digest.to_string(),
            or_none(image.platforms.join(",")),
            image.layers.to_string(),
            bytes(image.bytes),
            or_none(layouts.join(",")),
        ]
    });
    render(&header, rows)
}

/// So that each line has the same number of words.
fn or_none(text: String) -> String {
    match text.is_empty() {
        true => "-".to_owned(),
        false => text,
    }
}

fn tags(tags: &[Tag]) -> String {
    let header = [
        ("TAG", Align::Left),
        ("REVISION", Align::Right),
        ("PUBLISHED", Align::Left),
        ("ROOT CATALOG", Align::Left),
        ("DESCRIPTION", Align::Left),
    ];
    let rows = tags.iter().map(|tag| {
        vec![
            tag.name.clone(),
            tag.revision.to_string(),
            time(tag.timestamp),
            tag.root_catalog.to_string(),
            tag.description.clone(),
        ]
    });
    render(&header, rows)
}

fn tags_json(tags: &[Tag]) -> Vec<serde_json::Value> {
    let json = |tag: &Tag| {
        serde_json::json!({
            "name": tag.name,
            "revision": tag.revision,
            "published": tag.timestamp,
            "root_catalog": tag.root_catalog.to_string(),
            "description": tag.description,
        })
    };
    tags.iter().map(json).collect()
}

fn revisions(revisions: &[Revision]) -> String {
    let header = [
        ("REVISION", Align::Right),
        ("PUBLISHED", Align::Left),
        ("ROOT CATALOG", Align::Left),
        ("TAGS", Align::Left),
    ];
    let rows = revisions.iter().map(|revision| {
        let number = revision.number.map(|number| number.to_string());
        vec![
            number.unwrap_or_else(|| "unreadable".to_owned()),
            time(revision.timestamp),
            revision.root_catalog.to_string(),
            or_none(revision.tags.join(",")),
        ]
    });
    render(&header, rows)
}

fn revisions_json(revisions: &[Revision]) -> Vec<serde_json::Value> {
    let json = |revision: &Revision| {
        serde_json::json!({
            "revision": revision.number,
            "published": revision.timestamp,
            "root_catalog": revision.root_catalog.to_string(),
            "tags": revision.tags,
        })
    };
    revisions.iter().map(json).collect()
}
