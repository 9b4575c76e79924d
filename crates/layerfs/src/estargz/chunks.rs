//! Contents of lazy layers: from the cache by the chunk's own digest, else from the blob's sources
//! in order. A source that fails, or gives a chunk that is not the one, is passed over at the read.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cache::{Cache, FetchError, Key, Object};
use image::Digest;
use image::estargz::{Chunk, Codec, decode_chunks, decode_member, decode_unverified};

use super::blobs::BlobSource;
use super::flights::{Flights, Turn};
use super::window::Window;
use crate::builds::lock;
use crate::error::SourceError;
use crate::metrics::LazyMetrics;
use crate::source::{Blob, Layer, Opened};

/// A source that could not be reached is asked last for so long.
const AVOID: Duration = Duration::from_secs(30);
/// A source that has not a blob is not asked for it for so long.
const ABSENT: Duration = Duration::from_secs(60);
/// Blobs of which that is remembered.
const MAX_ABSENT: usize = 4096;
/// How long a read waits for another's fetch of the same chunk.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes between two members that are cheaper to read than to ask around.
const GAP: u64 = 32 << 10;

/// Reads chunks.
pub(super) struct Chunks {
    places: Vec<Place>,
    cache: Arc<Cache>,
    flights: Flights,
    window: Window,
    reads: AtomicUsize,
    last_read: Mutex<Option<Instant>>,
    metrics: LazyMetrics,
}

struct Place {
    source: Arc<dyn BlobSource>,
    avoided: Mutex<Option<Instant>>,
    absent: Mutex<HashMap<Digest, Instant>>,
}

/// A whole chunk.
enum Content {
    /// In the cache.
    Kept(Object),
    /// In memory only.
    Loose(Arc<Vec<u8>>),
}

/// How far warming got.
enum Warmed {
    All,
    Some,
    Failed,
}

/// A read that somebody waits for.
struct Read<'a>(&'a Chunks);

impl Drop for Read<'_> {
    fn drop(&mut self) {
        self.0.reads.fetch_sub(1, Ordering::Relaxed);
        *lock(&self.0.last_read) = Some(Instant::now());
    }
}

impl Chunks {
    pub(super) fn new(
        sources: Vec<Arc<dyn BlobSource>>,
        cache: Arc<Cache>,
        metrics: LazyMetrics,
    ) -> Self {
        let place = |source| Place {
            source,
            avoided: Mutex::default(),
            absent: Mutex::default(),
        };
        Self {
            places: sources.into_iter().map(place).collect(),
            cache,
            flights: Flights::default(),
            window: Window::default(),
            reads: AtomicUsize::new(0),
            last_read: Mutex::default(),
            metrics,
        }
    }

    /// Where blobs are looked for, in order.
    pub(super) fn sources(&self) -> impl Iterator<Item = &Arc<dyn BlobSource>> {
        self.places.iter().map(|place| &place.source)
    }

    /// For how long no read has waited for a source; zero while one does.
    pub(super) fn quiet_for(&self) -> Duration {
        if self.reads.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        lock(&self.last_read).map_or(Duration::MAX, |at| at.elapsed())
    }

    /// `wanted` bytes of a chunk from `skip` on; `beside` names what the same request may bring.
    pub(super) fn open(
        &self,
        layer: &Layer,
        chunk: &Chunk,
        (skip, wanted): (u64, u64),
        beside: &dyn Fn() -> Vec<Chunk>,
    ) -> Result<Opened, SourceError> {
        if chunk.codec == Codec::Zeros {
            let length = usize::try_from(wanted).unwrap_or(0);
            return Ok(Opened::Bytes(vec![0; length]));
        }
        if let Some(object) = self.cached(chunk) {
            return Ok(Opened::Object(object));
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        let _read = Read(self);
        let content = self.ask_places(&layer.blob, chunk, |place| {
            if place.source.is_signed() {
                self.signed(place, &layer.blob, chunk).map(Content::Loose)
            } else {
                self.fetched(place, &layer.blob, chunk, beside)
            }
        })?;
        Ok(match content {
            Content::Kept(object) => Opened::Object(object),
            Content::Loose(content) => Opened::Bytes(cut(&content, skip, wanted)),
        })
    }

    /// Brings chunks of one layer nearer, without handing them out. Returns how many are here now.
    pub(super) fn warm(&self, blob: &Blob, chunks: &[Chunk]) -> usize {
        // Some may be on their way already: their end is awaited, then the others are fetched.
        for _ in 0..chunks.len() {
            let missing: Vec<Chunk> = chunks
                .iter()
                .filter(|chunk| chunk.codec != Codec::Zeros && !self.is_cached(chunk))
                .copied()
                .collect();
            match self.warm_missing(blob, &missing) {
                Warmed::All => break,
                Warmed::Some => {}
                Warmed::Failed => return chunks.len() - missing.len(),
            }
        }
        chunks.len()
    }

    fn warm_missing(&self, blob: &Blob, missing: &[Chunk]) -> Warmed {
        let Some(first) = missing.first() else {
            return Warmed::All;
        };
        let others = || missing[1..].to_vec();
        let warmed = self.ask_places(blob, first, |place| {
            if place.source.is_signed() {
                // Its own client keeps what comes.
                let mut missing = missing.to_vec();
                missing.sort_unstable_by_key(|chunk| chunk.start);
                let read = place.source.read(blob, &spans(&missing));
                read.map(|_| Warmed::All)
            } else {
                let fetched = self.fetched(place, blob, first, &others);
                fetched.map(|_| Warmed::Some)
            }
        });
        warmed.unwrap_or(Warmed::Failed)
    }

    /// Gets chunks ready that a reader is about to come to: fetched, and decompressed where the cache
    /// has only compressed bytes, so that this does not wait for the reader.
    pub(super) fn ready(&self, blob: &Blob, chunks: &[Chunk]) {
        self.warm(blob, chunks);
        for chunk in chunks {
            if chunk.codec == Codec::Zeros || self.is_cached(chunk) {
                continue;
            }
            // Failures are the reader's to find.
            let _ = self.ask_places(blob, chunk, |place| match place.source.is_signed() {
                true => self.signed(place, blob, chunk).map(drop),
                false => Ok(()),
            });
        }
    }

    /// Asks one place after the other, those that failed lately last.
    fn ask_places<T>(
        &self,
        blob: &Blob,
        chunk: &Chunk,
        read: impl Fn(&Place) -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        let mut places: Vec<&Place> = self.places.iter().collect();
        places.sort_by_key(|place| place.is_avoided());
        let mut failed: Option<SourceError> = None;
        for place in places {
            // Nothing but a signature vouches for such a chunk (legacy stargz).
            if chunk.digest.is_none() && !place.source.is_signed() {
                continue;
            }
            let got = match place.may_hold(blob) {
                Ok(false) => continue,
                Ok(true) => read(place),
                Err(error) => Err(error),
            };
            match got {
                Ok(got) => {
                    if failed.is_some() {
                        self.metrics.failovers.inc();
                    }
                    return Ok(got);
                }
                Err(error) => {
                    tracing::warn!(blob = %blob.digest, %error, "a source fails, the next one is asked");
                    place.note(&error);
                    if matches!(error, SourceError::Corrupt { .. }) {
                        self.metrics.corrupt_chunks.inc();
                    }
                    failed.get_or_insert(error);
                }
            }
        }
        Err(failed.unwrap_or_else(|| SourceError::Unavailable {
            source_name: super::NAME.to_owned(),
            reason: format!("no source has blob {} any more", blob.digest),
        }))
    }

    fn cached(&self, chunk: &Chunk) -> Option<Object> {
        let key = name_of(chunk)?;
        self.cache.get(&key).unwrap_or_else(|error| {
            tracing::warn!(%key, %error, "the cache cannot be read, the source is asked");
            None
        })
    }

    fn is_cached(&self, chunk: &Chunk) -> bool {
        name_of(chunk).is_some_and(|key| self.cache.contains(&key))
    }

    /// A chunk of a blob whose bytes lie here already, compressed.
    fn signed(
        &self,
        place: &Place,
        blob: &Blob,
        chunk: &Chunk,
    ) -> Result<Arc<Vec<u8>>, SourceError> {
        let name = format!(
            "{} {} {}",
            blob.digest.hex(),
            chunk.start,
            chunk.inner_offset
        );
        self.window.get(&name, chunk.size, || {
            let member = place.source.read(blob, &[chunk.range()])?;
            let member = member.first().map(Vec::as_slice).unwrap_or_default();
            let content = match chunk.digest {
                Some(_) => decode_member(member, chunk),
                None => decode_unverified(member, chunk),
            };
            content.map_err(|error| corrupt(place, blob, &error))
        })
    }

    /// A chunk from the network by way of the cache.
    fn fetched(
        &self,
        place: &Place,
        blob: &Blob,
        chunk: &Chunk,
        beside: &dyn Fn() -> Vec<Chunk>,
    ) -> Result<Content, SourceError> {
        let key = name_of(chunk).ok_or_else(|| SourceError::Corrupt {
            source_name: place.source.shown(blob),
            reason: "a chunk without digest".to_owned(),
        })?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut flight = match self.flights.turn(&key, deadline) {
                Turn::Mine(flight) => flight,
                Turn::Landed => match self.cached(chunk) {
                    Some(object) => return Ok(Content::Kept(object)),
                    // It failed, or was evicted at once.
                    None => continue,
                },
                Turn::TimedOut => {
                    return Err(SourceError::Unavailable {
                        source_name: place.source.shown(blob),
                        reason: format!(
                            "another read of the same chunk takes more than {} s",
                            PATIENCE.as_secs()
                        ),
                    });
                }
            };
            // Landed between the look and the turn.
            if let Some(object) = self.cached(chunk) {
                return Ok(Content::Kept(object));
            }
            let mut group = vec![*chunk];
            group.extend(beside().into_iter().filter(|other| {
                !self.is_cached(other) && name_of(other).is_some_and(|key| flight.take(&key))
            }));
            return self.fetch(place, blob, chunk, group);
        }
    }

    /// Fetches chunks in as few requests as may be, keeps them, and hands out the first.
    fn fetch(
        &self,
        place: &Place,
        blob: &Blob,
        first: &Chunk,
        mut group: Vec<Chunk>,
    ) -> Result<Content, SourceError> {
        group.sort_unstable_by_key(|chunk| chunk.start);
        let spans = spans(&group);
        let bytes = place.source.read(blob, &spans)?;
        self.metrics.requests.inc();
        let received: usize = bytes.iter().map(Vec::len).sum();
        self.metrics.fetched_bytes.inc_by(received as u64);
        let mut opened = Err(SourceError::Unavailable {
            source_name: place.source.shown(blob),
            reason: "a range did not come".to_owned(),
        });
        for members in group.chunk_by(|one, next| one.start == next.start) {
            let content = member(&spans, &bytes, members);
            let decoded = decode_chunks(content, members);
            let is_first = members.contains(first);
            let decoded = match decoded {
                Ok(decoded) => decoded,
                Err(error) if is_first => {
                    opened = Err(corrupt(place, blob, &error));
                    continue;
                }
                // Whoever wants it will find out.
                Err(_) => continue,
            };
            for (chunk, content) in decoded {
                let kept = content
                    .map(|content| self.keep(chunk, content))
                    .map_err(|error| corrupt(place, blob, &error));
                if chunk == first {
                    opened = kept;
                }
            }
        }
        opened
    }

    /// Puts a verified chunk into the cache; without room there, it is served all the same.
    fn keep(&self, chunk: &Chunk, content: Vec<u8>) -> Content {
        self.metrics.fetched_chunks.inc();
        let (Some(key), Some(digest)) = (name_of(chunk), chunk.digest) else {
            return Content::Loose(Arc::new(content));
        };
        let kept = self.cache.get_or_fetch(&key, |mut entry| {
            entry.reserve(content.len() as u64)?;
            entry.append(&content)?;
            // Compared when it was decompressed: nothing else leaves the decoder.
            Ok::<_, FetchError<std::convert::Infallible>>(
                entry.finish(digest.as_bytes(), digest.as_bytes())?,
            )
        });
        match kept {
            Ok(object) => Content::Kept(object),
            Err(error) => {
                tracing::warn!(%key, %error, "a chunk cannot be kept");
                Content::Loose(Arc::new(content))
            }
        }
    }
}

impl Place {
    /// Whether it has the blob; what it has not is remembered for a while, since reads are many.
    fn may_hold(&self, blob: &Blob) -> Result<bool, SourceError> {
        let known = lock(&self.absent).get(&blob.digest).copied();
        if known.is_some_and(|at| at.elapsed() < ABSENT) {
            return Ok(false);
        }
        let holds = self.source.may_hold(blob)?;
        let mut absent = lock(&self.absent);
        if absent.len() >= MAX_ABSENT {
            absent.clear();
        }
        match holds {
            true => absent.remove(&blob.digest),
            false => absent.insert(blob.digest, Instant::now()),
        };
        Ok(holds)
    }

    fn is_avoided(&self) -> bool {
        lock(&self.avoided).is_some_and(|at| at.elapsed() < AVOID)
    }

    fn note(&self, error: &SourceError) {
        if matches!(error, SourceError::Unavailable { .. }) {
            *lock(&self.avoided) = Some(Instant::now());
        }
    }
}

/// Name of a chunk's content in the cache: its own digest, whatever layer or image it belongs to.
fn name_of(chunk: &Chunk) -> Option<Key> {
    Key::new(&format!("{}-sha256", chunk.digest?.hex())).ok()
}

fn cut(content: &[u8], skip: u64, wanted: u64) -> Vec<u8> {
    let clamp = |at: u64| usize::try_from(at).map_or(content.len(), |at| at.min(content.len()));
    content[clamp(skip)..clamp(skip.saturating_add(wanted))].to_vec()
}

fn corrupt(place: &Place, blob: &Blob, error: &image::estargz::Error) -> SourceError {
    SourceError::Corrupt {
        source_name: place.source.shown(blob),
        reason: format!("blob {}: {error}", blob.digest),
    }
}

/// Ranges that cover all members of `chunks`, which are in the order of the blob.
fn spans(chunks: &[Chunk]) -> Vec<Range<u64>> {
    let mut spans: Vec<Range<u64>> = Vec::new();
    for chunk in chunks {
        match spans.last_mut() {
            Some(span) if chunk.start <= span.end.saturating_add(GAP) => {
                span.end = span.end.max(chunk.end);
            }
            _ => spans.push(chunk.range()),
        }
    }
    spans
}

/// The bytes of the member that these chunks share, as far as they came.
fn member<'a>(spans: &[Range<u64>], bytes: &'a [Vec<u8>], chunks: &[Chunk]) -> &'a [u8] {
    let start = chunks.first().map_or(0, |chunk| chunk.start);
    let end = chunks.iter().map(|chunk| chunk.end).max().unwrap_or(start);
    let found = spans.iter().zip(bytes);
    let mut found = found.filter(|(span, _)| span.start <= start && end <= span.end);
    let part = found.next().and_then(|(span, bytes)| {
        let from = usize::try_from(start - span.start).ok()?;
        let to = usize::try_from(end - span.start).ok()?;
        bytes.get(from..to)
    });
    part.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice::from_ref;

    fn chunk(start: u64, end: u64) -> Chunk {
        Chunk {
            file_offset: 0,
            size: 1,
            codec: Codec::Gzip,
            start,
            end,
            inner_offset: 0,
            digest: None,
        }
    }

    #[test]
    fn members_that_are_near_are_one_range() {
        let near = [chunk(0, 10), chunk(10, 20), chunk(20 + GAP, 30 + GAP)];
        assert_eq!(spans(&near), vec![0..30 + GAP]);
        let far = [chunk(0, 10), chunk(11 + GAP, 12 + GAP)];
        assert_eq!(spans(&far), [0..10, 11 + GAP..12 + GAP]);
        let shared = [chunk(5, 10), chunk(5, 12)];
        assert_eq!(spans(&shared), vec![5..12]);
        let bytes = [vec![1, 2, 3, 4, 5, 6, 7]];
        assert_eq!(
            member(&spans(&shared), &bytes, &shared),
            [1, 2, 3, 4, 5, 6, 7]
        );
        assert_eq!(member(from_ref(&(0..7)), &bytes, &[chunk(2, 4)]), [3, 4]);
        assert!(member(from_ref(&(0..9)), &bytes, &[chunk(7, 9)]).is_empty());
    }

    #[test]
    fn parts_of_chunks() {
        assert_eq!(cut(b"abcdef", 2, 3), b"cde");
        assert_eq!(cut(b"abc", 2, 9), b"c");
        assert_eq!(cut(b"abc", 9, 9), b"");
        assert_eq!(cut(b"abc", 0, 0), b"");
    }
}
