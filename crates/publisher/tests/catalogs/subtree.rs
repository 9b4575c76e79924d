//! Entries in, catalogs out.

use cvmfs::Kind;
use publisher::{Entry, Error, How, Linked, SubtreeBuilder};

use crate::support::{MTIME, Test, noise};

fn file(builder: &mut SubtreeBuilder, path: &str, bytes: &[u8]) {
    let entry = Entry::file(0o644, MTIME);
    let length = bytes.len() as u64;
    builder
        .file(
            path.as_bytes(),
            entry,
            &mut &bytes[..],
            length,
            How::DEFLATED,
        )
        .unwrap();
}

#[test]
fn all_kinds_come_back() {
    let test = Test::new();
    let mut builder = test.builder(1000);
    let odd = Entry {
        mode: 0o4751,
        uid: 7,
        gid: 4_294_967_294,
        mtime: -5,
        mtime_nanos: 123_456_789,
        xattrs: vec![
            (b"user.z".to_vec(), b"".to_vec()),
            (b"security.capability".to_vec(), vec![0, 255, 1]),
        ],
        ..Entry::file(0, 0)
    };
    builder
        .file(b"a/odd", odd, &mut &b"odd"[..], 3, How::PLAIN)
        .unwrap();
    builder
        .directory(b"a", Entry::directory(0o2700, MTIME))
        .unwrap();
    builder
        .add(b"a/link", Entry::symlink("../$(X)", MTIME))
        .unwrap();
    let device = Entry {
        rdev: 0x803,
        ..Entry::new(Kind::BlockDevice, 0o600, MTIME)
    };
    builder.add(b"a/device", device).unwrap();
    builder
        .add(b"a/pipe", Entry::new(Kind::Fifo, 0o600, MTIME))
        .unwrap();
    builder
        .add(b"a/socket", Entry::new(Kind::Socket, 0o600, MTIME))
        .unwrap();
    file(&mut builder, "a/empty", b"");
    let large = noise(30 << 20, 9);
    file(&mut builder, "a/large", &large);
    assert_eq!(builder.implicit_directories().unwrap(), [b"".to_vec()]);
    test.graft("/x/y", &builder.finish().unwrap());
    test.assert_sound();
    let client = test.client();
    let found = client.walk("/x/y");
    let names: Vec<_> = found.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "",
            ".cvmfscatalog",
            "a",
            "a/device",
            "a/empty",
            "a/large",
            "a/link",
            "a/odd",
            "a/pipe",
            "a/socket"
        ]
    );
    let odd = &found["a/odd"].dirent;
    assert_eq!((odd.mode, odd.uid, odd.gid), (0o104_751, 7, 4_294_967_294));
    assert_eq!((odd.mtime, odd.mtime_nanos, odd.size), (-5, 123_456_789, 3));
    let names: Vec<_> = odd
        .xattrs()
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, [b"security.capability".to_vec(), b"user.z".to_vec()]);
    assert_eq!(client.bytes(&found["a/odd"].content), b"odd");
    assert_eq!(found["a/device"].dirent.rdev, 0x803);
    assert_eq!(found["a/link"].dirent.symlink, b"../$(X)");
    assert_eq!(found["a"].dirent.mode, 0o042_700);
    assert_eq!(client.bytes(&found["a/empty"].content), b"");
    assert!(client.bytes(&found["a/large"].content) == large);
}

#[test]
fn later_entries_win() {
    let test = Test::new();
    let mut builder = test.builder(1000);
    file(&mut builder, "d/below/file", b"gone");
    file(&mut builder, "d/other", b"gone too");
    file(&mut builder, "d", b"a file now");
    file(&mut builder, "f", b"first");
    file(&mut builder, "f", b"second");
    file(&mut builder, "g", b"a file");
    builder
        .directory(b"g", Entry::directory(0o755, MTIME))
        .unwrap();
    file(&mut builder, "g/file", b"below");
    test.graft("/t", &builder.finish().unwrap());
    test.assert_sound();
    let client = test.client();
    let found = client.walk("/t");
    let names: Vec<_> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["", ".cvmfscatalog", "d", "f", "g", "g/file"]);
    assert_eq!(client.bytes(&found["f"].content), b"second");
}

#[test]
fn hardlinks_are_one_inode() {
    let test = Test::new();
    let mut builder = test.builder(1000);
    assert_eq!(
        builder.hardlink(b"early", b"a/one").unwrap(),
        Linked::TargetMissing
    );
    file(&mut builder, "a/one", b"content");
    for name in ["a/two", "a/three", "b/four"] {
        assert_eq!(
            builder.hardlink(name.as_bytes(), b"a/one").unwrap(),
            Linked::Linked
        );
    }
    // The others keep the old content.
    file(&mut builder, "a/one", b"another");
    file(&mut builder, "lonely", b"x");
    builder.hardlink(b"lost", b"lonely").unwrap();
    file(&mut builder, "lost", b"y");
    assert!(matches!(
        builder.hardlink(b"x", b"a"),
        Err(Error::Refused { .. })
    ));
    test.graft("/t", &builder.finish().unwrap());
    let client = test.client();
    let found = client.walk("/t");
    let group = |name: &str| found[name].dirent.link_group;
    let links = |name: &str| found[name].dirent.nlink;
    assert_ne!(group("a/two"), 0);
    assert_eq!(
        (group("a/two"), group("a/two")),
        (group("a/three"), group("b/four"))
    );
    assert_eq!((group("a/one"), group("lonely"), group("lost")), (0, 0, 0));
    // The real check counts the names in one directory.
    assert_eq!((links("a/two"), links("b/four"), links("a/one")), (2, 1, 1));
    assert_eq!(client.bytes(&found["b/four"].content), b"content");
}

#[test]
fn paths_that_cannot_be() {
    let test = Test::new();
    let mut builder = test.builder(1000);
    let long = [b'x'; 256];
    for path in [
        &b"/a"[..],
        b"a//b",
        b"a/",
        b"..",
        b"a/../b",
        b"./a",
        b"a\0",
        &long,
    ] {
        let result = builder.add(path, Entry::symlink("x", MTIME));
        assert!(
            matches!(result, Err(Error::Refused { .. })),
            "{}",
            path.escape_ascii()
        );
    }
    file(&mut builder, "f", b"x");
    let below = builder.add(b"f/x", Entry::symlink("x", MTIME));
    assert!(matches!(below, Err(Error::Refused { .. })));
    let xattrs = vec![(b"user.long".to_vec(), vec![0; 256])];
    let entry = Entry {
        xattrs,
        ..Entry::symlink("x", MTIME)
    };
    assert!(matches!(
        builder.add(b"l", entry),
        Err(Error::Refused { .. })
    ));
    let short = builder.file(
        b"s",
        Entry::file(0o644, 0),
        &mut &b"x"[..],
        2,
        How::DEFLATED,
    );
    assert!(matches!(short, Err(Error::Input { .. })));
}

#[test]
fn many_rows_are_split_and_equal_input_gives_equal_catalogs() {
    let test = Test::new();
    let build = || {
        let mut builder = test.builder(100);
        for number in 0..600 {
            let path = format!("d{}/e{}/f{number}", number % 7, number % 14);
            file(&mut builder, &path, path.as_bytes());
            builder
                .hardlink(format!("{path}.link").as_bytes(), path.as_bytes())
                .unwrap();
        }
        // Honoured as the real server does.
        file(&mut builder, "marked/.cvmfscatalog", b"");
        builder.finish().unwrap()
    };
    test.graft("/t", &build());
    test.assert_sound();
    let client = test.client();
    let revision = client.repository.current();
    let first = revision.nested_catalog(b"/t").unwrap().unwrap();
    assert!(revision.nested_catalog(b"/t/marked").unwrap().is_some());
    let found = client.walk("/t");
    let markers = found
        .keys()
        .filter(|path| path.ends_with(".cvmfscatalog"))
        .count();
    assert!(markers > 7, "{markers}");
    assert_eq!(found.len() - markers, 1 + 7 + 14 + 1200 + 1);
    assert!(
        found
            .iter()
            .all(|(path, entry)| !path.ends_with("link") || entry.dirent.nlink == 2)
    );
    drop((found, revision, client));
    // At the same time as the first, thus with the same properties but the revision's number.
    let lock = Test::new();
    let same = lock.builder(100);
    drop(same);
    test.change(|transaction| {
        transaction.graft(b"/u", &build()).unwrap();
        transaction.graft(b"/v", &build()).unwrap();
    });
    test.assert_sound();
    assert!(first.1 > 0);
}
