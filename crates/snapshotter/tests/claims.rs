//! The remote flow, as containerd drives it.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a helper that fails fails its test; a table or story stays in one piece"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use image::{Digest, EMPTY_LAYER};
use snapshotter::{ClaimOutcome, Refusal};
use support::{Answer, Harness, Image, LAYER, REASON, REF, SOURCE, TREE, code, eventually, labels};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_lazy_image_is_never_fetched_and_containers_stand_on_one_chain() {
    let h = Harness::start().await;
    let image = Image::new("a", 3);
    h.layers.know(&image);
    let top = h.pull("k8s.io", &image).await;
    assert_eq!(
        top,
        image.chain(2),
        "a name is the chainID where nothing else has it"
    );
    assert_eq!(h.attached(), 0, "nothing is attached at claim");
    let info = h.stat(&top).await.unwrap();
    assert_eq!(info.parent, image.chain(1));
    assert_eq!(info.labels[SOURCE], "cvmfs:fake");
    assert!(info.labels[TREE].starts_with("tree-"));
    assert_eq!(h.usage(&top).await.unwrap().size, 4096);
    let request = h.layers.claims.lock().unwrap()[1].clone();
    assert_eq!(request.namespace, "k8s.io");
    assert_eq!(request.parent_chain_id, Some(image.chain(0)));
    assert_eq!(request.image_layers.len(), 2);

    let mounts = h
        .prepare("k8s.io/9/container", &top, labels(&[]))
        .await
        .unwrap();
    assert_eq!(mounts[0].r#type, "overlay");
    let lower = mounts[0].options.last().unwrap();
    assert!(
        lower.starts_with("lowerdir=") && !lower.contains(':'),
        "one lower of ours: {lower}"
    );
    let view = h.view("k8s.io/10/view", &top).await.unwrap();
    assert_eq!(
        (view[0].r#type.as_str(), &view[0].options),
        ("bind", &vec!["ro".to_owned(), "rbind".to_owned()])
    );
    assert_eq!(h.attached(), 1);

    h.remove("k8s.io/9/container").await.unwrap();
    h.cleanup().await;
    assert_eq!(h.attached(), 1, "the view still stands on it");
    h.remove("k8s.io/10/view").await.unwrap();
    eventually("detach after the last user", || h.attached() == 0).await;
    for index in [2, 1, 0] {
        h.remove(&image.chain(index)).await.unwrap();
    }
    assert!(h.list(&[]).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_an_ordinary_snapshot_with_its_reason() {
    let h = Harness::start().await;
    let image = Image::new("a", 1);
    let refusals = [
        Refusal::NotFound,
        Refusal::Unavailable("x".into()),
        Refusal::ClaimedOwnership,
        Refusal::Corrupt("x".into()),
        Refusal::Unsupported("x".into()),
        Refusal::Internal("x".into()),
    ];
    let mut cases: Vec<(Answer, &str)> = refusals
        .iter()
        .map(|one| (Answer::Refuse(one.clone()), one.reason()))
        .collect();
    cases.push((Answer::Panic, "internal"));
    cases.push((
        Answer::Layer {
            diff_id: Some(Digest::of(b"lie")),
            source: "s",
        },
        "diff-id-mismatch",
    ));
    for (number, (answer, reason)) in cases.into_iter().enumerate() {
        h.layers.answer(image.layers[0].blob, answer);
        let key = format!("ns/{number}/x");
        let mounts = h.prepare(&key, "", image.labels(0)).await.unwrap();
        assert_eq!(mounts[0].options, ["rw", "rbind"], "{reason}");
        assert_eq!(h.stat(&key).await.unwrap().labels[REASON], reason);
        let outcome = h
            .metrics
            .claims
            .get_or_create(&ClaimOutcome {
                outcome: reason_of(reason),
            })
            .get();
        assert!(outcome >= 1, "{reason} is counted");
    }
    let without = labels(&[(REF, &image.chain(0))]);
    h.prepare("ns/90/x", "", without).await.unwrap();
    assert_eq!(
        h.stat("ns/90/x").await.unwrap().labels[REASON],
        "unknown-layer"
    );
    let nonsense = labels(&[(REF, "test1"), (LAYER, &image.layers[0].blob.to_string())]);
    h.prepare("ns/91/x", "", nonsense).await.unwrap();
    assert_eq!(
        h.stat("ns/91/x").await.unwrap().labels[REASON],
        "unsupported"
    );

    h.commit_with("ns/92/n", "ns/90/x", labels(&[(REF, "r")]), "")
        .await
        .unwrap();
    assert_eq!(
        h.stat("ns/92/n").await.unwrap().labels[REASON],
        "unknown-layer",
        "the reason outlives the commit"
    );
    h.prepare("ns/93/plain", "", labels(&[])).await.unwrap();
    assert!(
        !h.stat("ns/93/plain")
            .await
            .unwrap()
            .labels
            .contains_key(REASON)
    );
}

fn reason_of(text: &str) -> &'static str {
    [
        "not-found",
        "source-unavailable",
        "claimed-ownership",
        "corrupt",
        "unsupported",
        "internal",
        "diff-id-mismatch",
    ]
    .into_iter()
    .find(|reason| *reason == text)
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn above_a_local_layer_nothing_is_lazy_and_above_lazy_ones_local_layers_stand() {
    let h = Harness::start().await;
    let image = Image::new("a", 4);
    h.layers.know(&image);
    h.layers
        .answer(image.layers[2].blob, Answer::Refuse(Refusal::NotFound));
    let first = h.pull_layer("ns/1/x", "", image.labels(0)).await.unwrap();
    let second = h
        .pull_layer("ns/2/x", &first, image.labels(1))
        .await
        .unwrap();
    assert_eq!(h.pull_layer("ns/3/x", &second, image.labels(2)).await, None);
    assert_eq!(h.attached(), 1, "the fallback needs what lies below");
    h.commit_with("ns/4/n", "ns/3/x", image.labels(2), "")
        .await
        .unwrap();
    let claims = h.layers.claim_count();
    assert_eq!(
        h.pull_layer("ns/5/x", "ns/4/n", image.labels(3)).await,
        None
    );
    assert_eq!(h.layers.claim_count(), claims, "nobody is asked");
    assert_eq!(
        h.stat("ns/5/x").await.unwrap().labels[REASON],
        "above-local-layer"
    );
    let mounts = h.mounts("ns/5/x").await.unwrap();
    let lower = mounts[0].options.last().unwrap().clone();
    let lowers: Vec<_> = lower.trim_start_matches("lowerdir=").split(':').collect();
    assert_eq!(lowers.len(), 2, "{lower}");
    assert!(
        lowers[0].contains("/snapshots/") && lowers[1].contains("/chains/"),
        "local before ours: {lower}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_empty_layer_needs_no_label() {
    let h = Harness::start().await;
    let first = Image::new("a", 1);
    h.layers.know(&first);
    h.layers.answer(
        EMPTY_LAYER,
        Answer::Layer {
            diff_id: Some(EMPTY_LAYER),
            source: "empty",
        },
    );
    let below = h.pull("ns", &first).await;
    let chain = image::chain_id(Some(&first.layers[0].chain), &EMPTY_LAYER).to_string();
    let name = h
        .pull_layer("ns/7/x", &below, labels(&[(REF, &chain)]))
        .await;
    assert_eq!(name.as_deref(), Some(chain.as_str()));
    let asked = h.layers.claims.lock().unwrap().last().cloned().unwrap();
    assert_eq!(
        (asked.layer, asked.diff_id),
        (EMPTY_LAYER, Some(EMPTY_LAYER))
    );
    let bottom = h
        .pull_layer("ns/8/x", "", labels(&[(REF, &EMPTY_LAYER.to_string())]))
        .await;
    assert_eq!(bottom, Some(EMPTY_LAYER.to_string()));
}

/// Model: containerd's TestSnapshotterWithRef.
#[tokio::test(flavor = "multi_thread")]
async fn three_namespaces_share_one_and_a_mismatched_parent_is_another() {
    let h = Harness::start().await;
    let image = Image::new("a", 2);
    h.layers.know(&image);
    for namespace in ["one", "two", "three"] {
        assert_eq!(h.pull(namespace, &image).await, image.chain(1));
    }
    assert_eq!(h.layers.claim_count(), 2);
    assert_eq!(h.list(&[]).await.unwrap().concat().len(), 2);

    // The same chainID, but this namespace has its parent by an ordinary unpack.
    h.prepare("four/1/tmp", "", labels(&[])).await.unwrap();
    h.commit("four/2/base", "four/1/tmp").await.unwrap();
    assert_eq!(
        h.pull_layer("four/3/x", "four/2/base", image.labels(1))
            .await,
        None
    );
    assert_eq!(h.find_target(&image.chain(1), "four/2/base").await, None);
    h.commit_with("four/4/n", "four/3/x", image.labels(1), "")
        .await
        .unwrap();
    assert_eq!(
        h.pull_layer("four/5/x", "four/2/base", image.labels(1))
            .await
            .as_deref(),
        Some("four/4/n"),
        "found with that parent"
    );
    assert_eq!(
        h.find_target(&image.chain(1), &image.chain(0)).await,
        Some(image.chain(1))
    );

    for name in [&image.chain(1), "four/4/n", &image.chain(0)] {
        h.remove(name).await.unwrap();
    }
    assert_eq!(
        h.find_target(&image.chain(0), "").await,
        None,
        "gone from all"
    );
    assert_eq!(
        h.pull("one", &image).await,
        image.chain(1),
        "and claimed anew"
    );
    assert_eq!(h.layers.claim_count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_containerd_unpacked_is_shared_across_namespaces() {
    let h = Harness::start().await;
    let image = Image::new("unknown", 1);
    assert_eq!(h.pull_layer("one/1/x", "", image.labels(0)).await, None);
    h.commit_with("one/2/n", "one/1/x", image.labels(0), "")
        .await
        .unwrap();
    assert_eq!(
        h.pull_layer("two/3/x", "", image.labels(0))
            .await
            .as_deref(),
        Some("one/2/n")
    );
    assert_eq!(
        code(h.stat("two/3/x").await),
        Code::NotFound,
        "no active is left behind"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unproven_chain_never_crosses_namespaces() {
    let h = Harness::start().await;
    let image = Image::new("old", 2);
    for layer in &image.layers {
        h.layers.answer(
            layer.blob,
            Answer::Layer {
                diff_id: None,
                source: "cvmfs:old",
            },
        );
    }
    let first = h.pull_layer("one/1/x", "", image.labels(0)).await.unwrap();
    assert!(
        first.starts_with(&format!("{}@", image.chain(0))),
        "{first}"
    );
    let second = h
        .pull_layer("one/2/x", &first, image.labels(1))
        .await
        .unwrap();
    assert!(second.starts_with(&image.chain(1)), "{second}");
    assert_eq!(
        h.pull_layer("one/3/x", "", image.labels(0)).await,
        Some(first.clone()),
        "the same namespace and blob"
    );

    let blind = labels(&[(REF, &image.chain(0))]);
    assert_eq!(
        h.pull_layer("one/31/x", "", blind).await,
        None,
        "nothing says that it is the same blob"
    );
    let mut other_blob = image.labels(0);
    other_blob.insert(LAYER.to_owned(), image.layers[1].blob.to_string());
    assert_eq!(
        h.pull_layer("one/4/x", "", other_blob).await,
        None,
        "another blob"
    );
    assert_eq!(
        h.pull_layer("two/5/x", "", image.labels(0)).await,
        None,
        "another namespace"
    );
    assert_eq!(
        h.stat("two/5/x").await.unwrap().labels[REASON],
        "unproven-chain-id"
    );
    assert_eq!(
        h.pull_layer("no-namespace", "", image.labels(0)).await,
        None
    );

    // Once somebody has unpacked it, that one is found, first in the list.
    h.commit_with("two/6/n", "two/5/x", image.labels(0), "")
        .await
        .unwrap();
    assert_eq!(
        h.pull_layer("three/7/x", "", image.labels(0))
            .await
            .as_deref(),
        Some("two/6/n")
    );

    // A source with proof gives it to all, whatever an unproven one holds.
    let proven = Image::new("new", 1);
    h.layers.answer(
        proven.layers[0].blob,
        Answer::Layer {
            diff_id: None,
            source: "cvmfs:old",
        },
    );
    h.pull_layer("one/8/x", "", proven.labels(0)).await.unwrap();
    h.layers.know(&proven);
    assert_eq!(
        h.pull_layer("two/9/x", "", proven.labels(0)).await,
        Some(proven.chain(0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_source_needs_no_proof() {
    let h = Harness::start_with(|config| config.trusted_sources.push("cvmfs:old".to_owned())).await;
    let image = Image::new("old", 1);
    h.layers.answer(
        image.layers[0].blob,
        Answer::Layer {
            diff_id: None,
            source: "cvmfs:old",
        },
    );
    assert_eq!(h.pull("one", &image).await, h.pull("two", &image).await);
    assert_eq!(h.layers.claim_count(), 1);
}

/// A hostile image states the diffIDs of a trusted one and its own blobs.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_id_must_be_earned() {
    let h = Harness::start().await;
    let (trusted, hostile) = (Image::new("trusted", 1), Image::new("hostile", 1));
    h.layers.know(&trusted);
    h.layers.know(&hostile);
    let mut lie = trusted.labels(0);
    lie.insert(LAYER.to_owned(), hostile.layers[0].blob.to_string());
    lie.insert(TREE.to_owned(), "forged".to_owned());
    assert_eq!(h.pull_layer("evil/1/x", "", lie).await, None);
    let info = h.stat("evil/1/x").await.unwrap();
    assert_eq!(info.labels[REASON], "diff-id-mismatch");
    assert!(
        !info.labels.contains_key(TREE),
        "a manifest's annotation does not become our label"
    );
    assert_eq!(h.pull("good", &trusted).await, trusted.chain(0));
    let tree = h.stat(&trusted.chain(0)).await.unwrap().labels[TREE].clone();
    assert!(tree.ends_with(&trusted.layers[0].blob.hex()[..12]));

    // Nor can an update make a lazy layer pass for another one.
    let evil = Image::new("other", 1);
    h.update(&trusted.chain(0), labels(&[(REF, &evil.chain(0))]), &[])
        .await
        .unwrap();
    assert_eq!(h.pull_layer("good/2/x", "", evil.labels(0)).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_images_in_two_namespaces_at_once_are_claimed_once_each() {
    let h = Arc::new(Harness::start().await);
    let base = Image::new("shared", 2);
    h.layers.know(&base);
    h.layers.open_gate(false);
    let mut pulls = Vec::new();
    for number in 0..8 {
        let mut image = base.clone();
        let own = Image::new(&format!("own {number}"), 1).layers.remove(0);
        let chain = image::chain_id(Some(&image.layers[1].chain), &own.diff_id);
        image.layers.push(support::ImageLayer { chain, ..own });
        h.layers.know(&image);
        for namespace in ["one", "two"] {
            let (h, image) = (Arc::clone(&h), image.clone());
            pulls.push(tokio::spawn(async move {
                let prefix = format!("{namespace}/{number}");
                let mut parent = String::new();
                for index in 0..3 {
                    let key = format!("{prefix}{index}/x");
                    parent = h
                        .pull_layer(&key, &parent, image.labels(index))
                        .await
                        .unwrap();
                }
                (parent, image.chain(2))
            }));
        }
    }
    eventually("one claim arrives", || h.layers.claim_count() == 1).await;
    h.layers.open_gate(true);
    for pull in pulls {
        let (name, chain) = pull.await.unwrap();
        assert_eq!(name, chain);
    }
    assert_eq!(
        h.layers.claim_count(),
        2 + 8,
        "one claim for each (ref, parent)"
    );
    assert_eq!(h.list(&[]).await.unwrap().concat().len(), 2 + 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_prepare_ends_consistently() {
    let h = Harness::start().await;
    let image = Image::new("a", 1);
    h.layers.know(&image);
    h.layers.open_gate(false);
    let prepare = h.prepare("ns/1/x", "", image.labels(0));
    tokio::select! {
        _ = prepare => panic!("the gate is closed"),
        () = eventually("the claim has begun", || h.layers.claim_count() == 1) => {}
    }
    h.layers.open_gate(true);
    let mut client = h.client.clone();
    let stat = || snapshotter::api::snapshots::StatSnapshotRequest {
        key: image.chain(0),
        ..Default::default()
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(30), async {
        while client.stat(stat()).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    });
    waited.await.expect("the claim runs to its end");
    assert_eq!(code(h.stat("ns/1/x").await), Code::NotFound);
    assert_eq!(
        h.pull_layer("ns/2/x", "", image.labels(0)).await,
        Some(image.chain(0))
    );
    assert_eq!(h.layers.claim_count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_failure_concerns_one_image_and_leaves_nothing() {
    let h = Harness::start().await;
    let image = Image::new("a", 2);
    h.layers.know(&image);
    let top = h.pull("ns", &image).await;
    h.prepare("ns/8/running", &top, labels(&[])).await.unwrap();
    h.layers.attach_fails.store(true, Ordering::SeqCst);
    let error = h
        .prepare("ns/9/container", &top, labels(&[]))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(
        error.message().contains("all proxies of fake are down"),
        "{error}"
    );
    assert_eq!(code(h.view("ns/10/view", &top).await), Code::Unavailable);
    assert_eq!(code(h.mounts("ns/8/running").await), Code::Unavailable);
    assert_eq!(code(h.stat("ns/9/container").await), Code::NotFound);
    h.prepare("ns/11/other", "", labels(&[]))
        .await
        .expect("other images are served");
    assert!(h.metrics.attach_failures.get() >= 3);
    h.layers.attach_fails.store(false, Ordering::SeqCst);
    h.prepare("ns/9/container", &top, labels(&[]))
        .await
        .expect("and this one again, too");
}

/// Lookup, attach and detach race; the fake panics if a detach overlaps, and the last state must be right.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn containers_come_and_go_on_one_chain() {
    let h = Arc::new(Harness::start().await);
    let image = Image::new("a", 1);
    h.layers.know(&image);
    let top = h.pull("ns", &image).await;
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let (h, top) = (Arc::clone(&h), top.clone());
            tokio::spawn(async move {
                for round in 0..10 {
                    let key = format!("ns/{task}{round}/c");
                    h.prepare(&key, &top, labels(&[])).await.unwrap();
                    assert_eq!(h.attached(), 1, "in use, so attached");
                    h.remove(&key).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    eventually("the last one detaches", || h.attached() == 0).await;
}

const TOC: &str = "containerd.io/snapshot/stargz/toc.digest";

/// Labels of a lazy layer in a registry.
fn with_toc(image: &Image, toc: &str) -> std::collections::HashMap<String, String> {
    let mut all = image.labels(0);
    all.insert(
        "containerd.io/snapshot/cri.image-ref".to_owned(),
        "registry.example/a/b:1".to_owned(),
    );
    all.insert(TOC.to_owned(), Digest::of(toc.as_bytes()).to_string());
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_layer_is_verified_by_is_handed_on_recorded_and_must_be_equal_to_share_it() {
    let h = Harness::start().await;
    let image = Image::new("lazy", 1);
    h.layers.answer(
        image.layers[0].blob,
        Answer::Layer {
            diff_id: None,
            source: "estargz:registry:registry.example/a/b",
        },
    );
    let name = h
        .pull_layer("ns/1/x", "", with_toc(&image, "toc"))
        .await
        .unwrap();
    let request = h.layers.claims.lock().unwrap().last().cloned().unwrap();
    let expected =
        std::collections::BTreeMap::from([(TOC.to_owned(), Digest::of(b"toc").to_string())]);
    assert_eq!(request.annotations, expected);
    assert_eq!(request.image_layers[0].annotations, expected);
    assert!(!request.complete, "the manifest could say more");
    let recorded = snapshotter::read_snapshots(&h.root()).unwrap();
    let layer = &recorded[0].claim.as_ref().unwrap().layer;
    assert_eq!(layer.annotations, expected);
    assert_eq!(layer.reference.as_deref(), Some("registry.example/a/b:1"));

    // The same again is the same snapshot.
    let again = h.pull_layer("ns/2/x", "", with_toc(&image, "toc")).await;
    assert_eq!(again, Some(name));
    assert_eq!(h.layers.claim_count(), 1);
    // Another TOC, and a client that states none, get an ordinary one.
    for (key, mut other) in [
        ("ns/3/x", with_toc(&image, "another")),
        ("ns/4/x", with_toc(&image, "none")),
    ] {
        if key == "ns/4/x" {
            other.remove(TOC);
        }
        assert_eq!(h.pull_layer(key, "", other).await, None);
        assert_eq!(
            h.stat(key).await.unwrap().labels[REASON],
            "unproven-chain-id"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_are_trusted_by_name_or_by_kind() {
    for (trusted, shared) in [
        ("estargz:registry:", true),
        ("estargz:registry:registry.example/a/b", true),
        ("estargz:registry", false),
        ("estargz:registry:other", false),
    ] {
        let h = Harness::start_with(|config| {
            config.trusted_sources = vec![trusted.to_owned()];
        })
        .await;
        let image = Image::new("lazy", 1);
        h.layers.answer(
            image.layers[0].blob,
            Answer::Layer {
                diff_id: None,
                source: "estargz:registry:registry.example/a/b",
            },
        );
        let name = h.pull_layer("one/1/x", "", with_toc(&image, "toc")).await;
        let other = h.pull_layer("two/2/x", "", with_toc(&image, "toc")).await;
        assert_eq!(name == other, shared, "{trusted}");
    }
}
