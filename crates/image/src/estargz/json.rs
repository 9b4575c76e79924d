//! The JSON of a TOC, entry by entry: what is read is handed on at once, so a large TOC is never in memory as JSON.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufReader, Read};

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::Error;

/// An entry as the JSON has it. Writers leave out what is zero or empty; unknown keys are ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct JsonEntry {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) size: u64,
    #[serde(rename = "modtime", skip_serializing_if = "Option::is_none")]
    pub(crate) modified: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) link_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) uid: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group_name: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) offset: u64,
    /// Only containers/storage: where the compressed bytes of the whole file end.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) end_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) inner_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) dev_major: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) dev_minor: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) xattrs: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) chunk_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) chunk_digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) chunk_type: Option<String>,
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What takes the entries.
pub(crate) trait Sink {
    fn entry(&mut self, entry: JsonEntry) -> Result<(), Error>;
}

/// Reads a whole TOC, to the end of `input`. One entry may take `entry_bytes` of it.
pub(crate) fn read(input: impl Read, entry_bytes: u64, sink: &mut dyn Sink) -> Result<(), Error> {
    let since_entry = Cell::new(0);
    let metered = Metered {
        input: BufReader::with_capacity(64 << 10, input),
        since_entry: &since_entry,
        limit: entry_bytes,
    };
    let mut failure = None;
    let mut deserializer = serde_json::Deserializer::from_reader(metered);
    let document = Document {
        since_entry: &since_entry,
        sink,
        failure: &mut failure,
    };
    let result = document
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end());
    match result {
        Ok(()) => Ok(()),
        Err(error) => {
            Err(failure.unwrap_or_else(|| reading_error(error, entry_bytes, &since_entry)))
        }
    }
}

fn reading_error(error: serde_json::Error, limit: u64, since_entry: &Cell<u64>) -> Error {
    if since_entry.get() > limit {
        return Error::TooLarge {
            what: "a TOC entry",
            limit,
        };
    }
    if error.is_io() {
        return Error::Decompress("TOC", error.into());
    }
    Error::Json(error)
}

/// Counts the bytes since the last entry, so that no single string can fill the memory.
struct Metered<'a, R> {
    input: BufReader<R>,
    since_entry: &'a Cell<u64>,
    limit: u64,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(buffer)?;
        let since = self.since_entry.get() + length as u64;
        self.since_entry.set(since);
        if since > self.limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(length)
    }
}

struct Document<'a> {
    since_entry: &'a Cell<u64>,
    sink: &'a mut dyn Sink,
    failure: &'a mut Option<Error>,
}

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a TOC")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut version, mut entries) = (None, false);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "version" if version.is_none() => version = Some(map.next_value::<u64>()?),
                "entries" if !entries => {
                    entries = true;
                    map.next_value_seed(Entries {
                        since_entry: self.since_entry,
                        sink: &mut *self.sink,
                        failure: &mut *self.failure,
                    })?;
                }
                "version" | "entries" => return Err(A::Error::custom("a key occurs twice")),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        match version {
            Some(1) if entries => Ok(()),
            Some(1) => Err(A::Error::missing_field("entries")),
            Some(other) => {
                *self.failure = Some(Error::Version(other));
                Err(A::Error::custom("version"))
            }
            None => Err(A::Error::missing_field("version")),
        }
    }
}

struct Entries<'a> {
    since_entry: &'a Cell<u64>,
    sink: &'a mut dyn Sink,
    failure: &'a mut Option<Error>,
}

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of entries")
    }

    /// Go's empty list.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.since_entry.set(0);
        while let Some(entry) = list.next_element::<JsonEntry>()? {
            self.since_entry.set(0);
            if let Err(error) = self.sink.entry(entry) {
                *self.failure = Some(error);
                return Err(A::Error::custom("entry"));
            }
        }
        Ok(())
    }
}
