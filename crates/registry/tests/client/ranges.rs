use registry::{Config, Error};
use testkit::{Access, BlobStore, Fault, RangeMode, When};

use crate::support::{World, login, password, quick, reference};

#[test]
fn single_ranges() {
    let world = World::new();
    let size = world.blob(0).len() as u64;
    let server = world.registry().start().unwrap();
    let client = world.client(quick());
    for (offset, length) in [(0, 1), (0, size), (size - 1, 1), (1000, 50_000), (5, 0)] {
        let bytes = client
            .blob_range(&reference(&server), &world.digest(0), offset, length)
            .unwrap();
        assert_eq!(
            bytes,
            world.blob(0)[offset as usize..(offset + length) as usize]
        );
    }
    // Beyond the end: an error, never fewer bytes.
    for (offset, length) in [(size, 1), (size - 1, 2), (u64::MAX - 5, 10)] {
        assert!(
            client
                .blob_range(&reference(&server), &world.digest(0), offset, length)
                .is_err()
        );
    }
}

#[test]
fn faults_in_ranges() {
    let world = World::new();
    let (offset, length) = (50_000_u64, 20_000_u64);
    for (fault, times, skip, good) in [
        (Fault::IgnoreRange, 99, 1 << 20, true),
        (Fault::IgnoreRange, 99, offset, true),
        (Fault::IgnoreRange, 99, offset - 1, false),
        (Fault::Truncate(100), 2, 0, true),
        (Fault::Truncate(100), 99, 0, false),
        (Fault::StatusCode(500), 2, 0, true),
        (Fault::StatusCode(416), 1, 0, false),
        (Fault::Body(b"short".to_vec()), 99, 1 << 20, false),
    ] {
        let when = When::path("/blobs/").first(times);
        let server = world.registry().fault(when, fault.clone()).start().unwrap();
        let client = world.client(Config {
            skip_bound: Some(skip),
            ..quick()
        });
        let result = client.blob_range(&reference(&server), &world.digest(0), offset, length);
        match result {
            Ok(bytes) => {
                assert!(good, "{fault:?}");
                assert_eq!(bytes, world.blob(0)[50_000..70_000], "{fault:?}");
            }
            Err(error) => {
                assert!(!good, "{fault:?}: {error}");
                let ignored = matches!(error, Error::RangeIgnored { .. });
                assert_eq!(ignored, fault == Fault::IgnoreRange, "{fault:?}: {error:?}");
            }
        }
    }
}

#[test]
fn redirects_are_remembered_and_renewed() {
    let world = World::new();
    let store = BlobStore::new(world.path());
    let storage = store.serve().start().unwrap();
    let access = Access::bearer("/token", "s").user("user", "pass");
    let server = world
        .registry()
        .access(&access)
        .redirect_blobs(&storage.url(), &store)
        .start()
        .unwrap();
    let client = world.client(login(&server, password("user", "pass")));
    let range = |offset: usize| {
        let bytes = client
            .blob_range(&reference(&server), &world.digest(0), offset as u64, 100)
            .unwrap();
        assert_eq!(bytes, world.blob(0)[offset..offset + 100]);
    };
    range(0);
    let asked = server.blob_requests().len();
    (1..10).for_each(|at| range(at * 1000));
    assert_eq!(
        server.blob_requests().len(),
        asked,
        "the registry was asked again"
    );
    assert_eq!(client.metrics().redirects_reused.get(), 9);
    // Signatures end: 403 leads back to the registry, once.
    store.expire();
    range(70_000);
    range(80_000);
    assert_eq!(server.blob_requests().len(), asked + 1);
    assert_eq!(client.metrics().redirects_expired.get(), 1);
    // Storage that breaks is got around the same way.
    storage.fault(When::path("/store/").nth(1), Fault::Close);
    range(90_000);
    assert_eq!(server.blob_requests().len(), asked + 2);
    // Another host was never told who we are.
    let told = storage.requests().iter().any(|request| {
        request
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("authorization"))
    });
    assert!(!told);
}

#[test]
fn redirects_that_lead_nowhere() {
    let world = World::new();
    for (place, complaint) in [
        ("ftp://x/y", "no URL"),
        ("http://", "no URL"),
        ("/v2/group/app/blobs/loop", "too often"),
        ("http://127.0.0.1:1/x?secret=hunter2", "no connection"),
    ] {
        let fault = Fault::Redirect(place.to_owned());
        let server = world
            .registry()
            .fault(When::path("/blobs/"), fault)
            .start()
            .unwrap();
        let error = world
            .client(quick())
            .blob_range(&reference(&server), &world.digest(0), 0, 10)
            .unwrap_err();
        assert!(error.to_string().contains(complaint), "{place}: {error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn several_ranges_at_once() {
    let world = World::new();
    let wanted = [(10, 5), (70_000, 1000), (20, 0), (200, 1)];
    // Requests at the first call, and at the second when the mode is known.
    for (mode, first, second) in [
        (RangeMode::Multipart, 1, 1),
        (RangeMode::Whole, 4, 3),
        (RangeMode::Refused(416), 4, 3),
        (RangeMode::Refused(400), 4, 3),
        (RangeMode::Refused(501), 4, 3),
    ] {
        for redirected in [false, true] {
            let store = BlobStore::new(world.path()).ranges(mode);
            let storage = store.serve().start().unwrap();
            let mut builder = world.registry().ranges(mode);
            if redirected {
                builder = builder.redirect_blobs(&storage.url(), &store);
            }
            let server = builder.start().unwrap();
            let client = world.client(quick());
            for expected in [first, second] {
                let parts = client
                    .multi_range(&reference(&server), &world.digest(0), &wanted)
                    .unwrap();
                for ((offset, length), part) in wanted.iter().zip(&parts) {
                    let (start, end) = (*offset as usize, (offset + length) as usize);
                    assert_eq!(part, &world.blob(0)[start..end], "{mode:?}");
                }
                let requests = if redirected {
                    storage.requests()
                } else {
                    server.requests()
                };
                assert_eq!(requests.len(), expected, "{mode:?} {redirected}");
                server.clear_log();
                storage.clear_log();
            }
        }
    }
}

#[test]
fn malformed_parts_are_no_bytes() {
    let world = World::new();
    for fault in [Fault::Truncate(40), Fault::FlipByte(5), Fault::FlipByte(60)] {
        let server = world
            .registry()
            .ranges(RangeMode::Multipart)
            .start()
            .unwrap();
        server.fault(When::path("/blobs/").nth(1), fault.clone());
        let result = world.client(quick()).multi_range(
            &reference(&server),
            &world.digest(0),
            &[(0, 2), (9, 2)],
        );
        if let Ok(parts) = result {
            assert_eq!(
                parts,
                [&world.blob(0)[..2], &world.blob(0)[9..11]],
                "{fault:?}"
            );
        }
    }
}

#[test]
fn tails() {
    let world = World::new();
    let blob = world.blob(0);
    let size = blob.len() as u64;
    let server = world.registry().start().unwrap();
    for (length, requests) in [(1000, 1), (size, 1), (size + 7, 1)] {
        let client = world.client(quick());
        let asked = server.blob_requests().len();
        let tail = client
            .blob_tail(&reference(&server), &world.digest(0), length)
            .unwrap();
        let from = blob.len() - length.min(size) as usize;
        assert_eq!((tail.size, &tail.bytes[..]), (size, &blob[from..]));
        assert_eq!(server.blob_requests().len(), asked + requests, "{length}");
    }
    for fault in [
        Fault::IgnoreRange,
        Fault::StatusCode(416),
        Fault::StatusCode(501),
        Fault::StatusCode(503),
        Fault::Truncate(50),
    ] {
        let when = When::path("/blobs/").first(1);
        let server = world.registry().fault(when, fault.clone()).start().unwrap();
        for skip in [0, 1 << 20] {
            let client = world.client(Config {
                skip_bound: Some(skip),
                ..quick()
            });
            let tail = client
                .blob_tail(&reference(&server), &world.digest(0), 1000)
                .unwrap();
            assert_eq!(tail.bytes, blob[blob.len() - 1000..], "{fault:?}");
            assert_eq!(tail.size, size, "{fault:?}");
        }
    }
}
