//! Which entries of a tar come first, so that what a container reads when it starts lies together.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use super::writer::is_ours;
use super::{WriteError, landmark, tar_input};

/// A tar in another order.
pub(crate) struct Plan(Vec<Part>);

enum Part {
    /// Bytes of the tar.
    Old(Range<u64>),
    New(Vec<u8>),
}

/// An entry, as far as its place matters.
struct Unit {
    path: String,
    /// of a hardlink
    target: Option<String>,
    directory: bool,
    bytes: Range<u64>,
}

/// Reads the whole tar, and decides. Gives the files that cannot come first, too.
pub(crate) fn plan<R: Read + Seek>(
    tar: &mut R,
    files: &[String],
) -> Result<(Plan, Vec<String>), WriteError> {
    tar.rewind().map_err(WriteError::Input)?;
    let units = units(tar)?;
    let mut picker = Picker::new(&units);
    let mut missing = Vec::new();
    for file in files {
        if !picker.pick(&clean(file)) {
            missing.push(file.clone());
        }
    }
    let first = picker.order;
    let picked: HashSet<usize> = first.iter().copied().collect();
    let mut parts: Vec<Part> = first
        .iter()
        .map(|index| Part::Old(units[*index].bytes.clone()))
        .collect();
    let mut mark = tar_input::header_of(landmark::PREFETCH, landmark::CONTENT.len() as u64)?;
    mark.extend_from_slice(landmark::CONTENT);
    mark.resize(2 * tar_input::BLOCK as usize, 0);
    parts.push(Part::New(mark));
    let others = units.iter().enumerate();
    parts.extend(
        others
            .filter(|(index, _)| !picked.contains(index))
            .map(|(_, unit)| Part::Old(unit.bytes.clone())),
    );
    parts.push(Part::New(vec![0; 2 * tar_input::BLOCK as usize]));
    Ok((Plan(parts), missing))
}

fn units<R: Read>(tar: R) -> Result<Vec<Unit>, WriteError> {
    let mut units = Vec::new();
    let mut rest = tar_input::each(tar, &mut |item| {
        let bytes = item.start..item.end;
        match item.entry {
            Some(entry) if is_ours(&entry.name) => {}
            Some(entry) => units.push(Unit {
                path: clean(&entry.name),
                target: (entry.kind == "hardlink").then(|| clean(&entry.link_name)),
                directory: entry.kind == "dir",
                bytes,
            }),
            // No name leads to it, so it stays where it is.
            None => units.push(Unit {
                path: "\0".to_owned(),
                target: None,
                directory: false,
                bytes,
            }),
        }
        Ok(())
    })?;
    io::copy(&mut rest, &mut io::sink()).map_err(WriteError::Input)?;
    Ok(units)
}

fn clean(name: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            part => names.push(part),
        }
    }
    names.join("/")
}

/// Most hardlinks through each other that are followed.
const MAX_LINKS: usize = 40;

struct Picker<'a> {
    units: &'a [Unit],
    named: HashMap<&'a str, Vec<usize>>,
    picked: HashSet<usize>,
    order: Vec<usize>,
}

impl<'a> Picker<'a> {
    fn new(units: &'a [Unit]) -> Self {
        let mut named: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, unit) in units.iter().enumerate() {
            named.entry(&unit.path).or_default().push(index);
        }
        Self {
            units,
            named,
            picked: HashSet::new(),
            order: Vec::new(),
        }
    }

    /// Puts a path after what is picked, with all that must come before it. `false` if it has no single place.
    fn pick(&mut self, path: &str) -> bool {
        let mut chain = vec![path.to_owned()];
        while let Some(target) = self.link_target(&chain[chain.len() - 1]) {
            if chain.len() > MAX_LINKS {
                return false;
            }
            chain.push(target);
        }
        if !chain.iter().all(|path| self.can_move(path)) {
            return false;
        }
        for path in chain.iter().rev() {
            for prefix in prefixes(path) {
                self.take(prefix);
            }
        }
        true
    }

    fn link_target(&self, path: &str) -> Option<String> {
        match self.named.get(path).map(Vec::as_slice) {
            Some([only]) => self.units[*only].target.clone(),
            _ => None,
        }
    }

    /// Whether it is there once, below directories only; those may be there several times, or not at all.
    fn can_move(&self, path: &str) -> bool {
        let of = |path: &str| self.named.get(path).map(Vec::as_slice).unwrap_or_default();
        let directories = |found: &[usize]| found.iter().all(|index| self.units[*index].directory);
        let own = of(path);
        let exists = !own.is_empty() && (own.len() == 1 || directories(own));
        exists
            && prefixes(path)
                .take_while(|prefix| prefix.len() < path.len())
                .all(|prefix| directories(of(prefix)))
    }

    fn take(&mut self, path: &str) {
        for index in self.named.get(path).into_iter().flatten() {
            if self.picked.insert(*index) {
                self.order.push(*index);
            }
        }
    }
}

/// The root, each directory above, and the path itself.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let slashes = path.match_indices('/').map(|(at, _)| &path[..at]);
    std::iter::once("")
        .chain(slashes)
        .chain(std::iter::once(path))
}

impl Plan {
    /// Reads the tar in its new order.
    pub(crate) fn over<R: Read + Seek>(self, tar: R) -> impl Read {
        Reordered {
            tar,
            parts: self.0.into_iter(),
            current: io::Cursor::new(Vec::new()),
            left: 0,
        }
    }
}

struct Reordered<R> {
    tar: R,
    parts: std::vec::IntoIter<Part>,
    current: io::Cursor<Vec<u8>>,
    /// Bytes of the old tar that come next.
    left: u64,
}

impl<R: Read + Seek> Read for Reordered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if buffer.is_empty() {
                return Ok(0);
            }
            let length = self.current.read(buffer)?;
            if length > 0 {
                return Ok(length);
            }
            if self.left > 0 {
                let length = (&mut self.tar).take(self.left).read(buffer)?;
                self.left -= length as u64;
                if length == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                return Ok(length);
            }
            match self.parts.next() {
                None => return Ok(0),
                Some(Part::New(bytes)) => self.current = io::Cursor::new(bytes),
                Some(Part::Old(range)) => {
                    self.tar.seek(SeekFrom::Start(range.start))?;
                    self.left = range.end - range.start;
                }
            }
        }
    }
}
