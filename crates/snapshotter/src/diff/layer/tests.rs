//! Upper directories as overlayfs leaves them, made by hand; `tar` reads what comes out.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use rustix::fs::{CWD, XattrFlags, mknodat};

use super::*;

/// Name → type, mode, size, link, content, extended attributes.
type Seen = BTreeMap<
    String,
    (
        EntryType,
        u32,
        u64,
        String,
        Vec<u8>,
        BTreeMap<String, Vec<u8>>,
    ),
>;

fn seen(bytes: &[u8]) -> Seen {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let link = entry.link_name_bytes().unwrap_or_default();
        let link = String::from_utf8_lossy(&link).into_owned();
        let header = entry.header();
        let (kind, mode, size) = (header.entry_type(), header.mode().unwrap(), entry.size());
        let mut xattrs = BTreeMap::new();
        if let Some(records) = entry.pax_extensions().unwrap() {
            for record in records {
                let record = record.unwrap();
                if let Some(name) = record.key().unwrap().strip_prefix("SCHILY.xattr.") {
                    xattrs.insert(name.to_owned(), record.value_bytes().to_owned());
                }
            }
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (name, (kind, mode, size, link, content, xattrs))
    });
    entries.collect()
}

fn layer_of(directory: &Path) -> Result<Vec<u8>, DiffError> {
    let mut bytes = Vec::new();
    write(directory, None, &mut bytes).map(|()| bytes)
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn whiteout(path: &Path) {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

/// One of everything; gives the longest name.
fn one_of_everything(root: &Path) -> String {
    fs::create_dir_all(root.join("etc/new")).unwrap();
    set(&root.join("etc/new"), "trusted.overlay.opaque", b"y");
    set(&root.join("etc"), "trusted.overlay.impure", b"y");
    fs::write(root.join("etc/passwd"), "root\n").unwrap();
    fs::set_permissions(root.join("etc/passwd"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::hard_link(root.join("etc/passwd"), root.join("etc/shadow")).unwrap();
    set(&root.join("etc/passwd"), "user.note", b"a\0b");
    set(&root.join("etc/passwd"), "trusted.overlay.origin", b"x");
    set(&root.join("etc/passwd"), "user.overlay.origin", b"x");
    whiteout(&root.join("etc/motd"));
    whiteout(&root.join("gone"));
    symlink("../$(x)/y", root.join("etc/link")).unwrap();
    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
    let null = rustix::fs::makedev(1, 3);
    let mode = Mode::from(0o666);
    mknodat(
        CWD,
        root.join("null"),
        FileType::CharacterDevice,
        mode,
        null,
    )
    .unwrap();
    std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let long = "n".repeat(200);
    fs::write(root.join(&long), "long").unwrap();
    long
}

#[test]
fn everything_that_an_upper_directory_holds() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let long = one_of_everything(root);
    let bytes = layer_of(root).unwrap();
    let seen = seen(&bytes);
    let names: Vec<&str> = seen.keys().map(String::as_str).collect();
    let mut expected = vec![
        ".wh.gone",
        "etc/",
        "etc/.wh.motd",
        "etc/link",
        "etc/new/",
        "etc/new/.wh..wh..opq",
        "etc/passwd",
        "etc/shadow",
        &long,
        "null",
        "pipe",
    ];
    expected.sort_unstable();
    assert_eq!(names, expected);
    let (kind, mode, size, _, content, xattrs) = &seen["etc/passwd"];
    assert_eq!(
        (*kind, *mode & 0o7777, *size),
        (EntryType::Regular, 0o4711, 5)
    );
    assert_eq!(content, b"root\n");
    let note = BTreeMap::from([("user.note".to_owned(), b"a\0b".to_vec())]);
    assert_eq!(xattrs, &note);
    assert_eq!(
        (seen["etc/shadow"].0, seen["etc/shadow"].3.as_str()),
        (EntryType::Link, "etc/passwd")
    );
    assert_eq!(seen["etc/link"].3, "../$(x)/y");
    assert_eq!(
        (seen[".wh.gone"].0, seen[".wh.gone"].2),
        (EntryType::Regular, 0)
    );
    assert_eq!(seen["pipe"].0, EntryType::Fifo);
    assert_eq!(seen["null"].0, EntryType::Char);
    assert_eq!(seen[&long].4, b"long");
}

#[test]
fn the_same_directory_gives_the_same_bytes_and_no_later_times() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["b", "a", "c"] {
        fs::write(directory.path().join(name), name).unwrap();
    }
    let one = layer_of(directory.path()).unwrap();
    assert_eq!(one, layer_of(directory.path()).unwrap());
    let mut bytes = Vec::new();
    write(directory.path(), Some(1000), &mut bytes).unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 1000);
            entry.path().unwrap().display().to_string()
        })
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn files_that_refer_to_what_lies_below_are_left_to_others() {
    for name in ["trusted.overlay.redirect", "trusted.overlay.metacopy"] {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("d")).unwrap();
        set(&directory.path().join("d"), name, b"/elsewhere");
        let error = layer_of(directory.path()).unwrap_err();
        assert!(matches!(error, DiffError::Declined(_)), "{name}: {error}");
    }
}

#[test]
fn a_symbolic_link_is_never_followed() {
    let directory = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    symlink(outside.path(), directory.path().join("link")).unwrap();
    let seen = seen(&layer_of(directory.path()).unwrap());
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["link"]);
    // Nor is one in the place of the directory itself.
    let place = outside.path().join("upper");
    symlink(directory.path(), &place).unwrap();
    assert!(matches!(layer_of(&place), Err(DiffError::Read { .. })));
}

#[test]
fn too_deep_is_an_error_that_names_the_place() {
    let directory = tempfile::tempdir().unwrap();
    let mut here = rustix::fs::open(directory.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..=MAX_DEPTH {
        rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
        here = rustix::fs::openat(&here, "d", OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let error = layer_of(directory.path()).unwrap_err().to_string();
    assert!(
        error.contains("d/d/d") && error.contains("too deep"),
        "{error}"
    );
}

#[test]
fn large_owners_and_old_times_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "x").unwrap();
    std::os::unix::fs::chown(&path, Some(3_000_000_000), Some(5_000_000)).unwrap();
    let old = std::time::UNIX_EPOCH - std::time::Duration::from_secs(86_400);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(old)
        .unwrap();
    assert_eq!(path.metadata().unwrap().mtime(), -86_400);
    let bytes = layer_of(directory.path()).unwrap();
    // Not only in the header's binary form, which is no part of the standard.
    for record in ["uid=3000000000\n", "gid=5000000\n", "mtime=-86400\n"] {
        let found = bytes
            .windows(record.len())
            .any(|at| at == record.as_bytes());
        assert!(found, "{record}");
    }
    let extracted = tempfile::tempdir().unwrap();
    let archive = extracted.path().join("layer.tar");
    fs::write(&archive, bytes).unwrap();
    let status = std::process::Command::new("tar")
        .args(["-xpf", "layer.tar", "--numeric-owner"])
        .current_dir(extracted.path())
        .status()
        .unwrap();
    assert!(status.success());
    let metadata = extracted.path().join("file").metadata().unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (3_000_000_000, 5_000_000));
    assert_eq!(metadata.mtime(), -86_400);
}
