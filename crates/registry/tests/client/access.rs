use std::io::Read as _;
use std::time::Duration;

use registry::{Config, Credential, Error, Secret};
use testkit::{Access, Fault, Registry, Running, When};

use crate::support::{World, login, password, quick, reference};

fn pull(world: &World, server: &Running<Registry>, config: Config) -> Result<Vec<u8>, Error> {
    let client = world.client(config);
    let document = client.document(&reference(server), &[])?;
    assert_eq!(document.bytes, world.image.manifest);
    let mut bytes = Vec::new();
    let mut blob = client.blob(&reference(server), &world.descriptor(1))?;
    blob.read_to_end(&mut bytes).unwrap();
    Ok(bytes)
}

#[test]
fn every_kind_of_credentials() {
    let world = World::new();
    let identity = |text: &str| Some(Credential::Identity(Secret::new(text)));
    let user = || Some(password("user", "pass"));
    for (name, access, credential, good) in [
        ("basic", Access::basic().user("user", "pass"), user(), true),
        (
            "basic, wrong",
            Access::basic().user("user", "other"),
            user(),
            false,
        ),
        (
            "basic, none",
            Access::basic().user("user", "pass"),
            None,
            false,
        ),
        (
            "bearer",
            Access::bearer("/token", "s").user("user", "pass"),
            user(),
            true,
        ),
        (
            "bearer, wrong",
            Access::bearer("/token", "s").user("user", "other"),
            user(),
            false,
        ),
        (
            "anonymous",
            Access::bearer("/token", "s").anonymous_pull(),
            None,
            true,
        ),
        ("closed", Access::bearer("/token", "s"), None, false),
        (
            "gitlab",
            Access::gitlab().user("deploy-token-1", "pass"),
            Some(password("deploy-token-1", "pass")),
            true,
        ),
        (
            "odd service",
            Access::bearer("/a/b", "a b&c=d").user("user", "pass"),
            user(),
            true,
        ),
        (
            "identity",
            Access::bearer("/token", "s").identity("refresh"),
            identity("refresh"),
            true,
        ),
        (
            "identity, wrong",
            Access::bearer("/token", "s").identity("refresh"),
            identity("other"),
            false,
        ),
    ] {
        let server = world.registry().access(&access).start().unwrap();
        let config = credential.map_or_else(quick, |credential| login(&server, credential));
        match pull(&world, &server, config) {
            Ok(bytes) => assert!(good && bytes == world.blob(1), "{name}"),
            Err(error) => {
                assert!(
                    matches!(error, Error::Unauthorized { .. }),
                    "{name}: {error:?}"
                );
                assert!(!good, "{name}: {error}");
            }
        }
    }
}

#[test]
fn a_token_serves_until_it_ends() {
    let world = World::new();
    let minute = Duration::from_secs(60);
    for (name, lifetime, stated, tokens) in [
        ("long", minute, Some(60), 1),
        ("unstated", minute, None, 1),
        // Renewed before each request, since it says that it is about to end.
        ("stated short", minute, Some(0), 6),
    ] {
        let access = Access::bearer("/token", "s")
            .user("user", "pass")
            .lifetime(lifetime, stated);
        let server = world.registry().access(&access).start().unwrap();
        let client = world.client(login(&server, password("user", "pass")));
        for _ in 0..6 {
            client.document(&reference(&server), &[]).unwrap();
        }
        assert_eq!(access.issued(), tokens, "{name}");
        assert_eq!(client.metrics().tokens.get(), tokens as u64, "{name}");
    }
}

#[test]
fn tokens_that_end_in_mid_run_are_renewed() {
    let world = World::new();
    let access = Access::gitlab().user("user", "pass");
    let server = world.registry().access(&access).start().unwrap();
    let client = world.client(login(&server, password("user", "pass")));
    let reference = reference(&server);
    for round in 1..=4 {
        let bytes = client
            .blob_range(&reference, &world.digest(0), 1000 * round, 500)
            .unwrap();
        let start = 1000 * round as usize;
        assert_eq!(bytes, world.blob(0)[start..start + 500]);
        assert_eq!(access.issued(), round as usize);
        access.revoke();
    }
}

#[test]
fn many_threads_share_one_token() {
    let world = World::new();
    let access = Access::bearer("/token", "s").user("user", "pass");
    let server = world.registry().access(&access).start().unwrap();
    let client = world.client(login(&server, password("user", "pass")));
    for round in 1..=3 {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    client
                        .blob_range(&reference(&server), &world.digest(0), 0, 10)
                        .unwrap()
                });
            }
        });
        assert_eq!(access.issued(), round);
        access.revoke();
    }
}

#[test]
fn broken_token_servers() {
    let world = World::new();
    for (fault, complaint) in [
        (Fault::StatusCode(503), "503"),
        (Fault::Body(b"{}".to_vec()), "gives no token"),
        (
            Fault::Body(br#"{"token":"hunter2\n"}"#.to_vec()),
            "forbidden characters",
        ),
        (Fault::Body(br#"{"token":"hunter2""#.to_vec()), "malformed"),
        (Fault::Body(vec![b' '; 2 << 20]), "more than"),
        (Fault::Close, "transfer broke"),
    ] {
        let access = Access::bearer("/token", "s").user("user", "pass");
        let server = world.registry().access(&access).start().unwrap();
        server.fault(When::path("/token"), fault);
        let error = pull(&world, &server, login(&server, password("user", "pass")))
            .unwrap_err()
            .to_string();
        assert!(error.contains(complaint), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    // A passing failure of the token server passes.
    let access = Access::bearer("/token", "s").user("user", "pass");
    let server = world.registry().access(&access).start().unwrap();
    server.fault(When::path("/token").first(2), Fault::StatusCode(500));
    pull(&world, &server, login(&server, password("user", "pass"))).unwrap();
}
