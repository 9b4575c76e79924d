//! The kubelet's credential providers: `CredentialProviderConfig` and its programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{Credential, Credentials};
use crate::{Error, Secret};

const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// As the kubelet's `--image-credential-provider-config` and `--image-credential-provider-bin-dir`.
#[derive(Clone, Debug)]
pub struct KubeletProviders {
    /// YAML or JSON, kind `CredentialProviderConfig`.
    pub config: PathBuf,
    /// Where the programs are.
    pub programs: PathBuf,
}

#[derive(Deserialize)]
struct ProviderConfig {
    kind: String,
    providers: Vec<Provider>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Provider {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: Option<String>,
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    cache_key_type: String,
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<BTreeMap<String, Login>>,
}

#[derive(Deserialize)]
struct Login {
    username: String,
    password: String,
}

pub(super) fn find(
    credentials: &Credentials,
    providers: &KubeletProviders,
    registry: &str,
    repository: &str,
) -> Result<Option<Credential>, Error> {
    let path = &providers.config;
    let length = path
        .metadata()
        .map_err(|error| Error::config(path, error))?
        .len();
    if length > MAX_CONFIG_BYTES {
        return Err(Error::config(path, "is too long"));
    }
    let text = fs::read_to_string(path).map_err(|error| Error::config(path, error))?;
    // The parser's message may quote values of environment variables.
    let config: ProviderConfig = serde_saphyr::from_str(&text)
        .map_err(|_| Error::config(path, "is no valid CredentialProviderConfig"))?;
    if config.kind != "CredentialProviderConfig" {
        return Err(Error::config(path, format!("is of kind {:?}", config.kind)));
    }
    let image = format!("{registry}/{repository}");
    for provider in &config.providers {
        if !provider
            .match_images
            .iter()
            .any(|pattern| matches(pattern, &image))
        {
            continue;
        }
        if let Some(found) = ask(credentials, providers, provider, registry, &image)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn ask(
    credentials: &Credentials,
    providers: &KubeletProviders,
    provider: &Provider,
    registry: &str,
    image: &str,
) -> Result<Option<Credential>, Error> {
    if provider.name.is_empty() || provider.name.contains('/') || provider.name.starts_with('.') {
        return Err(Error::config(
            &providers.config,
            format!("{:?} is no program's name", provider.name),
        ));
    }
    let key = |kind: &str, part: &str| format!("kubelet:{}:{kind}:{part}", provider.name);
    let keys = [
        key("Image", image),
        key("Registry", registry),
        key("Global", ""),
    ];
    if let Some(found) = credentials.recall(&[&keys[0], &keys[1], &keys[2]]) {
        return Ok(found);
    }
    let program = providers.programs.join(&provider.name);
    let request = serde_json::json!({
        "kind": "CredentialProviderRequest", "apiVersion": provider.api_version, "image": image,
    });
    let arguments: Vec<_> = provider.args.iter().map(String::as_str).collect();
    let environment: Vec<_> = provider
        .env
        .iter()
        .map(|variable| (variable.name.clone(), variable.value.clone()))
        .collect();
    let printed = credentials.programs.run(
        &program,
        &arguments,
        &environment,
        request.to_string().as_bytes(),
    )?;
    if !printed.success {
        return Err(Error::config(&program, format!("failed for {image}")));
    }
    let response: Response = serde_json::from_slice(&printed.text)
        .map_err(|_| Error::config(&program, "its answer is malformed"))?;
    let login = best_login(response.auth.unwrap_or_default(), image);
    let found = login.map(|login| Credential::Password {
        username: login.username,
        password: Secret::new(login.password),
    });
    let lifetime = response
        .cache_duration
        .as_ref()
        .or(provider.default_cache_duration.as_ref());
    let lifetime = lifetime.and_then(|text| duration(text)).unwrap_or_default();
    let [of_image, of_registry, global] = keys;
    let key = match response.cache_key_type.as_str() {
        "Image" => of_image,
        "Registry" => of_registry,
        "Global" => global,
        _ => return Err(Error::config(&program, "its cacheKeyType is unknown")),
    };
    credentials.remember(key, found.clone(), lifetime);
    Ok(found)
}

/// A Go duration such as `12h30m0s`.
fn duration(text: &str) -> Option<Duration> {
    let duration: jiff::SignedDuration = text.parse().ok()?;
    Duration::try_from(duration).ok()
}

/// The longest matching pattern is the most specific one.
fn best_login(logins: BTreeMap<String, Login>, image: &str) -> Option<Login> {
    let fitting = logins
        .into_iter()
        .filter(|(pattern, _)| matches(pattern, image));
    fitting
        .max_by_key(|(pattern, _)| pattern.len())
        .map(|(_, login)| login)
}

/// `*.example.org:5000/path`: stars within labels of the host, the same number of labels, the port equal, the path a prefix.
fn matches(pattern: &str, image: &str) -> bool {
    let split = |text: &str| -> (String, Option<String>, String) {
        let text = text.split_once("://").map_or(text, |(_, rest)| rest);
        let (authority, path) = text.split_once('/').unwrap_or((text, ""));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.to_owned())),
            None => (authority, None),
        };
        (host.to_owned(), port, path.to_owned())
    };
    let (host, port, path) = split(pattern);
    let (image_host, image_port, image_path) = split(image);
    let labels: Vec<_> = host.split('.').collect();
    let image_labels: Vec<_> = image_host.split('.').collect();
    port == image_port
        && image_path.starts_with(&path)
        && labels.len() == image_labels.len()
        && labels
            .iter()
            .zip(image_labels)
            .all(|(glob, label)| label_matches(glob, label))
}

fn label_matches(glob: &str, label: &str) -> bool {
    let Some((head, rest)) = glob.split_once('*') else {
        return glob == label;
    };
    let Some(label) = label.strip_prefix(head) else {
        return false;
    };
    (0..=label.len())
        .any(|skip| label.is_char_boundary(skip) && label_matches(rest, &label[skip..]))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn patterns() {
        for (pattern, image, expected) in [
            ("a.b", "a.b/x", true),
            ("a.b", "c.a.b/x", false),
            ("*.b", "a.b/x", true),
            ("*.b", "c.a.b/x", false),
            ("*.*.b", "c.a.b/x", true),
            ("app*.b", "apple.b/x", true),
            ("a*p*e.b", "apple.b/x", true),
            ("a*x*e.b", "apple.b/x", false),
            ("a.b:5000", "a.b:5000/x", true),
            ("a.b", "a.b:5000/x", false),
            ("a.b/group", "a.b/group/x", true),
            ("a.b/group", "a.b/other/x", false),
            ("https://a.b", "a.b/x", true),
        ] {
            assert_eq!(matches(pattern, image), expected, "{pattern} {image}");
        }
        assert_eq!(duration("12h30m0s"), Some(Duration::from_secs(45_000)));
        assert_eq!(duration("-1h"), None);
        assert_eq!(duration("x"), None);
    }

    struct Setup {
        directory: tempfile::TempDir,
        credentials: Credentials,
    }

    fn setup(config: &str, script: &str) -> Setup {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("provider");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().join("config.yaml");
        fs::write(&path, config).unwrap();
        let credentials = Credentials {
            kubelet: vec![KubeletProviders {
                config: path,
                programs: directory.path().to_owned(),
            }],
            ..Credentials::default()
        };
        Setup {
            directory,
            credentials,
        }
    }

    const CONFIG: &str = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n\
        - name: provider\n  matchImages: ['*.b']\n  defaultCacheDuration: 1h\n  \
        apiVersion: credentialprovider.kubelet.k8s.io/v1\n  args: [one, two]\n  \
        env:\n  - {name: WHO, value: me}\n";

    #[test]
    fn programs_are_asked_and_remembered_as_they_say() {
        for (kind, calls) in [("Image", 3), ("Registry", 2), ("Global", 1)] {
            let script = format!(
                "read line; cd ${{0%/*}}; echo \"$line $*\" >> log; echo '{{\"kind\":\"CredentialProviderResponse\",\
                 \"cacheKeyType\":\"{kind}\",\"auth\":{{\"*.b\":{{\"username\":\"'$WHO'\",\"password\":\"p\"}},\
                 \"z.b\":{{\"username\":\"other\",\"password\":\"q\"}}}}}}'"
            );
            // `read` reports the missing line end as a failure, yet sets the variable.
            let setup = setup(CONFIG, &script);
            let user = |registry: &str, repository: &str| match setup
                .credentials
                .find(registry, repository)
                .unwrap()
            {
                Some(Credential::Password { username, .. }) => username,
                other => panic!("{other:?}"),
            };
            for (registry, repository) in [("a.b", "x"), ("a.b", "y"), ("c.b", "x"), ("c.b", "x")] {
                assert_eq!(user(registry, repository), "me");
            }
            assert!(setup.credentials.find("a.c", "x").unwrap().is_none());
            let log = fs::read_to_string(setup.directory.path().join("log")).unwrap();
            assert_eq!(log.lines().count(), calls, "{log}");
            assert!(
                log.contains(r#""image":"a.b/x""#) && log.contains("one two"),
                "{log}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named_without_secrets() {
        for (config, script) in [
            (CONFIG, "echo hunter2"),
            (CONFIG, "echo hunter2; exit 1"),
            (CONFIG, "echo '{\"cacheKeyType\":\"hunter2\"}'"),
            ("kind: hunter", ""),
            ("{", ""),
            (&CONFIG.replace("name: provider", "name: ../provider"), ""),
        ] {
            let error = setup(config, script)
                .credentials
                .find("a.b", "x")
                .unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
