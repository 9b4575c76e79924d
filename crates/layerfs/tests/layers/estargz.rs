//! Lazy layers that all is well with: claimed, shown, read, kept.

use image::estargz::Format;
use layerfs::{Fetching, Refusal, SourceError};
use testkit::Entry;

use crate::lazy::{Lazy, LazyWorld, Style, by_tar, by_tar_without_xattrs, everything, link, noise};
use crate::model::{Kept, merged};
use crate::outside::{read, walk};
use crate::world::{blob, claim, eventually, mounts_possible, requests};

fn styles() -> Vec<Style> {
    let shared = Style {
        min_chunk_size: 50_000,
        ..Style::new(Format::Estargz)
    };
    let early = Style {
        early: vec!["large".to_owned(), "bin/alias".to_owned()],
        ..Style::new(Format::Estargz)
    };
    vec![
        Style::new(Format::Estargz),
        shared,
        early,
        Style::new(Format::ZstdChunked),
    ]
}

/// What is read of a mount is what `tar` unpacks, for every format and every place of the blob.
#[test]
fn a_lazy_layer_is_what_tar_makes_of_it() {
    if !mounts_possible() {
        return;
    }
    for style in styles() {
        let layers = [Lazy::styled(everything(), &style)];
        for published in [false, true] {
            let mut lazy = LazyWorld::with_registry(if published { &[] } else { &layers });
            if published {
                lazy.publish(&layers, &[]);
            }
            let node = lazy.node();
            let (chain, path) = lazy.attach(&node, &layers);
            let expected = by_tar(&layers[0].blob, &lazy.world.path("unpacked"));
            expected
                .compare(&walk(&path, 0), &[])
                .unwrap_or_else(|difference| panic!("{:?}: {difference}", style.format));
            let place = if published {
                "estargz:cvmfs:layers.test.local".to_owned()
            } else {
                format!("estargz:registry:{}/team/app", lazy.server().address())
            };
            assert_eq!(chain[0].source, place);
            let metrics = node.metrics();
            assert_eq!(metrics.failed_reads.get(), 0);
            assert_eq!(metrics.lazy.fetched_chunks.get() > 0, !published);
        }
    }
}

#[test]
fn footer_and_toc_come_in_one_read() {
    let layers = [Lazy::new(everything())];
    let lazy = LazyWorld::with_registry(&layers);
    let node = lazy.node();
    let claimed = node.claim(&lazy.requests(&layers)[0]).unwrap();
    assert_eq!(claimed.diff_id, None, "a registry proves no diffID");
    assert!(claimed.size > 400_000);
    eventually("the tree is built", || {
        node.metrics().trees_built.get() == 1
    });
    assert_eq!(lazy.asked(), 1);
}

#[test]
fn a_toc_that_is_longer_than_the_first_read_takes_a_second_one() {
    if !mounts_possible() {
        return;
    }
    let name = |number: u64| format!("dir{}/{number}-{}", number % 7, number * 7919 % 10_007);
    let files = (0..9000).map(|number| Entry::file(name(number), noise(number + 1, 20)));
    let layers = [Lazy::new(files)];
    let lazy = LazyWorld::with_registry(&layers);
    let node = lazy.node();
    let (_, path) = lazy.attach(&node, &layers);
    assert_eq!(lazy.asked(), 2);
    assert_eq!(read(&path.join(name(5))), Ok(noise(6, 20)));
}

/// CVMFS below, registry above, one chain; with whiteouts of the upper layers.
#[test]
fn mixed_chains_are_one() {
    if !mounts_possible() {
        return;
    }
    let base = blob([
        Entry::file("etc/os", "base"),
        Entry::file("usr/gone", "gone"),
        Entry::file("var/lib/x", "x"),
    ]);
    let upper = [
        Lazy::new([
            Entry::whiteout("usr/gone"),
            Entry::file("usr/new", noise(3, 100_000)),
        ]),
        Lazy::styled(
            [
                Entry::opaque("var/lib"),
                Entry::file("var/lib/y", "y"),
                Entry::file("etc/os", "upper"),
            ],
            &Style::new(Format::ZstdChunked),
        ),
    ];
    let mut lazy = LazyWorld::with_registry(&upper);
    lazy.publish(&[], std::slice::from_ref(&base));
    let node = lazy.node();
    let blobs = [base, upper[0].blob.clone(), upper[1].blob.clone()];
    let mut asked = requests(&blobs);
    for (request, layer) in asked[1..].iter_mut().zip(&upper) {
        request.annotations = layer.written.annotations.clone();
        request.reference = Some(lazy.reference());
    }
    let chain: Vec<_> = asked
        .iter()
        .map(|request| link(request, &node.claim(request).unwrap()))
        .collect();
    assert_eq!(chain[0].source, "cvmfs:layers.test.local");
    assert!(chain[2].source.starts_with("estargz:registry:"));
    let path = node.attach(&chain).unwrap();
    let layers: Vec<_> = blobs.iter().map(|blob| blob.layer.clone()).collect();
    merged(&layers, Kept::ALL)
        .compare(&walk(&path, 0), &[])
        .unwrap_or_else(|difference| panic!("{difference}"));
}

#[test]
fn all_layers_are_looked_at_with_the_first_claim() {
    let layers: Vec<_> = (0..4)
        .map(|number| Lazy::new([Entry::file(format!("f{number}"), noise(number, 10))]))
        .collect();
    let lazy = LazyWorld::with_registry(&layers);
    let node = lazy.node();
    let requests = lazy.requests(&layers);
    node.claim(&requests[0]).unwrap();
    eventually("all trees are built", || {
        node.metrics().trees_built.get() == 4
    });
    let asked = lazy.asked();
    assert_eq!(asked, 4);
    for request in &requests {
        node.claim(request).unwrap();
    }
    assert_eq!(lazy.asked(), asked, "nothing is asked twice");
}

/// A client that tells only the digests of the other layers: their ends are fetched, unverified,
/// and what the claim states decides.
#[test]
fn layers_of_unknown_digest_are_looked_at_too() {
    let layers: Vec<_> = (0..3)
        .map(|number| Lazy::new([Entry::file(format!("f{number}"), noise(number, 10))]))
        .collect();
    let lazy = LazyWorld::with_registry(&layers);
    let node = lazy.node();
    let mut requests = lazy.requests(&layers);
    for request in &mut requests {
        for layer in &mut request.image_layers {
            layer.annotations.clear();
        }
    }
    node.claim(&requests[0]).unwrap();
    eventually("the ends of all layers came", || lazy.asked() == 3);
    for request in &requests {
        node.claim(request).unwrap();
    }
    assert_eq!(lazy.asked(), 3);
    assert_eq!(node.metrics().lazy.bad_tocs.get(), 0);
}

#[test]
fn without_a_digest_of_its_toc_a_registrys_layer_is_refused() {
    let layers = [Lazy::new([Entry::file("f", "f")])];
    let mut lazy = LazyWorld::with_registry(&layers);
    let mut request = lazy.requests(&layers).remove(0);
    request.annotations.clear();
    let refused = lazy.node().claim(&request);
    assert!(
        matches!(
            refused,
            Err(Refusal::Source(SourceError::NoTocDigest { .. }))
        ),
        "{refused:?}"
    );
    // A signed repository vouches for it.
    lazy.publish(&layers, &[]);
    let node = lazy.node();
    let claimed = node.claim(&request).unwrap();
    assert_eq!(claimed.source, "estargz:cvmfs:layers.test.local");
    // With and without the annotation it is one tree.
    let stated = node.claim(&lazy.requests(&layers)[0]).unwrap();
    assert_eq!(stated.tree, claimed.tree);
}

#[test]
fn an_ordinary_layer_is_not_found() {
    let ordinary = blob([Entry::file("f", "f")]);
    let mut lazy = LazyWorld::new();
    lazy.push(&ordinary.digest, &ordinary.blob);
    lazy.serve(|server| server);
    let node = lazy.node();
    let mut request = requests(std::slice::from_ref(&ordinary)).remove(0);
    assert!(matches!(
        node.claim(&request),
        Err(Refusal::NotFound { .. })
    ));
    request.reference = Some(lazy.reference());
    // Nobody asks a registry for a layer that cannot be verified.
    assert!(matches!(
        node.claim(&request),
        Err(Refusal::Source(SourceError::NoTocDigest { .. }))
    ));
    assert_eq!(lazy.asked(), 0);
    // The repository has it, in the place of lazy layers: all the same ordinary.
    let hex = &ordinary.digest[7..];
    let path = format!("stargz/blobs/sha256/{}/{hex}/data", &hex[..2]);
    lazy.world.repository.add(Entry::file(path, &ordinary.blob));
    lazy.publish(&[], &[]);
    request.reference = None;
    assert!(matches!(
        lazy.node().claim(&request),
        Err(Refusal::NotFound { .. })
    ));
}

#[test]
fn a_trusted_registry_is_believed_about_diff_ids() {
    let layers = [Lazy::new([Entry::file("f", "f")])];
    let mut lazy = LazyWorld::with_registry(&layers);
    lazy.trusted = true;
    let request = lazy.requests(&layers).remove(0);
    let claimed = lazy.node().claim(&request).unwrap();
    assert_eq!(claimed.diff_id, request.diff_id);
}

#[test]
fn equal_chunks_of_other_layers_and_images_come_once() {
    if !mounts_possible() {
        return;
    }
    let content = noise(9, 200_000);
    let first = [Lazy::new([Entry::file("a", &content)])];
    let second = [
        Lazy::new([Entry::file("other", "x")]),
        Lazy::styled(
            [Entry::file("b/c", &content)],
            &Style::new(Format::ZstdChunked),
        ),
    ];
    let lazy = LazyWorld::with_registry(&[&first[..], &second].concat());
    let node = lazy.node();
    let (_, one) = lazy.attach(&node, &first);
    assert!(read(&one.join("a")) == Ok(content.clone()));
    let fetched = node.metrics().lazy.fetched_chunks.get();
    let (_, two) = lazy.attach(&node, &second);
    assert!(read(&two.join("b/c")) == Ok(content));
    assert_eq!(node.metrics().lazy.fetched_chunks.get(), fetched);
}

#[test]
fn small_files_that_lie_together_come_together() {
    if !mounts_possible() {
        return;
    }
    let files = (0..40).map(|number| Entry::file(format!("f{number:02}"), noise(number + 1, 1000)));
    for (min_chunk_size, most) in [(0, 2), (20_000, 2)] {
        let style = Style {
            min_chunk_size,
            ..Style::new(Format::Estargz)
        };
        let layers = [Lazy::styled(files.clone(), &style)];
        let lazy = LazyWorld::with_registry(&layers);
        let node = lazy.node();
        let (_, path) = lazy.attach(&node, &layers);
        let before = lazy.asked();
        for number in 0..40 {
            let name = format!("f{number:02}");
            assert_eq!(read(&path.join(name)), Ok(noise(number + 1, 1000)));
        }
        let asked = lazy.asked() - before;
        assert!(asked <= most, "{asked} requests");
    }
}

#[test]
fn a_blob_in_the_repository_is_not_kept_a_second_time() {
    if !mounts_possible() {
        return;
    }
    let content = noise(5, 1_000_000);
    let layers = [Lazy::new([Entry::file("large", &content)])];
    let mut lazy = LazyWorld::new();
    lazy.publish(&layers, &[]);
    let node = lazy.node();
    let (_, path) = lazy.attach(&node, &layers);
    assert!(read(&path.join("large")) == Ok(content));
    let used = lazy.world.cache().used_bytes();
    assert!(used < 1_400_000, "{used} bytes for one of 1 000 000");
    lazy.world.servers[0].assert_strict();
}

#[test]
fn after_a_restart_nothing_is_fetched() {
    if !mounts_possible() {
        return;
    }
    let content = noise(4, 250_000);
    let layers = [
        Lazy::new([Entry::file("a", &content)]),
        Lazy::new([Entry::file("b", "b")]),
    ];
    let mut lazy = LazyWorld::with_registry(&layers);
    let node = lazy.node();
    let (chain, path) = lazy.attach(&node, &layers);
    assert!(read(&path.join("a")) == Ok(content.clone()));
    lazy.world.stop(node);
    lazy.registry = None;
    let node = lazy.node();
    assert_eq!(node.attach(&chain).unwrap(), path);
    assert!(read(&path.join("a")) == Ok(content));
    // Claims, too, need nobody: the digest of the TOC names the tree.
    let again = lazy.claim(&node, &layers).unwrap();
    let trees = |chain: &[layerfs::ChainLayer]| -> Vec<String> {
        chain.iter().map(|layer| layer.tree.clone()).collect()
    };
    assert_eq!(trees(&again), trees(&chain));
    assert_eq!(node.metrics().trees_built.get(), 0);
}

/// Trees are files that can be lost; what was recorded with the claim is enough to make them again.
#[test]
fn a_lost_tree_is_made_again() {
    if !mounts_possible() {
        return;
    }
    let layers = [Lazy::new([Entry::file("a", "a")])];
    let lazy = LazyWorld::with_registry(&layers);
    let node = lazy.node();
    let (chain, path) = lazy.attach(&node, &layers);
    node.detach(&chain);
    for tree in lazy.world.tree_files() {
        std::fs::remove_file(tree).unwrap();
    }
    assert_eq!(node.attach(&chain).unwrap(), path);
    assert_eq!(read(&path.join("a")), Ok(b"a".to_vec()));
}

#[test]
fn marked_files_are_fetched_with_the_claim() {
    let style = Style {
        early: vec!["early".to_owned(), "also".to_owned()],
        ..Style::new(Format::Estargz)
    };
    let entries = [
        Entry::file("late", noise(1, 200_000)),
        Entry::file("early", noise(2, 200_000)),
        Entry::file("also", noise(3, 10)),
    ];
    let layers = [Lazy::styled(entries, &style)];
    let mut lazy = LazyWorld::with_registry(&layers);
    for prefetch in [false, true] {
        lazy.fetching.prefetch = prefetch;
        let node = lazy.node();
        claim_one(&lazy, &node, &layers);
        if prefetch {
            eventually("the marked files came", || {
                node.metrics().lazy.prefetched_chunks.get() == 5
            });
        }
        let fetched = node.metrics().lazy.fetched_chunks.get();
        assert_eq!(fetched, if prefetch { 5 } else { 0 });
        lazy.world.stop(node);
        for tree in lazy.world.tree_files() {
            std::fs::remove_file(tree).unwrap();
        }
    }
}

fn claim_one(lazy: &LazyWorld, node: &layerfs::Layers, layers: &[Lazy]) {
    lazy.claim(node, layers).unwrap();
    eventually("the tree is built", || {
        node.metrics().trees_built.get() + node.metrics().trees_failed.get() > 0
    });
}

#[test]
fn a_layer_in_use_is_fetched_whole_in_the_background() {
    if !mounts_possible() {
        return;
    }
    for published in [false, true] {
        let content = noise(6, 3_000_000);
        let layers = [
            Lazy::new([Entry::file("large", &content), Entry::file("small", "s")]),
            Lazy::new([Entry::file("other", noise(7, 100_000))]),
        ];
        let mut lazy = LazyWorld::with_registry(&layers);
        if published {
            lazy.publish(&layers, &[]);
        }
        lazy.fetching = Fetching {
            prefetch: true,
            background: true,
        };
        let node = lazy.node();
        let (_, path) = lazy.attach(&node, &layers);
        eventually("all came", || {
            let metrics = &node.metrics().lazy;
            metrics.layers_behind.get() == 0 && metrics.background_chunks.get() > 40
        });
        // Nobody is needed any more.
        lazy.registry = None;
        lazy.world.servers.clear();
        assert!(read(&path.join("large")) == Ok(content));
        assert_eq!(read(&path.join("small")), Ok(b"s".to_vec()));
    }
}

#[test]
fn an_unpacked_layer_is_preferred_to_the_same_one_as_a_blob() {
    let layers = [Lazy::new([Entry::file("f", "f")])];
    let mut lazy = LazyWorld::new();
    lazy.publish(&layers, &[layers[0].blob.clone()]);
    let node = lazy.node();
    let chain = claim(&node, &[layers[0].blob.clone()]).unwrap();
    assert_eq!(chain[0].source, "cvmfs:layers.test.local");
}

/// Layers that other tools wrote (see the fixtures of `image`), among them one of 2019 without digests of chunks: a
/// repository's signature vouches for it, a registry's word does not.
#[test]
fn layers_of_other_tools_are_what_tar_makes_of_them() {
    if !mounts_possible() {
        return;
    }
    let fixtures =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/tests/fixtures/estargz");
    let mut sample = blob([Entry::file("x", "x")]);
    let archive = std::fs::read(fixtures.join("sample.tar.gz")).unwrap();
    let mut tar = image::layer_tar(&archive[..]).unwrap();
    sample.tar.clear();
    std::io::Read::read_to_end(&mut tar, &mut sample.tar).unwrap();
    for name in [
        "go-gzip",
        "go-inner-offset",
        "go-prioritized",
        "go-zstd",
        "containers-storage",
        "legacy",
    ] {
        let mut layer = Lazy::new([Entry::file("x", "x")]);
        layer.blob.blob = std::fs::read(fixtures.join(name)).unwrap();
        layer.written.digest = image::Digest::of(&layer.blob.blob);
        layer.blob.digest = layer.written.digest.to_string();
        layer.written.annotations.clear();
        let mut lazy = LazyWorld::with_registry(std::slice::from_ref(&layer));
        if name == "legacy" {
            // As if an image stated the digest of such a TOC.
            let toc = toc_digest(&layer.blob.blob);
            let mut request = lazy.requests(std::slice::from_ref(&layer)).remove(0);
            request.annotations.insert(
                image::estargz::TOC_DIGEST_ANNOTATION.to_owned(),
                toc.to_string(),
            );
            let refused = lazy.node().claim(&request).unwrap_err();
            assert!(refused.to_string().contains("legacy"), "{refused}");
        }
        lazy.publish(std::slice::from_ref(&layer), &[]);
        let node = lazy.node();
        let (chain, path) = lazy.attach(&node, std::slice::from_ref(&layer));
        assert_eq!(chain[0].source, "estargz:cvmfs:layers.test.local");
        let expected = by_tar_without_xattrs(&sample, &lazy.world.path("sample"));
        let expected = expected.filtered(|path, _| !path.contains("/.wh."));
        // Go keeps whole seconds, `tar` makes missing parents now.
        let seen = walk(&path, 0).filtered(|path, _| !path.starts_with("/b/") && path != "/b");
        let ignored = [
            testkit::Field::Mtime,
            testkit::Field::Xattrs,
            testkit::Field::Nlink,
        ];
        expected
            .compare(&seen, &ignored)
            .unwrap_or_else(|difference| panic!("{name}: {difference}"));
    }
}

fn toc_digest(blob: &[u8]) -> image::Digest {
    use image::estargz::{Footer, Limits, Toc, TocDigest};
    let footer = Footer::parse(blob, blob.len() as u64).unwrap();
    let range = footer.toc_range().unwrap();
    let toc = &blob[range.start as usize..range.end as usize];
    *Toc::parse(toc, &footer, &TocDigest::Unverified, &Limits::default())
        .unwrap()
        .digest()
}
