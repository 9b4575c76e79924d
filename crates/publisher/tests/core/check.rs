//! Sound repositories are clean; each planted defect is found and named.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use cvmfs::{Algorithm, ContentHash};
use publisher::storage::LocalStorage;
use publisher::{CheckOptions, Commit, Finding, Problem, Repository};
use testkit::Entry;

use crate::support::{New, at, copy, files, keys, lock, new_repository, publish, shared_fixture};

const ALL: CheckOptions = CheckOptions {
    content: true,
    tags: true,
};

#[test]
fn the_real_servers_repository_is_clean() {
    let storage = Arc::new(LocalStorage::new(&shared_fixture().repository()));
    let repository = Repository::open(storage, Some(keys()), at(0)).unwrap();
    let report = repository.check(ALL).unwrap();
    assert_eq!(report.findings, []);
    assert!(report.catalogs > 30 && report.objects > 700, "{report:?}");
    assert_eq!(report.revisions, 11);
}

#[test]
fn a_new_repository_is_clean() {
    let new = new_repository();
    let report = new.repository.check(ALL).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((report.catalogs, report.unnamed), (1, 0));
}

/// A copy of the fixture to damage.
fn damaged(damage: impl FnOnce(&std::path::Path)) -> Vec<Finding> {
    let directory = tempfile::TempDir::new().unwrap();
    copy(&shared_fixture().repository(), directory.path());
    damage(directory.path());
    let storage = Arc::new(LocalStorage::new(directory.path()));
    let repository = Repository::open(storage, Some(keys()), at(0)).unwrap();
    repository.check(ALL).unwrap().findings
}

/// The largest object with this suffix, or a bulk one.
fn largest(root: &std::path::Path, suffix: &str) -> PathBuf {
    with_suffix(root, suffix).pop().unwrap().1
}

/// All of them with their lengths, the largest last.
fn with_suffix(root: &std::path::Path, suffix: &str) -> Vec<(u64, PathBuf)> {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    for folder in fs::read_dir(root.join("data")).unwrap() {
        for entry in fs::read_dir(folder.unwrap().path()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let letter = name.trim_start_matches(|c: char| {
                c.is_ascii_digit() || c.is_ascii_lowercase() || c == '-'
            });
            if letter == suffix {
                found.push((entry.metadata().unwrap().len(), entry.path()));
            }
        }
    }
    found.sort();
    found
}

fn relative(root: &std::path::Path, path: &std::path::Path) -> String {
    path.strip_prefix(root)
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

#[test]
fn missing_objects_are_found() {
    for suffix in ["", "C", "M"] {
        let mut name = String::new();
        let findings = damaged(|root| {
            let path = largest(root, suffix);
            fs::remove_file(&path).unwrap();
            name = relative(root, &path);
        });
        let found = findings
            .iter()
            .any(|finding| (finding.problem, &finding.object) == (Problem::Missing, &name));
        assert!(found, "{suffix:?}: {findings:?}");
    }
}

#[test]
fn flipped_bytes_are_found() {
    for suffix in ["", "C", "H", "M"] {
        let mut name = String::new();
        let directory = tempfile::TempDir::new().unwrap();
        copy(&shared_fixture().repository(), directory.path());
        let storage = Arc::new(LocalStorage::new(directory.path()));
        let repository = Repository::open(storage, Some(keys()), at(0)).unwrap();
        // The current history, not an old one.
        let path = match suffix {
            "H" => {
                let hex = repository.head().history.unwrap().to_string();
                directory
                    .path()
                    .join(format!("data/{}/{}H", &hex[..2], &hex[2..]))
            }
            _ => largest(directory.path(), suffix),
        };
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        name.push_str(&relative(directory.path(), &path));
        let findings = repository.check(ALL).unwrap().findings;
        let found = findings
            .iter()
            .any(|finding| (finding.problem, &finding.object) == (Problem::Corrupt, &name));
        assert!(found, "{suffix:?}: {findings:?}");
    }
}

#[test]
fn chunks_are_looked_at() {
    let missing = damaged(|root| {
        for (_, path) in with_suffix(root, "P") {
            fs::remove_file(path).unwrap();
        }
    });
    let flipped = damaged(|root| {
        for (_, path) in with_suffix(root, "P") {
            let mut bytes = fs::read(&path).unwrap();
            bytes[0] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    });
    for (findings, problem) in [(missing, Problem::Missing), (flipped, Problem::Corrupt)] {
        let all = findings
            .iter()
            .all(|finding| finding.problem == problem && finding.object.ends_with('P'));
        assert!(all && findings.len() > 2, "{findings:?}");
    }
}

#[test]
fn without_content_only_catalogs_are_hashed() {
    let directory = tempfile::TempDir::new().unwrap();
    copy(&shared_fixture().repository(), directory.path());
    let path = largest(directory.path(), "");
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::write(&path, bytes).unwrap();
    let storage = Arc::new(LocalStorage::new(directory.path()));
    let repository = Repository::open(storage, Some(keys()), at(0)).unwrap();
    let quick = CheckOptions {
        content: false,
        tags: false,
    };
    let report = repository.check(quick).unwrap();
    assert_eq!((report.findings.len(), report.revisions), (0, 1));
}

#[test]
fn a_wrong_reflog_is_found() {
    let findings = damaged(|root| {
        let mut file = fs::File::options()
            .append(true)
            .open(root.join(".cvmfsreflog"))
            .unwrap();
        file.write_all(b"x").unwrap();
    });
    assert!(
        findings
            .iter()
            .any(|finding| finding.problem == Problem::WrongReflog),
        "{findings:?}"
    );
    let findings = damaged(|root| fs::remove_file(root.join(".cvmfsreflog")).unwrap());
    assert!(
        findings
            .iter()
            .any(|finding| finding.object == ".cvmfsreflog"),
        "{findings:?}"
    );
}

/// Publishes catalogs that were changed with `sql`: in the root catalog, or in the nested one, which the root then names as it is.
fn with_catalogs(in_nested: &str, in_root: &str) -> (New, Vec<Finding>) {
    let new = new_repository();
    let mut entries = files("text");
    entries.push(Entry::file("a/b/link", "linked"));
    entries.push(Entry::hardlink("a/b/other", "a/b/link"));
    let repository = &new.repository;
    publish(repository, None, &entries, 10);
    let root = load(&new, repository.head().root_catalog);
    let (hash, size): (String, i64) = root
        .query_row("SELECT sha1, size FROM nested_catalogs", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    let nested = load(&new, ContentHash::parse(&hash).unwrap());
    nested.execute_batch(in_nested).unwrap();
    let (stored, length) = store_catalog(&new, nested);
    let size = if in_nested.is_empty() { size } else { length };
    root.execute(
        "UPDATE nested_catalogs SET sha1 = ?1, size = ?2",
        rusqlite::params![stored.to_string(), size],
    )
    .unwrap();
    root.execute(
        "UPDATE properties SET value = '3' WHERE key = 'revision'",
        [],
    )
    .unwrap();
    root.execute_batch(in_root).unwrap();
    let (root_catalog, length) = store_catalog(&new, root);
    let lock = lock(repository);
    let commit = Commit {
        root_catalog,
        root_catalog_size: u64::try_from(length).unwrap(),
        catalogs: vec![root_catalog, stored],
        tag: None,
        now: at(20),
    };
    repository.commit(&lock, commit).unwrap();
    let options = CheckOptions {
        content: true,
        tags: false,
    };
    let findings = repository.check(options).unwrap().findings;
    (new, findings)
}

fn load(new: &New, hash: ContentHash) -> rusqlite::Connection {
    let hex = hash.to_string();
    let stored = fs::read(
        new.path()
            .join(format!("data/{}/{}C", &hex[..2], &hex[2..])),
    )
    .unwrap();
    let mut bytes = Vec::new();
    flate2::read::ZlibDecoder::new(stored.as_slice())
        .read_to_end(&mut bytes)
        .unwrap();
    let mut connection = rusqlite::Connection::open_in_memory().unwrap();
    connection
        .deserialize_read_exact("main", bytes.as_slice(), bytes.len(), false)
        .unwrap();
    // Defects break what the schema promises.
    connection
        .execute_batch("PRAGMA foreign_keys = OFF")
        .unwrap();
    connection
}

fn store_catalog(new: &New, mut connection: rusqlite::Connection) -> (ContentHash, i64) {
    let bytes = connection.serialize("main").unwrap().to_vec();
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(&bytes).unwrap();
    let stored = encoder.finish().unwrap();
    let hash = Algorithm::Sha1.digest(&stored);
    let hex = hash.to_string();
    new.storage()
        .put(&format!("data/{}/{}C", &hex[..2], &hex[2..]), &stored)
        .unwrap();
    (hash, i64::try_from(bytes.len()).unwrap())
}

#[test]
fn unchanged_catalogs_have_no_defect() {
    assert_eq!(with_catalogs("", "").1, []);
}

/// SQL on the nested catalog, SQL on the root, what must be found, and a part of what is said about it.
type Defect = (&'static str, &'static str, Problem, &'static str);

const DEFECTS: [Defect; 23] = [
    (
        "",
        "UPDATE statistics SET value = value + 1 WHERE counter = 'self_regular'",
        Problem::WrongCounter,
        "self_regular",
    ),
    (
        "",
        "UPDATE statistics SET value = 0 WHERE counter = 'subtree_file_size'",
        Problem::WrongCounter,
        "subtree_file_size",
    ),
    (
        "DELETE FROM statistics WHERE counter = 'self_dir'",
        "",
        Problem::WrongCounter,
        "self_dir",
    ),
    (
        "",
        "UPDATE nested_catalogs SET size = size + 1",
        Problem::WrongSize,
        "/nested",
    ),
    (
        "UPDATE catalog SET mode = mode | 7 WHERE name = 'nested'",
        "",
        Problem::MountpointMismatch,
        "mode",
    ),
    (
        "UPDATE properties SET value = '/other' WHERE key = 'root_prefix'",
        "",
        Problem::MountpointMismatch,
        "/other",
    ),
    (
        "",
        "DELETE FROM nested_catalogs",
        Problem::MountpointMismatch,
        "/nested",
    ),
    (
        "",
        "UPDATE catalog SET flags = 1 WHERE name = 'nested'",
        Problem::MountpointMismatch,
        "no mountpoint",
    ),
    (
        "UPDATE catalog SET parent_1 = parent_1 + 1 WHERE name = 'file'",
        "",
        Problem::DanglingRow,
        "file",
    ),
    (
        "",
        "UPDATE catalog SET name = 'renamed' WHERE name = 'link'",
        Problem::DanglingRow,
        "renamed",
    ),
    (
        "",
        "DELETE FROM catalog WHERE name = 'b'",
        Problem::DanglingRow,
        "link",
    ),
    (
        "",
        "UPDATE catalog SET hash = NULL WHERE name = 'file'",
        Problem::BadRow,
        "/a/file",
    ),
    (
        "",
        "UPDATE catalog SET mode = 16877 WHERE name = 'file'",
        Problem::BadRow,
        "/a/file",
    ),
    (
        "",
        "UPDATE catalog SET flags = flags | 64 WHERE name = 'file'",
        Problem::WrongChunks,
        "/a/file",
    ),
    (
        "",
        "INSERT INTO chunks VALUES (1, 2, 0, 3, x'00')",
        Problem::Corrupt,
        "",
    ),
    (
        "",
        "INSERT INTO chunks VALUES (1, 2, 0, 3, zeroblob(20))",
        Problem::WrongChunks,
        "does not hold",
    ),
    (
        "",
        "DELETE FROM catalog WHERE name = 'other'",
        Problem::WrongLinkCount,
        "/a/b/link",
    ),
    (
        "",
        "UPDATE catalog SET size = size + 1 WHERE name = 'other'",
        Problem::WrongLinkCount,
        "/a/b/",
    ),
    (
        "",
        "UPDATE catalog SET size = 3 WHERE name = 'file'",
        Problem::Corrupt,
        "/a/file",
    ),
    (
        "",
        "UPDATE catalog SET hash = zeroblob(20) WHERE name = 'file'",
        Problem::Missing,
        "/a/file",
    ),
    (
        "",
        "UPDATE nested_catalogs SET sha1 = '0123456789012345678901234567890123456789'",
        Problem::Missing,
        "",
    ),
    (
        "",
        "UPDATE properties SET value = '7' WHERE key = 'revision'",
        Problem::WrongRevision,
        "7",
    ),
    (
        "",
        "UPDATE catalog SET flags = flags | 14336 WHERE name = 'file'",
        Problem::BadRow,
        "compression",
    ),
];

#[test]
fn each_defect_of_a_catalog_is_found() {
    for (in_nested, in_root, problem, part) in DEFECTS {
        let (_new, findings) = with_catalogs(in_nested, in_root);
        let found = findings
            .iter()
            .any(|finding| finding.problem == problem && finding.detail.contains(part));
        assert!(found, "{in_nested}{in_root}: {findings:?}");
    }
}
