use std::io::Read as _;
use std::time::Duration;

use image::{Digest, Reference};
use registry::{Config, Error};
use testkit::{Fault, When};

use crate::support::{World, described, quick, reference};

#[test]
fn documents_are_what_they_are_named() {
    let world = World::new();
    let server = world.registry().start().unwrap();
    let client = world.client(quick());
    let tagged = reference(&server);
    let document = client.document(&tagged, &[]).unwrap();
    assert_eq!(document.bytes, world.image.manifest);
    assert_eq!(document.media_type.to_string(), world.image.media_type);
    assert_eq!(client.resolve(&tagged).unwrap(), document.digest);
    let named = |digest: &Digest| -> Reference {
        format!("{}/group/app@{digest}", server.address())
            .parse()
            .unwrap()
    };
    assert_eq!(
        client.document(&named(&document.digest), &[]).unwrap(),
        document
    );

    let fake = Fault::Body(br#"{"schemaVersion":2,"config":{},"layers":[]}"#.to_vec());
    server.fault(When::path("/manifests/"), fake);
    let error = client.document(&named(&document.digest), &[]).unwrap_err();
    assert!(matches!(error, Error::Document { .. }), "{error:?}");
    server.clear_faults();
    server.fault(When::path("/manifests/"), Fault::FlipByte(30));
    // The registry's own digest is held against the bytes too.
    assert!(matches!(
        client.document(&tagged, &[]),
        Err(Error::Document { .. })
    ));
    server.clear_faults();
    server.fault(
        When::path("/manifests/"),
        Fault::Body(vec![b' '; (4 << 20) + 1]),
    );
    assert!(matches!(
        client.document(&tagged, &[]),
        Err(Error::Refused { .. })
    ));
}

#[test]
fn what_is_missing_is_said_to_be() {
    let world = World::new();
    let server = world.registry().start().unwrap();
    let client = world.client(quick());
    let absent: Reference = server.reference("group/none", "1").parse().unwrap();
    let error = client.document(&absent, &[]).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    assert!(error.to_string().contains("MANIFEST_UNKNOWN"), "{error}");
    let reference = reference(&server);
    assert_eq!(
        client.head_blob(&reference, &Digest::of(b"none")).unwrap(),
        None
    );
    let size = world.blob(0).len() as u64;
    assert_eq!(
        client.head_blob(&reference, &world.digest(0)).unwrap(),
        Some(size)
    );
    assert!(matches!(
        client.blob(&reference, &described(b"none")),
        Err(Error::NotFound { .. })
    ));
    // Not asked again: it does not pass.
    assert_eq!(server.requests_for("group/none").len(), 1);
}

#[test]
fn blobs_come_whole_or_not_at_all() {
    let world = World::new();
    let size = world.blob(0).len();
    for (fault, times, complaint) in [
        (None, 0, None),
        (Some(Fault::Truncate(100_000)), 1, None),
        (Some(Fault::Truncate(0)), 2, None),
        (Some(Fault::Close), 2, None),
        (Some(Fault::CloseMidHeader), 1, None),
        (Some(Fault::StatusCode(503)), 2, None),
        (Some(Fault::RetryAfter(429, 0)), 2, None),
        (Some(Fault::FlipByte(size / 2)), 1, Some("has digest")),
        (Some(Fault::FlipByte(size - 1)), 1, Some("has digest")),
        (
            Some(Fault::Body(vec![0; size + 1])),
            1,
            Some("longer than stated"),
        ),
        (Some(Fault::StatusCode(503)), 99, Some("503")),
        (Some(Fault::StatusCode(403)), 99, Some("403")),
    ] {
        let mut builder = world.registry();
        if let Some(fault) = fault.clone() {
            builder = builder.fault(When::path("/blobs/").first(times), fault);
        }
        let server = builder.start().unwrap();
        let client = world.client(quick());
        let mut bytes = Vec::new();
        let result = client
            .blob(&reference(&server), &world.descriptor(0))
            .map_err(|error| error.to_string())
            .and_then(|mut blob| {
                blob.read_to_end(&mut bytes)
                    .map_err(|error| error.to_string())
            });
        match (result, complaint) {
            (Ok(_), None) => assert_eq!(bytes, world.blob(0), "{fault:?}"),
            (Err(text), Some(complaint)) => assert!(text.contains(complaint), "{fault:?}: {text}"),
            (result, _) => panic!("{fault:?}: {result:?}"),
        }
    }
}

#[test]
fn broken_transfers_go_on_where_they_ended() {
    let world = World::new();
    let fault = Fault::Truncate(100_000);
    let server = world
        .registry()
        .fault(When::path("/blobs/").nth(1), fault)
        .start()
        .unwrap();
    let client = world.client(quick());
    let mut bytes = Vec::new();
    let mut blob = client
        .blob(&reference(&server), &world.descriptor(0))
        .unwrap();
    blob.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, world.blob(0));
    let requests = server.blob_requests();
    assert_eq!(requests.len(), 2);
    assert!(
        requests[1]
            .range()
            .is_some_and(|range| !range.starts_with("bytes=0-")),
        "{requests:?}"
    );
}

#[test]
fn waits_have_deadlines() {
    let world = World::new();
    let mut config = quick();
    config.timeouts.connect = Duration::from_millis(100);
    config.timeouts.answer = Duration::from_millis(100);
    config.timeouts.stall = Duration::from_millis(200);
    config.retries.count = 1;
    let long = Duration::from_secs(600);
    let cases = [
        (Fault::Stall(long), config.clone()),
        (Fault::StallAfter(10, long), config.clone()),
        (
            Fault::SlowDrip(1, Duration::from_millis(20)),
            Config {
                timeouts: registry::Timeouts {
                    operation: Duration::from_millis(300),
                    ..config.timeouts
                },
                ..config
            },
        ),
    ];
    for (fault, config) in cases {
        let server = world
            .registry()
            .fault(When::always(), fault.clone())
            .start()
            .unwrap();
        let error = world
            .client(config)
            .document(&reference(&server), &[])
            .unwrap_err();
        assert!(
            matches!(error, Error::Unavailable { .. }),
            "{fault:?}: {error:?}"
        );
        assert!(error.to_string().contains("deadline passed"), "{error}");
    }
}

#[test]
fn registries_say_when_to_come_again() {
    let world = World::new();
    let once = When::path("/manifests/").nth(1);
    let server = world
        .registry()
        .fault(once.clone(), Fault::RetryAfter(429, 1))
        .start()
        .unwrap();
    let client = world.client(quick());
    client.document(&reference(&server), &[]).unwrap();
    let requests = server.requests_for("/manifests/");
    assert!(requests[1].started - requests[0].started >= Duration::from_secs(1));
    assert_eq!(client.metrics().pauses.get(), 1);
    // Longer than we are willing to wait: said at once.
    let server = world
        .registry()
        .fault(once, Fault::RetryAfter(429, 3600))
        .start()
        .unwrap();
    let error = client.document(&reference(&server), &[]).unwrap_err();
    assert!(error.to_string().contains("429"), "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn tags_come_in_pages() {
    let world = World::new();
    for tag in ["0", "2", "10", "latest", "v1.0_x"] {
        world
            .image
            .write_to(world.path(), "group/app", tag)
            .unwrap();
    }
    for (page, requests) in [(100, 1), (3, 2), (1, 6)] {
        let server = world.registry().page(page).start().unwrap();
        let tags = world.client(quick()).tags(&reference(&server)).unwrap();
        assert_eq!(tags, ["0", "1", "10", "2", "latest", "v1.0_x"]);
        assert_eq!(server.requests().len(), requests);
    }
    let server = world.registry().start().unwrap();
    let absent = server.reference("none", "1").parse().unwrap();
    assert!(matches!(
        world.client(quick()).tags(&absent),
        Err(Error::NotFound { .. })
    ));
    server.fault(When::always(), Fault::Body(b"[]".to_vec()));
    assert!(matches!(
        world.client(quick()).tags(&absent),
        Err(Error::Refused { .. })
    ));
}
