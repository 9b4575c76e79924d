//! What a list has published: a file in the repository, written in the same revision as the image, so that the two never differ.
//!
//! `/.outcrop/wishlists/<name>.json`: `{"version":1,"images":{"<image>":"<digest>"}}`. Only what a list itself brought into the repository
//! is in its record, or what another list did while this one names it too. Only that is ever pruned, and only while the repository has it
//! as the list published it and no other list's record names it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use image::{Digest, MAX_DOCUMENT_BYTES, Reference};
use serde::{Deserialize, Serialize};

use crate::entry::Entry;
use crate::error::Error;
use crate::layouts::metadata::{directory, image_name};
use crate::layouts::{Backend, Changes};
use crate::removal::{RemovalSummary, take_out};

const RECORDS: &str = "/.outcrop/wishlists";
const MAX_RECORD_BYTES: u64 = 64 << 20;
const VERSION: u32 = 1;
const MAX_NAME: usize = 128;

/// By which a list is known in its repository, wherever its file lies: lists of one repository need different names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WishlistName(String);

/// The name is empty, too long, or has other characters than letters, digits and `. _ -`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a wishlist: at most {MAX_NAME} letters, digits and . _ -")]
pub struct WishlistNameError(String);

impl FromStr for WishlistName {
    type Err = WishlistNameError;

    fn from_str(text: &str) -> Result<Self, WishlistNameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let good = (1..=MAX_NAME).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(allowed);
        match good {
            true => Ok(Self(text.to_owned())),
            false => Err(WishlistNameError(text.chars().take(MAX_NAME).collect())),
        }
    }
}

impl fmt::Display for WishlistName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl WishlistName {
    fn path(&self) -> String {
        format!("{RECORDS}/{}.json", self.0)
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Record {
    version: u32,
    images: BTreeMap<String, Digest>,
}

impl Record {
    fn read<C: Changes>(changes: &mut C, path: &str) -> Result<Self, Error> {
        let Some(bytes) = changes.read(path, MAX_RECORD_BYTES)? else {
            return Ok(Self {
                version: VERSION,
                images: BTreeMap::new(),
            });
        };
        let record: Self =
            serde_json::from_slice(&bytes).map_err(|error| Error::corrupt(path, error))?;
        match record.version {
            VERSION => Ok(record),
            other => Err(Error::corrupt(path, format!("unknown version {other}"))),
        }
    }

    fn write<C: Changes>(
        &self,
        changes: &mut C,
        path: &str,
        now: jiff::Timestamp,
    ) -> Result<(), Error> {
        let bytes = serde_json::to_vec(self).map_err(|error| Error::corrupt(path, error))?;
        changes.file(path, Entry::file(0o644, now.as_second()), &bytes)
    }
}

/// Images in the records of other lists.
fn of_others<C: Changes>(changes: &mut C, own: &str) -> Result<BTreeSet<String>, Error> {
    let mut images = BTreeSet::new();
    if changes.lookup(RECORDS)?.is_none() {
        return Ok(images);
    }
    for name in changes.list(RECORDS)? {
        let path = format!("{RECORDS}/{}", String::from_utf8_lossy(&name));
        if path != own && path.ends_with(".json") {
            images.extend(Record::read(changes, &path)?.images.into_keys());
        }
    }
    Ok(images)
}

/// Notes an image that the list names. `changed`: the list has just brought it there.
pub(crate) fn note<C: Changes>(
    changes: &mut C,
    list: &WishlistName,
    image: &Reference,
    digest: &Digest,
    changed: bool,
    now: jiff::Timestamp,
) -> Result<(), Error> {
    let path = list.path();
    let mut record = Record::read(changes, &path)?;
    let name = image_name(image);
    let known = record.images.get(&name);
    if known == Some(digest) {
        return Ok(());
    }
    // What was there before any list named it is not ours to remove.
    if changed || known.is_some() || of_others(changes, &path)?.contains(&name) {
        record.images.insert(name, *digest);
        record.write(changes, &path, now)?;
    }
    Ok(())
}

/// Takes out what the list published once and names no longer.
///
/// # Errors
/// As [`crate::removal::remove`]: then nothing is removed.
pub fn prune<B: Backend>(
    backend: &B,
    list: &WishlistName,
    named: &[Reference],
    dry_run: bool,
    now: jiff::Timestamp,
) -> Result<RemovalSummary, Error> {
    let mut changes = match dry_run {
        true => backend.look()?,
        false => backend.begin()?,
    };
    let path = list.path();
    let mut record = Record::read(&mut changes, &path)?;
    let named: BTreeSet<String> = named.iter().map(image_name).collect();
    let before = record.images.len();
    let mut gone = record.images.clone();
    gone.retain(|name, _| !named.contains(name));
    record.images.retain(|name, _| named.contains(name));
    if record.images.len() == before {
        changes.abandon()?;
        return Ok(RemovalSummary::default());
    }
    let others = of_others(&mut changes, &path)?;
    let mut images = Vec::new();
    for (name, digest) in gone {
        let image: Reference = name.parse().map_err(|error| Error::corrupt(&path, error))?;
        if !others.contains(&name) && published(&mut changes, &image)? == Some(digest) {
            images.push(image);
        }
    }
    let mut summary = take_out(&mut changes, &images)?;
    if dry_run {
        return Ok(summary);
    }
    record.write(&mut changes, &path, now)?;
    summary.revision = Some(changes.commit(None)?);
    Ok(summary)
}

/// The digest of an image in the repository, of its index if it has one.
fn published<C: Changes>(changes: &mut C, image: &Reference) -> Result<Option<Digest>, Error> {
    let directory = directory(image);
    for document in ["index.json", "manifest.json"] {
        let path = format!("{directory}/{document}");
        if changes.lookup(&path)?.is_some() {
            let bytes = changes.read(&path, MAX_DOCUMENT_BYTES as u64)?;
            return Ok(bytes.map(|bytes| Digest::of(&bytes)));
        }
    }
    Ok(None)
}
