//! Entries of a tar, one at a time: ustar, PAX, and GNU's long names and sparse files.
//!
//! Headers are decoded by crate `tar`; reading entry by entry is done here, because there a long name or an extended header may have any
//! length, and because holes that PAX records describe would be lost.

use std::io::{self, Read};

use ::tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::error::LayerError;
use super::limits::LayerLimits;
use super::pax::{self, Records};
use super::sparse::{self, Expanded, Map, Stated};

const BLOCK: u64 = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    Hardlink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One entry's headers, put together. Names are as they stand in the tar.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    pub(crate) mtime_nanos: u32,
    pub(crate) device: (u32, u32),
    pub(crate) link: Vec<u8>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of the file, holes included.
    pub(crate) size: u64,
    map: Option<Map>,
}

/// Reads entries; the content of one is read, or passed over, before the next.
pub(crate) struct TarReader<R> {
    inner: R,
    limits: LayerLimits,
    /// Bytes of the tar so far.
    position: u64,
    /// Of the present entry's stored content.
    left: u64,
    padding: u64,
    globals: Records,
    /// Bytes of extended headers before the next entry.
    header_bytes: u64,
}

/// Extended headers that belong to the next entry.
#[derive(Default)]
struct Pending {
    records: Option<Records>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(inner: R, limits: LayerLimits) -> Self {
        Self {
            inner,
            limits,
            position: 0,
            left: 0,
            padding: 0,
            globals: Records::default(),
            header_bytes: 0,
        }
    }

    /// For what follows the tar's end.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    pub(crate) fn inner(&self) -> &R {
        &self.inner
    }

    /// The next entry; none at the tar's end, be it marked by blocks of zeros or not.
    pub(crate) fn next(&mut self) -> Result<Option<Item>, LayerError> {
        self.pass_over()?;
        let mut pending = Pending::default();
        self.header_bytes = 0;
        loop {
            let Some(header) = self.header()? else {
                if pending.records.is_some() || pending.name.is_some() || pending.link.is_some() {
                    return Err(self.malformed("it ends after an extended header"));
                }
                return Ok(None);
            };
            match header.entry_type().as_byte() {
                b'x' | b'X' => {
                    let records = self.records(&header)?;
                    let known = pending.records.take().unwrap_or_default();
                    pending.records = Some(known.overridden(records));
                }
                b'g' => {
                    let records = self.records(&header)?;
                    self.globals = self.globals.overridden(records);
                }
                b'L' => pending.name = Some(self.long_text(&header)?),
                b'K' => pending.link = Some(self.long_text(&header)?),
                _ => return self.item(&header, pending).map(Some),
            }
        }
    }

    /// The content of the entry that `next` gave last.
    pub(crate) fn content<T>(&mut self, item: &Item, read: impl FnOnce(&mut dyn Read) -> T) -> T {
        let mut stored = Stored { tar: self };
        match &item.map {
            Some(map) => read(&mut Expanded::new(&mut stored, map)),
            None => read(&mut stored),
        }
    }

    fn malformed(&self, reason: impl Into<String>) -> LayerError {
        LayerError::Tar {
            position: self.position,
            reason: reason.into(),
        }
    }

    fn pass_over(&mut self) -> Result<(), LayerError> {
        let rest = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        let passed = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())
            .map_err(LayerError::from_io)?;
        self.position += passed;
        match passed == rest {
            true => Ok(()),
            false => Err(self.malformed("it ends within an entry")),
        }
    }

    /// One block; none at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK as usize]>, LayerError> {
        let mut block = [0; BLOCK as usize];
        let mut filled = 0;
        while filled < block.len() {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(self.malformed("it ends within a header")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::from_io(error)),
            }
        }
        self.position += BLOCK;
        Ok(Some(block))
    }

    fn header(&mut self) -> Result<Option<Header>, LayerError> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block.iter().all(|byte| *byte == 0) {
            return match self.block()? {
                Some(second) if second.iter().any(|byte| *byte != 0) => {
                    Err(self.malformed("entries follow a block of zeros"))
                }
                _ => Ok(None),
            };
        }
        let header = Header::from_byte_slice(&block).clone();
        if !checksum_matches(&block, &header) {
            return Err(self.malformed("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// Content of an extended header, bounded.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, LayerError> {
        let size = header
            .entry_size()
            .map_err(|_| self.malformed("an extended header has no size"))?;
        self.header_bytes = self.header_bytes.saturating_add(size);
        if self.header_bytes > self.limits.header_bytes {
            return Err(LayerError::Limit {
                what: "bytes of headers for one entry",
                limit: self.limits.header_bytes,
            });
        }
        self.expect_content(size);
        let mut bytes = Vec::new();
        Stored { tar: self }
            .read_to_end(&mut bytes)
            .map_err(LayerError::from_io)?;
        self.pass_over()?;
        Ok(bytes)
    }

    fn records(&mut self, header: &Header) -> Result<Records, LayerError> {
        let bytes = self.extension(header)?;
        Records::parse(&bytes).map_err(|reason| self.malformed(reason))
    }

    /// GNU's long names end with a NUL.
    fn long_text(&mut self, header: &Header) -> Result<Vec<u8>, LayerError> {
        let mut bytes = self.extension(header)?;
        if bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }

    fn expect_content(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
    }

    fn item(&mut self, header: &Header, pending: Pending) -> Result<Item, LayerError> {
        let records = self.globals.overridden(pending.records.unwrap_or_default());
        let path = match (sparse::name(&records), records.get("path"), pending.name) {
            (Some(name), _, _) | (None, Some(name), _) => name.to_vec(),
            (None, None, Some(name)) => name,
            (None, None, None) => header.path_bytes().into_owned(),
        };
        let link = match (records.get("linkpath"), pending.link) {
            (Some(link), _) => link.to_vec(),
            (None, Some(link)) => link,
            (None, None) => header.link_name_bytes().unwrap_or_default().into_owned(),
        };
        let kind = self.kind(header, &path)?;
        let field = |what: &str| LayerError::entry(&path, format!("its {what} is malformed"));
        let (mtime, mtime_nanos) = match records.get("mtime") {
            Some(text) => pax::time(text).ok_or_else(|| field("time"))?,
            None => (header_time(header).ok_or_else(|| field("time"))?, 0),
        };
        let owner = |stated: Option<u64>, header: io::Result<u64>, what: &str| {
            let id = stated.map_or(header, Ok).map_err(|_| field(what))?;
            u32::try_from(id).map_err(|_| field(what))
        };
        let device = |number: io::Result<Option<u32>>| {
            number
                .map_err(|_| field("device number"))
                .map(Option::unwrap_or_default)
        };
        let mut item = Item {
            kind,
            mode: header.mode().map_err(|_| field("mode"))? & 0o7777,
            uid: owner(records.number(&path, "uid")?, header.uid(), "owner")?,
            gid: owner(records.number(&path, "gid")?, header.gid(), "group")?,
            mtime,
            mtime_nanos,
            device: match kind {
                Kind::CharDevice | Kind::BlockDevice => (
                    device(header.device_major())?,
                    device(header.device_minor())?,
                ),
                _ => (0, 0),
            },
            link,
            xattrs: records.xattrs(),
            size: 0,
            map: None,
            path,
        };
        if kind == Kind::File {
            self.file_size(header, &records, &mut item)?;
        }
        Ok(item)
    }

    /// Sizes of anything but regular files mean nothing, for Go's reader as for this.
    fn file_size(
        &mut self,
        header: &Header,
        records: &Records,
        item: &mut Item,
    ) -> Result<(), LayerError> {
        let stored = match records.number(&item.path, "size")? {
            Some(size) => size,
            None => header
                .entry_size()
                .map_err(|_| LayerError::entry(&item.path, "its size is malformed"))?,
        };
        if stored > self.limits.inflated_bytes {
            return Err(LayerError::Limit {
                what: "bytes of content",
                limit: self.limits.inflated_bytes,
            });
        }
        let map = if header.entry_type().is_gnu_sparse() {
            let map = self.gnu_map(header, &item.path)?;
            self.expect_content(stored);
            Some(map.checked(&item.path, stored)?)
        } else {
            self.expect_content(stored);
            self.pax_map(records, &item.path, stored)?
        };
        item.size = map.as_ref().map_or(stored, |map| map.size);
        item.map = map;
        Ok(())
    }

    fn pax_map(
        &mut self,
        records: &Records,
        path: &[u8],
        stored: u64,
    ) -> Result<Option<Map>, LayerError> {
        let limits = self.limits;
        match sparse::stated(path, records, &limits)? {
            Stated::Dense => Ok(None),
            Stated::Map(map) => map.checked(path, stored).map(Some),
            Stated::Ahead(size) => {
                let (map, taken) =
                    sparse::read_ahead(path, &mut Stored { tar: self }, size, &limits)?;
                map.checked(path, stored - taken).map(Some)
            }
        }
    }

    /// Four pieces stand in the header, 21 in each block that follows it.
    fn gnu_map(&mut self, header: &Header, path: &[u8]) -> Result<Map, LayerError> {
        let malformed = || LayerError::entry(path, "its map of holes is malformed");
        let gnu = header.as_gnu().ok_or_else(malformed)?;
        let size = gnu.real_size().map_err(|_| malformed())?;
        let mut pieces = Vec::new();
        let mut extend = |part: &[GnuSparseHeader]| {
            for piece in part.iter().filter(|piece| !piece.is_empty()) {
                let offset = piece.offset().map_err(|_| malformed())?;
                pieces.push((offset, piece.length().map_err(|_| malformed())?));
            }
            sparse::pieces_within(path, pieces.len(), &self.limits)
        };
        extend(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.inner
                .read_exact(block.as_mut_bytes())
                .map_err(LayerError::from_io)?;
            self.position += BLOCK;
            extend(block.sparse())?;
            more = block.is_extended();
        }
        Ok(Map { pieces, size })
    }

    fn kind(&self, header: &Header, path: &[u8]) -> Result<Kind, LayerError> {
        Ok(match header.entry_type() {
            // Tars of old mark directories by nothing but the slash.
            EntryType::Regular if path.last() == Some(&b'/') => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::Hardlink,
            EntryType::Char => Kind::CharDevice,
            EntryType::Block => Kind::BlockDevice,
            EntryType::Fifo => Kind::Fifo,
            other => {
                let kind = other.as_byte().escape_ascii();
                return Err(LayerError::entry(
                    path,
                    format!("its type '{kind}' is unknown"),
                ));
            }
        })
    }
}

/// What the tar holds of the present entry's content.
struct Stored<'a, R> {
    tar: &'a mut TarReader<R>,
}

impl<R: Read> Read for Stored<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.tar.left).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        if room == 0 {
            return Ok(0);
        }
        let count = self.tar.inner.read(&mut buffer[..room])?;
        if count == 0 {
            return Err(self.tar.malformed("it ends within an entry").into_io());
        }
        self.tar.left -= count as u64;
        self.tar.position += count as u64;
        Ok(count)
    }
}

/// The sum of all bytes, with spaces for the checksum itself. Tars of old added them as signed numbers.
fn checksum_matches(block: &[u8; BLOCK as usize], header: &Header) -> bool {
    let Ok(stated) = header.cksum() else {
        return false;
    };
    let outside = block[..148].iter().chain(&block[156..]);
    let unsigned: i64 = outside.clone().map(|byte| i64::from(*byte)).sum();
    let signed: i64 = outside.map(|byte| i64::from(byte.cast_signed())).sum();
    let spaces = 8 * i64::from(b' ');
    [unsigned + spaces, signed + spaces].contains(&i64::from(stated))
}

/// Octal, or binary with the first bit set: then the second is the sign.
fn header_time(header: &Header) -> Option<i64> {
    let field = &header.as_old().mtime;
    if field[0] == 0xff {
        let number = field[4..]
            .iter()
            .fold(u64::MAX, |number, byte| number << 8 | u64::from(*byte));
        return Some(number.cast_signed());
    }
    header.mtime().ok()?.try_into().ok()
}
