//! Reads a tar entry by entry and keeps the very bytes of its headers: what is written holds them unchanged.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::json::JsonEntry;
use super::{WriteError, pax, time};

pub(crate) const BLOCK: u64 = 512;

/// Headers of one entry longer than this are refused: long names and extended attributes are far shorter.
const MAX_HEADERS: usize = 4 << 20;

/// An entry of a tar.
pub(crate) struct Item<'a> {
    /// For the TOC; `None` for what a TOC does not have (PAX global headers). Without place and digests.
    pub(crate) entry: Option<JsonEntry>,
    /// Where the headers begin in the tar.
    pub(crate) start: u64,
    /// All blocks of its headers.
    pub(crate) headers: Vec<u8>,
    /// Length of the content.
    pub(crate) size: u64,
    /// Where the content and its padding end in the tar.
    pub(crate) end: u64,
    pub(crate) content: &'a mut dyn Read,
}

/// Hands each entry to `visit`, then gives what follows the last one: the blocks that end a tar, and anything after.
pub(crate) fn each<R: Read>(
    input: R,
    visit: &mut dyn FnMut(Item<'_>) -> Result<(), WriteError>,
) -> Result<impl Read + use<R>, WriteError> {
    let state = Rc::new(RefCell::new(State {
        recording: true,
        bytes: Vec::new(),
        position: 0,
    }));
    let mut archive = tar::Archive::new(Recorder {
        input,
        state: Rc::clone(&state),
    });
    let mut padding = 0;
    for entry in archive.entries().map_err(WriteError::Input)? {
        let mut entry = entry.map_err(WriteError::Input)?;
        let start = state.borrow().start(padding);
        let mut headers = state.borrow_mut().pause(padding);
        let size = entry.size();
        // Within the headers, which are short.
        let at = entry.raw_header_position().saturating_sub(start) as usize;
        let records = pax::records(&headers, at)
            .ok_or_else(|| WriteError::Input(io::ErrorKind::InvalidData.into()))?;
        let mut described = describe(&entry, &records)?;
        if entry.header().entry_type().is_gnu_sparse() {
            headers = without_holes(headers, at, size)?;
        }
        if let Some(described) = &mut described
            && described.kind == "reg"
        {
            described.size = size;
        }
        visit(Item {
            entry: described,
            start,
            headers,
            size,
            end: entry
                .raw_file_position()
                .saturating_add(padded(stored_size(&entry))),
            content: &mut entry,
        })?;
        // Whatever the visitor left.
        io::copy(&mut entry, &mut io::sink()).map_err(WriteError::Input)?;
        padding = padding_of(stored_size(&entry));
        state.borrow_mut().recording = true;
    }
    let end = state.borrow_mut().pause(padding);
    let rest = archive.into_inner().input;
    Ok(io::Cursor::new(end).chain(rest))
}

/// What an entry takes in the tar; for sparse files less than its size.
fn stored_size<R: Read>(entry: &tar::Entry<'_, R>) -> u64 {
    if entry.header().entry_type().is_gnu_sparse() {
        entry.header().entry_size().unwrap_or(0)
    } else {
        entry.size()
    }
}

pub(crate) fn padding_of(size: u64) -> usize {
    // Less than a block.
    (size.wrapping_neg() % BLOCK) as usize
}

fn padded(size: u64) -> u64 {
    size.saturating_add(padding_of(size) as u64)
}

struct State {
    recording: bool,
    bytes: Vec<u8>,
    position: u64,
}

impl State {
    /// Where what was recorded begins, after the padding of the entry before.
    fn start(&self, padding: usize) -> u64 {
        let recorded = self.bytes.len().saturating_sub(padding);
        self.position.saturating_sub(recorded as u64)
    }

    fn pause(&mut self, padding: usize) -> Vec<u8> {
        self.recording = false;
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.drain(..padding.min(bytes.len()));
        bytes
    }
}

struct Recorder<R> {
    input: R,
    state: Rc<RefCell<State>>,
}

impl<R: Read> Read for Recorder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(buffer)?;
        let mut state = self.state.borrow_mut();
        state.position += length as u64;
        if state.recording {
            state.bytes.extend_from_slice(&buffer[..length]);
            if state.bytes.len() > MAX_HEADERS {
                return Err(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    "tar headers too long",
                ));
            }
        }
        Ok(length)
    }
}

/// What a TOC says of an entry, but for place, size and digests.
fn describe<R: Read>(
    entry: &tar::Entry<'_, R>,
    records: &[pax::Record<'_>],
) -> Result<Option<JsonEntry>, WriteError> {
    let kind = entry.header().entry_type();
    if kind.is_pax_global_extensions() {
        return Ok(None);
    }
    let of_records = |wanted: &[u8]| {
        let mut found = records.iter().rev();
        found
            .find(|(key, _)| *key == wanted)
            .map(|(_, value)| *value)
    };
    let header = entry.header();
    // Not by the crate: an attribute's value could pretend to be a path.
    let name = match of_records(b"path") {
        Some(path) => text(path)?,
        None => text(&header.path_bytes())?,
    };
    let unsupported = |name: String| WriteError::Unsupported {
        path: name,
        kind: kind.as_byte().into(),
    };
    let Some(word) = word(kind, &name) else {
        return Err(unsupported(name));
    };
    if word != "reg" && entry.size() > 0 {
        // Readers disagree on whether content follows.
        return Err(unsupported(name));
    }
    let link_name = match word {
        "symlink" | "hardlink" => match of_records(b"linkpath") {
            Some(target) => text(target)?,
            None => text(&header.link_name_bytes().unwrap_or_default())?,
        },
        _ => String::new(),
    };
    let device = |number: io::Result<Option<u32>>| match word {
        "char" | "block" => number
            .map_err(WriteError::Input)
            .map(Option::unwrap_or_default),
        _ => Ok(0),
    };
    let mut described = JsonEntry {
        kind: word.to_owned(),
        link_name,
        mode: u64::from(header.mode().map_err(WriteError::Input)? & 0o7777),
        uid: owner(header.uid())?,
        gid: owner(header.gid())?,
        user_name: name_of(header.username_bytes()),
        group_name: name_of(header.groupname_bytes()),
        dev_major: device(header.device_major())?,
        dev_minor: device(header.device_minor())?,
        ..JsonEntry::default()
    };
    described.name = name;
    // The epoch, too: to containers/storage a file without a time is of now.
    described.modified = time::format(header.mtime().map_err(WriteError::Input)? as i64, 0);
    extend(&mut described, records, entry.size())?;
    Ok(Some(described))
}

fn word(kind: tar::EntryType, name: &str) -> Option<&'static str> {
    Some(match kind {
        // Before POSIX, a slash made a directory.
        tar::EntryType::Regular if name.ends_with('/') => "dir",
        tar::EntryType::Regular | tar::EntryType::GNUSparse => "reg",
        tar::EntryType::Directory => "dir",
        tar::EntryType::Symlink => "symlink",
        tar::EntryType::Link => "hardlink",
        tar::EntryType::Char => "char",
        tar::EntryType::Block => "block",
        tar::EntryType::Fifo => "fifo",
        _ => return None,
    })
}

fn text(bytes: &[u8]) -> Result<String, WriteError> {
    let lost = || WriteError::NotUtf8(String::from_utf8_lossy(bytes).into_owned());
    let text = std::str::from_utf8(bytes).map_err(|_| lost())?;
    // Readers take this for a name that was lost.
    if text.contains('\u{fffd}') {
        return Err(lost());
    }
    Ok(text.to_owned())
}

fn owner(number: io::Result<u64>) -> Result<u32, WriteError> {
    let number = number.map_err(WriteError::Input)?;
    u32::try_from(number).map_err(|_| WriteError::TooLarge("an owner's number"))
}

/// Names of users and groups are for men only; what is not text is left out.
fn name_of(bytes: Option<&[u8]>) -> Option<String> {
    let text = std::str::from_utf8(bytes?).ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// Takes over what PAX headers say.
fn extend(
    described: &mut JsonEntry,
    records: &[pax::Record<'_>],
    size: u64,
) -> Result<(), WriteError> {
    let malformed = || WriteError::Input(io::ErrorKind::InvalidData.into());
    let number = |value: &[u8]| -> Result<u64, WriteError> {
        let text = std::str::from_utf8(value).map_err(|_| malformed())?;
        text.parse().map_err(|_| malformed())
    };
    let mut xattrs = BTreeMap::new();
    for (key, value) in records {
        match *key {
            b"uid" => described.uid = owner(number(value).map_err(io::Error::other))?,
            b"gid" => described.gid = owner(number(value).map_err(io::Error::other))?,
            b"uname" => described.user_name = name_of(Some(value)),
            b"gname" => described.group_name = name_of(Some(value)),
            b"mtime" => {
                let time = std::str::from_utf8(value).ok().and_then(pax_time);
                let (seconds, nanos) = time.ok_or_else(malformed)?;
                described.modified = time::format(seconds, nanos);
            }
            // Where two readers of a tar see different lengths, one of them is deceived.
            b"size" if number(value)? != size => return Err(malformed()),
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(WriteError::Unsupported {
                    path: described.name.clone(),
                    kind: 'S',
                });
            }
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    xattrs.insert(text(name)?, STANDARD.encode(value));
                }
            }
        }
    }
    described.xattrs = (!xattrs.is_empty()).then_some(xattrs);
    Ok(())
}

/// Decimal seconds with a fraction, also before 1970.
fn pax_time(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let (seconds, nanos): (i64, u32) = (whole.parse().ok()?, digits.parse().ok()?);
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

/// The headers of a file with holes, as those of an ordinary one: its content is written with the zeros.
fn without_holes(mut headers: Vec<u8>, at: usize, size: u64) -> Result<Vec<u8>, WriteError> {
    let damaged = || WriteError::Input(io::ErrorKind::InvalidData.into());
    headers.truncate(at + BLOCK as usize);
    let bytes = headers.get(at..).ok_or_else(damaged)?;
    if bytes.len() != BLOCK as usize {
        return Err(damaged());
    }
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes().copy_from_slice(bytes);
    let gnu = header.as_gnu_mut().ok_or_else(damaged)?;
    for piece in &mut gnu.sparse {
        piece.offset = [0; 12];
        piece.numbytes = [0; 12];
    }
    gnu.isextended = [0];
    gnu.realsize = [0; 12];
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(size);
    header.set_cksum();
    headers[at..].copy_from_slice(header.as_bytes());
    Ok(headers)
}

/// Headers of a file that we add.
pub(crate) fn header_of(name: &str, size: u64) -> Result<Vec<u8>, WriteError> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).map_err(WriteError::Input)?;
    header.set_size(size);
    header.set_mode(0o444);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_pax() {
        for (text, time) in [
            ("1700000000", Some((1_700_000_000, 0))),
            ("1700000000.5", Some((1_700_000_000, 500_000_000))),
            ("1700000000.1234567899", Some((1_700_000_000, 123_456_789))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.5", Some((-1, 500_000_000))),
            ("-3", Some((-3, 0))),
            ("x", None),
            ("1.x", None),
            ("", None),
        ] {
            assert_eq!(pax_time(text), time, "{text}");
        }
    }
}
