//! No secret in messages, logs or to strangers.

use std::io;
use std::sync::{Arc, Mutex};

use registry::{Config, Document};
use testkit::{Access, BlobStore, Fault, Registry, When};

use crate::support::{World, login, password, quick, reference};

const SECRETS: [&str; 5] = [
    "hunter2",
    "secret-token",
    "secret-0",
    "aHVudGVyMg",
    "dXNlcjpodW50ZXIy",
];

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn messages_and_logs_hold_no_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // For all threads: requests are sent by the runtime's. No other test of this file logs into it.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let world = World::new();
    let store = BlobStore::new(world.path());
    let storage = store.serve().start().unwrap();
    let access = Access::bearer("/token", "s").user("user", "hunter2");
    let builder = world
        .registry()
        .access(&access)
        .redirect_blobs(&storage.url(), &store);
    let server = builder.start().unwrap();
    let mut messages = String::new();
    let config = login(&server, password("user", "hunter2"));
    messages.push_str(&format!("{config:?}"));
    let client = world.client(config);
    let name = reference(&server);
    client.blob_range(&name, &world.digest(0), 0, 10).unwrap();
    for (server, when) in [(&*server, When::path("/v2/")), (&*storage, When::always())] {
        for fault in [
            Fault::StatusCode(403),
            Fault::Close,
            Fault::CloseMidHeader,
            Fault::StatusCode(401),
        ] {
            access.revoke();
            store.expire();
            server.fault(when.clone(), fault);
            let error = client
                .blob_range(&name, &world.digest(0), 0, 10)
                .unwrap_err();
            messages.push_str(&format!("{error} {error:?}"));
            server.clear_faults();
        }
    }
    let bad = world.client(login(&server, password("user", "hunter2\u{1}")));
    let error = bad.document(&name, &[]).unwrap_err();
    messages.push_str(&format!("{error} {error:?} {client:?}"));
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("request failed"), "nothing was logged");
    for secret in SECRETS {
        assert!(!messages.contains(secret), "{secret} in {messages}");
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[test]
fn strangers_are_told_nothing() {
    let world = World::new();
    let access = Access::basic().user("user", "hunter2");
    let stranger = world.registry().start().unwrap();
    let server = world.registry().access(&access).start().unwrap();
    let root = world.path().join("certs.d");
    let directory = root.join(server.address().to_string());
    std::fs::create_dir_all(&directory).unwrap();
    let toml = format!("server = '{}'\n[header]\nx-key = 'hunter2'", server.url());
    std::fs::write(directory.join("hosts.toml"), toml).unwrap();
    let client = world.client(Config {
        hosts_directories: vec![root],
        ..login(&server, password("user", "hunter2"))
    });
    let name = reference(&server);
    client.document(&name, &[]).unwrap();
    assert!(
        server
            .requests()
            .iter()
            .any(|request| request.headers.iter().any(|(key, _)| key == "x-key"))
    );
    // A redirect, and an upload that goes on elsewhere.
    let place = format!("{}/v2/group/app/manifests/1", stranger.url());
    server.fault(When::path("/manifests/"), Fault::Redirect(place));
    assert_eq!(
        client.document(&name, &[]).unwrap().bytes,
        world.image.manifest
    );
    let stolen = stranger.requests().iter().any(|request| {
        request.headers.iter().any(|(key, value)| {
            key == "x-key" || key == "authorization" || value.contains("hunter2")
        })
    });
    assert!(!stolen && !stranger.requests().is_empty());
}

#[test]
fn strangers_that_ask_get_no_token_of_ours() {
    // A redirect target that answers 401 with a challenge of its own.
    let world = World::new();
    let thief = Access::bearer("/token", "s").anonymous_pull();
    let stranger = Registry::serving(world.path())
        .access(&thief)
        .start()
        .unwrap();
    let server = world.registry().start().unwrap();
    let place = format!("{}/v2/group/app/manifests/1", stranger.url());
    server.fault(When::path("/manifests/"), Fault::Redirect(place));
    let client = world.client(login(&server, password("user", "hunter2")));
    assert!(client.document(&reference(&server), &[]).is_err());
    assert!(stranger.requests_for("/token").is_empty());
    let plain = Document::new(world.image.manifest.clone(), None, None).unwrap();
    server.clear_faults();
    assert_eq!(
        world
            .client(quick())
            .document(&reference(&server), &[])
            .unwrap(),
        plain
    );
}
