//! A layer's table of contents: footer and TOC in one read of the blob's end, verified by the digest
//! that the image states, or by the signature of the repository that has the blob.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use image::Digest;
use image::estargz::{Codec, Footer, Limits, Toc, TocDigest};
use registry::Tail;

use super::blobs::{BlobSource, TAIL};
use crate::builds::lock;
use crate::error::SourceError;
use crate::metrics::LazyMetrics;
use crate::source::{Blob, Wanted};

/// Blobs that were looked at ahead lately.
const MAX_KEPT: usize = 512;
/// Bytes of their ends that are kept for claims that are about to come.
const MAX_BYTES: usize = 16 << 20;
/// How long.
const KEPT: Duration = Duration::from_secs(60);
/// More is not fetched before it is asked for in earnest.
const MAX_AHEAD: u64 = 2 << 20;

/// A verified TOC.
pub(super) struct FoundToc {
    pub toc: Toc,
    /// Where the blob lies, as labels state it.
    pub place: String,
    /// Whether images are believed about the diffIDs of that source's layers.
    pub trusted: bool,
}

/// Ends of blobs that were fetched ahead.
#[derive(Default)]
pub(super) struct Ahead {
    kept: Mutex<HashMap<Digest, Arc<Slot>>>,
}

struct Slot {
    asked: Instant,
    /// Locked while it is fetched.
    tail: Mutex<Option<Tail>>,
}

impl Slot {
    /// What it holds; one that is being fetched counts as the usual end.
    fn bytes(&self) -> usize {
        let usual = usize::try_from(TAIL).unwrap_or(0);
        self.tail.try_lock().map_or(usual, |tail| {
            tail.as_ref().map_or(0, |tail| tail.bytes.len())
        })
    }
}

impl Ahead {
    /// Fetches footer and TOC of a blob that no signature vouches for. Nothing is verified yet: the
    /// digest comes with the claim.
    pub(super) fn fetch(&self, sources: &[&Arc<dyn BlobSource>], blob: &Blob) {
        let unsigned = sources.iter().find(|source| !source.is_signed());
        let Some(source) = unsigned.filter(|source| matches!(source.may_hold(blob), Ok(true)))
        else {
            return;
        };
        let slot = Arc::new(Slot {
            asked: Instant::now(),
            tail: Mutex::default(),
        });
        // Before it can be seen, so that a claim waits for it.
        let mut tail = lock(&slot.tail);
        {
            let mut kept = lock(&self.kept);
            kept.retain(|_, slot| slot.asked.elapsed() < KEPT);
            let bytes: usize = kept.values().map(|slot| slot.bytes()).sum();
            if kept.len() >= MAX_KEPT || bytes >= MAX_BYTES || kept.contains_key(&blob.digest) {
                return;
            }
            kept.insert(blob.digest, Arc::clone(&slot));
        }
        *tail = whole_end(source.as_ref(), blob).unwrap_or_else(|error| {
            tracing::debug!(blob = %blob.digest, %error, "cannot be looked at ahead");
            None
        });
    }

    fn take(&self, blob: &Blob) -> Option<Tail> {
        // The slot stays: nobody needs to look ahead again.
        let slot = Arc::clone(lock(&self.kept).get(&blob.digest)?);
        lock(&slot.tail).take()
    }
}

/// The end of a blob from its TOC on.
fn whole_end(source: &dyn BlobSource, blob: &Blob) -> Result<Option<Tail>, SourceError> {
    let Some(mut tail) = source.tail(blob)? else {
        return Ok(None);
    };
    let footer = Footer::parse(&tail.bytes, tail.size).ok();
    let Some(range) = footer.and_then(|footer| footer.toc_range()) else {
        return Ok(None);
    };
    if range.end - range.start <= MAX_AHEAD {
        extend(source, blob, &mut tail, range.start)?;
    }
    Ok(Some(tail))
}

/// Makes a tail begin at `start` at the latest.
fn extend(
    source: &dyn BlobSource,
    blob: &Blob,
    tail: &mut Tail,
    start: u64,
) -> Result<(), SourceError> {
    let have = tail.size - tail.bytes.len() as u64;
    if start >= have {
        return Ok(());
    }
    let missing = start..have;
    let mut bytes = source
        .read(blob, std::slice::from_ref(&missing))?
        .pop()
        .unwrap_or_default();
    bytes.append(&mut tail.bytes);
    tail.bytes = bytes;
    Ok(())
}

/// Finds and verifies a layer's TOC; `None` if no source has the layer, or only as an ordinary one.
pub(super) fn find(
    sources: &[&Arc<dyn BlobSource>],
    ahead: &Ahead,
    wanted: &Wanted,
    expected: Option<&TocDigest>,
    metrics: &LazyMetrics,
) -> Result<Option<FoundToc>, SourceError> {
    let mut failed: Option<SourceError> = None;
    for source in sources {
        match find_in(source.as_ref(), ahead, wanted, expected) {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => {}
            Err(error) => {
                if matches!(error, SourceError::Corrupt { .. }) {
                    metrics.bad_tocs.inc();
                }
                failed.get_or_insert(error);
            }
        }
    }
    failed.map_or(Ok(None), Err)
}

fn find_in(
    source: &dyn BlobSource,
    ahead: &Ahead,
    wanted: &Wanted,
    expected: Option<&TocDigest>,
) -> Result<Option<FoundToc>, SourceError> {
    let blob = &wanted.blob;
    if !source.may_hold(blob)? {
        return Ok(None);
    }
    let place = source.shown(blob);
    if expected.is_none() && !source.is_signed() {
        return Err(SourceError::NoTocDigest {
            source_name: place,
            layer: blob.digest.to_string(),
        });
    }
    let kept = (!source.is_signed()).then(|| ahead.take(blob)).flatten();
    let Some(mut tail) = kept.map_or_else(|| source.tail(blob), |tail| Ok(Some(tail)))? else {
        return Ok(None);
    };
    let corrupt = |reason: String| SourceError::Corrupt {
        source_name: place.clone(),
        reason: format!("blob {}: {reason}", blob.digest),
    };
    let footer = match Footer::find(&wanted.annotations, &tail.bytes, tail.size) {
        Ok(footer) => footer,
        // A repository may have ordinary blobs in the same place.
        Err(image::estargz::Error::NoFooter) if expected.is_none() => return Ok(None),
        Err(error) => return Err(corrupt(error.to_string())),
    };
    // Its TOC is in another image: without, it is an ordinary layer.
    let Some(range) = footer.toc_range() else {
        return Ok(None);
    };
    let limits = Limits::default();
    if range.end - range.start > limits.compressed {
        return Err(corrupt("its TOC is too large".to_owned()));
    }
    extend(source, blob, &mut tail, range.start)?;
    let have = tail.size - tail.bytes.len() as u64;
    let within = |at: u64| usize::try_from(at.saturating_sub(have)).unwrap_or(usize::MAX);
    let bytes = tail
        .bytes
        .get(within(range.start)..within(range.end))
        .ok_or_else(|| corrupt("its end did not come".to_owned()))?;
    let expected = expected.unwrap_or(&TocDigest::Unverified);
    let toc = match Toc::parse(bytes, &footer, expected, &limits) {
        Ok(toc) => toc,
        // Not damaged: JSON cannot hold the name. The tar can, so it is an ordinary layer.
        Err(error) if is_lost_name(&error) => {
            tracing::info!(blob = %blob.digest, %error, "cannot be read piece by piece");
            return Ok(None);
        }
        Err(error) => return Err(corrupt(error.to_string())),
    };
    if !source.is_signed() && !is_verifiable(&toc) {
        return Err(corrupt(
            "its TOC has no digests for chunks (legacy stargz), and no signature vouches for them"
                .to_owned(),
        ));
    }
    Ok(Some(FoundToc {
        toc,
        trusted: source.is_trusted(),
        place,
    }))
}

fn is_verifiable(toc: &Toc) -> bool {
    let mut chunks = toc.chunks().iter();
    chunks.all(|chunk| chunk.digest.is_some() || chunk.codec == Codec::Zeros)
}

fn is_lost_name(error: &image::estargz::Error) -> bool {
    use image::estargz::{EntryFault, Error};
    matches!(
        error,
        Error::Entry {
            fault: EntryFault::LostName,
            ..
        }
    )
}
