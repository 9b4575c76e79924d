//! Blobs as they are. eStargz members are deflated already: they are stored plain, one object each member, so that a lazy reader fetches
//! no byte twice.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use image::Descriptor;
use image::estargz::{Footer, Limits, Toc, TocDigest, tail_length_to_fetch};

/// Members shorter than this share an object: each object costs a row in the catalog and a request.
const SMALLEST_OBJECT: u64 = 128 << 10;

/// Where to cut a blob; `None` for one that is no eStargz (or that says so and lies: then it is stored all the same, cut anyhow).
pub(crate) fn boundaries(blob: &mut File, descriptor: &Descriptor) -> Option<Vec<u64>> {
    let size = descriptor.size;
    let tail_start = size - tail_length_to_fetch(size);
    let tail = read_range(blob, tail_start, size)?;
    let footer = Footer::find(&descriptor.annotations, &tail, size).ok()?;
    let range = footer.toc_range()?;
    let limits = Limits::default();
    if range.end - range.start > limits.compressed {
        return None;
    }
    let toc = read_range(blob, range.start, range.end)?;
    let expected = TocDigest::from_annotations(&descriptor.annotations)
        .ok()?
        .unwrap_or(TocDigest::Unverified);
    let toc = Toc::parse(&toc, &footer, &expected, &limits).ok()?;
    let starts = toc.chunks().iter().map(|chunk| chunk.range().start);
    let mut cuts = cuts(starts, footer.data_end());
    // The TOC is read first of all.
    cuts.extend([footer.data_end()].iter().filter(|end| **end < size));
    Some(cuts)
}

/// Ascending, each at the start of a member.
fn cuts(starts: impl Iterator<Item = u64>, end: u64) -> Vec<u64> {
    let mut cuts = Vec::new();
    let mut last = 0;
    for start in starts {
        if start >= last + SMALLEST_OBJECT && start < end {
            cuts.push(start);
            last = start;
        }
    }
    cuts
}

fn read_range(blob: &mut File, start: u64, end: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    blob.seek(SeekFrom::Start(start)).ok()?;
    blob.take(end.checked_sub(start)?)
        .read_to_end(&mut bytes)
        .ok()?;
    (bytes.len() as u64 == end - start).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_members_share_an_object() {
        let kib = |number: u64| number << 10;
        let starts = [0, kib(1), kib(130), kib(200), kib(300), kib(400)];
        assert_eq!(cuts(starts.into_iter(), kib(400)), [kib(130), kib(300)]);
        assert!(cuts(std::iter::empty(), kib(400)).is_empty());
    }
}
