//! Signs manifests and whitelists with the fixture's keys.

use cvmfs::{Algorithm, Signed};
use rsa::PrivateKey;
use rsa::pkcs1v15::Pkcs1v15Sign;
use rsa::pkcs8::DecodePrivateKey;
use sha1::Digest as _;

use super::{FQRN, backend_file, fixture};

fn key(kind: &str) -> PrivateKey {
    let path = fixture().join("keys").join(format!("{FQRN}.{kind}"));
    PrivateKey::from_pkcs8_pem(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn frame(body: &str, sign: impl Fn(&str) -> Vec<u8>) -> Vec<u8> {
    let hash = Algorithm::Sha1.digest(body.as_bytes()).to_string();
    let signature = sign(&hash);
    [body.as_bytes(), b"--\n", hash.as_bytes(), b"\n", &signature].concat()
}

/// A manifest, signed with the certificate's key.
pub(crate) fn manifest(body: &str) -> Vec<u8> {
    frame(body, |hash| {
        let digest = sha1::Sha1::digest(hash.as_bytes());
        key("key")
            .sign(Pkcs1v15Sign::new::<sha1::Sha1>(), &digest)
            .unwrap()
    })
}

/// A whitelist, signed with the master key.
pub(crate) fn whitelist(body: &str) -> Vec<u8> {
    frame(body, |hash| {
        key("masterkey")
            .sign(Pkcs1v15Sign::new_unprefixed(), hash.as_bytes())
            .unwrap()
    })
}

/// The signed lines of the fixture's manifest.
pub(crate) fn manifest_body() -> String {
    Signed::parse(&backend_file(".cvmfspublished"))
        .unwrap()
        .body
}

/// The signed lines of the fixture's whitelist.
pub(crate) fn whitelist_body() -> String {
    Signed::parse(&backend_file(".cvmfswhitelist"))
        .unwrap()
        .body
}

/// Replaces the line of a letter.
pub(crate) fn with_line(body: &str, letter: char, value: &str) -> String {
    let lines = body.lines().map(|line| {
        if line.starts_with(letter) {
            format!("{letter}{value}\n")
        } else {
            format!("{line}\n")
        }
    });
    lines.collect()
}

/// The value of the line of a letter.
pub(crate) fn line(body: &str, letter: char) -> String {
    body.lines()
        .find_map(|line| line.strip_prefix(letter))
        .unwrap()
        .to_owned()
}
