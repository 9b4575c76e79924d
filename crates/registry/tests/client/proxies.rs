use std::io::Read as _;

use registry::{Config, Proxies};
use testkit::{Fault, Proxy, Registry, Running, When};

use crate::support::{World, quick, reference};

fn through(http: &str, except: &str) -> Config {
    Config {
        proxies: Some(Proxies {
            // Nobody listens there: an http URL must not go that way.
            https: Some("http://127.0.0.1:1".to_owned()),
            http: Some(http.to_owned()),
            except: except.to_owned(),
        }),
        ..quick()
    }
}

/// Reads the manifest and a layer.
fn pull(world: &World, server: &Running<Registry>, config: Config) {
    let client = world.client(config);
    let document = client.document(&reference(server), &[]).unwrap();
    assert_eq!(document.bytes, world.image.manifest);
    let mut blob = Vec::new();
    client
        .blob(&reference(server), &world.descriptor(0))
        .unwrap()
        .read_to_end(&mut blob)
        .unwrap();
    assert_eq!(blob, world.blob(0));
}

#[test]
fn everything_goes_through_the_proxy() {
    let world = World::new();
    let server = world.registry().start().unwrap();
    let proxy = Proxy::forwarding().start().unwrap();
    pull(&world, &server, through(&proxy.url(), ""));
    assert_eq!(proxy.requests_for("/manifests/").len(), 1);
    assert!(!proxy.requests_for("/blobs/").is_empty());
    assert_eq!(proxy.requests().len(), server.requests().len());
}

#[test]
fn excepted_hosts_are_asked_directly() {
    let world = World::new();
    let server = world.registry().start().unwrap();
    let proxy = Proxy::forwarding().start().unwrap();
    for except in ["127.0.0.1", "registry.test.local, 127.0.0.0/8", "*"] {
        pull(&world, &server, through(&proxy.url(), except));
    }
    assert_eq!(proxy.requests().len(), 0);
    // Another host's exception is none of ours.
    pull(
        &world,
        &server,
        through(&proxy.url(), "registry.test.local"),
    );
    assert!(!proxy.requests().is_empty());
}

#[test]
fn a_proxy_that_is_down_is_no_reason_to_go_round_it() {
    let world = World::new();
    let server = world.registry().start().unwrap();
    let client = world.client(through("http://127.0.0.1:1", ""));
    client.document(&reference(&server), &[]).unwrap_err();
    assert!(server.requests().is_empty());
    let proxy = Proxy::forwarding()
        .fault(When::path("/manifests/").first(1), Fault::StatusCode(503))
        .start()
        .unwrap();
    // One that fails is asked again.
    pull(&world, &server, through(&proxy.url(), ""));
    assert_eq!(proxy.requests_for("/manifests/").len(), 2);
}
