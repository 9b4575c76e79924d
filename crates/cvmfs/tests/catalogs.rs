//! Catalogs that the fixture does not have: of all schema revisions, bound, hidden, and hostile ones.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::collections::HashMap;
use std::io::Write;

use cvmfs::{
    Algorithm, Content, ContentHash, Dirent, Error, Kind, ObjectRef, OpenAt, Repository, Suffix,
};
use md5::{Digest, Md5};
use rusqlite::Connection;
use support::server::Server;
use support::{Client, refused};

const DIRECTORY: i64 = 1;
const FILE: i64 = 4;
const NESTED: i64 = 2;
const NESTED_ROOT: i64 = 32;
const BIND: i64 = 0x4000;
const HIDDEN: i64 = 0x8000;

/// A catalog in the making.
struct Draft {
    connection: Connection,
    directory: tempfile::TempDir,
}

fn key(path: &str) -> (i64, i64) {
    let digest: [u8; 16] = Md5::digest(path.as_bytes()).into();
    let half = |from: usize| i64::from_le_bytes(digest[from..from + 8].try_into().unwrap());
    (half(0), half(8))
}

impl Draft {
    /// The newest schema.
    fn new(root_prefix: &str) -> Self {
        let draft = Self::with_schema(
            "CREATE TABLE catalog (md5path_1 INTEGER, md5path_2 INTEGER, parent_1 INTEGER, parent_2 INTEGER, \
             hardlinks INTEGER, hash BLOB, size INTEGER, mode INTEGER, mtime INTEGER, mtimens INTEGER, flags INTEGER, \
             name TEXT, symlink TEXT, uid INTEGER, gid INTEGER, xattr BLOB, PRIMARY KEY (md5path_1, md5path_2));
             CREATE TABLE nested_catalogs (path TEXT PRIMARY KEY, sha1 TEXT, size INTEGER);
             CREATE TABLE bind_mountpoints (path TEXT PRIMARY KEY, sha1 TEXT, size INTEGER);",
        );
        draft.sql(&format!(
            "INSERT INTO properties VALUES ('root_prefix', '{root_prefix}')"
        ));
        draft.add(
            root_prefix,
            DIRECTORY
                | if root_prefix.is_empty() {
                    0
                } else {
                    NESTED_ROOT
                },
        );
        draft
    }

    fn with_schema(tables: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let connection = Connection::open(directory.path().join("db")).unwrap();
        let draft = Self {
            connection,
            directory,
        };
        draft.sql(
            "CREATE TABLE chunks (md5path_1 INTEGER, md5path_2 INTEGER, offset INTEGER, size INTEGER, hash BLOB);
             CREATE TABLE statistics (counter TEXT PRIMARY KEY, value INTEGER);
             CREATE TABLE properties (key TEXT PRIMARY KEY, value TEXT);
             INSERT INTO properties VALUES ('schema', '2.5');",
        );
        draft.sql(tables);
        draft
    }

    fn sql(&self, sql: &str) {
        self.connection.execute_batch(sql).unwrap();
    }

    /// A row by its path.
    fn add(&self, path: &str, flags: i64) {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", ""));
        let (first, second) = key(path);
        let (above, beyond) = if path.is_empty() { (0, 0) } else { key(parent) };
        let mode = if flags & DIRECTORY == 0 {
            0o100_644
        } else {
            0o040_755
        };
        let hash = (flags & DIRECTORY == 0).then(|| Algorithm::Sha1.digest(path.as_bytes()).digest);
        let sql = "INSERT INTO catalog (md5path_1, md5path_2, parent_1, parent_2, hardlinks, hash, size, mode, mtime, \
                   flags, name, symlink, uid, gid) VALUES (?1, ?2, ?3, ?4, 1, ?5, 7, ?6, 1000, ?7, ?8, '', 1, 2)";
        let parameters = rusqlite::params![first, second, above, beyond, hash, mode, flags, name];
        self.connection.execute(sql, parameters).unwrap();
    }

    fn mount(&self, table: &str, path: &str, hash: ContentHash) {
        self.sql(&format!(
            "INSERT INTO {table} (path, sha1) VALUES ('{path}', '{hash}')"
        ));
    }

    /// Publishes it.
    fn finish(self, server: &Server) -> ContentHash {
        self.connection.close().unwrap();
        publish(
            server,
            &std::fs::read(self.directory.path().join("db")).unwrap(),
        )
    }
}

fn publish(server: &Server, plain: &[u8]) -> ContentHash {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(plain).unwrap();
    let stored = encoder.finish().unwrap();
    let hash = Algorithm::Sha1.digest(&stored);
    server.replace(&ObjectRef::zlib(hash, Suffix::Catalog).url_path(), stored);
    hash
}

fn open(client: &Client, server: &Server, root: ContentHash) -> Result<Repository, Error> {
    let mut config = client.config(&[&server.url()]);
    config.open_at = OpenAt::RootHash(root);
    client.open(config)
}

fn names(entries: Vec<Dirent>) -> Vec<String> {
    let mut names: Vec<_> = entries
        .into_iter()
        .map(|dirent| String::from_utf8(dirent.name).unwrap())
        .collect();
    names.sort();
    names
}

fn names_by_nodes(repository: &Repository, path: &[&str]) -> Vec<String> {
    let node = path.iter().fold(repository.root(), |node, name| {
        repository
            .lookup_child(node, name.as_bytes())
            .unwrap()
            .unwrap()
            .0
    });
    let children = repository.children(node, 0, 1).unwrap();
    let mut entries: Vec<_> = children;
    while let Some((cookie, ..)) = entries.last() {
        let more = repository.children(node, *cookie, 1).unwrap();
        if more.is_empty() {
            break;
        }
        entries.extend(more);
    }
    names(entries.into_iter().map(|(_, _, dirent)| dirent).collect())
}

#[test]
fn oldest_schema() {
    let server = Server::serving(Vec::new());
    let client = Client::new();
    let child = Draft::with_schema(OLD);
    child.sql("UPDATE properties SET value = '2.4' WHERE key = 'schema'");
    child.sql("INSERT INTO properties VALUES ('root_prefix', '/n')");
    child.add("/n", DIRECTORY | NESTED_ROOT);
    child.add("/n/f", FILE);
    let child = child.finish(&server);
    let root = Draft::with_schema(OLD);
    root.add("", DIRECTORY);
    root.add("/n", DIRECTORY | NESTED);
    root.mount("nested_catalogs", "/n", child);
    let root = root.finish(&server);
    let repository = open(&client, &server, root).unwrap();
    let revision = repository.current();
    let file = revision.lookup(b"/n/f").unwrap().unwrap();
    assert_eq!(
        (file.mtime, file.mtime_nanos, file.uid, file.gid, file.size),
        (1000, 0, 1, 2, 7)
    );
    assert_eq!(file.xattrs(), Ok(Vec::new()));
    assert_eq!(revision.nested_catalog(b"/n").unwrap(), Some((child, 0)));
    assert_eq!(names_by_nodes(&repository, &["n"]), ["f"]);
    assert_eq!(repository.statistics().unwrap().entries(), 0);
}

/// Without `xattr`, `mtimens`, sizes of nested catalogs and bind mountpoints.
const OLD: &str = "CREATE TABLE catalog (md5path_1 INTEGER, md5path_2 INTEGER, parent_1 INTEGER, parent_2 INTEGER, \
                   inode INTEGER, hardlinks INTEGER, hash BLOB, size INTEGER, mode INTEGER, mtime INTEGER, \
                   flags INTEGER, name TEXT, symlink TEXT, uid INTEGER, gid INTEGER, PRIMARY KEY (md5path_1, md5path_2));
                   CREATE TABLE nested_catalogs (path TEXT PRIMARY KEY, sha1 TEXT);";

#[test]
fn schemas_that_are_not_read() {
    let server = Server::serving(Vec::new());
    let client = Client::new();
    for schema in ["1.0", "2.1", "3.0", "nonsense", ""] {
        let draft = Draft::new("");
        draft.sql(&format!(
            "UPDATE properties SET value = '{schema}' WHERE key = 'schema'"
        ));
        let root = draft.finish(&server);
        let error = refused(open(&client, &server, root));
        assert!(matches!(error, Error::Corrupt { .. }), "{schema}: {error}");
    }
    for revision in ["0", "7", "99"] {
        let draft = Draft::new("");
        draft.sql(&format!(
            "INSERT INTO properties VALUES ('schema_revision', '{revision}')"
        ));
        let root = draft.finish(&server);
        open(&client, &server, root).unwrap();
    }
}

#[test]
fn mountpoints_end_at_slashes() {
    let server = Server::serving(Vec::new());
    let client = Client::new();
    let child = Draft::new("/a");
    child.add("/a/x", FILE);
    child.add("/a/bc", DIRECTORY);
    child.add("/a/bc/y", FILE);
    let child = child.finish(&server);
    let root = Draft::new("");
    root.add("/a", DIRECTORY | NESTED);
    root.add("/ab", DIRECTORY);
    root.add("/ab/z", FILE);
    root.mount("nested_catalogs", "/a", child);
    let root = root.finish(&server);
    let repository = open(&client, &server, root).unwrap();
    let revision = repository.current();
    for (path, expected) in [
        ("/a/x", true),
        ("/a/bc/y", true),
        ("/ab/z", true),
        ("/a/z", false),
        ("/ab/x", false),
    ] {
        assert_eq!(
            revision.lookup(path.as_bytes()).unwrap().is_some(),
            expected,
            "{path}"
        );
    }
    assert_eq!(names(revision.list(b"/a").unwrap()), ["bc", "x"]);
    assert_eq!(names(revision.list(b"/ab").unwrap()), ["z"]);
    // Attributes of the mountpoint are those of the parent's row.
    assert!(
        revision
            .lookup(b"/a")
            .unwrap()
            .unwrap()
            .flags
            .nested_mountpoint()
    );
    assert_eq!(names_by_nodes(&repository, &["a", "bc"]), ["y"]);
}

/// `/.cvmfs` is hidden; `/.cvmfs/old` shows the root of an older revision, whose own paths begin at its root.
fn snapshots(server: &Server) -> ContentHash {
    let old_nested = Draft::new("/sub");
    old_nested.add("/sub/deep", FILE);
    let old_nested = old_nested.finish(server);
    let old = Draft::new("");
    old.add("/then", FILE);
    old.add("/sub", DIRECTORY | NESTED);
    old.mount("nested_catalogs", "/sub", old_nested);
    let old = old.finish(server);
    let root = Draft::new("");
    root.add("/now", FILE);
    root.add("/.cvmfs", DIRECTORY | HIDDEN);
    root.add("/.cvmfs/old", DIRECTORY | BIND);
    root.add("/shown", DIRECTORY | BIND);
    root.mount("bind_mountpoints", "/.cvmfs/old", old);
    root.mount("bind_mountpoints", "/shown", old);
    root.finish(server)
}

#[test]
fn bound_and_hidden() {
    let server = Server::serving(Vec::new());
    let client = Client::new();
    let root = snapshots(&server);
    let repository = open(&client, &server, root).unwrap();
    let revision = repository.current();
    assert_eq!(names(revision.list(b"").unwrap()), ["now", "shown"]);
    assert_eq!(names_by_nodes(&repository, &[]), ["now", "shown"]);
    assert!(revision.lookup(b"/.cvmfs").unwrap().unwrap().flags.hidden());
    assert_eq!(names(revision.list(b"/.cvmfs").unwrap()), ["old"]);
    for place in ["/.cvmfs/old", "/shown"] {
        let at = |below: &str| format!("{place}{below}").into_bytes();
        assert_eq!(names(revision.list(&at("")).unwrap()), ["sub", "then"]);
        assert_eq!(names(revision.list(&at("/sub")).unwrap()), ["deep"]);
        assert!(revision.lookup(&at("/sub/deep")).unwrap().is_some());
        assert!(revision.lookup(&at("/now")).unwrap().is_none());
    }
    assert_eq!(
        names_by_nodes(&repository, &[".cvmfs", "old", "sub"]),
        ["deep"]
    );
    // The same directory at two places is two directories to the kernel.
    let find = |path: [&str; 2]| {
        path.iter().fold(repository.root(), |node, name| {
            repository
                .lookup_child(node, name.as_bytes())
                .unwrap()
                .unwrap()
                .0
        })
    };
    let (shown, _) = repository
        .lookup_child(repository.root(), b"shown")
        .unwrap()
        .unwrap();
    let (first, _) = repository
        .lookup_child(find([".cvmfs", "old"]), b"sub")
        .unwrap()
        .unwrap();
    let (second, _) = repository.lookup_child(shown, b"sub").unwrap().unwrap();
    assert_ne!(first, second);
    let mut walked = Vec::new();
    let mut visit = |path: &[u8], _: &cvmfs::WalkEntry| {
        walked.push(String::from_utf8(path.to_vec()).unwrap());
        std::ops::ControlFlow::Continue(())
    };
    revision.walk(b"", &mut visit).unwrap();
    walked.sort();
    assert_eq!(
        walked,
        ["", "now", "shown"],
        "binds are not followed, hidden entries left out"
    );
}

/// What a hostile or broken publisher may put into a row, as SQL; the row is that of `/f`.
const BAD_ROWS: &[(&str, &str)] = &[
    (
        "name with a slash",
        "UPDATE catalog SET name = 'a/b' WHERE name = 'f'",
    ),
    (
        "name that leads up",
        "UPDATE catalog SET name = '..' WHERE name = 'f'",
    ),
    (
        "name with a zero",
        "UPDATE catalog SET name = CAST(x'6100' AS TEXT) WHERE name = 'f'",
    ),
    (
        "long name",
        "UPDATE catalog SET name = hex(zeroblob(200)) WHERE name = 'f'",
    ),
    (
        "number for a name",
        "UPDATE catalog SET name = NULL, uid = 'x' WHERE name = 'f'",
    ),
    (
        "negative size",
        "UPDATE catalog SET size = -1 WHERE name = 'f'",
    ),
    (
        "text for a size",
        "UPDATE catalog SET size = 'x' WHERE name = 'f'",
    ),
    ("no type", "UPDATE catalog SET mode = 420 WHERE name = 'f'"),
    (
        "directory that is none",
        "UPDATE catalog SET flags = 1 WHERE name = 'f'",
    ),
    (
        "huge owner",
        "UPDATE catalog SET uid = 1 << 40 WHERE name = 'f'",
    ),
    (
        "nanoseconds of hours",
        "UPDATE catalog SET mtimens = 1 << 40 WHERE name = 'f'",
    ),
    (
        "short hash",
        "UPDATE catalog SET hash = x'00' WHERE name = 'f'",
    ),
    (
        "long target",
        "UPDATE catalog SET symlink = hex(zeroblob(20000)) WHERE name = 'f'",
    ),
    (
        "huge cell",
        "UPDATE catalog SET symlink = zeroblob(2000000) WHERE name = 'f'",
    ),
    (
        "huge attributes",
        "UPDATE catalog SET xattr = zeroblob(200000) WHERE name = 'f'",
    ),
];

#[test]
fn bad_rows_are_corrupt() {
    let server = Server::serving(Vec::new());
    let client = Client::new();
    for (what, sql) in BAD_ROWS {
        let draft = Draft::new("");
        draft.add("/f", FILE);
        draft.add("/g", FILE);
        draft.sql(sql);
        let root = draft.finish(&server);
        let repository = open(&client, &server, root).unwrap();
        let revision = repository.current();
        for error in [
            revision.lookup(b"/f").map(|_| ()),
            revision.list(b"").map(|_| ()),
            revision.walk(b"", &mut |_, _| std::ops::ControlFlow::Continue(())),
            repository.children(repository.root(), 0, 10).map(|_| ()),
            repository.lookup_child(repository.root(), b"f").map(|_| ()),
        ] {
            let error = refused(error);
            assert!(matches!(error, Error::Corrupt { .. }), "{what}: {error}");
        }
        assert!(revision.lookup(b"/g").unwrap().is_some(), "{what}");
    }
}

/// Changes to the row `/f` by which its content cannot be; the last one is good.
fn contents() -> Vec<(&'static str, String)> {
    let (first, second) = key("/f");
    let chunked = |pieces: &[(i64, i64)]| {
        let mut sql = "UPDATE catalog SET flags = 68 WHERE name = 'f';".to_owned();
        for (offset, size) in pieces {
            sql += &format!(
                "INSERT INTO chunks VALUES ({first}, {second}, {offset}, {size}, zeroblob(20));"
            );
        }
        sql
    };
    let set = |what: &str| format!("UPDATE catalog SET {what} WHERE name = 'f'");
    vec![
        ("no hash", set("hash = NULL")),
        ("unknown hash", set("flags = 4 | (5 << 8)")),
        ("unknown compression", set("flags = 4 | (3 << 11)")),
        ("no chunks", chunked(&[])),
        ("gap", chunked(&[(0, 3), (4, 3)])),
        ("overlap", chunked(&[(0, 4), (3, 4)])),
        ("short", chunked(&[(0, 6)])),
        ("overflow", chunked(&[(0, i64::MAX), (i64::MAX, i64::MAX)])),
        ("good", chunked(&[(4, 3), (0, 4)])),
    ]
}

/// Attributes are served all the same.
#[test]
fn bad_content_is_corrupt() {
    let server = Server::serving(Vec::new());
    let client = Client::new();
    for (what, sql) in contents() {
        let draft = Draft::new("");
        draft.add("/f", FILE);
        draft.sql(&sql);
        let root = draft.finish(&server);
        let repository = open(&client, &server, root).unwrap();
        let file = repository.current().lookup(b"/f").unwrap().unwrap();
        assert_eq!(file.kind, Kind::File);
        let (node, _) = repository
            .lookup_child(repository.root(), b"f")
            .unwrap()
            .unwrap();
        let content = repository.current().content(b"/f");
        if what == "good" {
            let Content::Chunked(chunks) = content.unwrap() else {
                panic!("{what}")
            };
            let offsets: Vec<_> = chunks.iter().map(|chunk| chunk.offset).collect();
            assert_eq!(offsets, [0, 4]);
            assert!(repository.node_content(node).is_ok());
            continue;
        }
        let by_node = repository.node_content(node);
        assert!(matches!(refused(content), Error::Corrupt { .. }), "{what}");
        assert!(matches!(refused(by_node), Error::Corrupt { .. }), "{what}");
    }
}

#[test]
fn hostile_schemas() {
    let server = Server::serving(Vec::new());
    let client = Client::new();
    // A view instead of the table: whatever it computes is not shown.
    let draft = Draft::new("");
    draft.add("/f", FILE);
    draft.sql("ALTER TABLE catalog RENAME TO real; CREATE VIEW catalog AS SELECT * FROM real");
    let root = draft.finish(&server);
    let error = refused(open(&client, &server, root));
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    for table in ["catalog", "properties"] {
        let draft = Draft::new("");
        draft.sql(&format!("DROP TABLE {table}"));
        let root = draft.finish(&server);
        let error = refused(open(&client, &server, root));
        assert!(matches!(error, Error::Corrupt { .. }), "{table}: {error}");
    }
    // No root row, or no way to it.
    let draft = Draft::new("");
    draft.sql("DELETE FROM catalog");
    let root = draft.finish(&server);
    assert!(matches!(
        refused(open(&client, &server, root)),
        Error::Corrupt { .. }
    ));
    for bytes in [&b""[..], b"SQLite format 3\0", &[0xff; 4096]] {
        let root = publish(&server, bytes);
        let error = refused(open(&client, &server, root));
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    }
}

#[test]
fn directories_that_are_their_own_parents() {
    let server = Server::serving(Vec::new());
    let client = Client::new();
    let draft = Draft::new("");
    draft.add("/a", DIRECTORY);
    draft.add("/a/b", DIRECTORY);
    draft.add("/a/b/f", FILE);
    let (first, second) = key("/a/b");
    draft.sql(&format!(
        "UPDATE catalog SET parent_1 = {first}, parent_2 = {second} WHERE name = 'a'"
    ));
    let root = draft.finish(&server);
    let repository = open(&client, &server, root).unwrap();
    let mut seen = HashMap::new();
    let mut visit = |path: &[u8], _: &cvmfs::WalkEntry| {
        *seen.entry(path.to_vec()).or_insert(0) += 1;
        std::ops::ControlFlow::Continue(())
    };
    repository.current().walk(b"", &mut visit).unwrap();
    assert!(seen.values().all(|count| *count == 1), "{seen:?}");
    // By number: climbing finds no way to the root and gives up.
    let (a, _) = repository
        .lookup_child(repository.root(), b"a")
        .unwrap()
        .unwrap();
    let fresh = client.open({
        let mut config = client.config(&[&server.url()]);
        config.open_at = OpenAt::RootHash(root);
        config
    });
    let error = refused(fresh.unwrap().children(a, 0, 10));
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

/// Any single broken byte of a catalog whose hash is right again is an error or harmless, never a panic or a hang.
#[test]
fn broken_pages_are_survived() {
    let server = Server::serving(Vec::new());
    let client = Client::new();
    let draft = Draft::new("");
    for number in 0..60 {
        draft.add(&format!("/file{number}"), FILE);
    }
    let path = draft.directory.path().join("db");
    draft.connection.close().unwrap();
    let good = std::fs::read(path).unwrap();
    for step in 0..120 {
        let mut bytes = good.clone();
        let at = step * 7919 % bytes.len();
        bytes[at] ^= 0xff;
        let root = publish(&server, &bytes);
        let Ok(repository) = open(&client, &server, root) else {
            continue;
        };
        let _ = repository
            .current()
            .walk(b"", &mut |_, _| std::ops::ControlFlow::Continue(()));
        let _ = repository.current().list(b"");
        let _ = repository.current().lookup(b"/file7");
        let _ = repository.children(repository.root(), 0, 1000);
        let _ = repository.statistics();
    }
}
