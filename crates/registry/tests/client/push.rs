use std::io::Read as _;

use image::{Digest, Reference};
use registry::{Client, Config, Document, Error, Pushed};
use testkit::{Access, Fault, Registry, Running, When};

use crate::support::{World, login, password, quick};

fn reference(server: &Running<Registry>, name: &str) -> Reference {
    server.reference(name, "new").parse().unwrap()
}

fn push(
    client: &Client,
    reference: &Reference,
    bytes: &[u8],
    from: Option<&str>,
) -> Result<Pushed, Error> {
    client.push_blob(
        reference,
        &Digest::of(bytes),
        bytes.len() as u64,
        &mut &bytes[..],
        from,
    )
}

#[test]
fn an_image_is_pushed_and_pulled() {
    let world = World::new();
    for chunk in [1 << 20, 100_000, 1000] {
        let directory = tempfile::tempdir().unwrap();
        let access = Access::bearer("/token", "s").user("user", "pass");
        let server = Registry::serving(directory.path())
            .access(&access)
            .start()
            .unwrap();
        let client = world.client(Config {
            chunk_size: Some(chunk),
            ..login(&server, password("user", "pass"))
        });
        let target = reference(&server, "other/name");
        let manifest = Document::new(world.image.manifest.clone(), None, None).unwrap();
        // Blobs first: the registry insists.
        let early = client.push_manifest(&target, &manifest).unwrap_err();
        assert!(
            matches!(early, Error::Refused { .. })
                && early.to_string().contains("MANIFEST_BLOB_UNKNOWN")
        );
        for bytes in [&world.image.config[..], world.blob(0), world.blob(1)] {
            assert_eq!(
                push(&client, &target, bytes, None).unwrap(),
                Pushed::Uploaded
            );
            assert_eq!(
                push(&client, &target, bytes, None).unwrap(),
                Pushed::Existed
            );
            access.revoke();
        }
        assert_eq!(
            client.push_manifest(&target, &manifest).unwrap(),
            manifest.digest
        );
        assert_eq!(client.document(&target, &[]).unwrap(), manifest);
        let mut bytes = Vec::new();
        client
            .blob(&target, &world.descriptor(0))
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        assert_eq!(bytes, world.blob(0));
        let patches = server
            .requests()
            .iter()
            .filter(|request| request.method == "PATCH")
            .count();
        assert_eq!(patches > 0, chunk < world.blob(0).len(), "{chunk}");
    }
}

#[test]
fn chunks_go_on_after_failures() {
    let world = World::new();
    for (fault, when) in [
        (Fault::StatusCode(500), When::path("uploads/upload-").nth(2)),
        (Fault::Close, When::path("uploads/upload-").nth(3)),
        (
            Fault::StatusCode(503),
            When::path("/blobs/uploads/").first(2),
        ),
        (Fault::RetryAfter(429, 0), When::path("digest=").nth(1)),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let server = Registry::serving(directory.path())
            .fault(when, fault.clone())
            .start()
            .unwrap();
        let client = world.client(Config {
            chunk_size: Some(60_000),
            ..quick()
        });
        let target = reference(&server, "a");
        assert_eq!(
            push(&client, &target, world.blob(0), None).unwrap(),
            Pushed::Uploaded,
            "{fault:?}"
        );
        let size = client.head_blob(&target, &world.digest(0)).unwrap();
        assert_eq!(size, Some(world.blob(0).len() as u64));
    }
}

#[test]
fn mounts_from_another_repository() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let access = Access::bearer("/token", "s").user("user", "pass");
    let server = Registry::serving(directory.path())
        .access(&access)
        .scoped()
        .start()
        .unwrap();
    let client = world.client(login(&server, password("user", "pass")));
    let (one, two, three) = (
        reference(&server, "one"),
        reference(&server, "two"),
        reference(&server, "three"),
    );
    assert_eq!(
        push(&client, &one, world.blob(0), None).unwrap(),
        Pushed::Uploaded
    );
    assert_eq!(
        push(&client, &two, world.blob(0), Some("one")).unwrap(),
        Pushed::Mounted
    );
    assert_eq!(
        push(&client, &three, world.blob(0), Some("none")).unwrap(),
        Pushed::Uploaded
    );
    let scopes = server.requests_for("/token?");
    assert!(scopes.iter().any(|request| {
        request
            .path
            .contains("scope=repository%3Atwo%3Apull%2Cpush")
            && request.path.contains("scope=repository%3Aone%3Apull")
    }));
}

#[test]
fn what_goes_wrong_is_said() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let server = Registry::serving(directory.path()).start().unwrap();
    let client = world.client(quick());
    let target = reference(&server, "a");
    let result = client.push_blob(&target, &Digest::of(b"x"), 1, &mut &b"y"[..], None);
    assert!(result.unwrap_err().to_string().contains("DIGEST_INVALID"));
    let result = client.push_blob(&target, &Digest::of(b"xyz"), 3, &mut &b"xy"[..], None);
    assert!(matches!(result, Err(Error::Source { .. })), "{result:?}");
    assert_eq!(client.head_blob(&target, &Digest::of(b"x")).unwrap(), None);

    let access = Access::bearer("/token", "s").anonymous_pull();
    let closed = Registry::serving(directory.path())
        .access(&access)
        .start()
        .unwrap();
    let result = push(&client, &reference(&closed, "a"), b"z", None);
    assert!(
        matches!(result, Err(Error::Unauthorized { .. })),
        "{result:?}"
    );
}
