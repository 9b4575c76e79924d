//! A repository that another process keeps mounted, as a source.

use std::path::PathBuf;

use layerfs::{Layers, Mounted, Refusal, Source, SourceError};
use testkit::{Entry, EntryKind, LayerBlob, Storage};

use crate::model::{Kept, merged};
use crate::outside::{EIO, Outside, read, readlink, walk, xattr};
use crate::world::{World, attach, blob, claim, mounts_possible, requests};

fn image() -> Vec<LayerBlob> {
    let content: Vec<u8> = (0..200_000_u32).map(|n| (n ^ n >> 7) as u8).collect();
    vec![
        blob([
            Entry::directory("bin").mode(0o755),
            Entry::file("bin/ping", "ping")
                .mode(0o755)
                .xattr("security.capability", [1; 20]),
            Entry::file("bin/su", "su").mode(0o4755).owner(3, 4),
            Entry::hardlink("bin/sudo", "bin/su"),
            Entry::file("large", &content).storage(Storage::Chunked(50_000)),
            Entry::new("dev/null", EntryKind::CharDevice(1, 3)),
            Entry::new("dev/fifo", EntryKind::Fifo),
            Entry::symlink("variable", "/x/$(ARCH)/$(NOWHERE:-y)"),
            Entry::symlink("plain", "bin/ping"),
            Entry::file(b"\xff", "not UTF-8"),
            Entry::directory("tmp").mode(0o1777),
        ]),
        blob([
            Entry::file("tmp/x", "x"),
            Entry::whiteout("plain"),
            Entry::opaque("bin"),
            Entry::file("bin/true", "true"),
        ]),
    ]
}

fn mounted(directory: PathBuf) -> Source {
    Source::Mounted(Mounted {
        directory,
        trust_without_diff_id: false,
    })
}

#[test]
fn another_clients_mount_gives_the_same_chain() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let world = World::serving(&image, 1);
    let theirs = world.path("their-mount");
    let _client = Outside::serve(&world, &theirs, 0);
    let node = Layers::open(world.config(), vec![mounted(theirs.clone())]).unwrap();
    let (chain, path) = attach(&node, &image);
    assert_eq!(chain[0].source, format!("mounted:{}", theirs.display()));
    let layers: Vec<_> = image.iter().map(|blob| blob.layer.clone()).collect();
    let expected = merged(&layers, Kept::ALL);
    expected
        .compare(&walk(&path, 0), &[])
        .unwrap_or_else(|difference| panic!("{difference}"));

    // Their readlink expands variables; a chain's shows what is stored.
    let files = world.files(&image[0]);
    let link = theirs.join(files.trim_start_matches('/')).join("variable");
    assert_eq!(readlink(&link).unwrap(), b"/x/x86_64/y");
    assert_eq!(
        xattr(&link, "xfsroot.rawlink").unwrap(),
        b"/x/$(ARCH)/$(NOWHERE:-y)"
    );
    assert_eq!(
        readlink(&path.join("variable")).unwrap(),
        b"/x/$(ARCH)/$(NOWHERE:-y)"
    );
}

#[test]
fn a_layer_is_identified_by_its_catalog() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let mut world = World::serving(&image, 1);
    let theirs = world.path("their-mount");
    let client = Outside::serve(&world, &theirs, 0);
    let files = world.files(&image[0]);
    let counters = xattr(&theirs.join(&files[1..]), "user.catalog_counters").unwrap();
    let first = String::from_utf8(counters).unwrap();
    assert_eq!(
        first.lines().next().unwrap(),
        format!("catalog_hash: {}", world.catalog(&files))
    );
    let node = Layers::open(world.config(), vec![mounted(theirs.clone())]).unwrap();
    let before = claim(&node, &image).unwrap();
    client.finish_serving();

    // Published again: the same layer in another revision is the same tree, a changed one is not.
    world
        .repository
        .add(Entry::file(format!("{files}/more"), "more"));
    world.publish();
    let _client = Outside::serve(&world, &theirs, 0);
    let node = Layers::open(world.config(), vec![mounted(theirs)]).unwrap();
    let after = claim(&node, &image).unwrap();
    assert_ne!(before[0].tree, after[0].tree);
    assert_eq!(before[1].tree, after[1].tree);
}

/// A client gives inode numbers as it meets files: after a restart they are others.
#[test]
fn a_restart_of_the_client_changes_nothing() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let world = World::serving(&image, 1);
    let theirs = world.path("their-mount");
    let client = Outside::serve(&world, &theirs, 0);
    let node = Layers::open(world.config(), vec![mounted(theirs.clone())]).unwrap();
    let (_, path) = attach(&node, &image);
    client.finish_serving();
    assert_eq!(read(&path.join("tmp/x")), Err(EIO));
    let _client = Outside::serve(&world, &theirs, 0);
    // The upper layer's catalog comes first this time.
    for layer in image.iter().rev() {
        walk(&theirs.join(&world.files(layer)[1..]), 0);
    }
    assert_eq!(read(&path.join("tmp/x")).unwrap(), b"x");
    assert_eq!(read(&path.join("bin/true")).unwrap(), b"true");
    assert_eq!(read(&path.join("large")).unwrap().len(), 200_000);
}

/// Size and time say nothing here; the catalog does.
#[test]
fn a_layer_that_was_republished_is_an_input_output_error_in_old_chains() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let mut world = World::serving(&image, 1);
    let theirs = world.path("their-mount");
    let mut client = Outside::serve(&world, &theirs, 0);
    let node = Layers::open(world.config(), vec![mounted(theirs)]).unwrap();
    let (_, path) = attach(&node, &image);
    assert_eq!(read(&path.join("tmp/x")).unwrap(), b"x");
    let files = world.files(&image[1]);
    world
        .repository
        .add(Entry::file(format!("{files}/bin/true"), "TRUE"));
    world.publish();
    client.tell();
    assert_eq!(client.line(), "refreshed");
    // What was known of the old revision is believed for a second.
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(read(&path.join("bin/true")), Err(EIO));
    assert!(node.metrics().failed_reads.get() > 0);
    // The other layer is what it was.
    assert_eq!(read(&path.join("large")).unwrap().len(), 200_000);
}

#[test]
fn a_client_that_claims_ownership_is_refused() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let world = World::serving(&image, 1);
    let theirs = world.path("their-mount");
    let _client = Outside::serve(&world, &theirs, 990);
    let node = Layers::open(world.config(), vec![mounted(theirs)]).unwrap();
    match node.claim(&requests(&image)[0]) {
        Err(Refusal::Source(error @ SourceError::ClaimedOwnership { .. })) => {
            assert!(error.to_string().contains("CVMFS_CLAIM_OWNERSHIP=no"));
        }
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn a_changed_or_vanished_file_is_an_input_output_error() {
    if !mounts_possible() {
        return;
    }
    let image = [blob([
        Entry::file("x", "x"),
        Entry::file("y", "y"),
        Entry::file("z", "z"),
    ])];
    let world = World::new();
    // A plain directory: nothing else can be changed under a client's mount.
    let theirs = world.path("their-directory");
    let hex = &image[0].digest[7..];
    let files = theirs.join(format!("unpacked/{}/{hex}", &hex[..2]));
    std::fs::create_dir_all(&files).unwrap();
    for name in ["x", "y", "z"] {
        std::fs::write(files.join(name), name).unwrap();
    }
    let node = Layers::open(world.config(), vec![mounted(theirs)]).unwrap();
    let (_, path) = attach(&node, &image);
    assert_eq!(read(&path.join("x")).unwrap(), b"x");
    std::fs::write(files.join("y"), "something else").unwrap();
    std::fs::remove_file(files.join("z")).unwrap();
    assert_eq!(read(&path.join("y")), Err(EIO));
    assert_eq!(read(&path.join("z")), Err(EIO));
    // Opening a pipe would wait for a writer.
    let pipe = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, files.join("z"), pipe, 0o644.into(), 0).unwrap();
    assert_eq!(read(&path.join("z")), Err(EIO));
    assert!(node.metrics().failed_reads.get() >= 2);
}

#[test]
fn a_client_that_is_away_is_unavailable_and_its_mount_dead_no_miss() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let world = World::serving(&image, 1);
    let theirs = world.path("their-mount");
    let client = Outside::serve(&world, &theirs, 0);
    let node = Layers::open(world.config(), vec![mounted(theirs)]).unwrap();
    client.kill();
    match node.claim(&requests(&image)[0]) {
        Err(Refusal::Source(SourceError::Unavailable { .. })) => {}
        answer => panic!("{answer:?}"),
    }
}

/// A chain, a bind mount of a chain, or a link to either, whichever way the configuration names it.
#[test]
fn a_mount_of_this_process_is_refused_wherever_it_shows() {
    if !mounts_possible() {
        return;
    }
    let image = image();
    let world = World::serving(&image, 1);
    let names = ["bind", "link", "link-to-bind"];
    let [bind, link, linked_bind] = names.map(|name| world.path(name));
    let sources = [&bind, &link, &linked_bind].map(|path| mounted(path.clone()));
    let mut sources = Vec::from(sources);
    sources.push(world.source(false));
    let node = Layers::open(world.config(), sources).unwrap();
    let (chain, path) = attach(&node, &image);
    std::fs::create_dir(&bind).unwrap();
    rustix::mount::mount_bind(&path, &bind).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    std::os::unix::fs::symlink(bind.join("bin"), &linked_bind).unwrap();
    for directory in [&bind, &link, &linked_bind] {
        assert!(refuses_own(&node, directory), "{}", directory.display());
    }
    // Detached, it is served on below the bind mount.
    node.detach(&chain);
    assert!(refuses_own(&node, &bind));
    fuse::detach_path(&bind).unwrap();
}

/// Whether the node says that of the source at `directory`: it has to be asked for it alone.
fn refuses_own(node: &Layers, directory: &std::path::Path) -> bool {
    let layer = layerfs::ChainLayer {
        layer: crate::world::parsed(&image()[0].digest),
        tree: "0".repeat(64),
        source: format!("mounted:{}", directory.display()),
        reference: None,
        annotations: [].into(),
    };
    match node.attach(&[layer]) {
        Err(layerfs::AttachError::Layer { cause, .. }) => {
            matches!(cause, SourceError::OwnMount { .. })
        }
        answer => panic!("{answer:?}"),
    }
}
