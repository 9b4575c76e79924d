//! docker's `config.json`: `auths`, `credHelpers`, `credsStore`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;

use super::{Credential, Credentials, HELPER_LIFETIME, same_registry};
use crate::{Error, Secret};

/// Larger files are refused.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// docker's own key for docker.io.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DockerConfig {
    auths: BTreeMap<String, Auth>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

pub(super) fn find(
    credentials: &Credentials,
    path: &Path,
    registry: &str,
    repository: &str,
) -> Result<Option<Credential>, Error> {
    let length = match path.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::config(path, error)),
    };
    if length > MAX_CONFIG_BYTES {
        return Err(Error::config(path, "is too long"));
    }
    let text = fs::read(path).map_err(|error| Error::config(path, error))?;
    // The parser's own message may quote values.
    let config: DockerConfig = serde_json::from_slice(&text)
        .map_err(|error| Error::config(path, format!("malformed JSON at line {}", error.line())))?;
    let helper = config
        .cred_helpers
        .iter()
        .find(|(key, _)| same_registry(host_of(key), registry));
    if let Some((key, helper)) = helper {
        return ask(credentials, path, helper, key);
    }
    let entry = best_entry(&config.auths, registry, repository);
    if let Some(found) = entry
        .map(|(key, auth)| from_auth(auth, path, key))
        .transpose()?
        .flatten()
    {
        return Ok(Some(found));
    }
    if config.creds_store.is_empty() {
        return Ok(None);
    }
    let key = match (entry, registry) {
        (Some((key, _)), _) => key,
        (None, "docker.io") => DOCKER_KEY,
        (None, registry) => registry,
    };
    ask(credentials, path, &config.creds_store, key)
}

fn without_scheme(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    key.trim_end_matches('/')
}

fn host_of(key: &str) -> &str {
    without_scheme(key).split('/').next().unwrap_or_default()
}

/// The entry for the longest part of `registry/repository`.
fn best_entry<'a>(
    auths: &'a BTreeMap<String, Auth>,
    registry: &str,
    repository: &str,
) -> Option<(&'a str, &'a Auth)> {
    let fits = |key: &str| {
        let path = without_scheme(key)
            .split_once('/')
            .map_or("", |(_, path)| path);
        let path = path.trim_end_matches('/');
        let whole = matches!(path, "" | "v1" | "v2");
        let part = repository
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        (same_registry(host_of(key), registry) && (whole || part)).then_some(if whole {
            0
        } else {
            path.len()
        })
    };
    let fitting = auths
        .iter()
        .filter_map(|(key, auth)| Some((fits(key)?, key.as_str(), auth)));
    fitting
        .max_by_key(|(length, ..)| *length)
        .map(|(_, key, auth)| (key, auth))
}

fn from_auth(auth: &Auth, path: &Path, key: &str) -> Result<Option<Credential>, Error> {
    if !auth.identitytoken.is_empty() {
        return Ok(Some(Credential::Identity(Secret::new(&auth.identitytoken))));
    }
    if !auth.registrytoken.is_empty() {
        return Ok(Some(Credential::Bearer(Secret::new(&auth.registrytoken))));
    }
    let (username, password) = if auth.auth.is_empty() {
        (auth.username.clone(), auth.password.clone())
    } else {
        decode(&auth.auth).ok_or_else(|| {
            Error::config(
                path,
                format!("`auth` of {key:?} is not base64 of user:password"),
            )
        })?
    };
    Ok((!username.is_empty()).then(|| Credential::Password {
        username,
        password: Secret::new(password),
    }))
}

fn decode(text: &str) -> Option<(String, String)> {
    let text = text.trim();
    let bytes = STANDARD
        .decode(text)
        .or_else(|_| STANDARD_NO_PAD.decode(text))
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    // docker pads with NUL.
    Some((
        username.to_owned(),
        password.trim_end_matches('\0').to_owned(),
    ))
}

/// Asks `docker-credential-<helper> get`.
fn ask(
    credentials: &Credentials,
    config: &Path,
    helper: &str,
    key: &str,
) -> Result<Option<Credential>, Error> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if helper.is_empty() || !helper.bytes().all(letter) {
        return Err(Error::config(
            config,
            format!("{helper:?} is no name of a credential helper"),
        ));
    }
    let remembered = format!("docker:{helper}:{key}");
    if let Some(found) = credentials.recall(&[&remembered]) {
        return Ok(found);
    }
    let name = format!("docker-credential-{helper}");
    let mut places = credentials
        .programs
        .search
        .iter()
        .map(|place| place.join(&name));
    let program = places
        .find(|path| path.is_file())
        .ok_or_else(|| Error::config(config, format!("{name} is not installed")))?;
    let printed =
        credentials
            .programs
            .run(&program, &["get"], &[], format!("{key}\n").as_bytes())?;
    let found = if printed.success {
        let answer: Answer = serde_json::from_slice(&printed.text)
            .map_err(|_| Error::config(&program, "its answer is malformed"))?;
        Some(match answer.username.as_str() {
            "<token>" => Credential::Identity(Secret::new(answer.secret)),
            _ => Credential::Password {
                username: answer.username,
                password: Secret::new(answer.secret),
            },
        })
    } else if String::from_utf8_lossy(&printed.text).contains("credentials not found") {
        None
    } else {
        return Err(Error::config(&program, format!("failed for {key}")));
    };
    credentials.remember(remembered, found.clone(), HELPER_LIFETIME);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn password(username: &str, text: &str) -> Option<Credential> {
        Some(Credential::Password {
            username: username.to_owned(),
            password: Secret::new(text),
        })
    }

    fn helper(directory: &Path, name: &str, script: &str) {
        let path = directory.join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn with_config(directory: &Path, json: &serde_json::Value) -> Credentials {
        let path = directory.join("config.json");
        fs::write(&path, json.to_string()).unwrap();
        let mut credentials = Credentials {
            docker: vec![directory.join("absent.json"), path],
            ..Credentials::default()
        };
        credentials.programs.search = vec!["/no/such".into(), directory.to_owned()];
        let path = ("PATH".into(), "/usr/bin:/bin".into());
        credentials.programs.environment = vec![path];
        credentials
    }

    #[test]
    fn entries_of_auths() {
        let directory = tempfile::tempdir().unwrap();
        let auth = |text: &str| serde_json::json!({"auth": STANDARD.encode(text)});
        let credentials = with_config(
            directory.path(),
            &serde_json::json!({"auths": {
                "https://index.docker.io/v1/": auth("hub:a:b"),
                "a.b:5000": auth("port:1\0\0"),
                "https://a.b": auth("host:2"),
                "a.b/group": auth("group:3"),
                "a.b/group/deep": {"username": "deep", "password": "4"},
                "id.b": {"auth": "", "identitytoken": "refresh"},
                "reg.b": {"registrytoken": "token"},
                "empty.b": {},
            }}),
        );
        for (registry, repository, expected) in [
            ("docker.io", "library/x", password("hub", "a:b")),
            ("registry-1.docker.io", "library/x", password("hub", "a:b")),
            ("a.b:5000", "x", password("port", "1")),
            ("A.b", "x", password("host", "2")),
            ("a.b", "groupies/x", password("host", "2")),
            ("a.b", "group", password("group", "3")),
            ("a.b", "group/deep/x", password("deep", "4")),
            (
                "id.b",
                "x",
                Some(Credential::Identity(Secret::new("refresh"))),
            ),
            ("reg.b", "x", Some(Credential::Bearer(Secret::new("token")))),
            ("empty.b", "x", None),
            ("other.b", "x", None),
        ] {
            assert_eq!(
                credentials.find(registry, repository).unwrap(),
                expected,
                "{registry}/{repository}"
            );
        }
    }

    #[test]
    fn helpers_are_asked_once_and_before_auths() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let json = |user: &str| {
            format!(
                r#"read url; echo "$url" >> {}; echo '{{"ServerURL":"x","Username":"{user}","Secret":"s"}}'"#,
                log.display()
            )
        };
        helper(directory.path(), "one", &json("one"));
        helper(directory.path(), "token", &json("<token>"));
        helper(
            directory.path(),
            "store",
            "read url; case $url in known*|https://index.docker.io/v1/) echo '{\"Username\":\"u\",\"Secret\":\"s\"}';; *) echo credentials not found in native keychain; exit 1;; esac",
        );
        let credentials = with_config(
            directory.path(),
            &serde_json::json!({
                "auths": {"one.b": {"auth": STANDARD.encode("wrong:wrong")}, "known.b": {}},
                "credsStore": "store",
                "credHelpers": {"one.b": "one", "https://token.b/v2/": "token"},
            }),
        );
        for _ in 0..2 {
            for (registry, expected) in [
                ("one.b", password("one", "s")),
                ("token.b", Some(Credential::Identity(Secret::new("s")))),
                ("known.b", password("u", "s")),
                ("docker.io", password("u", "s")),
                ("unknown.b", None),
            ] {
                assert_eq!(
                    credentials.find(registry, "x").unwrap(),
                    expected,
                    "{registry}"
                );
            }
        }
        assert_eq!(
            fs::read_to_string(&log).unwrap(),
            "one.b\nhttps://token.b/v2/\n"
        );
        credentials.forget();
        credentials.find("one.b", "x").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 3);
    }

    #[test]
    fn what_is_wrong_is_named_without_secrets() {
        let directory = tempfile::tempdir().unwrap();
        helper(directory.path(), "bad", "echo hunter2");
        helper(directory.path(), "sad", "echo hunter2; exit 1");
        for config in [
            serde_json::json!({"auths": {"a.b": {"auth": "hunter2!"}}}),
            serde_json::json!({"auths": {"a.b": {"auth": STANDARD.encode("hunter2")}}}),
            serde_json::json!({"auths": "hunter2"}),
            serde_json::json!({"credsStore": "../hunter"}),
            serde_json::json!({"credsStore": "absent"}),
            serde_json::json!({"credsStore": "bad"}),
            serde_json::json!({"credHelpers": {"a.b": "sad"}}),
        ] {
            let error = with_config(directory.path(), &config)
                .find("a.b", "x")
                .unwrap_err();
            assert!(
                !format!("{error} {error:?}").contains("hunter2"),
                "{error:?}"
            );
        }
    }
}
