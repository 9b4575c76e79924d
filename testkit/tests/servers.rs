//! The servers do over a real connection what the tests of others rely on.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use tempfile::TempDir;
use testkit::client::{Fetched, get, get_via, request};
use testkit::{
    Entry, FIXTURE_FQRN, Fault, ImageBuilder, Layer, Proxy, Registry, Running, Stratum1, When,
    digest, fixture,
};

const CONTENT: &[u8] = b"0123456789";

/// A "repository" with one object.
fn repository() -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::create_dir_all(directory.path().join("data/3f")).unwrap();
    fs::write(directory.path().join("data/3f/9aC"), CONTENT).unwrap();
    fs::write(directory.path().join("data/3f/big"), vec![7; 100_000]).unwrap();
    fs::write(directory.path().join(".cvmfspublished"), b"manifest").unwrap();
    directory
}

fn object_url(server: &Running<Stratum1>) -> String {
    format!("{}/data/3f/9aC", server.repository_url("a.b"))
}

fn fetch_with(fault: Fault) -> std::io::Result<Fetched> {
    let directory = repository();
    let server = Stratum1::serving(directory.path())
        .fault(When::object("3f9a"), fault)
        .start()
        .unwrap();
    let result = get(&object_url(&server));
    assert!(server.requests()[0].faulted);
    assert_eq!(
        get(&format!("{}/.cvmfspublished", server.repository_url("a.b")))
            .unwrap()
            .body,
        b"manifest"
    );
    result
}

#[test]
fn each_fault_does_what_it_says() {
    assert_eq!(fetch_with(Fault::StatusCode(503)).unwrap().status, 503);
    let redirect = fetch_with(Fault::Redirect("http://elsewhere/".into())).unwrap();
    assert_eq!(
        (redirect.status, redirect.header("location")),
        (302, Some("http://elsewhere/"))
    );
    assert_eq!(
        fetch_with(Fault::FlipByte(3)).unwrap().body,
        b"012\xcc456789"
    );
    assert_eq!(
        fetch_with(Fault::FlipByte(300)).unwrap().body,
        b"012345678\xc6"
    );
    assert_eq!(
        fetch_with(Fault::Body(b"<html>".to_vec())).unwrap().body,
        b"<html>"
    );
    assert_eq!(
        fetch_with(Fault::SlowDrip(3, Duration::from_millis(1)))
            .unwrap()
            .body,
        CONTENT
    );
    assert_eq!(
        fetch_with(Fault::StallAfter(3, Duration::from_millis(1)))
            .unwrap()
            .body,
        CONTENT
    );
    assert_eq!(
        fetch_with(Fault::Stall(Duration::from_millis(1)))
            .unwrap()
            .body,
        CONTENT
    );
    for fault in [
        Fault::Truncate(4),
        Fault::Truncate(0),
        Fault::CloseMidHeader,
        Fault::Close,
    ] {
        assert!(fetch_with(fault.clone()).is_err(), "{fault:?}");
    }
}

#[test]
fn a_truncated_body_has_exactly_so_many_bytes() {
    let directory = repository();
    let server = Stratum1::serving(directory.path())
        .fault(When::always(), Fault::Truncate(40_000))
        .start()
        .unwrap();
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream
        .write_all(b"GET /cvmfs/a.b/data/3f/big HTTP/1.1\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let head = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap()
        + 4;
    assert!(String::from_utf8_lossy(&answer[..head]).contains("Content-Length: 100000"));
    assert_eq!(answer.len() - head, 40_000);
    assert_eq!(server.bytes_sent(), 40_000);
}

#[test]
fn a_stall_ends_with_the_server() {
    let directory = repository();
    let stall = Fault::Stall(Duration::from_secs(3600));
    let server = Stratum1::serving(directory.path())
        .fault(When::always(), stall)
        .start()
        .unwrap();
    let url = object_url(&server);
    let client = std::thread::spawn(move || get(&url));
    while server.requests().is_empty() {
        std::thread::yield_now();
    }
    drop(server);
    assert!(client.join().unwrap().is_err());
}

#[test]
fn the_nth_request_only() {
    let directory = repository();
    let server = Stratum1::serving(directory.path())
        .fault(When::always().nth(2), Fault::StatusCode(500))
        .start()
        .unwrap();
    let statuses: Vec<_> = (0..3)
        .map(|_| get(&object_url(&server)).unwrap().status)
        .collect();
    assert_eq!(statuses, [200, 500, 200]);
    assert_eq!(
        server
            .requests()
            .iter()
            .map(|request| request.status)
            .collect::<Vec<_>>(),
        statuses
    );
}

#[test]
fn ranges_and_head() {
    let directory = repository();
    let server = Stratum1::serving(directory.path()).start().unwrap();
    let url = object_url(&server);
    let part = request("GET", &url, &[("Range", "bytes=2-4")], b"").unwrap();
    assert_eq!((part.status, part.body.as_slice()), (206, &b"234"[..]));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    assert_eq!(
        request("GET", &url, &[("Range", "bytes=10-")], b"")
            .unwrap()
            .status,
        416
    );
    let head = request("HEAD", &url, &[], b"").unwrap();
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("10"))
    );
    server.fault(When::always(), Fault::IgnoreRange);
    let whole = request("GET", &url, &[("Range", "bytes=2-4")], b"").unwrap();
    assert_eq!((whole.status, whole.body.as_slice()), (200, CONTENT));
    assert_eq!(server.requests()[0].range(), Some("bytes=2-4"));
}

#[test]
fn several_requests_on_one_connection() {
    let directory = repository();
    let server = Stratum1::serving(directory.path()).start().unwrap();
    let mut stream = TcpStream::connect(server.address()).unwrap();
    for _ in 0..3 {
        stream
            .write_all(
                b"GET http://elsewhere:80/a.b/data/3f/9aC HTTP/1.1\r\nHost: elsewhere\r\n\r\n",
            )
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(CONTENT) {
            let mut buffer = [0; 1000];
            let length = stream.read(&mut buffer).unwrap();
            assert_ne!(
                length,
                0,
                "closed after {:?}",
                String::from_utf8_lossy(&answer)
            );
            answer.extend_from_slice(&buffer[..length]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
    assert_eq!(server.requests_for("/a.b/data/").len(), 3);
}

#[test]
fn strict_mode_names_what_was_fetched_twice() {
    let directory = repository();
    let server = Stratum1::serving(directory.path())
        .strict()
        .fault(When::always().first(1), Fault::StatusCode(503))
        .start()
        .unwrap();
    let published = format!("{}/.cvmfspublished", server.repository_url("a.b"));
    for url in [
        &object_url(&server),
        &object_url(&server),
        &published,
        &published,
    ] {
        get(url).unwrap();
    }
    // The first answer was a fault, the manifest is no object.
    server.assert_strict();
    get(&object_url(&server)).unwrap();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| server.assert_strict()))
        .unwrap_err();
    assert!(panic.downcast_ref::<String>().unwrap().contains("3f9aC"));
    server.clear_log();
    server.assert_strict();
}

#[test]
fn nothing_outside_the_directory_is_served() {
    let directory = repository();
    fs::write(directory.path().join("secret"), "s").unwrap();
    let inner = directory.path().join("data");
    let server = Stratum1::serving(&inner).external(&inner).start().unwrap();
    for path in [
        "/a.b/../secret",
        "/a.b/%2e%2e/secret",
        "/cvmfs/../secret",
        "/_external/../secret",
        "/%2fetc/passwd",
        "/",
    ] {
        assert_eq!(
            get(&format!("{}{path}", server.url())).unwrap().status,
            404,
            "{path}"
        );
    }
}

#[test]
fn the_fixture_is_served_with_its_external_content() {
    let fixture = fixture();
    let server = Stratum1::serving(&fixture.repository())
        .external(&fixture.external())
        .start()
        .unwrap();
    let manifest = get(&format!(
        "{}/.cvmfspublished",
        server.repository_url(FIXTURE_FQRN)
    ))
    .unwrap();
    assert!(
        manifest
            .body
            .starts_with(b"C97d75c3603f669cf9e6df409b48c5d67499b3ce5\n")
    );
    let external = get(&format!("{}/external/ext_small.txt", server.external_url())).unwrap();
    assert_eq!((external.status, external.body.len()), (200, 19));
}

#[test]
fn control_requests_script_faults_and_are_not_logged() {
    let directory = repository();
    let server = Stratum1::serving(directory.path()).start().unwrap();
    let control = |name: &str, body: &[u8]| {
        request(
            "POST",
            &format!("{}/_testkit/{name}", server.url()),
            &[],
            body,
        )
        .unwrap()
    };
    assert_eq!(
        control(
            "fault",
            br#"{"object":"3f9a","fault":"status","value":500}"#
        )
        .status,
        200
    );
    assert_eq!(control("fault", br#"{"fault":"?"}"#).status, 400);
    assert_eq!(get(&object_url(&server)).unwrap().status, 500);
    let log = get(&format!("{}/_testkit/log", server.url())).unwrap();
    let log: serde_json::Value = serde_json::from_slice(&log.body).unwrap();
    assert_eq!(log.as_array().unwrap().len(), 1);
    assert_eq!(log[0]["status"], 500);
    control("reset", b"");
    assert_eq!(get(&object_url(&server)).unwrap().status, 200);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn latency_and_bandwidth_keep_the_bytes() {
    let directory = repository();
    let server = Stratum1::serving(directory.path())
        .latency(Duration::from_millis(5))
        .bandwidth(10_000_000)
        .start()
        .unwrap();
    assert_eq!(
        get(&format!("{}/data/3f/big", server.repository_url("a.b")))
            .unwrap()
            .body,
        vec![7; 100_000]
    );
    // Not a measurement: the server itself waited, so less is impossible.
    assert!(server.requests()[0].elapsed >= Duration::from_millis(5));
}

#[test]
fn a_registry_from_the_fixture() {
    let fixture = fixture();
    let registry = Registry::serving(&fixture.images()).start().unwrap();
    let url = |path: &str| format!("{}/v2/{path}", registry.url());
    assert_eq!(get(&url("")).unwrap().status, 200);
    let manifest = get(&url("library/mini/manifests/1.0?ns=docker.io")).unwrap();
    assert_eq!(
        manifest.header("content-type"),
        Some("application/vnd.docker.distribution.manifest.v2+json")
    );
    let name = digest(&manifest.body);
    assert_eq!(
        manifest.header("docker-content-digest"),
        Some(name.as_str())
    );
    let head = request(
        "HEAD",
        &url(&format!("library/mini/manifests/{name}")),
        &[],
        b"",
    )
    .unwrap();
    assert_eq!(
        (head.status, head.header("docker-content-digest")),
        (200, Some(name.as_str()))
    );
    let blob = "sha256:1538ea16bebced527436beddfdccd65236aa840458f393353a795571ec996292";
    let whole = get(&url(&format!("library/mini/blobs/{blob}"))).unwrap();
    assert_eq!(digest(&whole.body), blob);
    let part = request(
        "GET",
        &url(&format!("library/mini/blobs/{blob}")),
        &[("Range", "bytes=0-1")],
        b"",
    )
    .unwrap();
    assert_eq!(part.body, whole.body[..2]);
    for missing in [
        "library/mini/manifests/2.0",
        "x/blobs/sha256:00",
        "x/blobs/../manifests/y",
        "library/none/tags/list",
    ] {
        assert_eq!(get(&url(missing)).unwrap().status, 404, "{missing}");
    }
    assert_eq!(registry.blob_requests().len(), 4);
}

#[test]
fn a_registry_takes_pushes_of_those_it_knows() {
    let directory = TempDir::new().unwrap();
    let access = testkit::Access::bearer("/token", "s").anonymous_pull();
    let registry = Registry::serving(directory.path())
        .access(&access)
        .start()
        .unwrap();
    let url = |path: &str| format!("{}{path}", registry.url());
    let refused = request("POST", &url("/v2/a/blobs/uploads/"), &[], b"").unwrap();
    let challenge = refused.header("www-authenticate").unwrap();
    assert!(
        challenge.contains("scope=\"repository:a:pull,push\""),
        "{challenge}"
    );
    // Anonymous tokens are for pulling only.
    let token = get(&url("/token?service=s&scope=repository:a:pull,push")).unwrap();
    let token: serde_json::Value = serde_json::from_slice(&token.body).unwrap();
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
    for (method, status) in [("POST", 401), ("GET", 404)] {
        let headers = [("Authorization", bearer.as_str())];
        let answer = request(method, &url("/v2/a/blobs/uploads/"), &headers, b"").unwrap();
        assert_eq!(answer.status, status, "{method}");
    }

    let open = Registry::serving(directory.path()).start().unwrap();
    let begun = request(
        "POST",
        &format!("{}/v2/a/blobs/uploads/", open.url()),
        &[],
        b"",
    )
    .unwrap();
    let place = format!("{}{}", open.url(), begun.header("location").unwrap());
    let late = request("PATCH", &place, &[("Content-Range", "5-7")], b"abc").unwrap();
    assert_eq!((begun.status, late.status), (202, 416));
    let wrong = request(
        "PUT",
        &format!("{place}&digest={}", digest(b"x")),
        &[],
        b"abc",
    )
    .unwrap();
    assert_eq!(wrong.status, 400);
    assert!(!directory.path().join("blobs").exists());
}

#[test]
fn a_registry_whose_blobs_fail() {
    let directory = TempDir::new().unwrap();
    let image = ImageBuilder::new()
        .layer(Layer::new([Entry::file("a", "b")]))
        .build()
        .unwrap();
    image
        .write_to(directory.path(), "some/name", "tag")
        .unwrap();
    let registry = Registry::serving(directory.path())
        .blobs_fail()
        .start()
        .unwrap();
    let manifest = get(&format!("{}/v2/some/name/manifests/tag", registry.url())).unwrap();
    assert_eq!(digest(&manifest.body), image.digest);
    let blob = get(&format!(
        "{}/v2/some/name/blobs/{}",
        registry.url(),
        image.layers[0].digest
    ))
    .unwrap();
    assert_eq!(blob.status, 500);
    assert!(
        registry
            .reference("some/name", "tag")
            .ends_with("/some/name:tag")
    );
}

#[test]
fn a_proxy_passes_on_and_can_fail() {
    let directory = repository();
    let server = Stratum1::serving(directory.path()).start().unwrap();
    let proxy = Proxy::forwarding()
        .fault(When::always().nth(2), Fault::StatusCode(502))
        .start()
        .unwrap();
    let url = object_url(&server);
    assert_eq!(get_via(&proxy.url(), &url).unwrap().body, CONTENT);
    assert_eq!(get_via(&proxy.url(), &url).unwrap().status, 502);
    let missing = get_via(&proxy.url(), &format!("{}/nothing", server.url())).unwrap();
    assert_eq!(missing.status, 404);
    assert_eq!((proxy.requests().len(), server.requests().len()), (3, 2));
    drop(server);
    assert_eq!(get_via(&proxy.url(), &url).unwrap().status, 502);
}
