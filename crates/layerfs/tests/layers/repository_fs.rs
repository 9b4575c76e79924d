//! A whole repository, served by another process.

use testkit::{DEFAULT_MTIME, Entry, Field, Storage};

use crate::outside::{ENOENT, Outside, read, readlink, text, walk, xattr};
use crate::world::{FQRN, World, mounts_possible};

const ENODATA: i32 = 61;

fn content(salt: u32) -> Vec<u8> {
    (0..3_000_000_u32)
        .map(|n| (n ^ n >> 9 ^ salt) as u8)
        .collect()
}

fn world() -> World {
    let mut world = World::new();
    world
        .repository
        .add(Entry::directory("dir").mode(0o711).owner(5, 6))
        .add(Entry::file("dir/file", content(0)).storage(Storage::Chunked(1 << 20)))
        .add(
            Entry::file("dir/attributed", "a")
                .xattr("user.own", "mine")
                .xattr("user.fqrn", "x"),
        )
        .add(Entry::hardlink("dir/again", "dir/attributed"))
        .add(Entry::file("dir/.secret", "found by name only").hidden())
        .add(Entry::file("nested/inside", "inside"))
        .add_nested_catalog("nested")
        .add(Entry::symlink("variable", "$(ARCH)/$(NOWHERE:-default)/x"))
        .add(Entry::symlink("plain", "dir"))
        .add(Entry::file("removed", "soon"));
    world.publish();
    world.start(1);
    world
}

#[test]
fn a_repository_shows_what_was_published() {
    if !mounts_possible() {
        return;
    }
    let world = world();
    let mount = world.path("mount");
    let _server = Outside::serve(&world, &mount, 0);
    let seen = walk(&mount, 0);
    let paths: Vec<&str> = seen.rows.keys().map(String::as_str).collect();
    let expected = [
        "/",
        "/dir",
        "/dir/again",
        "/dir/attributed",
        "/dir/file",
        "/nested",
        "/nested/.cvmfscatalog",
        "/nested/inside",
        "/plain",
        "/removed",
        "/variable",
    ];
    assert_eq!(paths, expected);
    let column = |path: &str, field| seen.rows[path].get(field).to_owned();
    assert_eq!(
        column("/dir", Field::Mode) + &column("/dir", Field::Uid),
        "07115"
    );
    assert_eq!(column("/dir/again", Field::HardlinkGroup), "/dir/again");
    assert_eq!(
        column("/dir/attributed", Field::HardlinkGroup),
        "/dir/again"
    );
    assert_eq!(column("/dir/attributed", Field::Nlink), "2");
    assert_eq!(
        column("/nested", Field::Mtime),
        format!("{}000000000", crate::world::IMPLICIT)
    );
    assert_eq!(
        column("/removed", Field::Mtime),
        format!("{DEFAULT_MTIME}000000000")
    );
    let sha256 = testkit::digest(&content(0)).split_off(7);
    assert_eq!(column("/dir/file", Field::Sha256), sha256);
    // Hidden from listings, not from those who know the name.
    assert_eq!(
        read(&mount.join("dir/.secret")).unwrap(),
        b"found by name only"
    );
    assert_eq!(read(&mount.join("dir/absent")), Err(ENOENT));
}

#[test]
fn variables_in_symlinks_are_expanded() {
    if !mounts_possible() {
        return;
    }
    let world = world();
    let mount = world.path("mount");
    let _server = Outside::serve(&world, &mount, 0);
    let expanded = "x86_64/default/x";
    assert_eq!(
        readlink(&mount.join("variable")).unwrap(),
        expanded.as_bytes()
    );
    let row = &walk(&mount, 0).rows["/variable"];
    assert_eq!(row.get(Field::Size), expanded.len().to_string());
    assert_eq!(readlink(&mount.join("plain")).unwrap(), b"dir");
}

#[test]
fn magic_attributes_answer_and_are_not_listed() {
    if !mounts_possible() {
        return;
    }
    let world = world();
    let mount = world.path("mount");
    let _server = Outside::serve(&world, &mount, 0);
    let magic = |path: &str, name: &str| {
        xattr(&mount.join(path), name).map(|value| String::from_utf8(value).unwrap())
    };
    let published = world.revision();
    for path in ["", "dir", "dir/attributed", "nested/inside"] {
        assert_eq!(magic(path, "user.fqrn").unwrap(), FQRN);
        assert_eq!(
            magic(path, "user.revision").unwrap(),
            published.revision.to_string()
        );
        assert_eq!(magic(path, "user.root_hash").unwrap(), published.root_hash);
    }
    let nested = format!("catalog_hash: {}\n", published.catalogs["/nested"]);
    assert_eq!(magic("nested", "user.catalog_counters").unwrap(), nested);
    // The kernel itself refuses `user.` attributes of symlinks.
    let raw = "$(ARCH)/$(NOWHERE:-default)/x";
    assert_eq!(magic("variable", "xfsroot.rawlink").unwrap(), raw);
    assert_eq!(magic("plain", "xfsroot.rawlink").unwrap(), "dir");
    assert_eq!(magic("dir", "xfsroot.rawlink"), Err(ENODATA));
    assert_eq!(magic("dir/attributed", "user.own").unwrap(), "mine");
    assert_eq!(magic("dir/attributed", "user.nothing"), Err(ENODATA));
    assert_eq!(magic("dir/file", "user.own"), Err(ENODATA));
    // Only what the repository stores is listed, so that copies do not carry what is made up.
    let seen = walk(&mount, 0);
    assert_eq!(seen.rows["/dir/file"].get(Field::Xattrs), "-");
    assert!(
        seen.rows["/dir/attributed"]
            .get(Field::Xattrs)
            .contains("user.own=bWluZQ==")
    );
}

#[test]
fn claimed_ownership_shows_one_owner() {
    if !mounts_possible() {
        return;
    }
    let world = world();
    let mount = world.path("mount");
    let _server = Outside::serve(&world, &mount, 990);
    let seen = walk(&mount, 0);
    for (path, row) in &seen.rows {
        assert_eq!(
            (row.get(Field::Uid), row.get(Field::Gid)),
            ("990", "990"),
            "{path}"
        );
    }
}

#[test]
fn a_new_revision_is_shown_and_open_files_keep_the_old() {
    if !mounts_possible() {
        return;
    }
    let mut world = world();
    let mount = world.path("mount");
    let mut server = Outside::serve(&world, &mount, 0);
    let file = mount.join("dir/file");
    let reader = Outside::start(&["hold", text(&file)], "open");
    world
        .repository
        .add(Entry::file("dir/file", content(1)))
        .add(Entry::file("dir/new", "new"))
        .remove("removed");
    world.publish();
    server.tell();
    assert_eq!(server.line(), "refreshed");
    assert!(read(&file).unwrap() == content(1));
    assert_eq!(read(&mount.join("dir/new")).unwrap(), b"new");
    assert_eq!(read(&mount.join("removed")), Err(ENOENT));
    assert_eq!(xattr(&mount, "user.revision").unwrap(), b"2");
    assert!(reader.finish() == content(0));
    let seen = walk(&mount, 0);
    assert!(!seen.rows.contains_key("/removed") && seen.rows.contains_key("/dir/new"));
}
