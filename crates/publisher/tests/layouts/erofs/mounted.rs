//! Layout `erofs`: a layer's blob becomes an image in objects; mounted by the kernel it is what plain `tar` unpacks.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail, and says why it did not run"
)]

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cvmfs::{Algorithm, Compression, ContentHash, ObjectRef, Suffix};
use flate2::read::ZlibDecoder;
use flate2::write::GzEncoder;
use image::{Descriptor, Digest, MediaType};
use publisher::layer::{LayerBlob, LayerLimits, Unpacked, unpack};
use publisher::layouts::erofs::{ErofsImage, ErofsSink, NoImage};
use publisher::storage::LocalStorage;
use publisher::{ObjectStore, Options, StoredContent};
use tempfile::TempDir;

struct Bench {
    directory: TempDir,
    objects: ObjectStore,
}

impl Bench {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let repository = directory.path().join("repository");
        let scratch = directory.path().join("scratch");
        fs::create_dir(&repository).unwrap();
        fs::create_dir(&scratch).unwrap();
        let storage = Arc::new(LocalStorage::new(&repository));
        let options = Options::new(2, scratch);
        let objects = ObjectStore::new(storage, Algorithm::Sha1, options).unwrap();
        Self { directory, objects }
    }

    /// The way of a layer: blob, entries, image, objects.
    fn publish(&self, tar: &[u8]) -> Result<ErofsImage, NoImage> {
        let mut sink = ErofsSink::new(self.scratch());
        let unpacked = unpack_into(tar, &mut sink);
        assert_eq!(unpacked.diff_id, Digest::of(tar));
        self.finish(sink, &unpacked.diff_id)
    }

    fn finish(&self, sink: ErofsSink<'_>, diff_id: &Digest) -> Result<ErofsImage, NoImage> {
        sink.finish(diff_id, |reader, length, how| {
            self.objects.store(reader, length, how)
        })
        .unwrap()
    }

    fn scratch(&self) -> fs::File {
        tempfile::tempfile_in(self.directory.path().join("scratch")).unwrap()
    }

    /// The image as a client gets it from the objects.
    fn read(&self, content: &StoredContent) -> Vec<u8> {
        match content {
            StoredContent::Empty => Vec::new(),
            StoredContent::Whole { hash, compression } => {
                self.object(*hash, Suffix::Bulk, *compression)
            }
            StoredContent::Chunked(chunks) => {
                let pieces = chunks.iter();
                pieces
                    .flat_map(|it| self.object(it.hash, Suffix::Partial, it.compression))
                    .collect()
            }
        }
    }

    fn object(&self, hash: ContentHash, suffix: Suffix, compression: Compression) -> Vec<u8> {
        let object = ObjectRef {
            hash,
            suffix,
            compression,
        };
        let path = self
            .directory
            .path()
            .join("repository")
            .join(object.url_path());
        let mut bytes = Vec::new();
        ZlibDecoder::new(fs::File::open(path).unwrap())
            .read_to_end(&mut bytes)
            .unwrap();
        bytes
    }
}

fn unpack_into(tar: &[u8], sink: &mut ErofsSink<'_>) -> Unpacked {
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(tar).unwrap();
    let blob = gzip.finish().unwrap();
    let descriptor = Descriptor {
        media_type: MediaType::parse("application/vnd.oci.image.layer.v1.tar+gzip"),
        digest: Digest::of(&blob),
        size: blob.len() as u64,
        annotations: Default::default(),
        platform: None,
    };
    let blob = LayerBlob {
        reader: Box::new(&blob[..]),
        descriptor: &descriptor,
        diff_id: Some(Digest::of(tar)),
    };
    unpack(blob, LayerLimits::default(), sink, &mut |_| ()).unwrap()
}

/// A program's output, which must succeed.
fn run(program: &str, arguments: &[&str], directory: &Path) -> Vec<u8> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// A tar of files of many sizes, hardlinks, symlinks, a fifo, a device and names that are no UTF-8.
fn some_layer(directory: &Path) -> Vec<u8> {
    let script = r#"
        mkdir -p src/usr/lib src/empty && cd src
        for size in 0 1 2047 2048 2049 4095 4096 4097 70000 20000000; do
            head -c $size /dev/zero | tr '\0' "$size" > usr/lib/f$size
        done
        seq 1 2000000 > usr/numbers
        ln usr/lib/f1 usr/hard && ln -s ../usr/lib sym && mkfifo fifo && mknod null c 1 3
        chmod 4755 usr/lib/f4096 && chown 7:70000 usr/lib/f2049
        printf x > "$(printf 'n\377n')"
        tar --format=posix --sort=name -cf ../layer.tar .
    "#;
    run("sh", &["-ec", script], directory);
    fs::read(directory.join("layer.tar")).unwrap()
}

/// All that `find` can say of every path, directories without what is the file system's own.
fn listing(root: &Path) -> Vec<u8> {
    let script = r#"
        find . -type d -printf '%P %m %U %G %T@\n' | LC_ALL=C sort
        find . ! -type d -printf '%P %y %m %U %G %s %T@ %n %l\n' | LC_ALL=C sort
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
        stat -c %t:%T null
    "#;
    run("sh", &["-ec", script], root)
}

fn obstacle() -> Option<&'static str> {
    let kernel = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    match () {
        () if !rustix::process::geteuid().is_root() => Some("not root"),
        () if !kernel.contains("\terofs\n") => Some("the kernel knows no erofs"),
        () if !Path::new("/dev/loop-control").exists() => Some("no loop devices"),
        () => None,
    }
}

#[test]
fn the_image_of_a_layer_is_what_tar_unpacks() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let bench = Bench::new();
    let directory = bench.directory.path();
    let tar = some_layer(directory);
    let published = bench.publish(&tar).unwrap();
    assert_eq!(published.diff_id, Digest::of(&tar));
    assert!(matches!(published.content, StoredContent::Chunked(_)));
    let image = bench.read(&published.content);
    assert_eq!(image.len() as u64, published.length);
    assert_eq!(published.entry(5).size, published.length);
    // Nothing of this run is in it.
    assert_eq!(Bench::new().publish(&tar).unwrap(), published);

    fs::write(directory.join("image"), image).unwrap();
    fs::create_dir(directory.join("mounted")).unwrap();
    fs::create_dir(directory.join("root")).unwrap();
    run(
        "tar",
        &["-xpf", "layer.tar", "--numeric-owner", "-C", "root"],
        directory,
    );
    run(
        "mount",
        &["-t", "erofs", "-o", "loop,ro", "image", "mounted"],
        directory,
    );
    let listed = std::panic::catch_unwind(|| listing(&directory.join("mounted")));
    run("umount", &["mounted"], directory);
    let (ours, expected) = (listed.unwrap(), listing(&directory.join("root")));
    assert_eq!(
        String::from_utf8_lossy(&ours),
        String::from_utf8_lossy(&expected)
    );
}

fn header(size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header
}

#[test]
fn another_layout_gets_the_same_entries_at_the_same_time() {
    let bench = Bench::new();
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in [("a", &b"one"[..]), ("d/b", b"two"), ("d/empty", b"")] {
        let mut header = header(content.len());
        tar.append_data(&mut header, path, content).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    let mut other = ErofsSink::new(bench.scratch());
    let mut both = ErofsSink::new(bench.scratch()).beside(Some(&mut other));
    let diff_id = unpack_into(&tar, &mut both).diff_id;
    let ours = bench.finish(both, &diff_id).unwrap();
    let others = bench.finish(other, &diff_id).unwrap();
    assert_eq!(ours, others);
    assert_eq!(ours, bench.publish(&tar).unwrap());
}

#[test]
fn a_layer_that_links_below_has_no_image_and_says_why() {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = header(0);
    header.set_entry_type(tar::EntryType::Link);
    tar.append_link(&mut header, "name", "of/a/lower/layer")
        .unwrap();
    let refused = Bench::new()
        .publish(&tar.into_inner().unwrap())
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("/name is a hardlink into a lower layer")
    );
}
