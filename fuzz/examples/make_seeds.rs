//! Writes the seeds of all targets into `seeds/`: from the fixture where real files exist, else by
//! hand. Run in `fuzz/`: `cargo run --example make_seeds`. The result is committed.

use std::error::Error;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use tree::{Builder, Entry, Kind, Tree, merge};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Inflated catalogs up to this size become seeds: libFuzzer works best with small ones.
const LARGEST_CATALOG: usize = 64 * 1024;
const CATALOGS: usize = 3;

fn main() -> Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let seeds = here.join("seeds");
    trees(&seeds)?;
    texts(&seeds)?;
    fuse_requests(&seeds)?;
    wishlists(&seeds)?;
    let fixture = std::env::temp_dir().join(format!("outcrop-seeds-{}", std::process::id()));
    fs::create_dir_all(&fixture)?;
    let made = unpack(&here.join("../testkit/fixtures/small.tar.zst"), &fixture)
        .and_then(|()| from_fixture(&fixture, &seeds));
    fs::remove_dir_all(&fixture)?;
    made
}

fn save(seeds: &Path, target: &str, name: &str, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(seeds.join(target))?;
    Ok(fs::write(seeds.join(target).join(name), bytes)?)
}

fn wishlists(seeds: &Path) -> Result<()> {
    let digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let pattern = "https://registry.example.org/project/root:v[0-9]*.{1,2}";
    let example = format!(
        "version: 1
user: robot
cvmfs_repo: 'unpacked.example.org'
output_format: '$(scheme)://registry.example.org/thin/$(image)'
input:
  - 'https://registry.example.org/library/fedora:latest'
  - '{pattern}'
  - &anchor 'http://registry.example.org:5000/a@sha256:{digest}'
  - *anchor
"
    );
    save(seeds, "wishlist", "example", example.as_bytes())?;
    save(seeds, "wishlist", "pattern", pattern.as_bytes())
}

fn trees(seeds: &Path) -> Result<()> {
    let empty = Builder::new().finish()?;
    save(seeds, "tree_file", "empty", &empty)?;
    let kinds = [
        Kind::File,
        Kind::Directory,
        Kind::Symlink,
        Kind::CharDevice,
        Kind::BlockDevice,
        Kind::Fifo,
        Kind::Socket,
    ];
    let mut all = Builder::new();
    for (number, kind) in (0_u32..).zip(kinds) {
        let entry = Entry {
            symlink: b"../$(TARGET)".to_vec(),
            rdev: 0x103,
            xattrs: vec![(b"user.a".to_vec(), b"1".to_vec()); (number % 2) as usize],
            ..Entry::new(kind, 0o7777 - number)
        };
        all.add(format!("d/{number}").as_bytes(), entry)?;
    }
    let chunked = Entry {
        size: 30,
        extents: vec![
            (0, 10, vec![1; 23]),
            (10, 10, vec![2; 23]),
            (25, 5, vec![3; 23]),
        ],
        ..Entry::new(Kind::File, 0o644)
    };
    all.add(b"chunked", chunked)?;
    all.hardlink(b"link", b"chunked")?;
    let all = all.finish()?;
    save(seeds, "tree_file", "all-kinds", &all)?;
    let mut upper = Builder::new();
    upper.add(b"d/.wh.0", Entry::default())?;
    upper.add(b"d/1/.wh..wh..opq", Entry::default())?;
    upper.hardlink(b"below", b"chunked")?;
    let upper = upper.finish()?;
    save(seeds, "tree_file", "whiteouts", &upper)?;
    let merged = merge(&[&Tree::parse(&all)?, &Tree::parse(&upper)?])?;
    save(seeds, "tree_file", "merged", &merged)
}

fn texts(seeds: &Path) -> Result<()> {
    let table = [
        (
            "tree_merge",
            "whiteouts",
            "a/x\na/y/\nb\n--\n.wh.b\na/.wh..wh..opq\na/z\n--\nb/c\n",
        ),
        (
            "tree_merge",
            "replaced",
            "a/x/y\n--\na\n--\na/\n.wh.a\nb>../c\n",
        ),
        (
            "tree_merge",
            "links",
            "a\nb=a\nc*1\nd*1\n--\ne=a\n.wh.a\n--\nf=e\n./\n",
        ),
        (
            "labels",
            "cri",
            "containerd.io/snapshot.ref=sha256:00\ncontainerd.io/snapshot/cri.layer-digest=sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef\ncontainerd.io/snapshot/cri.image-layers=sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef,sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef\ncontainerd.io/snapshot/cri.image-ref=docker.io/library/busybox:1\n",
        ),
        (
            "labels",
            "stargz",
            "containerd.io/snapshot/remote/stargz.digest=sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef\ncontainerd.io/snapshot/outcrop.tree=forged\nk8s.io/12/sha256:3f\nk8s.io/1/extract-1-a sha256:3f=\n",
        ),
        (
            "filters",
            "kinds",
            "kind==active,labels.\"a.b/c\"!=x\nname~=\"^k8s\\\\.io/\"\nparent\n",
        ),
        (
            "filters",
            "regular-expressions",
            "name~=/sha256:[0-9a-f]+/,kind~=|a\\|b|\nlabels.a.b==\"\\x41\\u0042\"\n",
        ),
    ];
    for (target, name, text) in table {
        save(seeds, target, name, text.as_bytes())?;
    }
    let xattrs: [(&str, &[u8]); 3] = [
        ("none", &[1, 0]),
        (
            "two",
            b"\x01\x02\x06\x01user.a1\x13\x04security.capability\x01\x00\x00\x02",
        ),
        ("cut-off", b"\x01\x01\x06\xffuser.a1"),
    ];
    for (name, blob) in xattrs {
        save(seeds, "xattr_blob", name, blob)?;
    }
    Ok(())
}

/// `struct fuse_in_header` and a body, as linux/fuse.h has them.
fn fuse_requests(seeds: &Path) -> Result<()> {
    let init: Vec<u8> = [7_u32, 45, 131_072, 0xffff_ffff]
        .iter()
        .flat_map(|it| it.to_le_bytes())
        .chain([0; 48])
        .collect();
    let read: Vec<u8> = [0_u64, 4096, 131_072, 0, 0]
        .iter()
        .flat_map(|it| it.to_le_bytes())
        .collect();
    let table: [(&str, u32, &[u8]); 9] = [
        ("lookup", 1, b"name\0"),
        ("getattr", 3, &[0; 16]),
        ("readlink", 5, b""),
        ("read", 15, &read),
        ("statfs", 17, b""),
        ("getxattr", 22, b"\x00\x01\x00\x00\x00\x00\x00\x00user.a\0"),
        ("init", 26, &init),
        ("readdirplus", 44, &read),
        ("batch-forget", 42, &[1; 24]),
    ];
    for (name, opcode, body) in table {
        let mut request = Vec::new();
        request.extend((40 + body.len() as u32).to_le_bytes());
        request.extend(opcode.to_le_bytes());
        request.extend(7_u64.to_le_bytes());
        request.extend(1_u64.to_le_bytes());
        request.extend([0; 16]);
        request.extend(body);
        save(seeds, "fuse_request", name, &request)?;
    }
    Ok(())
}

fn unpack(archive: &Path, directory: &Path) -> Result<()> {
    let status = Command::new("tar")
        .arg("--zstd")
        .arg("-xf")
        .arg(archive)
        .arg("-C")
        .arg(directory)
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("tar: {status}").into())
    }
}

fn from_fixture(fixture: &Path, seeds: &Path) -> Result<()> {
    let mut catalogs = Vec::new();
    for file in files(fixture)? {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let bytes = fs::read(&file)?;
        if name == ".cvmfspublished" {
            save(seeds, "manifest", "published", &bytes)?;
        } else if name.contains("cvmfswhitelist") {
            save(seeds, "whitelist", name.trim_start_matches('.'), &bytes)?;
        } else if name.len() == 39 && name.ends_with('C') {
            let mut catalog = Vec::new();
            flate2::read::ZlibDecoder::new(&bytes[..]).read_to_end(&mut catalog)?;
            catalogs.push(catalog);
        }
    }
    catalogs.retain(|catalog| catalog.len() <= LARGEST_CATALOG);
    catalogs.sort_by_key(|catalog| (catalog.len(), catalog.clone()));
    for (number, catalog) in catalogs.iter().take(CATALOGS).enumerate() {
        // A first byte of 0: the rest is the file itself.
        save(
            seeds,
            "catalog",
            &format!("whole-{number}"),
            &[&[0], &catalog[..]].concat(),
        )?;
    }
    // Edits of the smallest: nothing, and a page's header overwritten.
    save(seeds, "catalog", "unchanged", &[1])?;
    save(seeds, "catalog", "edited", &[1, 0, 16, 0, 0, 2, 0xd, 0])
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for child in fs::read_dir(directory)? {
            let child = child?;
            let kind = child.file_type()?;
            if kind.is_dir() {
                open.push(child.path());
            } else if kind.is_file() {
                found.push(child.path());
            }
        }
    }
    found.sort();
    Ok(found)
}
