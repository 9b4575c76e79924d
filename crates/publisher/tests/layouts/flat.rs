//! Flat images: the merge of all layers, as DUCC makes it for Apptainer.

use image::Digest;
use publisher::layouts::Layout;
use publisher::publish::{NoProgress, PublishError, publish};
use testkit::{Entry, FIXTURE_FQRN, ImageBuilder, Layer, fixture};

use crate::ducc::{Client, source};
use crate::memory::Memory;
use crate::publishing::{NAME, options};
use crate::support::{MemorySource, NOW};

fn root(config: &[u8]) -> String {
    let hex = Digest::of(config).hex();
    format!("/.flat/{}/{hex}", &hex[..2])
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn layers_are_merged_without_whiteouts() {
    let lower = Layer::new([
        Entry::directory("etc").owner(5, 6).mode(0o511),
        Entry::file("etc/gone", "x"),
        Entry::file("etc/stays", "stays").mode(0o444),
        Entry::file("old/x", "x"),
        Entry::file("linked", "linked").xattr("user.k", "v"),
    ]);
    let upper = Layer::new([
        Entry::whiteout("etc/gone"),
        Entry::file("etc/new", "new"),
        Entry::opaque("old"),
        Entry::file("old/y", "y"),
        Entry::hardlink("link", "linked"),
        Entry::file("run", "the image's own"),
        Entry::file(".run", "this too"),
    ]);
    let image = ImageBuilder::new()
        .layer(lower)
        .layer(upper)
        .entrypoint(&["/bin/it's"])
        .environment("A=b c")
        .build()
        .unwrap();
    let memory = Memory::new();
    let source = MemorySource::of(&image, NAME);
    let layouts = options(&[Layout::Flat, Layout::Layers]);
    publish(&memory, &source, &layouts, &NoProgress).unwrap();
    let root = root(&image.config);
    let state = memory.state();
    let node = |path: &str| {
        state
            .nodes
            .nodes
            .get(&format!("{root}/{path}").as_bytes()[1..])
    };
    for (path, there) in [
        ("etc/gone", false),
        ("etc/.wh.gone", false),
        ("etc/stays", true),
        ("etc/new", true),
        ("old/x", false),
        ("old/y", true),
        ("old/.wh..wh..opq", false),
    ] {
        assert_eq!(node(path).is_some(), there, "{path}");
    }
    let etc = node("etc").unwrap();
    assert_eq!(
        (etc.entry.mode, etc.entry.uid, etc.entry.gid),
        (0o711, 5, 6)
    );
    assert_eq!(node("etc/stays").unwrap().entry.mode, 0o644);
    assert_eq!(node("link").unwrap().inode, node("linked").unwrap().inode);
    assert_eq!(&*node("link").unwrap().content, b"linked");
    assert_eq!(node("link").unwrap().entry.xattrs.len(), 1);
    assert_eq!(
        &*node(".run").unwrap().content,
        b"this too",
        "names of the image stay"
    );
    assert_eq!(
        memory.symlink(&format!("/{NAME}")),
        Some(format!("../..{root}"))
    );
    let script = memory
        .read(&format!("{root}/.singularity.d/runscript"))
        .unwrap();
    let script = String::from_utf8(script).unwrap();
    assert!(
        script.contains(r#"OCI_ENTRYPOINT='"/bin/it'"'"'s"'"#),
        "{script}"
    );
    let script = memory.read(&format!(
        "{root}/.singularity.d/env/10-docker2singularity.sh"
    ));
    assert_eq!(script.unwrap(), b"#!/bin/sh\nexport A=\"b c\"\n");
}

#[test]
fn it_is_not_made_twice() {
    let image = ImageBuilder::new()
        .layer(Layer::new([Entry::file("a", "x")]))
        .build()
        .unwrap();
    let memory = Memory::new();
    let mut source = MemorySource::of(&image, NAME);
    let flat = options(&[Layout::Flat]);
    publish(&memory, &source, &flat, &NoProgress).unwrap();
    source.closed = true;
    source.reference = Some("other.test/name:2".parse().unwrap());
    publish(&memory, &source, &flat, &NoProgress).unwrap();
    let target = format!("..{}", root(&image.config));
    assert_eq!(memory.symlink("/other.test/name:2"), Some(target));
    memory.state.lock().unwrap().damaged = true;
    let again = publish(&memory, &source, &flat, &NoProgress);
    assert!(matches!(again, Err(PublishError::Layer { .. })));
}

#[test]
fn our_flat_image_is_ducc_s_and_more() {
    let (source, manifest) = source();
    let memory = Memory::new();
    publish(&memory, &source, &options(&[Layout::Flat]), &NoProgress).unwrap();
    let published = tempfile::TempDir::new().unwrap();
    memory.write(published.path(), FIXTURE_FQRN, NOW);
    let theirs = fixture();
    let (ours, theirs) = (
        Client::new(published.path()),
        Client::new(&theirs.repository()),
    );
    let name = "/localhost:15000/library/mini:1.0";
    assert_eq!(ours.symlink(name), theirs.symlink(name));
    let hex = manifest.config.digest.hex();
    let root = format!("/.flat/{}/{hex}", &hex[..2]);
    let (our_files, their_files) = (ours.walk(&root), theirs.walk(&root));
    assert_eq!(
        our_files.keys().collect::<Vec<_>>(),
        their_files.keys().collect::<Vec<_>>()
    );
    for (path, entry) in &our_files {
        let other = &their_files[path];
        let (entry, other) = (
            (&entry.dirent, &entry.content),
            (&other.dirent, &other.content),
        );
        let scripts = path.starts_with(".singularity.d/");
        let marker = path == ".cvmfscatalog";
        if !marker {
            // DUCC loses set-user-ID and sticky bits.
            let plain = |mode: u32| mode & !0o7000;
            assert_eq!(plain(entry.0.mode), plain(other.0.mode), "{path}");
        }
        assert_eq!(
            (entry.0.uid, entry.0.gid),
            (other.0.uid, other.0.gid),
            "{path}"
        );
        assert_eq!(entry.0.symlink, other.0.symlink, "{path}");
        if entry.0.kind == cvmfs::Kind::File && !scripts {
            assert_eq!(entry.1, other.1, "{path}");
        }
    }
    assert_eq!(our_files["bin/su"].dirent.mode & 0o7777, 0o4755);
    let variables = format!("{root}/.singularity.d/env/10-docker2singularity.sh");
    assert_eq!(ours.read(&variables), theirs.read(&variables));
}
