//! Downloads against servers and proxies that fail in every way we know.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::io::Write;
use std::sync::Arc;

use cvmfs::{Algorithm, Compression, Error, Failure, ObjectRef, Repository, Suffix};
use support::server::{Fault, Server};
use support::{Client, backend_file, refused};

/// `/plain/hello.txt`, small.
const HELLO: &str = "data/26/e1e9a3ea349d8ad386258c5a4e6dd9edb79fc5";
/// The catalog of `/nested/a`.
const NESTED: &str = "data/b6/90ede56eb58b89a5e1a9a75208444e9ecfaf83C";
const ROOT: &str = "data/97/d75c3603f669cf9e6df409b48c5d67499b3ce5C";

fn flipped(path: &str) -> Vec<u8> {
    let mut bytes = backend_file(path);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    bytes
}

fn hello(repository: &Repository) -> Result<Vec<u8>, Error> {
    Ok(repository
        .current()
        .read_small(b"/plain/hello.txt", 100)?
        .unwrap())
}

/// All that can be wrong with one answer.
fn faults(path: &str) -> Vec<Fault> {
    let length = backend_file(path).len();
    vec![
        Fault::Status(404, ""),
        Fault::Status(403, ""),
        Fault::Status(500, ""),
        Fault::Status(429, ""),
        Fault::Status(302, "Location: /elsewhere"),
        Fault::Body(flipped(path)),
        Fault::Body(backend_file(path)[..length / 2].to_vec()),
        Fault::Body(Vec::new()),
        Fault::Body(vec![0x78; 3 << 20]),
        Fault::CloseAfter(length / 2),
        Fault::CloseAfter(0),
        Fault::StallAfter(length / 2),
        Fault::StallAfter(0),
    ]
}

#[test]
fn a_second_host_serves_objects() {
    for fault in faults(HELLO) {
        let (bad, good) = (Server::fixture(), Server::fixture());
        let client = Client::new();
        let repository = client
            .open(client.config(&[&bad.url(), &good.url()]))
            .unwrap();
        bad.fault(HELLO, fault.clone(), usize::MAX);
        assert_eq!(
            hello(&repository).unwrap(),
            b"Hello CernVM-FS\n",
            "{fault:?}"
        );
        assert_eq!(good.count(HELLO), 1, "{fault:?}");
        // From now on all ask the one that works.
        assert!(
            repository
                .current()
                .read_small(b"/plain/one", 100)
                .unwrap()
                .is_some()
        );
        assert_eq!(good.log().last().unwrap().path.get(..4), Some("data"));
        assert!(
            !bad.log()
                .iter()
                .any(|logged| logged.path.contains("c8/a0787242094b95")),
            "{fault:?}"
        );
    }
}

#[test]
fn a_second_host_serves_catalogs() {
    for fault in faults(NESTED) {
        let (bad, good) = (Server::fixture(), Server::fixture());
        bad.fault(NESTED, fault.clone(), usize::MAX);
        bad.fault(ROOT, fault.clone(), usize::MAX);
        let client = Client::new();
        let repository = client
            .open(client.config(&[&bad.url(), &good.url()]))
            .unwrap();
        let found = repository.current().lookup(b"/nested/a/file1").unwrap();
        assert!(found.is_some(), "{fault:?}");
    }
}

#[test]
fn without_a_second_host_it_is_an_error_and_nothing_stays() {
    for fault in faults(HELLO) {
        let server = Server::fixture();
        let client = Client::new();
        let repository = client.open(client.config(&[&server.url()])).unwrap();
        server.fault(HELLO, fault.clone(), usize::MAX);
        let error = refused(hello(&repository));
        match &fault {
            Fault::Body(_) => assert!(matches!(error, Error::Corrupt { .. }), "{fault:?}: {error}"),
            _ => assert!(
                matches!(error, Error::Unavailable { .. }),
                "{fault:?}: {error}"
            ),
        }
        assert!(error.to_string().contains(HELLO), "{fault:?}: {error}");
        assert_eq!(repository.metrics().failed_objects.get(), 1);
        // Other files are served, and this one as soon as the server has recovered.
        assert!(
            repository
                .current()
                .read_small(b"/plain/one", 100)
                .unwrap()
                .is_some()
        );
        server.fault(HELLO, fault.clone(), 0);
        assert_eq!(
            hello(&repository).unwrap(),
            b"Hello CernVM-FS\n",
            "{fault:?}"
        );
    }
}

#[test]
fn missing_catalogs_are_no_missing_files() {
    let server = Server::fixture();
    let client = Client::new();
    let repository = client.open(client.config(&[&server.url()])).unwrap();
    server.fault(NESTED, Fault::Status(404, ""), usize::MAX);
    let revision = repository.current();
    assert!(refused(revision.lookup(b"/nested/a/file1")).is_unavailable());
    assert!(refused(revision.list(b"/nested/a")).is_unavailable());
    // The mountpoint itself lies in the parent.
    assert!(revision.lookup(b"/nested/a").unwrap().is_some());
    assert_eq!(
        revision.list(b"/nested").unwrap().len(),
        revision.list(b"/nested").unwrap().len()
    );
    let (nested, _) = repository
        .lookup_child(repository.root(), b"nested")
        .unwrap()
        .unwrap();
    let (a, _) = repository.lookup_child(nested, b"a").unwrap().unwrap();
    assert!(refused(repository.children(a, 0, 10)).is_unavailable());
    assert!(repository.node(a).is_ok());
    let walked = revision.walk(b"", &mut |_, _| std::ops::ControlFlow::Continue(()));
    assert!(refused(walked).is_unavailable());
}

#[test]
fn same_url_again_only_for_transfers() {
    for (fault, requests) in [
        (Fault::Status(404, ""), 1),
        (Fault::Status(500, ""), 1),
        (Fault::Status(429, ""), 2),
        (Fault::CloseAfter(3), 2),
        (Fault::StallAfter(3), 2),
        (Fault::Body(Vec::new()), 2),
    ] {
        let server = Server::fixture();
        let client = Client::new();
        let repository = client.open(client.config(&[&server.url()])).unwrap();
        server.fault(HELLO, fault.clone(), usize::MAX);
        refused(hello(&repository));
        assert_eq!(server.count(HELLO), requests, "{fault:?}");
        let no_cache: Vec<_> = server
            .log()
            .into_iter()
            .filter(|logged| logged.no_cache)
            .collect();
        let bad_data = matches!(fault, Fault::Body(_));
        assert_eq!(no_cache.len(), usize::from(bad_data), "{fault:?}");
    }
}

#[test]
fn one_bad_answer_is_mended_past_caches() {
    let server = Server::fixture();
    let client = Client::new();
    let repository = client.open(client.config(&[&server.url()])).unwrap();
    server.fault(HELLO, Fault::Body(flipped(HELLO)), 1);
    assert_eq!(hello(&repository).unwrap(), b"Hello CernVM-FS\n");
    assert_eq!(server.count(HELLO), 2);
}

/// Bytes that do not compress, so that their object is streamed to disk while it arrives.
fn large_object(
    server: &Server,
    algorithm: Algorithm,
    compression: Compression,
) -> (ObjectRef, Vec<u8>, Vec<u8>) {
    let mut state = algorithm as u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let plain: Vec<u8> = (0..6 << 20).map(|_| next()).collect();
    let stored = match compression {
        Compression::None => plain.clone(),
        Compression::Zlib => {
            let mut encoder =
                flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&plain).unwrap();
            encoder.finish().unwrap()
        }
    };
    let object = ObjectRef {
        hash: algorithm.digest(&stored),
        suffix: Suffix::Partial,
        compression,
    };
    server.replace(&object.url_path(), stored.clone());
    (object, plain, stored)
}

/// What was written must not survive a failure.
#[test]
fn large_objects_are_begun_anew() {
    let server = Server::fixture();
    let client = Client::new();
    let repository = client.open(client.config(&[&server.url()])).unwrap();
    for (algorithm, compression) in [
        (Algorithm::Sha1, Compression::Zlib),
        (Algorithm::Shake128, Compression::None),
    ] {
        let (object, plain, stored) = large_object(&server, algorithm, compression);
        let path = object.url_path();
        let mut flipped = stored.clone();
        flipped[5 << 20] ^= 1;
        let mut surplus = stored.clone();
        surplus.push(0);
        for fault in [
            Fault::Body(flipped.clone()),
            Fault::Body(stored[..5 << 20].to_vec()),
            Fault::Body(surplus),
        ] {
            server.fault(&path, fault, usize::MAX);
            let error = refused(repository.fetch(&object, Some(plain.len() as u64)));
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        }
        let before = server.count(&path);
        server.fault(&path, Fault::Body(flipped), 1);
        let fetched = repository.fetch(&object, Some(plain.len() as u64)).unwrap();
        assert!(fetched.read_all().unwrap() == plain);
        assert_eq!(server.count(&path) - before, 2);
    }
    let (object, plain, _) = large_object(&server, Algorithm::Ripemd160, Compression::Zlib);
    server.fault(&object.url_path(), Fault::CloseAfter(5 << 20), 1);
    let fetched = repository.fetch(&object, Some(plain.len() as u64)).unwrap();
    assert!(fetched.read_all().unwrap() == plain);
}

fn find(repository: &Repository, name: &[u8]) -> Vec<u8> {
    let mut found = None;
    let mut visit = |path: &[u8], entry: &cvmfs::WalkEntry| {
        if entry.dirent.name == name {
            found = Some([b"/", path].concat());
            return std::ops::ControlFlow::Break(());
        }
        std::ops::ControlFlow::Continue(())
    };
    repository.current().walk(b"", &mut visit).unwrap();
    found.unwrap()
}

#[test]
fn wrong_sizes_are_refused() {
    let server = Server::fixture();
    let client = Client::new();
    let repository = client.open(client.config(&[&server.url()])).unwrap();
    let content = repository.current().content(b"/plain/hello.txt").unwrap();
    let cvmfs::Content::Whole(object) = content else {
        panic!("{content:?}")
    };
    for size in [0, 15, 17, 1 << 20] {
        assert!(
            matches!(
                refused(repository.fetch(&object, Some(size))),
                Error::Corrupt { .. }
            ),
            "{size}"
        );
    }
    assert_eq!(repository.fetch(&object, None).unwrap().len(), 16);
    // Also out of the cache.
    assert!(matches!(
        refused(repository.fetch(&object, Some(15))),
        Error::Corrupt { .. }
    ));
    assert_eq!(repository.fetch(&object, Some(16)).unwrap().len(), 16);
}

#[test]
fn many_readers_one_download() {
    let server = Server::fixture();
    let client = Client::new();
    let repository = client.open(client.config(&[&server.url()])).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(hello(&repository).unwrap(), b"Hello CernVM-FS\n"));
        }
    });
    assert_eq!(server.count(HELLO), 1);
}

#[test]
fn external_files_need_ranges() {
    let server = Server::fixture();
    let external = Server::serving(vec![support::fixture().join("external")]);
    let client = Client::new();
    let mut config = client.config(&[&server.url()]);
    config.external_servers = vec![external.url()];
    let repository = client.open(config.clone()).unwrap();
    let path = find(&repository, b"ext_chunked5M");
    let bytes = repository
        .current()
        .read_small(&path, 6 << 20)
        .unwrap()
        .unwrap();
    assert_eq!(
        bytes,
        std::fs::read(support::fixture().join("external/external/ext_chunked5M")).unwrap()
    );
    assert!(external.log().iter().all(|logged| logged.range.is_some()));
    let small = find(&repository, b"ext_small.txt");
    external.replace(&String::from_utf8_lossy(&small[1..]), vec![b'x'; 19]);
    let error = refused(repository.current().read_small(&small, 100));
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    // Nobody said where they are.
    config.external_servers = Vec::new();
    let client = Client::new();
    let error = refused(
        client
            .open(config)
            .unwrap()
            .current()
            .read_small(&small, 100),
    );
    assert!(
        error.to_string().contains("no server is configured"),
        "{error}"
    );
}

fn through(client: &Client, servers: &[&Server], proxies: &[&[&str]]) -> Result<Repository, Error> {
    let urls: Vec<_> = servers.iter().map(|server| server.url()).collect();
    let mut config = client.config(&urls.iter().map(String::as_str).collect::<Vec<_>>());
    config.proxies = proxies
        .iter()
        .map(|group| group.iter().map(|proxy| (*proxy).to_owned()).collect())
        .collect();
    client.open(config)
}

#[test]
fn proxies_get_absolute_requests() {
    // Whoever is named in the URL is never asked: the proxy answers.
    let (proxy, origin) = (Server::fixture(), Server::fixture());
    let client = Client::new();
    let repository = through(&client, &[&origin], &[&[&proxy.url()]]).unwrap();
    hello(&repository).unwrap();
    assert_eq!(origin.log(), []);
    assert!(proxy.log().iter().all(|logged| logged.absolute));
    assert!(proxy.log().len() >= 5);
}

#[test]
fn dead_proxies_are_left_out() {
    let (proxy, origin) = (Server::fixture(), Server::fixture());
    let client = Client::new();
    let repository = through(
        &client,
        &[&origin],
        &[&["http://127.0.0.1:1"], &[&proxy.url()], &["DIRECT"]],
    )
    .unwrap();
    hello(&repository).unwrap();
    assert_eq!(origin.log(), []);
    // A proxy that refuses is left out too, for the direct way.
    proxy.fault(
        "data/c8/a0787242094b95bcdbacd9a567eddedb653a16",
        Fault::Status(403, ""),
        usize::MAX,
    );
    assert!(
        repository
            .current()
            .read_small(b"/plain/one", 100)
            .unwrap()
            .is_some()
    );
    assert_eq!(origin.log().len(), 1);
    assert!(!origin.log()[0].absolute);
}

#[test]
fn blame_decides_between_proxy_and_host() {
    // An error that the proxy made moves to the next proxy; the host's own error to the next host through the same proxy.
    for (fault, direct) in [
        (
            Fault::Status(503, "X-Squid-Error: ERR_CONNECT_FAIL 111"),
            true,
        ),
        (
            Fault::Status(502, "Proxy-Status: squid; error=connection_refused"),
            true,
        ),
        (Fault::Status(503, ""), false),
        (Fault::Status(404, ""), false),
    ] {
        let (proxy, first, second) = (Server::fixture(), Server::fixture(), Server::fixture());
        let client = Client::new();
        let repository =
            through(&client, &[&first, &second], &[&[&proxy.url()], &["DIRECT"]]).unwrap();
        proxy.fault(HELLO, fault.clone(), 1);
        hello(&repository).unwrap();
        assert_eq!(first.count(HELLO), usize::from(direct), "{fault:?}");
        assert_eq!(proxy.count(HELLO), if direct { 1 } else { 2 }, "{fault:?}");
        assert_eq!(second.log(), [], "{fault:?}");
    }
}

#[test]
fn every_attempt_is_named() {
    let client = Client::new();
    let dead = ["http://127.0.0.1:1/a", "http://127.0.0.1:1/b"];
    let Error::Unavailable { attempts, .. } = refused(client.open(client.config(&dead))) else {
        panic!("not unavailable");
    };
    let urls: Vec<_> = attempts
        .iter()
        .map(|attempt| attempt.url.as_str())
        .collect();
    let (a, b) = (
        "http://127.0.0.1:1/a/.cvmfspublished",
        "http://127.0.0.1:1/b/.cvmfspublished",
    );
    assert_eq!(urls, [a, a, b, b]);
    assert!(
        attempts
            .iter()
            .all(|attempt| matches!(attempt.failure, Failure::Connect(_)))
    );
    assert!(attempts.iter().all(|attempt| attempt.proxy.is_none()));
}

#[test]
fn references_outlive_repositories() {
    let server = Server::fixture();
    let client = Client::new();
    let repository = client.open(client.config(&[&server.url()])).unwrap();
    let clone = repository.clone();
    drop(repository);
    let revision = clone.current();
    drop(clone);
    let content = revision.content(b"/plain/hello.txt").unwrap();
    let cvmfs::Content::Whole(object) = content else {
        panic!("{content:?}")
    };
    assert_eq!(object, ObjectRef::from_bytes(&object.to_bytes()).unwrap());
    assert_eq!(Arc::strong_count(&revision), 1);
}
