//! What the repository writer writes is checked from the outside: hashes, inflation, SQLite, signatures.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use rsa::pkcs8::DecodePublicKey as _;
use rsa::{Pkcs1v15Sign, PublicKey};
use rusqlite::Connection;
use sha1::{Digest as _, Sha1};
use tempfile::TempDir;
use testkit::{
    DuccOptions, Entry, EntryKind, Keys, Layer, LayerBlob, Placement, Published, RepositoryBuilder,
    Storage, fixture,
};
use x509_cert::der::{DecodePem as _, Encode as _};

const NOW: i64 = 1_800_000_000;
const FQRN: &str = "test.example.org";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The object's content, if its name is the SHA-1 of what is stored.
fn object(repository: &Path, hash: &str, suffix: &str) -> Vec<u8> {
    let stored = fs::read(
        repository
            .join("data")
            .join(&hash[..2])
            .join(format!("{}{suffix}", &hash[2..])),
    )
    .unwrap();
    assert_eq!(hex(&Sha1::digest(&stored)), hash);
    stored
}

fn inflate(stored: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    flate2::read::ZlibDecoder::new(stored)
        .read_to_end(&mut content)
        .unwrap();
    content
}

/// Body, printed hash and signature of a signed file whose hash is right.
fn unframed(file: &[u8]) -> (String, String, Vec<u8>) {
    let cut = file
        .windows(4)
        .position(|window| window == b"\n--\n")
        .unwrap()
        + 1;
    let (body, rest) = (&file[..cut], &file[cut + 3..]);
    let (hash, signature) = (&rest[..40], &rest[41..]);
    assert_eq!(hex(&Sha1::digest(body)).as_bytes(), hash);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(body), text(hash), signature.to_vec())
}

fn manifest(repository: &Path) -> BTreeMap<char, String> {
    let (body, ..) = unframed(&fs::read(repository.join(".cvmfspublished")).unwrap());
    body.lines()
        .map(|line| (line.chars().next().unwrap(), line[1..].to_owned()))
        .collect()
}

fn catalog(repository: &Path, hash: &str) -> (Connection, TempDir) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("catalog");
    fs::write(&path, inflate(&object(repository, hash, "C"))).unwrap();
    (Connection::open(path).unwrap(), directory)
}

fn number(connection: &Connection, query: &str) -> i64 {
    connection
        .query_row(query, [], |row| row.get(0))
        .unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// Certificate fingerprint, whitelist by the master key, manifest by the certificate's key.
fn check_trust(repository: &Path, public_key: &str) {
    let master = PublicKey::from_public_key_pem(public_key).unwrap();
    let (whitelist, hash, signature) =
        unframed(&fs::read(repository.join(".cvmfswhitelist")).unwrap());
    master
        .verify(Pkcs1v15Sign::new_unprefixed(), hash.as_bytes(), &signature)
        .unwrap();
    let certificate = inflate(&object(repository, &manifest(repository)[&'X'], "X"));
    let certificate = x509_cert::Certificate::from_pem(certificate).unwrap();
    let print = Sha1::digest(certificate.to_der().unwrap());
    let print: Vec<_> = print.iter().map(|byte| format!("{byte:02X}")).collect();
    assert!(
        whitelist.lines().any(|line| line == print.join(":")),
        "{whitelist}"
    );
    let key = certificate
        .tbs_certificate()
        .subject_public_key_info()
        .to_der()
        .unwrap();
    let key = PublicKey::from_public_key_der(&key).unwrap();
    let (_, hash, signature) = unframed(&fs::read(repository.join(".cvmfspublished")).unwrap());
    key.verify(
        Pkcs1v15Sign::new::<Sha1>(),
        &Sha1::digest(hash.as_bytes()),
        &signature,
    )
    .unwrap();
}

/// Every catalog from the root down: size in the parent, counters against rows, keys against paths.
fn check_catalogs(repository: &Path, hash: &str, size: i64) -> i64 {
    let (connection, _directory) = catalog(repository, hash);
    assert_eq!(inflate(&object(repository, hash, "C")).len() as i64, size);
    for (counter, query) in [
        (
            "regular",
            "SELECT count(*) FROM catalog WHERE flags & 29 = 4",
        ),
        ("symlink", "SELECT count(*) FROM catalog WHERE flags & 8"),
        ("special", "SELECT count(*) FROM catalog WHERE flags & 16"),
        ("dir", "SELECT count(*) FROM catalog WHERE flags & 1"),
        ("nested", "SELECT count(*) FROM nested_catalogs"),
        ("chunked", "SELECT count(*) FROM catalog WHERE flags & 64"),
        ("chunks", "SELECT count(*) FROM chunks"),
        (
            "file_size",
            "SELECT ifnull(sum(size), 0) FROM catalog WHERE flags & 29 = 4",
        ),
        (
            "xattr",
            "SELECT count(*) FROM catalog WHERE xattr IS NOT NULL",
        ),
        ("external", "SELECT count(*) FROM catalog WHERE flags & 128"),
    ] {
        let stated = number(
            &connection,
            &format!("SELECT value FROM statistics WHERE counter = 'self_{counter}'"),
        );
        assert_eq!(number(&connection, query), stated, "{counter} of {hash}");
    }
    let bad = "SELECT count(*) FROM catalog c WHERE flags & 64 AND size != (SELECT sum(size) FROM chunks k \
               WHERE k.md5path_1 = c.md5path_1 AND k.md5path_2 = c.md5path_2)";
    assert_eq!(number(&connection, bad), 0, "chunks of {hash}");
    let orphans = "SELECT count(*) FROM catalog c WHERE flags & 32 = 0 AND (parent_1 != 0 OR parent_2 != 0) AND NOT \
                   EXISTS (SELECT 1 FROM catalog p WHERE p.md5path_1 = c.parent_1 AND p.md5path_2 = c.parent_2)";
    assert_eq!(number(&connection, orphans), 0, "parents in {hash}");
    let mut nested = connection
        .prepare("SELECT sha1, size FROM nested_catalogs")
        .unwrap();
    let children: Vec<(String, i64)> = nested
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let below: i64 = children
        .iter()
        .map(|(hash, size)| check_catalogs(repository, hash, *size))
        .sum();
    let directories = number(
        &connection,
        "SELECT value FROM statistics WHERE counter = 'subtree_dir'",
    );
    assert_eq!(directories, below, "subtree of {hash}");
    below
        + number(
            &connection,
            "SELECT value FROM statistics WHERE counter = 'self_dir'",
        )
}

fn check(repository: &Path, published: &Published) {
    let manifest = manifest(repository);
    assert_eq!(manifest[&'C'], published.root_hash);
    assert_eq!(manifest[&'S'], published.revision.to_string());
    let directories = check_catalogs(
        repository,
        &published.root_hash,
        manifest[&'B'].parse().unwrap(),
    );
    assert_eq!(directories as u64, published.counters.dir);
}

/// One of each kind, published.
fn everything(directory: &TempDir) -> Published {
    let mut builder = RepositoryBuilder::new(directory.path(), FQRN);
    let long: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
    for entry in [
        Entry::directory("dir")
            .mode(0o1777)
            .owner(1000, 1001)
            .mtime(5, 7),
        Entry::file("dir/file", "hello")
            .xattr("user.x", "y")
            .mode(0o4755),
        Entry::hardlink("dir/same", "dir/file"),
        Entry::hardlink("nested/copy", "dir/file"),
        Entry::symlink("link", "dir/$(X)"),
        Entry::new("null", EntryKind::CharDevice(1, 3)),
        Entry::new("disk", EntryKind::BlockDevice(259, 70_000)),
        Entry::new("fifo", EntryKind::Fifo),
        Entry::new("socket", EntryKind::Socket),
        Entry::file("chunked", &long).storage(Storage::Chunked(4096)),
        Entry::file("plain", &long).storage(Storage::Plain),
        Entry::file("external", &long).storage(Storage::ExternalChunked(16_384)),
        Entry::file("secret", "").hidden().direct_io(),
        Entry::file(b"latin1-\xe9", "x"),
    ] {
        builder.add(entry);
    }
    builder.add_nested_catalog("nested");
    let published = builder.publish(NOW).unwrap();
    let external = fs::read(builder.external_directory().join("external")).unwrap();
    assert_eq!(external, long);
    published
}

#[test]
fn everything_that_a_catalog_can_hold() {
    let directory = TempDir::new().unwrap();
    let published = everything(&directory);
    check(directory.path(), &published);
    check_trust(directory.path(), &Keys::fixture().public_key().unwrap());

    let (connection, _directory) = catalog(directory.path(), &published.root_hash);
    let column = |column: &str, name: &str| {
        number(
            &connection,
            &format!("SELECT {column} FROM catalog WHERE name = '{name}'"),
        )
    };
    assert_eq!(column("hardlinks", "file"), 1 << 32 | 2);
    assert_eq!(column("hardlinks", "same"), 1 << 32 | 2);
    assert_eq!(column("hardlinks", "chunked"), 1);
    assert_eq!(column("mode", "file"), 0o104_755);
    assert_eq!(column("mtimens", "dir"), 7);
    assert_eq!(column("size", "null"), 0x103);
    assert_eq!(column("flags", "nested"), 3);
    assert_eq!(column("flags", "link"), 12);
    assert_eq!(column("flags", "fifo"), 20);
    assert_eq!(column("flags", "chunked"), 68);
    assert_eq!(column("flags", "plain"), 0x804);
    assert_eq!(column("flags", "external"), 68 + 128 + 0x800);
    assert_eq!(column("flags", "secret"), 0x8000 + 0x1_0000 + 4);
    assert_eq!(column("hash IS NULL", "chunked"), 1);
    assert_eq!(
        number(&connection, "SELECT rowid FROM catalog WHERE name = ''"),
        1
    );
    assert_eq!(
        number(&connection, "SELECT max(rowid) - count(*) FROM catalog"),
        0
    );
    let (nested, _directory) = catalog(directory.path(), &published.catalogs["/nested"]);
    assert_eq!(
        number(&nested, "SELECT flags FROM catalog WHERE rowid = 1"),
        33
    );
    assert_eq!(
        number(&nested, "SELECT hardlinks FROM catalog WHERE name = 'copy'"),
        1
    );
}

#[test]
fn contents_come_back() {
    let directory = TempDir::new().unwrap();
    let mut builder = RepositoryBuilder::new(directory.path(), FQRN);
    let content = b"0123456789abcdef".repeat(300);
    builder.add(Entry::file("a", &content).storage(Storage::Chunked(1000)));
    let published = builder.publish(NOW).unwrap();
    let (connection, _directory) = catalog(directory.path(), &published.root_hash);
    let mut chunks = connection
        .prepare("SELECT hash FROM chunks ORDER BY offset")
        .unwrap();
    let chunks = chunks
        .query_map([], |row| row.get::<_, Vec<u8>>(0))
        .unwrap();
    let whole: Vec<u8> = chunks
        .flat_map(|hash| inflate(&object(directory.path(), &hex(&hash.unwrap()), "P")))
        .collect();
    assert_eq!(whole, content);
}

#[test]
fn a_second_revision_keeps_what_did_not_change() {
    let directory = TempDir::new().unwrap();
    let mut builder = RepositoryBuilder::new(directory.path(), FQRN);
    builder.add(Entry::file("a/x", "1")).add_nested_catalog("a");
    builder.add(Entry::file("b/x", "1")).add_nested_catalog("b");
    builder.tag("first", "of all");
    let first = builder.publish(NOW).unwrap();
    builder.add(Entry::file("b/y", "2")).remove("/b/x");
    builder.add_nested_catalog("c").remove("/c/.cvmfscatalog");
    let second = builder.publish(NOW + 60).unwrap();
    check(directory.path(), &second);
    assert_eq!((first.revision, second.revision), (1, 2));
    assert_eq!(first.catalogs["/a"], second.catalogs["/a"]);
    assert_ne!(first.catalogs["/b"], second.catalogs["/b"]);
    let (b, _directory) = catalog(directory.path(), &second.catalogs["/b"]);
    let names = number(&b, "SELECT count(*) FROM catalog WHERE name IN ('x', 'y')");
    assert_eq!(names, 1);

    let history = inflate(&object(
        directory.path(),
        &manifest(directory.path())[&'H'],
        "H",
    ));
    let path = directory.path().join("history");
    fs::write(&path, history).unwrap();
    let history = Connection::open(path).unwrap();
    for (name, root) in [
        ("first", &first),
        ("trunk", &second),
        ("trunk-previous", &first),
    ] {
        let hash: String = history
            .query_row("SELECT hash FROM tags WHERE name = ?", [name], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(hash, root.root_hash, "{name}");
    }
}

/// What DUCC treats in its own way.
fn peculiar_layer() -> LayerBlob {
    let layer = Layer::new([
        Entry::directory("bin"),
        Entry::file("bin/a", "a").xattr("security.capability", "c"),
        Entry::hardlink("bin/b", "bin/a"),
        Entry::hardlink("lower", "not/here"),
        Entry::whiteout("bin/gone"),
        Entry::file("implicit/x", "x"),
    ]);
    LayerBlob::new(layer).unwrap()
}

#[test]
fn a_layer_as_ducc_puts_it() {
    let blob = peculiar_layer();
    let hex = blob.digest.trim_start_matches("sha256:").to_owned();
    for (options, xattrs, links) in [
        (DuccOptions::default(), 0, 0),
        (
            DuccOptions {
                keep_xattrs: true,
                keep_hardlinks: true,
                ..DuccOptions::default()
            },
            2,
            2,
        ),
    ] {
        let directory = TempDir::new().unwrap();
        let mut builder = RepositoryBuilder::new(directory.path(), FQRN);
        let files = builder.add_layer(&blob, &options).unwrap();
        assert_eq!(files, format!("/.layers/{}/{hex}/layerfs", &hex[..2]));
        assert!(builder.contains(&format!(
            "/.layers/{}/{hex}/.metadata/layers.json",
            &hex[..2]
        )));
        let published = builder.publish(NOW).unwrap();
        check(directory.path(), &published);
        let mountpoints: Vec<_> = published
            .catalogs
            .keys()
            .map(|path| path.matches('/').count())
            .collect();
        assert_eq!(mountpoints, [0, 1, 2, 4]);
        let (connection, _directory) = catalog(directory.path(), &published.catalogs[&files]);
        for (condition, rows) in [
            ("xattr IS NOT NULL", xattrs),
            ("hardlinks >> 32 != 0", links),
            ("name = '.wh.gone'", 1),
            ("name = '.cvmfscatalog'", 1),
            ("name = 'lower'", 0),
        ] {
            let query = format!("SELECT count(*) FROM catalog WHERE {condition}");
            assert_eq!(number(&connection, &query), rows, "{condition}");
        }
    }
}

#[test]
fn the_layout_of_2019() {
    let blob = LayerBlob::new(Layer::new([Entry::file("x", "x")])).unwrap();
    let directory = TempDir::new().unwrap();
    let mut builder = RepositoryBuilder::new(directory.path(), FQRN);
    let options = DuccOptions {
        placement: Placement::Unpacked,
        ..DuccOptions::default()
    };
    let files = builder.add_layer(&blob, &options).unwrap();
    assert!(files.starts_with("/unpacked/") && builder.contains(&format!("{files}/x")));
    assert!(!builder.contains("/.layers"));
}

#[test]
fn an_untrusted_master_signs_what_the_trusted_key_refuses() {
    let directory = TempDir::new().unwrap();
    let mut builder = RepositoryBuilder::new(directory.path(), FQRN);
    builder.keys(Keys::untrusted_master());
    builder.publish(NOW).unwrap();
    check_trust(
        directory.path(),
        &Keys::untrusted_master().public_key().unwrap(),
    );
    let (_, hash, signature) =
        unframed(&fs::read(directory.path().join(".cvmfswhitelist")).unwrap());
    let trusted = PublicKey::from_public_key_pem(&Keys::fixture().public_key().unwrap()).unwrap();
    assert!(
        trusted
            .verify(Pkcs1v15Sign::new_unprefixed(), hash.as_bytes(), &signature)
            .is_err()
    );
}

#[test]
fn the_checks_accept_the_real_publisher() {
    let fixture = fixture();
    let repository = fixture.repository();
    check_trust(
        &repository,
        &fs::read_to_string(fixture.public_key()).unwrap(),
    );
    let manifest = manifest(&repository);
    check_catalogs(
        &repository,
        &manifest[&'C'],
        manifest[&'B'].parse().unwrap(),
    );
}

#[test]
fn our_catalogs_have_the_real_ones_structure() {
    let fixture = fixture();
    let directory = TempDir::new().unwrap();
    let ours = RepositoryBuilder::new(directory.path(), FQRN)
        .publish(NOW)
        .unwrap();
    let structure = |repository: &Path, hash: &str| {
        let (connection, _directory) = catalog(repository, hash);
        let mut query = connection
            .prepare("SELECT name FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")
            .unwrap();
        let tables: Vec<String> = query
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let mut query = connection
            .prepare("SELECT name FROM pragma_table_info('catalog') WHERE name != 'mtimens'")
            .unwrap();
        let columns: Vec<String> = query
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let mut query = connection
            .prepare("SELECT counter FROM statistics ORDER BY counter")
            .unwrap();
        let counters: Vec<String> = query
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        (tables, columns, counters)
    };
    let theirs = manifest(&fixture.repository())[&'C'].clone();
    assert_eq!(
        structure(directory.path(), &ours.root_hash),
        structure(&fixture.repository(), &theirs)
    );
}

#[test]
fn bulk_layers_are_counted() {
    let directory = TempDir::new().unwrap();
    let mut builder = RepositoryBuilder::new(directory.path(), FQRN);
    builder
        .add_below("/big", &Layer::bulk(5_000))
        .add_nested_catalog("/big");
    let published = builder.publish(NOW).unwrap();
    check(directory.path(), &published);
    assert_eq!(published.counters.regular, 5_001);
}

#[test]
fn what_cannot_be_published_is_an_error() {
    let directory = TempDir::new().unwrap();
    let mut builder = RepositoryBuilder::new(directory.path(), FQRN);
    builder.add(Entry::hardlink("a", "b"));
    assert!(builder.publish(NOW).unwrap_err().to_string().contains("/b"));
    builder.add(Entry::hardlink("b", "a"));
    assert!(
        builder
            .publish(NOW)
            .unwrap_err()
            .to_string()
            .contains("circle")
    );
    builder
        .remove("a")
        .add(Entry::file("b", "").xattr("user.x", "v".repeat(256)));
    assert!(builder.publish(NOW).is_err());
}
