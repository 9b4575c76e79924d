//! What outlives the process: records, directories, chains.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper that fails fails its test"
)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use support::{Harness, Image, REASON, TREE, code, labels};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_serves_the_same_records_and_deletes_nothing() {
    let h = Harness::start().await;
    let image = Image::new("a", 2);
    h.layers.know(&image);
    let top = h.pull("ns", &image).await;
    let before = h
        .prepare("ns/9/container", &top, labels(&[("keep", "me")]))
        .await
        .unwrap();
    let plain = h
        .prepare("ns/10/plain", "", Image::new("unknown", 1).labels(0))
        .await
        .unwrap();
    std::fs::write(format!("{}/file", plain[0].source), b"content").unwrap();
    let infos = h.list(&[]).await.unwrap().concat();

    let h = h.restart(|root| {
        // Directories of a crash between mkdir and the record, and foreign files.
        std::fs::create_dir_all(root.join("snapshots/4711/fs")).unwrap();
        std::fs::write(root.join("snapshots/README"), b"").unwrap();
    });
    let h = h.await;
    assert_eq!(h.attached(), 0);
    assert_eq!(
        h.list(&[]).await.unwrap().concat(),
        infos,
        "names, labels, times, order"
    );
    assert_eq!(
        h.stat(&top).await.unwrap().labels[TREE],
        infos.iter().find(|info| info.name == top).unwrap().labels[TREE]
    );
    assert_eq!(
        h.stat("ns/10/plain").await.unwrap().labels[REASON],
        "not-found"
    );
    assert_eq!(
        h.mounts("ns/9/container").await.unwrap(),
        before,
        "the same path again"
    );
    assert_eq!(
        h.attached(),
        1,
        "attached by the first Mounts that needs it"
    );
    assert_eq!(
        std::fs::read(format!("{}/file", plain[0].source)).unwrap(),
        b"content"
    );
    let root = h.root();
    assert!(
        !root.join("snapshots/4711").exists() && root.join("trash/4711").exists(),
        "an orphan waits for Cleanup"
    );
    assert!(root.join("snapshots/README").exists());
    h.prepare("ns/11/new", "", labels(&[])).await.unwrap();
    assert!(
        root.join("snapshots/4712").exists(),
        "no number is used twice"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_removed_snapshots_are_not_used_again() {
    let h = Harness::start().await;
    h.prepare("a", "", labels(&[])).await.unwrap();
    let source = h
        .prepare("b", "", labels(&[]))
        .await
        .unwrap()
        .remove(0)
        .source;
    h.remove("b").await.unwrap();
    h.cleanup().await;
    let h = h.restart(|_| {}).await;
    assert_ne!(
        h.prepare("c", "", labels(&[])).await.unwrap()[0].source,
        source
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_records_do_not_make_us_delete_what_is_left() {
    let h = Harness::start().await;
    let source = h
        .prepare("a", "", labels(&[]))
        .await
        .unwrap()
        .remove(0)
        .source;
    let h = h.restart(|root| {
        for file in ["records.db", "records.db-wal", "records.db-shm"] {
            let _ = std::fs::remove_file(root.join(file));
        }
    });
    let h = h.await;
    assert_eq!(code(h.stat("a").await), Code::NotFound);
    h.cleanup().await;
    assert!(std::path::Path::new(&source).exists());
    assert_ne!(
        h.prepare("a", "", labels(&[])).await.unwrap()[0].source,
        source
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_directories_are_made_again() {
    let h = Harness::start().await;
    let source = h
        .prepare("a", "", labels(&[]))
        .await
        .unwrap()
        .remove(0)
        .source;
    let h = h
        .restart(|root| std::fs::remove_dir_all(root.join("snapshots/1")).unwrap())
        .await;
    assert_eq!(h.mounts("a").await.unwrap()[0].source, source);
    assert!(std::path::Path::new(&source).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_another_version_are_refused_and_others_may_read() {
    let h = Harness::start().await;
    let image = Image::new("a", 1);
    h.layers.know(&image);
    h.pull("ns", &image).await;
    let seen = snapshotter::read_snapshots(&h.root()).unwrap();
    assert_eq!(seen.len(), 1, "while the daemon serves");
    assert_eq!(
        seen[0].claim.as_ref().unwrap().layer.layer,
        image.layers[0].blob
    );
    let database = h.root().join("records.db");
    let h = h.restart(|_| {}).await;
    rusqlite::Connection::open(&database)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    assert!(matches!(
        snapshotter::read_snapshots(&h.root()),
        Err(snapshotter::Error::Schema {
            found: 99,
            known: 2
        })
    ));
    assert!(snapshotter::read_snapshots(std::path::Path::new("/nonexistent")).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_the_first_version_are_brought_up_to_date() {
    let h = Harness::start().await;
    let image = Image::new("a", 2);
    h.layers.know(&image);
    let top = h.pull("ns", &image).await;
    let before = snapshotter::read_snapshots(&h.root()).unwrap();
    let h = h.restart(|root| {
        let database = rusqlite::Connection::open(root.join("records.db")).unwrap();
        database
            .execute_batch(
                "ALTER TABLE snapshots DROP COLUMN reference;
                 ALTER TABLE snapshots DROP COLUMN annotations;
                 PRAGMA user_version = 1;",
            )
            .unwrap();
    });
    let h = h.await;
    h.prepare("ns/9/c", &top, labels(&[])).await.unwrap();
    let mut after = snapshotter::read_snapshots(&h.root()).unwrap();
    assert_eq!(after.len(), 3);
    for (old, new) in before.iter().zip(&mut after) {
        let claim = new.claim.as_mut().unwrap();
        assert_eq!(claim.layer.reference, None, "it was not known then");
        claim.layer.reference = old.claim.as_ref().unwrap().layer.reference.clone();
    }
    assert_eq!(after[..before.len()], before);
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_in_use_are_attached_in_the_background_at_the_start() {
    let h = Harness::start().await;
    let image = Image::new("a", 1);
    h.layers.know(&image);
    let top = h.pull("ns", &image).await;
    h.prepare("ns/9/c", &top, labels(&[])).await.unwrap();
    h.layers.attached.lock().unwrap().clear();
    let config =
        snapshotter::Config::new(h.root(), std::sync::Arc::new(std::time::SystemTime::now));
    let listener = snapshotter::listen(&h.directory.path().join("second")).unwrap();
    let layers = h.layers.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let second = tokio::spawn(snapshotter::serve(config, layers, listener, async {
        let _ = stopped.await;
    }));
    support::eventually("the container's chain is there again", || h.attached() == 1).await;
    drop(stop);
    second.await.unwrap().unwrap();
}

/// What was answered is there after kill -9; the process under test is this test binary itself.
#[test]
fn killed_at_any_moment_no_answered_record_is_lost() {
    if let Ok(root) = std::env::var("SNAPSHOTTER_TEST_VICTIM") {
        return victim(std::path::Path::new(&root));
    }
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("state");
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "killed_at_any_moment_no_answered_record_is_lost",
                "--nocapture",
            ])
            .env("SNAPSHOTTER_TEST_VICTIM", &root)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let answered: Vec<String> = lines
            .filter(|line| line.starts_with("committed-"))
            .take(20 + round)
            .collect();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(answered.len(), 20 + round);
        let names: Vec<_> = snapshotter::read_snapshots(&root)
            .unwrap()
            .into_iter()
            .map(|one| one.name)
            .collect();
        for name in answered {
            assert!(names.contains(&name), "{name} was answered and is lost");
        }
    }
}

fn victim(root: &std::path::Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = snapshotter::Config::new(
        root.to_owned(),
        std::sync::Arc::new(std::time::SystemTime::now),
    );
    let layers = support::FakeLayers::new(root);
    let snapshotter =
        snapshotter::Snapshotter::open(config, layers, runtime.handle().clone()).unwrap();
    for number in 0.. {
        let key = format!("active-{}-{number}", std::process::id());
        let name = format!("committed-{}-{number}", std::process::id());
        let request = snapshotter::NewRequest {
            key: key.clone(),
            ..Default::default()
        };
        snapshotter.prepare(request).unwrap();
        snapshotter
            .commit(&name, &key, Default::default(), "")
            .unwrap();
        println!("{name}");
    }
}
