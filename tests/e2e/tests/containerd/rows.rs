//! The fixture, a repository that the real server and DUCC made: one pull and run from it, and one by stock containerd, side by side.

use std::collections::BTreeMap;
use std::path::Path;

use e2e::listing::{self, Listing, difference, list, seen_by};
use e2e::merged::Image;
use e2e::{Containerd, Plugin, Runtime, Settings};
use testkit::{DuccOptions, Entry, Fault, Layer, Registry, When, fixture};

use crate::images::{self, World};
use crate::node::{Node, fetched};

const IMAGE: &str = "registry.test/library/mini:1.0";

/// Says something and stays.
const COMMAND: [&str; 3] = ["/bin/sh", "-c", "echo started; exec tail -f /dev/null"];

/// What containerd and runc put into every container's root.
const PUT_BY_RUNTIME: [&str; 9] = [
    "",
    "dev",
    "etc",
    "etc/hostname",
    "etc/hosts",
    "etc/mtab",
    "etc/resolv.conf",
    "proc",
    "sys",
];

/// Compares a container's root file system with the layers merged by plain means, as root and as uid 1000.
fn assert_equals_layers(expected: &Listing, root: &Path, put_by_runtime: &[&str]) {
    let is_put = |path: &Vec<u8>| put_by_runtime.iter().any(|put| put.as_bytes() == &path[..]);
    let mut expected = expected.clone();
    // Where the runtime has put something, the directory's time is the runtime's.
    expected
        .iter_mut()
        .filter(|(path, _)| is_put(path))
        .for_each(|(_, entry)| entry.mtime = None);
    for user in [0, 1000] {
        let mut found = list(root, user).unwrap();
        found.retain(|path, _| !is_put(path) || expected.contains_key(path));
        let mut wanted = if user == 0 {
            expected.clone()
        } else {
            seen_by(&expected, user)
        };
        // Xattrs and hardlinks are compared by name, see `lost`.
        wanted
            .values_mut()
            .chain(found.values_mut())
            .for_each(|entry| entry.xattrs.clear());
        assert_eq!(difference(&wanted, &found), None, "as uid {user}");
    }
}

/// What is in the layers and not in `found`: names of files with xattrs, and names beyond the first of each inode.
fn lost(expected: &Listing, found: &Listing) -> (Vec<String>, Vec<String>) {
    let text = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
    let xattrs = expected.iter().filter(|(path, entry)| {
        entry
            .xattrs
            .iter()
            .any(|(name, value)| found[*path].xattrs.get(name) != Some(value))
    });
    let mut groups: BTreeMap<u64, Vec<&Vec<u8>>> = BTreeMap::new();
    for (path, entry) in expected.iter().filter(|(_, entry)| entry.link_group != 0) {
        groups.entry(entry.link_group).or_default().push(path);
    }
    let group_of = |path: &Vec<u8>| (found[path].link_group != 0).then_some(found[path].link_group);
    let links = groups.values().flat_map(|group| {
        let first = group_of(group[0]);
        group[1..]
            .iter()
            .filter(move |path| first.is_none() || group_of(path) != first)
    });
    (
        xattrs.map(|(path, _)| text(path)).collect(),
        links.map(|path| text(path)).collect(),
    )
}

#[test]
fn the_fixture_runs_with_nothing_pulled() {
    let fixture = fixture();
    let image = Image::read(&fixture.images(), "library/mini", "1.0").unwrap();
    let expected = image.merged().unwrap();
    for runtime in crate::runtimes() {
        let node = Node::start(
            &runtime,
            &fixture.images(),
            &fixture.repository(),
            &fixture.public_key(),
        );
        // Each layer would fail; and the log says below that none was asked for.
        for layer in &image.layers {
            node.registry
                .fault(When::object(layer), Fault::StatusCode(500));
        }
        let cri = node.cri();
        cri.pull(IMAGE)
            .unwrap_or_else(|error| panic!("{}: {error}\n{}", runtime.version, node.outcrop.log()));
        let pod = cri
            .run("mini", IMAGE, &COMMAND)
            .unwrap_or_else(|error| panic!("{error}\n{}", node.outcrop.log()));
        assert_eq!(cri.first_output(&pod).unwrap(), "started");
        assert_eq!(node.fetched(&image.layers), [""; 0], "{}", runtime.version);

        let root = node.containerd.root_file_system("k8s.io", &pod.container);
        assert_equals_layers(&expected, &root, &PUT_BY_RUNTIME);
        assert_lost_by_ducc(&expected, &list(&root, 0).unwrap());

        let top = image.chain_ids.last().unwrap();
        node.containerd
            .with_view("k8s.io", top, |view| {
                assert_equals_layers(&expected, view, &[]);
                Ok(())
            })
            .unwrap();
        assert_eq!(
            node.label(top, "source").as_deref(),
            Some("cvmfs:unpacked.test.local")
        );

        by_hand(&node, &image);
        cri.remove(&pod).unwrap();
        node.wait_for_chains(0);
    }
}

/// The same where another client keeps the repository mounted, and the daemon reads through that mount.
#[test]
fn the_fixture_runs_from_a_mounted_repository() {
    let fixture = fixture();
    let image = Image::read(&fixture.images(), "library/mini", "1.0").unwrap();
    let expected = image.merged().unwrap();
    for runtime in crate::runtimes() {
        let node = Node::with_mounted_repository(
            &runtime,
            &fixture.images(),
            &fixture.repository(),
            &fixture.public_key(),
        );
        let cri = node.cri();
        cri.pull(IMAGE)
            .unwrap_or_else(|error| panic!("{}: {error}\n{}", runtime.version, node.outcrop.log()));
        let pod = cri
            .run("mini", IMAGE, &COMMAND)
            .unwrap_or_else(|error| panic!("{error}\n{}", node.outcrop.log()));
        assert_eq!(cri.first_output(&pod).unwrap(), "started");
        assert_eq!(node.fetched(&image.layers), [""; 0], "{}", runtime.version);
        let root = node.containerd.root_file_system("k8s.io", &pod.container);
        assert_equals_layers(&expected, &root, &PUT_BY_RUNTIME);
        assert_lost_by_ducc(&expected, &list(&root, 0).unwrap());
        let directory = node.mount.as_ref().unwrap().directory().display();
        assert_eq!(
            node.label(image.chain_ids.last().unwrap(), "source"),
            Some(format!("mounted:{directory}"))
        );
        cri.remove(&pod).unwrap();
        node.wait_for_chains(0);
    }
}

/// What DUCC has lost in the fixture, by name: it unpacks without xattrs, and makes every name a file of its own.
fn assert_lost_by_ducc(expected: &Listing, found: &Listing) {
    let (xattrs, links) = lost(expected, found);
    assert_eq!(xattrs, ["bin/ping"], "security.capability");
    let busybox = &expected[&b"bin/busybox"[..]];
    let names = expected
        .iter()
        .filter(|(_, entry)| entry.link_group == busybox.link_group);
    let mut wanted: Vec<String> = names
        .map(|(path, _)| String::from_utf8_lossy(path).into_owned())
        .collect();
    assert_eq!(wanted.len(), 28, "27 hardlinks beside busybox itself");
    // The first of them keeps the file; and there is one more pair, in the top layer.
    wanted.remove(0);
    wanted.push("etc/hostname.link".to_owned());
    assert_eq!(links, wanted);
}

/// The same by `ctr`, in another namespace.
fn by_hand(node: &Node, image: &Image) {
    node.containerd.pull("default", IMAGE).unwrap();
    let run = [
        "run",
        "--rm",
        "--snapshotter",
        "outcrop",
        IMAGE,
        "by-hand",
        "/bin/echo",
        "by hand",
    ];
    assert_eq!(node.containerd.ctr("default", &run).unwrap(), "by hand\n");
    assert_eq!(node.fetched(&image.layers), [""; 0], "by ctr");
}

/// The same checks must pass on what everybody uses, and fail where they should: nothing is lost there, everything is pulled.
#[test]
fn stock_containerd_pulls_everything_and_equals_the_same_layers() {
    let fixture = fixture();
    let image = Image::read(&fixture.images(), "library/mini", "1.0").unwrap();
    for runtime in crate::runtimes() {
        let registry = Registry::serving(&fixture.images()).start().unwrap();
        let containerd = stock(&runtime, &registry.url());
        let cri = containerd.cri().unwrap();
        cri.pull(IMAGE).unwrap();
        let pod = cri.run("mini", IMAGE, &COMMAND).unwrap();
        assert_eq!(cri.first_output(&pod).unwrap(), "started");
        assert_eq!(fetched(&registry, &image.layers), image.layers);
        let root = containerd.root_file_system("k8s.io", &pod.container);
        let mut expected = image.merged().unwrap();
        // A directory that an upper layer does not name, but writes into, gets a new time here, and one of a lower layer with us.
        expected
            .values_mut()
            .filter(|entry| entry.kind == 'd')
            .for_each(|entry| entry.mtime = None);
        // A whiteout of nothing; ours does not show it.
        expected.insert(
            b"srv/nothing".to_vec(),
            listing::Entry::implicit(listing::Entry::GHOST),
        );
        let top = image.chain_ids.last().unwrap();
        containerd
            .with_view("k8s.io", top, |view| {
                assert_equals_layers(&expected, view, &[]);
                Ok(())
            })
            .unwrap();
        assert_equals_layers(&expected, &root, &PUT_BY_RUNTIME);
        assert_eq!(
            lost(&expected, &list(&root, 0).unwrap()),
            (vec![], vec![]),
            "{}",
            runtime.version
        );
    }
}

fn stock(runtime: &Runtime, registry: &str) -> Containerd {
    Containerd::start(
        runtime,
        Settings {
            plugin: Plugin::Overlayfs,
            registry: Some(registry.to_owned()),
        },
    )
    .unwrap()
}

/// What DUCC loses arrives where the publisher keeps it.
#[test]
fn capabilities_and_hardlinks_arrive() {
    // VFS_CAP_REVISION_2, effective, CAP_NET_RAW.
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let ping = Entry::file("bin/ping", "ping")
        .mode(0o755)
        .xattr("security.capability", capability);
    let own = Layer::new([
        ping,
        Entry::file("a", "linked"),
        Entry::hardlink("b", "a"),
        Entry::hardlink("c", "a"),
    ]);
    let built = images::image([images::base(), own]);
    let options = DuccOptions {
        keep_xattrs: true,
        keep_hardlinks: true,
        ..DuccOptions::default()
    };
    let world = World::new(
        &[("kept", &built)],
        built.layers.iter().map(|layer| (layer, options.clone())),
    );
    let image = Image::read(&world.images(), "kept", "1").unwrap();
    let expected = image.merged().unwrap();
    for runtime in crate::runtimes() {
        let node = Node::of(&runtime, &world);
        let cri = node.cri();
        cri.pull("registry.test/kept:1").unwrap();
        let pod = cri.run("kept", "registry.test/kept:1", &COMMAND).unwrap();
        assert_eq!(cri.first_output(&pod).unwrap(), "started");
        let root = node.containerd.root_file_system("k8s.io", &pod.container);
        assert_equals_layers(&expected, &root, &PUT_BY_RUNTIME);
        assert_eq!(
            lost(&expected, &list(&root, 0).unwrap()),
            (vec![], vec![]),
            "{}",
            runtime.version
        );
        assert_eq!(node.fetched(&image.layers), [""; 0]);
    }
}
