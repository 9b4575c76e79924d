use std::fs;

use image::Reference;
use registry::{Config, Error};
use testkit::{Fault, Registry, Running, When};

use crate::support::{NAME, World, quick};

/// `upstream.test` with these hosts before it; nothing answers at the upstream itself.
fn config(world: &World, toml: &str) -> Config {
    let root = world.path().join("certs.d");
    fs::create_dir_all(root.join("upstream.test")).unwrap();
    fs::write(root.join("upstream.test/hosts.toml"), toml).unwrap();
    let mut config = quick();
    config.hosts_directories = vec![root];
    config.retries.count = 0;
    config
}

fn upstream() -> Reference {
    format!("upstream.test/{NAME}:1").parse().unwrap()
}

fn asked(server: &Running<Registry>) -> usize {
    server.requests().len()
}

#[test]
fn mirrors_are_asked_in_order() {
    let world = World::new();
    let empty = tempfile::tempdir().unwrap();
    let lacking = Registry::serving(empty.path()).start().unwrap();
    let failing = world
        .registry()
        .fault(When::always(), Fault::StatusCode(500))
        .start()
        .unwrap();
    let good = world.registry().start().unwrap();
    let never = world.registry().start().unwrap();
    let toml = format!(
        "server = '{}'\n[host.'http://127.0.0.1:1']\n[host.'{}']\n[host.'{}']\n[host.'{}']\n",
        never.url(),
        lacking.url(),
        failing.url(),
        good.url()
    );
    let client = world.client(config(&world, &toml));
    client.document(&upstream(), &[]).unwrap();
    let bytes = client
        .blob_range(&upstream(), &world.digest(0), 7, 9)
        .unwrap();
    assert_eq!(bytes, world.blob(0)[7..16]);
    assert_eq!([&lacking, &failing, &good, &never].map(asked), [2, 2, 2, 0]);
    assert!(
        good.requests()
            .iter()
            .all(|request| request.path.ends_with("?ns=upstream.test"))
    );
}

#[test]
fn a_mirror_with_a_bad_document_is_passed_over() {
    let world = World::new();
    let bad = world
        .registry()
        .fault(When::path("/manifests/"), Fault::FlipByte(30))
        .start()
        .unwrap();
    let good = world.registry().start().unwrap();
    let toml = format!("server = '{}'\n[host.'{}']", good.url(), bad.url());
    let client = world.client(config(&world, &toml));
    let document = client.document(&upstream(), &[]).unwrap();
    assert_eq!(document.bytes, world.image.manifest);
    assert_eq!([&bad, &good].map(asked), [1, 1]);
}

#[test]
fn capabilities_are_kept() {
    let world = World::new();
    let puller = world.registry().start().unwrap();
    let resolver = world.registry().start().unwrap();
    let toml = format!(
        "server = 'http://127.0.0.1:1'\ncapabilities = ['push']\n\
         [host.'{}']\ncapabilities = ['pull']\n[host.'{}']\ncapabilities = ['resolve']",
        puller.url(),
        resolver.url()
    );
    let client = world.client(config(&world, &toml));
    client.document(&upstream(), &[]).unwrap();
    assert_eq!([&puller, &resolver].map(asked), [0, 1]);
    client.head_blob(&upstream(), &world.digest(0)).unwrap();
    assert_eq!([&puller, &resolver].map(asked), [1, 1]);
    let pushed = client.push_blob(&upstream(), &world.digest(0), 1, &mut &b"x"[..], None);
    assert!(
        matches!(pushed, Err(Error::Unavailable { .. })),
        "{pushed:?}"
    );
    assert_eq!([&puller, &resolver].map(asked), [1, 1]);

    let toml = "server = 'http://127.0.0.1:1'\ncapabilities = ['push']";
    let error = world
        .client(config(&world, toml))
        .document(&upstream(), &[])
        .unwrap_err();
    assert!(matches!(error, Error::NoHost { .. }), "{error:?}");
}

#[test]
fn headers_and_paths() {
    let world = World::new();
    let server = world.registry().start().unwrap();
    let toml = format!(
        "[host.'{}/v2/group']\noverride_path = true\n[host.'{0}/v2/group'.header]\nx-who = ['me', 'again']",
        server.url()
    );
    let client = world.client(config(&world, &toml));
    let inner: Reference = "upstream.test/app:1".parse().unwrap();
    assert_eq!(
        client.document(&inner, &[]).unwrap().bytes,
        world.image.manifest
    );
    let request = &server.requests()[0];
    assert_eq!(request.path, "/v2/group/app/manifests/1?ns=upstream.test");
    assert_eq!(
        request
            .headers
            .iter()
            .filter(|(name, _)| name == "x-who")
            .count(),
        2
    );
}

#[test]
fn what_is_wrong_is_named() {
    let world = World::new();
    for (toml, complaint) in [
        ("server = [", "hosts.toml: line"),
        (
            "server = 'https://127.0.0.1:1'\nca = 'absent.pem'",
            "absent.pem",
        ),
        (
            "server = 'https://127.0.0.1:1'\nclient = 'absent.pem'",
            "absent.pem",
        ),
    ] {
        let error = world
            .client(config(&world, toml))
            .document(&upstream(), &[])
            .unwrap_err();
        assert!(error.to_string().contains(complaint), "{error}");
    }
}
