//! The chain of trust against servers that lie, are old or broken. Everything tampered with is signed anew where a liar could do so.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use cvmfs::{Error, Refresh, Repository};
use support::server::{Fault, Server};
use support::signer::{line, manifest, manifest_body, whitelist, whitelist_body, with_line};
use support::{Client, FQRN, backend_file, fixture, refused};

const MANIFEST: &str = ".cvmfspublished";
const WHITELIST: &str = ".cvmfswhitelist";

/// Opens the fixture with one file replaced.
fn open_with(path: &str, body: Vec<u8>) -> Result<Repository, Error> {
    let server = Server::fixture();
    server.replace(path, body);
    let client = Client::new();
    client.open(client.config(&[&server.url()]))
}

#[test]
fn signed_anew_is_accepted() {
    open_with(MANIFEST, manifest(&manifest_body())).unwrap();
    open_with(WHITELIST, whitelist(&whitelist_body())).unwrap();
}

#[test]
fn tampered_manifests() {
    let original = backend_file(MANIFEST);
    let text = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = original
            .windows(from.len())
            .position(|window| window == from.as_bytes())
            .unwrap();
        [&original[..at], to.as_bytes(), &original[at + from.len()..]].concat()
    };
    let error = refused(open_with(MANIFEST, text("D240", "D241")));
    assert!(
        matches!(
            error,
            Error::BadSignature {
                what: "manifest",
                ..
            }
        ),
        "{error}"
    );
    // The hash is made to fit, the signature cannot be.
    let mut forged = manifest(&with_line(&manifest_body(), 'D', "241"));
    let length = forged.len();
    forged[length - 256..].copy_from_slice(&original[original.len() - 256..]);
    let error = refused(open_with(MANIFEST, forged));
    assert!(
        matches!(
            error,
            Error::BadSignature {
                what: "manifest",
                ..
            }
        ),
        "{error}"
    );
    for cut in [0, 10, 300, original.len() - 1] {
        let error = refused(open_with(MANIFEST, original[..cut].to_vec()));
        assert!(
            matches!(error, Error::Malformed { .. } | Error::BadSignature { .. }),
            "{cut}: {error}"
        );
    }
}

#[test]
fn manifests_that_are_not_ours() {
    let other = with_line(&manifest_body(), 'N', "other.test.local");
    let error = refused(open_with(MANIFEST, manifest(&other)));
    assert!(
        matches!(
            error,
            Error::WrongRepository {
                what: "manifest",
                ..
            }
        ),
        "{error}"
    );
    let nameless: String = manifest_body()
        .lines()
        .filter(|line| !line.starts_with('N'))
        .map(|line| format!("{line}\n"))
        .collect();
    let error = refused(open_with(MANIFEST, manifest(&nameless)));
    assert!(matches!(error, Error::WrongRepository { .. }), "{error}");
    let unsigned: String = manifest_body()
        .lines()
        .filter(|line| !line.starts_with('X'))
        .map(|line| format!("{line}\n"))
        .collect();
    let error = refused(open_with(MANIFEST, manifest(&unsigned)));
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
}

#[test]
fn whitelists_that_do_not_hold() {
    let body = whitelist_body();
    let error = refused(open_with(
        WHITELIST,
        whitelist(&with_line(&body, 'N', "other.test.local")),
    ));
    assert!(
        matches!(
            error,
            Error::WrongRepository {
                what: "whitelist",
                ..
            }
        ),
        "{error}"
    );
    let fingerprint = body.lines().nth(3).unwrap().to_owned();
    let other = body.replace(&fingerprint, &fingerprint.replace("54:4F", "54:40"));
    let error = refused(open_with(WHITELIST, whitelist(&other)));
    assert!(matches!(error, Error::NotWhitelisted { .. }), "{error}");
    assert!(error.to_string().contains(&fingerprint), "{error}");
    let mut forged = whitelist(&with_line(&body, 'E', "20990101000000"));
    let length = forged.len();
    let original = backend_file(WHITELIST);
    forged[length - 256..].copy_from_slice(&original[original.len() - 256..]);
    let error = refused(open_with(WHITELIST, forged));
    assert!(
        matches!(
            error,
            Error::BadSignature {
                what: "whitelist",
                ..
            }
        ),
        "{error}"
    );
    // The manifest's scheme is not the whitelist's.
    let error = refused(open_with(WHITELIST, manifest(&body)));
    assert!(
        matches!(
            error,
            Error::BadSignature {
                what: "whitelist",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn expiry() {
    // Signed validly by the real tools; they expired, expire and will expire, seen from the fixture's day.
    for (days, now, expected) in [
        ("-5", "2026-11-25T00:00:00Z", false),
        ("0", "2026-11-26T00:00:00Z", false),
        ("30", "2026-11-25T00:00:00Z", true),
        ("30", "2027-01-25T00:00:00Z", false),
    ] {
        let server = Server::fixture();
        let body = std::fs::read(
            fixture()
                .join("negative")
                .join(format!("cvmfswhitelist.days_{days}")),
        )
        .unwrap();
        server.replace(WHITELIST, body);
        let mut client = Client::new();
        client.now = now.parse().unwrap();
        let opened = client.open(client.config(&[&server.url()]));
        match opened {
            Ok(_) => assert!(expected, "{days} at {now}"),
            Err(Error::Expired { .. }) => assert!(!expected, "{days} at {now}"),
            Err(error) => panic!("{days} at {now}: {error}"),
        }
    }
}

#[test]
fn other_fingerprint_algorithms() {
    let certificate = format!("{FQRN}.crt");
    let pem = std::fs::read(fixture().join("keys").join(certificate)).unwrap();
    let certificate = cvmfs::Certificate::from_pem(&pem).unwrap();
    let body = whitelist_body();
    let fingerprint = body.lines().nth(3).unwrap().to_owned();
    for algorithm in [cvmfs::Algorithm::Ripemd160, cvmfs::Algorithm::Shake128] {
        let other = body.replace(&fingerprint, &certificate.fingerprint(algorithm));
        assert_ne!(body, other);
        open_with(WHITELIST, whitelist(&other)).unwrap();
    }
}

#[test]
fn public_keys() {
    let server = Server::fixture();
    let client = Client::new();
    let mut config = client.config(&[&server.url()]);
    config.public_keys = vec![client.directory.path().join("absent.pub")];
    let error = refused(client.open(config.clone()));
    assert!(
        matches!(error, Error::PublicKey { .. }) && error.to_string().contains("absent.pub"),
        "{error}"
    );
    config.public_keys = Vec::new();
    assert!(matches!(
        refused(client.open(config.clone())),
        Error::PublicKey { .. }
    ));
    assert_eq!(server.log(), [], "no key, no request");

    // The wrong key: that of the certificate.
    let wrong = client.directory.path().join("wrong");
    std::fs::create_dir(&wrong).unwrap();
    let private =
        std::fs::read_to_string(fixture().join("keys").join(format!("{FQRN}.key"))).unwrap();
    use rsa::pkcs8::{DecodePrivateKey, EncodePublicKey, LineEnding};
    let private = rsa::PrivateKey::from_pkcs8_pem(&private).unwrap();
    let public = private
        .to_public_key()
        .to_public_key_pem(LineEnding::LF)
        .unwrap();
    std::fs::write(wrong.join("wrong.pub"), public).unwrap();
    config.public_keys = vec![wrong.clone()];
    let error = refused(client.open(config.clone()));
    assert!(
        matches!(
            error,
            Error::BadSignature {
                what: "whitelist",
                ..
            }
        ),
        "{error}"
    );
    // Any of several keys will do; other files of a directory are left alone.
    let right = fixture().join("keys").join(format!("{FQRN}.pub"));
    std::fs::copy(right, wrong.join("right.pub")).unwrap();
    std::fs::write(wrong.join("README"), "no key").unwrap();
    client.open(config.clone()).unwrap();
    std::fs::write(wrong.join("broken.pub"), "no key").unwrap();
    assert!(matches!(
        refused(client.open(config)),
        Error::PublicKey { .. }
    ));
}

#[test]
fn blacklists() {
    let server = Server::fixture();
    let client = Client::new();
    let mut config = client.config(&[&server.url()]);
    let blacklist = client.directory.path().join("blacklist");
    config.blacklists = vec![blacklist.clone(), client.directory.path().join("absent")];
    let repository = client.open(config.clone()).unwrap();
    for rule in [
        "54:4F:4A:4A:3A:41:37:11:B0:C2:ED:8F:0E:9D:DC:4B:6A:AD:16:88 # stolen\n".to_owned(),
        format!("<{FQRN} 60\n"),
    ] {
        std::fs::write(&blacklist, &rule).unwrap();
        let error = refused(client.open(config.clone()));
        assert!(
            matches!(error, Error::Blacklisted { .. }),
            "{rule}: {error}"
        );
    }
    // Also what is shown already must go.
    assert!(matches!(
        refused(repository.refresh()),
        Error::Blacklisted { .. }
    ));
    std::fs::write(&blacklist, format!("<{FQRN} 59\n<other.test.local 99\n")).unwrap();
    client.open(config).unwrap();
    assert_eq!(repository.refresh().unwrap(), Refresh::UpToDate);
}

#[test]
fn rollback() {
    let server = Server::fixture();
    let client = Client::new();
    let config = client.config(&[&server.url()]);
    client.open(config.clone()).unwrap();
    let time: i64 = line(&manifest_body(), 'T').parse().unwrap();
    let older = with_line(&manifest_body(), 'T', &(time - 1).to_string());
    server.replace(MANIFEST, manifest(&older));
    let error = refused(client.open(config.clone()));
    assert!(matches!(error, Error::RolledBack { .. }), "{error}");
    server.replace(MANIFEST, manifest(&manifest_body()));
    client.open(config.clone()).unwrap();
    // Without the breadcrumb nothing is known of later times.
    std::fs::remove_dir_all(&config.state_directory).unwrap();
    server.replace(MANIFEST, manifest(&older));
    client.open(config).unwrap();
}

/// A manifest of revision `number` with the root catalog of tag v2.
fn other_revision(number: u64) -> Vec<u8> {
    let body = with_line(&manifest_body(), 'S', &number.to_string());
    let body = with_line(&body, 'C', "5c95e4c6e8f270473a220e4a7321cf752220783c");
    manifest(&body)
}

#[test]
fn refreshing() {
    let server = Server::fixture();
    let client = Client::new();
    let repository = client.open(client.config(&[&server.url()])).unwrap();
    let (before, old_root) = (repository.current(), repository.root());
    assert_eq!(repository.refresh().unwrap(), Refresh::UpToDate);
    for number in [58, 59] {
        server.replace(MANIFEST, other_revision(number));
        assert_eq!(repository.refresh().unwrap(), Refresh::UpToDate, "{number}");
    }
    assert_eq!(repository.current().root_hash(), before.root_hash());
    server.replace(MANIFEST, other_revision(60));
    assert_eq!(repository.refresh().unwrap(), Refresh::Changed);
    let after = repository.current();
    assert_eq!(after.number(), 60);
    assert_ne!(after.root_hash(), before.root_hash());
    // What was handed out stays good.
    assert_ne!(repository.root(), old_root);
    assert!(
        repository
            .lookup_child(old_root, b"plain")
            .unwrap()
            .is_some()
    );
    assert!(before.lookup(b"/plain/hello.txt").unwrap().is_some());
    assert_eq!(repository.metrics().revision.get(), 60);
    // And was remembered.
    server.stop();
    let offline = client.open(client.config(&[&server.url()])).unwrap();
    assert_eq!(offline.current().number(), 60);
    assert_eq!(offline.current().root_hash(), after.root_hash());
}

#[test]
fn failed_refreshes_keep_the_revision() {
    let server = Server::fixture();
    let client = Client::new();
    let repository = client.open(client.config(&[&server.url()])).unwrap();
    server.fault(MANIFEST, Fault::Status(503, ""), 9);
    assert!(refused(repository.refresh()).is_unavailable());
    server.fault(MANIFEST, Fault::Status(503, ""), 0);
    let mut forged = other_revision(60);
    *forged.last_mut().unwrap() ^= 1;
    server.replace(MANIFEST, forged);
    assert!(matches!(
        refused(repository.refresh()),
        Error::BadSignature { .. }
    ));
    assert_eq!(repository.metrics().failed_refreshes.get(), 2);
    assert_eq!(repository.current().number(), 59);
    assert_eq!(repository.time_to_live().as_secs(), 180);
    assert!(repository.current().lookup(b"/plain").unwrap().is_some());
    server.replace(MANIFEST, manifest(&manifest_body()));
    assert_eq!(repository.refresh().unwrap(), Refresh::UpToDate);
    assert_eq!(repository.time_to_live().as_secs(), 240);
    server.replace(MANIFEST, other_revision(60));
    assert_eq!(repository.refresh().unwrap(), Refresh::Changed);
    assert_eq!(repository.time_to_live().as_secs(), 240);
}

#[test]
fn a_second_host_mends_what_does_not_verify() {
    let (broken, good) = (Server::fixture(), Server::fixture());
    broken.replace(
        WHITELIST,
        whitelist(&with_line(&whitelist_body(), 'E', "20260101000000")),
    );
    let client = Client::new();
    client
        .open(client.config(&[&broken.url(), &good.url()]))
        .unwrap();
    assert_eq!((broken.count(MANIFEST), good.count(MANIFEST)), (1, 1));
    // Once is enough: two broken ones are an error.
    let third = Server::fixture();
    let client = Client::new();
    good.replace(MANIFEST, b"nonsense".to_vec());
    let error = refused(client.open(client.config(&[&broken.url(), &good.url(), &third.url()])));
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
    assert_eq!(third.log(), []);
}

#[test]
fn offline_start_needs_a_warm_cache() {
    let server = Server::fixture();
    let client = Client::new();
    let config = client.config(&[&server.url()]);
    let online = client.open(config.clone()).unwrap();
    assert_eq!(
        online
            .current()
            .read_small(b"/plain/hello.txt", 100)
            .unwrap()
            .unwrap(),
        b"Hello CernVM-FS\n"
    );
    server.stop();
    let offline = client.open(config.clone()).unwrap();
    assert_eq!(offline.current().number(), 59);
    assert_eq!(offline.time_to_live().as_secs(), 180);
    assert_eq!(
        offline
            .current()
            .read_small(b"/plain/hello.txt", 100)
            .unwrap()
            .unwrap(),
        b"Hello CernVM-FS\n"
    );
    let error = refused(offline.current().read_small(b"/plain/one", 100));
    assert!(error.is_unavailable(), "{error}");
    // Another cache has nothing to show.
    let cold = Client::new();
    let error = refused(cold.open(cold.config(&[&server.url()])));
    assert!(
        error.is_unavailable() && error.to_string().contains(&server.url()),
        "{error}"
    );
    // The breadcrumb alone does not help.
    let mut config_of_cold = cold.config(&[&server.url()]);
    config_of_cold.state_directory = config.state_directory;
    assert!(refused(cold.open(config_of_cold)).is_unavailable());
}

#[test]
fn what_does_not_verify_is_no_reason_to_start_offline() {
    let server = Server::fixture();
    let client = Client::new();
    let config = client.config(&[&server.url()]);
    client.open(config.clone()).unwrap();
    server.replace(MANIFEST, b"nonsense".to_vec());
    assert!(matches!(
        refused(client.open(config.clone())),
        Error::Malformed { .. }
    ));
    server.replace(MANIFEST, other_revision(60));
    server.fault(WHITELIST, Fault::Status(404, ""), 9);
    assert!(refused(client.open(config)).is_unavailable());
}

#[test]
fn a_pinned_root_hash_needs_no_signature() {
    let server = Server::fixture();
    let client = Client::new();
    server.fault(MANIFEST, Fault::Status(500, ""), 9);
    let mut config = client.config(&[&server.url()]);
    config.public_keys = Vec::new();
    config.open_at = cvmfs::OpenAt::RootHash(line(&manifest_body(), 'C').parse().unwrap());
    let repository = client.open(config.clone()).unwrap();
    assert_eq!(repository.current().number(), 59);
    assert_eq!(repository.refresh().unwrap(), Refresh::UpToDate);
    assert_eq!(server.count(MANIFEST), 0);
    config.open_at = cvmfs::OpenAt::RootHash(
        line(&manifest_body(), 'C')
            .replace('9', "8")
            .parse()
            .unwrap(),
    );
    assert!(refused(client.open(config)).is_unavailable());
}

#[test]
fn impossible_configurations() {
    let client = Client::new();
    assert!(matches!(
        refused(client.open(client.config(&[]))),
        Error::Config { .. }
    ));
    let mut config = client.config(&["http://127.0.0.1:1"]);
    config.fqrn = "../etc".to_owned();
    assert!(matches!(refused(client.open(config)), Error::Config { .. }));
}
