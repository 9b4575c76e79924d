//! The whole fixture repository, entry by entry and byte by byte, against what the real client showed.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use cvmfs::{
    Content, ContentHash, Dirent, Error, Kind, NodeId, ObjectRef, OpenAt, Repository,
    expand_variables,
};
use sha2::Digest as _;
use support::server::Server;
use support::truth::{self, Columns};
use support::{Client, backend, fixture};

fn sha256(repository: &Repository, content: &Content, size: u64) -> String {
    let mut hasher = sha2::Sha256::new();
    let mut length = 0;
    let mut add = |object: cache::Object| {
        let bytes = object.read_all().unwrap();
        length += bytes.len() as u64;
        hasher.update(&bytes);
    };
    match content {
        Content::None => panic!("a file without content"),
        Content::Whole(object) => add(repository.fetch(object, Some(size)).unwrap()),
        Content::Chunked(chunks) => {
            for chunk in chunks {
                assert_eq!(
                    ObjectRef::from_bytes(&chunk.object.to_bytes()),
                    Some(chunk.object)
                );
                add(repository.fetch(&chunk.object, Some(chunk.size)).unwrap());
            }
        }
        Content::External(chunks) => {
            for chunk in chunks {
                add(repository
                    .fetch_external(&chunk.path, chunk.offset, chunk.size, &chunk.hash)
                    .unwrap());
            }
        }
    }
    assert_eq!(length, size);
    hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn columns(
    repository: &Repository,
    dirent: &Dirent,
    content: &Content,
    xattrs: &[(Vec<u8>, Vec<u8>)],
    digests: &mut HashMap<String, String>,
) -> Columns {
    let letter = match dirent.kind {
        Kind::File => "f",
        Kind::Directory => "d",
        Kind::Symlink => "l",
        Kind::CharDevice => "c",
        Kind::BlockDevice => "b",
        Kind::Fifo => "p",
        Kind::Socket => "s",
    };
    let target = expand_variables(&dirent.symlink, &|_| None);
    let size = if dirent.kind == Kind::Symlink {
        target.len() as u64
    } else {
        dirent.size
    };
    let mut xattrs: Vec<_> = xattrs
        .iter()
        .map(|(name, value)| format!("{}={}", String::from_utf8_lossy(name), truth::base64(value)))
        .collect();
    xattrs.sort();
    let or_dash = |text: String| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text
        }
    };
    let device = matches!(dirent.kind, Kind::CharDevice | Kind::BlockDevice);
    let (major, minor) = (
        dirent.rdev >> 8 & 0xfff,
        dirent.rdev & 0xff | dirent.rdev >> 12 & 0xfff00,
    );
    let digest = if dirent.kind == Kind::File {
        let known = digests.entry(format!("{content:?}"));
        known
            .or_insert_with(|| sha256(repository, content, dirent.size))
            .clone()
    } else {
        assert_eq!(*content, Content::None);
        "-".to_owned()
    };
    vec![
        letter.to_owned(),
        format!("{:04o}", dirent.mode & 0o7777),
        dirent.uid.to_string(),
        dirent.gid.to_string(),
        size.to_string(),
        (i128::from(dirent.mtime) * 1_000_000_000 + i128::from(dirent.mtime_nanos)).to_string(),
        dirent.nlink.to_string(),
        if device {
            format!("{major}:{minor}")
        } else {
            "-".to_owned()
        },
        or_dash(String::from_utf8_lossy(&target).into_owned()),
        or_dash(xattrs.join(";")),
        digest,
    ]
}

fn compare(truth: &BTreeMap<Vec<u8>, Columns>, found: &BTreeMap<Vec<u8>, Columns>) {
    let without_group = |columns: &Columns| {
        let mut columns = columns.clone();
        columns.remove(8);
        columns[8] = String::from_utf8_lossy(&truth::unescape(&columns[8])).into_owned();
        columns
    };
    for (path, expected) in truth {
        let shown = String::from_utf8_lossy(path);
        let found = found
            .get(path)
            .unwrap_or_else(|| panic!("{shown} is missing"));
        assert_eq!(found, &without_group(expected), "{shown}");
    }
    let surplus: Vec<_> = found
        .keys()
        .filter(|path| !truth.contains_key(*path))
        .collect();
    assert!(surplus.is_empty(), "{surplus:?}");
}

fn open(at: OpenAt) -> (Server, Server, Client, Repository) {
    let server = Server::fixture();
    let external = Server::serving(vec![fixture().join("external")]);
    let client = Client::new();
    let mut config = client.config(&[&server.url()]);
    config.external_servers = vec![external.url()];
    config.open_at = at;
    let repository = client.open(config).unwrap();
    (server, external, client, repository)
}

/// Groups by (catalog, number) → sorted lists of paths.
type Groups = BTreeMap<(u32, u32), Vec<Vec<u8>>>;

fn by_walk(repository: &Repository) -> (BTreeMap<Vec<u8>, Columns>, Groups) {
    let mut entries = BTreeMap::new();
    let mut groups = Groups::new();
    let mut seen = Vec::new();
    let revision = repository.current();
    let mut visit = |path: &[u8], entry: &cvmfs::WalkEntry| {
        seen.push((path.to_vec(), entry.clone()));
        ControlFlow::Continue(())
    };
    revision.walk(b"", &mut visit).unwrap();
    let mut digests = HashMap::new();
    for (path, entry) in seen {
        let path = [b"/", &path[..]].concat();
        let parent = path.iter().rposition(|byte| *byte == b'/').unwrap().max(1);
        assert!(
            path == b"/" || entries.contains_key(&path[..parent]),
            "a parent comes first"
        );
        if entry.dirent.link_group != 0 {
            groups
                .entry((entry.catalog, entry.dirent.link_group))
                .or_default()
                .push(path.clone());
        }
        let columns = columns(
            repository,
            &entry.dirent,
            &entry.content,
            &entry.xattrs,
            &mut digests,
        );
        assert_eq!(entries.insert(path, columns), None);
    }
    (entries, groups)
}

fn by_nodes(repository: &Repository) -> BTreeMap<Vec<u8>, Columns> {
    let mut entries = BTreeMap::new();
    let mut digests = HashMap::new();
    let root = repository.root();
    let mut queue = vec![(b"/".to_vec(), root, repository.node(root).unwrap())];
    while let Some((path, node, dirent)) = queue.pop() {
        if dirent.kind == Kind::Directory {
            queue.extend(children(repository, &path, node));
        }
        let content = repository.node_content(node).unwrap();
        let xattrs = repository.node_xattrs(node).unwrap();
        let columns = columns(repository, &dirent, &content, &xattrs, &mut digests);
        assert_eq!(entries.insert(path, columns), None);
    }
    entries
}

fn children(repository: &Repository, path: &[u8], node: NodeId) -> Vec<(Vec<u8>, NodeId, Dirent)> {
    let mut found = Vec::new();
    let mut after = 0;
    loop {
        let batch = repository.children(node, after, 300).unwrap();
        let Some((cookie, ..)) = batch.last() else {
            return found;
        };
        after = *cookie;
        for (_, child, dirent) in batch {
            let looked_up = repository.lookup_child(node, &dirent.name).unwrap();
            assert_eq!(looked_up, Some((child, dirent.clone())));
            assert_eq!(repository.node(child).unwrap(), dirent);
            let slash: &[u8] = if path == b"/" { b"" } else { b"/" };
            found.push(([path, slash, &dirent.name].concat(), child, dirent));
        }
    }
}

#[test]
fn trunk_by_walk() {
    let (_server, _external, _client, repository) = open(OpenAt::Trunk);
    let truth = truth::load("small.truth.tsv.zst");
    let (entries, groups) = by_walk(&repository);
    compare(&truth, &entries);
    let mut found: Vec<_> = groups
        .into_values()
        .map(|mut paths| {
            paths.sort();
            paths
        })
        .collect();
    found.sort();
    let mut expected: Vec<_> = truth::groups(&truth).into_values().collect();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(repository.current().number(), 59);
    assert_eq!(repository.time_to_live().as_secs(), 240);
    // Transition directories count in both of their catalogs.
    let statistics = repository.statistics().unwrap();
    assert_eq!(
        statistics.entries() - statistics.nested_catalogs,
        truth.len() as u64
    );
}

#[test]
fn trunk_by_nodes() {
    let (_server, _external, _client, repository) = open(OpenAt::Trunk);
    compare(&truth::load("small.truth.tsv.zst"), &by_nodes(&repository));
}

#[test]
fn trunk_by_nodes_with_few_open_catalogs() {
    let server = Server::fixture();
    let external = Server::serving(vec![fixture().join("external")]);
    let client = Client::new();
    let mut config = client.config(&[&server.url()]);
    config.external_servers = vec![external.url()];
    config.open_catalogs = 2;
    let repository = client.open(config).unwrap();
    compare(&truth::load("small.truth.tsv.zst"), &by_nodes(&repository));
    assert_eq!(repository.metrics().open_catalogs.get(), 2);
}

#[test]
fn tag_by_walk_and_nodes() {
    let (_server, _external, _client, repository) = open(OpenAt::Tag("v1".to_owned()));
    let truth = truth::load("small.truth.v1.tsv.zst");
    compare(&truth, &by_walk(&repository).0);
    compare(&truth, &by_nodes(&repository));
    assert_eq!(repository.current().tag(), Some("v1"));
    assert_eq!(repository.time_to_live(), std::time::Duration::MAX);
}

#[test]
fn every_way_to_a_revision() {
    let tags = std::fs::read_to_string(fixture().join("tags.txt")).unwrap();
    let tag = |name: &str| {
        let line = tags
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name))
            .unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        (
            ContentHash::parse(words[1]).unwrap(),
            words[3].parse::<u64>().unwrap(),
            words[4].parse::<i64>().unwrap(),
        )
    };
    let (hash, revision, time) = tag("v2");
    let (_, _, _, repository) = open(OpenAt::Tag("v2".to_owned()));
    assert_eq!(
        (
            repository.current().root_hash(),
            repository.current().number()
        ),
        (hash, revision)
    );
    let (_, _, _, repository) = open(OpenAt::RootHash(hash));
    assert_eq!(
        (
            repository.current().root_hash(),
            repository.current().number()
        ),
        (hash, revision)
    );
    assert_eq!(repository.current().timestamp().unwrap().as_second(), time);
    let (older, number, time) = tag("containers");
    let (_, _, _, repository) = open(OpenAt::Date(jiff::Timestamp::from_second(time).unwrap()));
    assert_eq!(
        (
            repository.current().root_hash(),
            repository.current().number()
        ),
        (older, number)
    );
    let (_server, _external, _client, repository) = open(OpenAt::Trunk);
    let all = repository.tags().unwrap();
    assert_eq!(all.len(), tags.lines().count());
    assert!(
        all.iter()
            .any(|tag| tag.name == "v2" && tag.root_catalog == hash)
    );
}

#[test]
fn tags_and_dates_that_are_not() {
    let server = Server::fixture();
    let client = Client::new();
    for at in [
        OpenAt::Tag("nosuch".to_owned()),
        OpenAt::Date("2001-01-01T00:00:00Z".parse().unwrap()),
    ] {
        let mut config = client.config(&[&server.url()]);
        config.open_at = at;
        assert!(matches!(
            support::refused(client.open(config)),
            Error::NotFound(_)
        ));
    }
}

#[test]
fn paths() {
    let (_server, _external, _client, repository) = open(OpenAt::Trunk);
    let revision = repository.current();
    assert_eq!(
        revision
            .read_small(b"/plain/hello.txt", 100)
            .unwrap()
            .unwrap(),
        b"Hello CernVM-FS\n"
    );
    assert_eq!(
        revision
            .read_small(b"/nested/a/file1", 100)
            .unwrap()
            .unwrap(),
        b"in nested/a 1\n"
    );
    assert_eq!(revision.read_small(b"/plain", 100).unwrap(), None);
    assert_eq!(revision.read_small(b"/plain/nosuch", 100).unwrap(), None);
    assert!(matches!(
        revision.read_small(b"/plain/hello.txt", 3),
        Err(Error::TooLarge { .. })
    ));
    assert_eq!(revision.lookup(b"/plain/hello.txt/below").unwrap(), None);
    assert_eq!(revision.lookup(b"").unwrap().unwrap().kind, Kind::Directory);
    assert!(matches!(
        revision.list(b"/plain/hello.txt"),
        Err(Error::NotADirectory(_))
    ));
    assert!(matches!(revision.list(b"/nosuch"), Err(Error::NotFound(_))));
    assert!(matches!(
        revision.content(b"/nosuch"),
        Err(Error::NotFound(_))
    ));
    let names: Vec<_> = revision
        .list(b"/nested")
        .unwrap()
        .into_iter()
        .map(|dirent| dirent.name)
        .collect();
    assert!(
        names.contains(&b"a".to_vec()) && names.contains(&b"b".to_vec()),
        "{names:?}"
    );
}

#[test]
fn mountpoints_and_nodes() {
    let (_server, _external, _client, repository) = open(OpenAt::Trunk);
    let revision = repository.current();
    // Only the exact mountpoint, not what begins like it or lies below.
    let (hash, size) = revision.nested_catalog(b"/nested/a").unwrap().unwrap();
    assert_eq!(
        (hash.to_string().as_str(), size),
        ("b690ede56eb58b89a5e1a9a75208444e9ecfaf83", 57344)
    );
    assert_eq!(revision.nested_catalog(b"/nested").unwrap(), None);
    assert_eq!(revision.nested_catalog(b"/nested/a/file1").unwrap(), None);
    let wrong = NodeId(7 << 40 | 1);
    assert!(matches!(repository.node(wrong), Err(Error::NotFound(_))));
    let (file, _) = repository
        .lookup_child(repository.root(), b".cvmfsdirtab")
        .unwrap()
        .unwrap();
    assert!(matches!(
        repository.lookup_child(file, b"x"),
        Err(Error::NotADirectory(_))
    ));
    assert_eq!(
        repository.lookup_child(repository.root(), b"..").unwrap(),
        None
    );
}

#[test]
fn part_of_the_tree_by_walk() {
    let (_server, _external, _client, repository) = open(OpenAt::Trunk);
    let truth = truth::load("small.truth.tsv.zst");
    for start in [
        "/plain",
        "/nested",
        "/nested/a",
        "/plain/hello.txt",
        "/ingested/tar",
        "/.layers",
    ] {
        let mut found = Vec::new();
        let mut visit = |path: &[u8], _: &cvmfs::WalkEntry| {
            let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
            found.push([start.as_bytes(), slash, path].concat());
            ControlFlow::Continue(())
        };
        repository
            .current()
            .walk(start.as_bytes(), &mut visit)
            .unwrap();
        let below = format!("{start}/");
        let inside =
            |path: &&Vec<u8>| path.starts_with(below.as_bytes()) || *path == start.as_bytes();
        let expected: Vec<_> = truth.keys().filter(inside).cloned().collect();
        found.sort();
        assert_eq!(found, expected, "{start}");
    }
    let mut count = 0;
    let mut visit = |_: &[u8], _: &cvmfs::WalkEntry| {
        count += 1;
        if count == 5 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    repository.current().walk(b"", &mut visit).unwrap();
    assert_eq!(count, 5);
}

#[test]
fn deflating_again_gives_the_published_bytes() {
    use std::io::{Read, Write};
    let mut count = 0;
    let data = backend().join("data");
    for directory in std::fs::read_dir(data).unwrap() {
        for file in std::fs::read_dir(directory.unwrap().path()).unwrap() {
            let stored = std::fs::read(file.unwrap().path()).unwrap();
            let mut plain = Vec::new();
            if flate2::read::ZlibDecoder::new(&stored[..])
                .read_to_end(&mut plain)
                .is_err()
            {
                continue;
            }
            let mut encoder =
                flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&plain).unwrap();
            assert!(
                encoder.finish().unwrap() == stored,
                "another zlib than the publisher's"
            );
            count += 1;
        }
    }
    assert_eq!(count, 822);
}
