//! Lazy layers, and everything that can go wrong between a registry and a read.

use std::time::Duration;

use image::estargz::TOC_DIGEST_ANNOTATION;
use layerfs::{Layers, Refusal, SourceError};
use testkit::{Access, Entry, Fault, RangeMode, When};

use crate::lazy::{Lazy, LazyWorld, noise};
use crate::outside::{EIO, read};
use crate::world::{eventually, mounts_possible};

/// Two files that one request cannot bring together.
fn image() -> Vec<Lazy> {
    vec![Lazy::new([
        Entry::file("a", noise(1, 300_000)),
        Entry::file("between", noise(2, 400_000)),
        Entry::file("b", noise(3, 300_000)),
        // What comes with the table of contents.
        Entry::file("last", noise(4, 600_000)),
    ])]
}

fn content(name: &str) -> Vec<u8> {
    match name {
        "a" => noise(1, 300_000),
        "b" => noise(3, 300_000),
        _ => noise(2, 400_000),
    }
}

/// Registries in all their kinds, while nothing is to be seen of it.
#[test]
fn ranges_are_got_from_every_registry() {
    if !mounts_possible() {
        return;
    }
    let layers = image();
    let modes = [
        RangeMode::Whole,
        RangeMode::Multipart,
        RangeMode::Refused(400),
        RangeMode::Refused(416),
    ];
    for ranges in modes {
        let mut lazy = LazyWorld::new();
        lazy.push_all(&layers);
        lazy.serve(|server| server.ranges(ranges));
        let node = lazy.node();
        let (_, path) = lazy.attach(&node, &layers);
        for name in ["b", "a", "between"] {
            assert!(read(&path.join(name)) == Ok(content(name)), "{ranges:?}");
        }
    }
    // 200 and everything instead of 206 and a part.
    let lazy = LazyWorld::with_registry(&layers);
    lazy.server()
        .fault(When::path("/blobs/"), Fault::IgnoreRange);
    let node = lazy.node();
    let (_, path) = lazy.attach(&node, &layers);
    assert!(read(&path.join("b")) == Ok(content("b")));
}

#[test]
fn signed_urls_are_renewed() {
    if !mounts_possible() {
        return;
    }
    let layers = image();
    let mut lazy = LazyWorld::new();
    lazy.push_all(&layers);
    let store = lazy.store();
    let storage = store.serve().start().unwrap();
    lazy.serve(|server| server.redirect_blobs(&storage.url(), &store));
    let node = lazy.node();
    let (_, path) = lazy.attach(&node, &layers);
    assert!(read(&path.join("a")) == Ok(content("a")));
    let asked = lazy.asked();
    store.expire();
    assert!(read(&path.join("b")) == Ok(content("b")));
    assert!(lazy.asked() > asked, "the registry was asked anew");
    assert_eq!(node.metrics().failed_reads.get(), 0);
}

#[test]
fn tokens_that_end_in_mid_run_are_renewed() {
    if !mounts_possible() {
        return;
    }
    let layers = image();
    let mut lazy = LazyWorld::new();
    lazy.push_all(&layers);
    let access = Access::gitlab().user("user", "pass");
    lazy.serve(|server| server.access(&access));
    let node = lazy.node();
    let (_, path) = lazy.attach(&node, &layers);
    assert!(read(&path.join("a")) == Ok(content("a")));
    let issued = access.issued();
    access.revoke();
    assert!(read(&path.join("b")) == Ok(content("b")));
    assert!(access.issued() > issued);
    assert_eq!(node.metrics().failed_reads.get(), 0);
}

#[test]
fn transfers_that_break_are_repeated() {
    if !mounts_possible() {
        return;
    }
    let layers = image();
    for fault in [
        Fault::StatusCode(503),
        Fault::Truncate(1000),
        Fault::Close,
        Fault::CloseMidHeader,
        Fault::StallAfter(1000, Duration::from_secs(5)),
    ] {
        let lazy = LazyWorld::with_registry(&layers);
        let node = lazy.node();
        let (_, path) = lazy.attach(&node, &layers);
        lazy.server()
            .fault(When::path("/blobs/").first(1), fault.clone());
        assert!(read(&path.join("a")) == Ok(content("a")), "{fault:?}");
    }
}

/// What this read gets, others need not get: the file next to it is read all the same.
fn assert_only_a_fails(lazy: &LazyWorld, node: &Layers, layers: &[Lazy]) {
    let (_, path) = lazy.attach(node, layers);
    assert_eq!(read(&path.join("a")), Err(EIO));
    assert!(read(&path.join("b")) == Ok(content("b")));
    assert!(node.metrics().failed_reads.get() > 0);
}

/// Flips a byte of file `a` in a blob.
fn damaged(layer: &Lazy) -> Vec<u8> {
    let mut blob = layer.blob.blob.clone();
    // The first file of noise begins right after the first headers.
    blob[5000] ^= 1;
    blob
}

#[test]
fn a_wrong_chunk_is_an_error_of_that_read_only_and_counted() {
    if !mounts_possible() {
        return;
    }
    let layers = image();
    let lazy = LazyWorld::new();
    lazy.push(&layers[0].blob.digest, &damaged(&layers[0]));
    let mut lazy = lazy;
    lazy.serve(|server| server);
    let node = lazy.node();
    assert_only_a_fails(&lazy, &node, &layers);
    assert!(node.metrics().lazy.corrupt_chunks.get() > 0);
    // Repaired, it is read: nothing bad was kept.
    lazy.push_all(&layers);
    let (_, path) = lazy.attach(&node, &layers);
    assert!(read(&path.join("a")) == Ok(content("a")));
}

#[test]
fn a_wrong_chunk_of_one_source_is_taken_from_the_next() {
    if !mounts_possible() {
        return;
    }
    let layers = image();
    let mut lazy = LazyWorld::with_registry(&layers);
    // The repository's signature is right, its blob was bad when it was published.
    let mut bad = layers.clone();
    bad[0].blob.blob = damaged(&layers[0]);
    lazy.publish(&bad, &[]);
    let node = lazy.node();
    let (chain, path) = lazy.attach(&node, &layers);
    assert_eq!(chain[0].source, "estargz:cvmfs:layers.test.local");
    for name in ["a", "b"] {
        assert!(read(&path.join(name)) == Ok(content(name)));
    }
    let metrics = node.metrics();
    assert!(metrics.lazy.corrupt_chunks.get() > 0);
    assert!(metrics.lazy.failovers.get() > 0);
    assert_eq!(metrics.failed_reads.get(), 0);
    // Only what the repository could not give came from the registry.
    assert!(metrics.lazy.fetched_bytes.get() < 300_000);
}

#[test]
fn when_the_repository_goes_the_registry_gives() {
    if !mounts_possible() {
        return;
    }
    let layers = image();
    let mut lazy = LazyWorld::with_registry(&layers);
    lazy.publish(&layers, &[]);
    let node = lazy.node();
    let (_, path) = lazy.attach(&node, &layers);
    assert!(read(&path.join("a")) == Ok(content("a")));
    assert_eq!(node.metrics().lazy.requests.get(), 0);
    lazy.world.servers.clear();
    assert!(read(&path.join("b")) == Ok(content("b")));
    assert!(node.metrics().lazy.failovers.get() > 0);
    assert_eq!(node.metrics().failed_reads.get(), 0);
}

#[test]
fn when_the_registry_goes_the_repository_or_the_cache_gives() {
    if !mounts_possible() {
        return;
    }
    let layers = image();
    let mut lazy = LazyWorld::with_registry(&layers);
    let node = lazy.node();
    let (_, path) = lazy.attach(&node, &layers);
    assert!(read(&path.join("a")) == Ok(content("a")));
    lazy.registry = None;
    assert!(read(&path.join("a")) == Ok(content("a")), "from the cache");
    assert_eq!(read(&path.join("b")), Err(EIO));
    lazy.world.stop(node);

    // With both, the registry's end is not even noticed.
    lazy.publish(&layers, &[]);
    let node = lazy.node();
    let (_, path) = lazy.attach(&node, &layers);
    assert!(read(&path.join("b")) == Ok(content("b")));
    assert_eq!(node.metrics().failed_reads.get(), 0);
}

#[test]
fn another_toc_than_the_image_states_is_refused() {
    let layers = image();
    let lazy = LazyWorld::with_registry(&layers);
    let node = lazy.node();
    let mut request = lazy.requests(&layers).remove(0);
    let other = image::Digest::of(b"another").to_string();
    request
        .annotations
        .insert(TOC_DIGEST_ANNOTATION.to_owned(), other);
    request.image_layers.clear();
    for _ in 0..2 {
        assert!(matches!(
            node.claim(&request),
            Err(Refusal::Source(SourceError::Corrupt { .. }))
        ));
    }
    assert!(node.metrics().lazy.bad_tocs.get() > 0);
    // No tree of it is left for anybody.
    assert_eq!(node.metrics().trees_built.get(), 0);
    request
        .annotations
        .insert(TOC_DIGEST_ANNOTATION.to_owned(), "nonsense".to_owned());
    assert!(matches!(
        node.claim(&request),
        Err(Refusal::Source(SourceError::Corrupt { .. }))
    ));
}

#[test]
fn a_bad_toc_of_one_source_is_taken_from_the_next() {
    let layers = image();
    let mut lazy = LazyWorld::with_registry(&layers);
    let mut bad = layers.clone();
    let size = bad[0].blob.blob.len();
    bad[0].blob.blob[size - 300] ^= 1;
    lazy.publish(&bad, &[]);
    let node = lazy.node();
    let chain = lazy.claim(&node, &layers).unwrap();
    assert!(chain[0].source.starts_with("estargz:registry:"));
    assert!(node.metrics().lazy.bad_tocs.get() > 0);
}

#[test]
fn a_truncated_blob_is_refused_or_an_error_of_its_reads() {
    let layers = image();
    let blob = &layers[0].blob;
    for keep in [0, 10, 1000, blob.blob.len() - 1] {
        let mut lazy = LazyWorld::new();
        lazy.push(&blob.digest, &blob.blob[..keep]);
        lazy.serve(|server| server);
        let node = lazy.node();
        assert!(lazy.claim(&node, &layers).is_err(), "{keep} bytes");
    }
}

#[test]
fn a_registry_that_does_not_answer_is_no_miss() {
    let layers = image();
    let lazy = LazyWorld::with_registry(&layers);
    lazy.server()
        .fault(When::always(), Fault::Stall(Duration::from_secs(30)));
    let node = lazy.node();
    let claimed = lazy.claim(&node, &layers);
    assert!(
        matches!(
            claimed,
            Err(Refusal::Source(SourceError::Unavailable { .. }))
        ),
        "{claimed:?}"
    );
    lazy.server().clear_faults();
    eventually("it is asked again", || lazy.claim(&node, &layers).is_ok());
}

/// Readers of one chunk wait for one fetch.
#[test]
fn many_readers_cause_one_fetch() {
    if !mounts_possible() {
        return;
    }
    let layers = image();
    let lazy = LazyWorld::with_registry(&layers);
    let node = lazy.node();
    let (_, path) = lazy.attach(&node, &layers);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert!(read(&path.join("between")) == Ok(content("between"))));
        }
    });
    let chunks = 400_000_u64.div_ceil(64 << 10);
    let fetched = node.metrics().lazy.fetched_chunks.get();
    // The neighbours of the file may have come along.
    assert!((chunks..=chunks + 10).contains(&fetched), "{fetched}");
}
