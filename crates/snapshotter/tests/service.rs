//! The table of RPCs over a real socket.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a helper that fails fails its test; a table or story stays in one piece"
)]

mod support;

use snapshotter::api::snapshots::Kind;
use support::{Harness, code, labels};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn codes_are_those_of_containerd() {
    let h = Harness::start().await;
    h.prepare("active", "", labels(&[])).await.unwrap();
    h.prepare("tmp", "", labels(&[])).await.unwrap();
    h.commit("base", "tmp").await.unwrap();
    h.view("view", "base").await.unwrap();

    for used in ["active", "view", "base"] {
        assert_eq!(
            code(h.prepare(used, "", labels(&[])).await),
            Code::AlreadyExists,
            "prepare {used}"
        );
        assert_eq!(
            code(h.view(used, "base").await),
            Code::AlreadyExists,
            "view {used}"
        );
    }
    assert_eq!(
        code(h.prepare("", "", labels(&[])).await),
        Code::InvalidArgument
    );
    assert_eq!(
        code(h.prepare("new", "none", labels(&[])).await),
        Code::NotFound
    );
    assert_eq!(
        code(h.prepare("new", "active", labels(&[])).await),
        Code::InvalidArgument
    );
    assert_eq!(code(h.view("new", "view").await), Code::InvalidArgument);
    assert_eq!(
        code(h.stat("new").await),
        Code::NotFound,
        "failures leave nothing"
    );

    assert_eq!(code(h.mounts("none").await), Code::NotFound);
    assert_eq!(code(h.mounts("base").await), Code::FailedPrecondition);
    assert_eq!(
        h.mounts("view").await.unwrap(),
        h.mounts("view").await.unwrap()
    );

    assert_eq!(code(h.commit("base", "active").await), Code::AlreadyExists);
    assert_eq!(
        code(h.commit("active", "active").await),
        Code::AlreadyExists
    );
    assert_eq!(code(h.commit("name", "none").await), Code::NotFound);
    assert_eq!(
        code(h.commit("name", "view").await),
        Code::FailedPrecondition
    );
    assert_eq!(
        code(h.commit("name", "base").await),
        Code::FailedPrecondition
    );
    assert_eq!(code(h.commit("", "active").await), Code::InvalidArgument);

    let error = h.remove("base").await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("remove"), "{error}");
    assert_eq!(code(h.remove("none").await), Code::NotFound);
    assert_eq!(code(h.stat("none").await), Code::NotFound);
    assert_eq!(code(h.usage("none").await), Code::NotFound);
    assert_eq!(
        code(h.update("none", labels(&[]), &[]).await),
        Code::NotFound
    );
    assert_eq!(
        code(h.update("base", labels(&[]), &["kind"]).await),
        Code::InvalidArgument
    );
    assert_eq!(code(h.list(&["kind=="]).await), Code::InvalidArgument);
    let no_info = snapshotter::api::snapshots::UpdateSnapshotRequest::default();
    assert_eq!(
        code(h.client.clone().update(no_info).await),
        Code::InvalidArgument
    );

    h.remove("view").await.unwrap();
    h.remove("base").await.unwrap();
    h.prepare("base", "", labels(&[]))
        .await
        .expect("a removed name is free at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_can_give_a_parent_only_to_one_that_has_none() {
    let h = Harness::start().await;
    for base in ["a", "b"] {
        h.prepare("tmp", "", labels(&[])).await.unwrap();
        h.commit(base, "tmp").await.unwrap();
    }
    h.prepare("on-a", "a", labels(&[])).await.unwrap();
    h.prepare("free", "", labels(&[])).await.unwrap();
    assert_eq!(
        code(h.commit_with("c", "on-a", labels(&[]), "b").await),
        Code::InvalidArgument
    );
    assert_eq!(
        code(h.commit_with("c", "free", labels(&[]), "on-a").await),
        Code::FailedPrecondition
    );
    assert_eq!(
        code(h.commit_with("c", "free", labels(&[]), "none").await),
        Code::NotFound
    );
    h.commit_with("c", "on-a", labels(&[]), "a").await.unwrap();
    h.commit_with("d", "free", labels(&[]), "b").await.unwrap();
    assert_eq!(h.stat("c").await.unwrap().parent, "a");
    assert_eq!(h.stat("d").await.unwrap().parent, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_replace_and_merge_as_masks_say() {
    let h = Harness::start().await;
    let big = "v".repeat(5000);
    h.prepare("k", "", labels(&[("a", "1"), ("empty", ""), ("big", &big)]))
        .await
        .unwrap();
    let info = h.stat("k").await.unwrap();
    assert_eq!(
        info.labels,
        labels(&[("a", "1"), ("big", &big)]),
        "containerd limits lengths, we do not"
    );
    assert_eq!(info.kind(), Kind::Active);
    assert_eq!(info.created_at, info.updated_at);

    h.commit_with("n", "k", labels(&[("b", "2")]), "")
        .await
        .unwrap();
    let committed = h.stat("n").await.unwrap();
    assert_eq!(
        committed.labels,
        labels(&[("b", "2")]),
        "nothing is inherited"
    );
    assert_eq!(committed.created_at, committed.updated_at);
    assert!(committed.created_at.unwrap().seconds >= info.created_at.unwrap().seconds);

    let updated = h
        .update("n", labels(&[("c", "3")]), &["labels.c"])
        .await
        .unwrap();
    assert_eq!(updated.labels, labels(&[("b", "2"), ("c", "3")]));
    assert_eq!(
        (updated.parent.as_str(), updated.created_at),
        ("", committed.created_at),
        "immutable is ignored"
    );
    let updated = h
        .update("n", labels(&[("ignored", "x")]), &["labels.b"])
        .await
        .unwrap();
    assert_eq!(
        updated.labels,
        labels(&[("c", "3")]),
        "an absent value deletes"
    );
    let updated = h
        .update("n", labels(&[("c", "4"), ("d", "")]), &["labels"])
        .await
        .unwrap();
    assert_eq!(updated.labels, labels(&[("c", "4")]));
    let updated = h.update("n", labels(&[("e", "5")]), &[]).await.unwrap();
    assert_eq!(
        updated.labels,
        labels(&[("e", "5")]),
        "no mask: all that is mutable"
    );
    assert_eq!(
        code(h.update("n", labels(&[]), &["labels.e", "name"]).await),
        Code::InvalidArgument
    );
    assert_eq!(
        h.stat("n").await.unwrap().labels,
        labels(&[("e", "5")]),
        "all or nothing"
    );
    let forged = labels(&[(support::TREE, "mine")]);
    assert_eq!(
        h.update("n", forged, &[]).await.unwrap().labels,
        labels(&[]),
        "our labels are ours"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_blocks_and_hold_nothing() {
    let h = Harness::start().await;
    for number in 0..250 {
        h.prepare(
            &format!("k{number}"),
            "",
            labels(&[("odd", if number % 2 == 1 { "yes" } else { "" })]),
        )
        .await
        .unwrap();
    }
    let blocks = h.list(&[]).await.unwrap();
    assert!(
        blocks.iter().all(|block| block.len() <= 100),
        "blocks of at most 100"
    );
    let names: std::collections::BTreeSet<_> =
        blocks.concat().into_iter().map(|info| info.name).collect();
    assert_eq!((blocks.concat().len(), names.len()), (250, 250));
    assert_eq!(
        h.list(&["labels.odd==yes"]).await.unwrap().concat().len(),
        125
    );
    assert!(
        h.list(&["kind==view"]).await.unwrap().is_empty(),
        "no message for no hit"
    );

    // A client that reads slowly: writes go on, and so does Stat.
    let mut slow = h
        .client
        .clone()
        .list(snapshotter::api::snapshots::ListSnapshotsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(slow.message().await.unwrap().is_some());
    h.stat("k249").await.unwrap();
    h.commit("c", "k0").await.unwrap();
    h.remove("k1").await.unwrap();
    drop(slow);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_and_removal() {
    let h = Harness::start().await;
    let source = h
        .prepare("k", "", labels(&[]))
        .await
        .unwrap()
        .remove(0)
        .source;
    std::fs::write(format!("{source}/file"), vec![1; 50_000]).unwrap();
    let active = h.usage("k").await.unwrap();
    assert!(active.size >= 50_000 && active.inodes == 2, "{active:?}");
    h.commit("n", "k").await.unwrap();
    assert_eq!(h.usage("n").await.unwrap(), active);
    h.view("v", "n").await.unwrap();
    assert_eq!(h.usage("v").await.unwrap().size, 0);

    h.remove("v").await.unwrap();
    h.remove("n").await.unwrap();
    assert!(!std::path::Path::new(&source).exists());
    let trash = h.root().join("trash");
    assert_ne!(
        std::fs::read_dir(&trash).unwrap().count(),
        0,
        "Remove only moves"
    );
    h.cleanup().await;
    assert_eq!(std::fs::read_dir(&trash).unwrap().count(), 0);
    assert!(h.metrics.deleted_directories.get() >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_have_containerds_modes_and_the_socket_is_roots() {
    use std::os::unix::fs::PermissionsExt as _;
    let h = Harness::start().await;
    let fs = h
        .prepare("k", "", labels(&[]))
        .await
        .unwrap()
        .remove(0)
        .source;
    let fs = std::path::Path::new(&fs);
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(fs), 0o755);
    assert_eq!(mode(fs.parent().unwrap()), 0o700);
    assert_eq!(mode(&fs.with_file_name("work")), 0o711);
    assert_eq!(mode(&h.root()), 0o700);
    assert_eq!(mode(&h.directory.path().join("socket")), 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_overlay_cannot_name_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for bad in ["a,b", "a:b", "a\\b"] {
        let root = directory.path().join(bad);
        let config = snapshotter::Config::new(
            root.clone(),
            std::sync::Arc::new(std::time::SystemTime::now),
        );
        let opened = snapshotter::Snapshotter::open(
            config,
            support::FakeLayers::new(directory.path()),
            tokio::runtime::Handle::current(),
        );
        assert!(
            matches!(opened.err(), Some(snapshotter::Error::State { .. })),
            "{bad}"
        );
        assert!(!root.exists());
    }
}
