//! Changes to repositories, also to the one that the real server made.

use publisher::{Change, Entry, Error, How};

use crate::support::{MTIME, Test};

fn file(path: &str) -> impl Fn(&mut publisher::Transaction) {
    let path = path.to_owned();
    move |transaction| {
        let entry = Entry::file(0o644, MTIME);
        transaction
            .file(path.as_bytes(), entry, path.as_bytes())
            .unwrap();
    }
}

#[test]
fn the_real_servers_repository_is_changed_and_stays_sound() {
    let test = Test::of_fixture();
    let before = test.client().walk("");
    let mut builder = test.builder(100);
    let entry = Entry::file(0o755, MTIME);
    builder
        .file(b"bin/tool", entry, &mut &b"tool"[..], 4, How::DEFLATED)
        .unwrap();
    let subtree = builder.finish().unwrap();
    test.change(|transaction| {
        transaction
            .graft(b"/.layers/00/new/layerfs", &subtree)
            .unwrap();
        transaction
            .file(
                b"/nested/a/inner/added",
                Entry::file(0o644, MTIME),
                b"added",
            )
            .unwrap();
        transaction.remove(b"/dirtab").unwrap();
        transaction.remove(b"/nested/b").unwrap();
        transaction.clone_subtree(b"/ingested", b"/copy").unwrap();
        transaction
            .symlink(b"/.layers/link", Entry::symlink("00", MTIME))
            .unwrap();
        transaction.nested_catalog(b"/deep").unwrap();
        let changes = transaction.changes();
        assert_eq!(changes[2], Change::Remove(b"/dirtab".to_vec()));
        assert_eq!(changes.len(), 7);
    });
    test.assert_sound();
    let client = test.client();
    let after = client.walk("");
    assert!(after.contains_key(".layers/00/new/layerfs/bin/tool"));
    assert_eq!(
        client.bytes(&after["nested/a/inner/added"].content),
        b"added"
    );
    let kept = |path: &str| {
        !["dirtab", "nested/b"]
            .iter()
            .any(|gone| path == *gone || path.starts_with(&format!("{gone}/")))
    };
    for (path, entry) in &before {
        match kept(path) {
            true => assert_eq!(after[path].dirent.mtime, entry.dirent.mtime, "{path}"),
            false => assert!(!after.contains_key(path), "{path}"),
        }
    }
    let copied = |path: &str| {
        path.strip_prefix("ingested")
            .map(|rest| format!("copy{rest}"))
    };
    let mut copies = 0;
    for (path, entry) in before
        .iter()
        .filter_map(|(path, entry)| Some((copied(path)?, entry)))
    {
        assert_eq!(after[&path].content, entry.content, "{path}");
        assert_eq!(after[&path].dirent.mode, entry.dirent.mode, "{path}");
        copies += 1;
    }
    assert!(copies > 20, "{copies}");
}

#[test]
fn what_is_written_is_looked_up_read_and_listed_before_and_after_commit() {
    let test = Test::new();
    let look = |transaction: &mut publisher::Transaction| {
        assert_eq!(
            transaction.list(b"/a").unwrap(),
            [b".cvmfscatalog".to_vec(), b"b".to_vec()]
        );
        assert_eq!(
            transaction.read(b"/a/b/c", 100).unwrap().unwrap(),
            b"/a/b/c"
        );
        assert!(
            transaction
                .lookup(b"/a")
                .unwrap()
                .unwrap()
                .catalog
                .is_some()
        );
        assert!(
            transaction
                .lookup(b"/a/b")
                .unwrap()
                .unwrap()
                .catalog
                .is_none()
        );
        assert_eq!(transaction.lookup(b"/a/x").unwrap(), None);
        assert_eq!(transaction.lookup(b"/x/y").unwrap(), None);
        assert!(matches!(
            transaction.read(b"/a/b/c", 1),
            Err(Error::Refused { .. })
        ));
        assert_eq!(transaction.list(b"/none").unwrap(), Vec::<Vec<u8>>::new());
    };
    test.change(|transaction| {
        file("/a/b/c")(transaction);
        transaction.nested_catalog(b"/a").unwrap();
        look(transaction);
    });
    test.assert_sound();
    look(&mut test.begin());
}

#[test]
fn nothing_changes_without_commit() {
    let test = Test::new();
    let head = test.repository.head();
    let mut transaction = test.begin();
    file("/a")(&mut transaction);
    drop(transaction);
    assert_eq!(test.repository.head(), head);
    assert!(test.begin().lookup(b"/a").unwrap().is_none());
}

#[test]
fn impossible_changes_are_refused() {
    let test = Test::new();
    let mut transaction = test.begin();
    file("/f")(&mut transaction);
    let entry = || Entry::file(0o644, MTIME);
    for path in [&b"a"[..], b"/", b"/a/", b"/../a", b"//a", b"/f/x"] {
        let result = transaction.file(path, entry(), b"");
        assert!(
            matches!(result, Err(Error::Refused { .. })),
            "{}",
            path.escape_ascii()
        );
    }
    assert!(transaction.remove(b"").is_err());
    assert!(transaction.clone_subtree(b"/none", b"/x").is_err());
    assert!(transaction.clone_subtree(b"/f", b"/f/x").is_err());
}

#[test]
fn a_hardlinks_other_names_lose_a_link() {
    let test = Test::new();
    let mut builder = test.builder(100);
    builder
        .file(
            b"a",
            Entry::file(0o644, MTIME),
            &mut &b"x"[..],
            1,
            How::DEFLATED,
        )
        .unwrap();
    for name in [b"b", b"c"] {
        builder.hardlink(name, b"a").unwrap();
    }
    test.graft("/t", &builder.finish().unwrap());
    test.change(|transaction| {
        transaction.remove(b"/t/b").unwrap();
        transaction.clone_subtree(b"/t", b"/u").unwrap();
    });
    test.assert_sound();
    for (path, entry) in test.client().walk("") {
        if path.ends_with("/a") || path.ends_with("/c") {
            assert_eq!(entry.dirent.nlink, 2, "{path}");
        }
    }
}
