//! Which servers stand for a registry: containerd's `hosts.toml` (docs/hosts.md there).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;

use crate::config::Config;
use crate::error::Error;

/// Larger configuration files are refused.
const MAX_HOSTS_BYTES: u64 = 1 << 20;

/// What a host may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capability {
    Pull,
    Resolve,
    Push,
}

impl Capability {
    pub(crate) fn purpose(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Resolve => "resolve",
            Self::Push => "push",
        }
    }
}

/// How TLS is spoken with a host. Clients are shared by hosts with the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tls {
    pub(crate) authorities: Vec<PathBuf>,
    /// Certificate, and key if it is in a file of its own.
    pub(crate) identities: Vec<(PathBuf, Option<PathBuf>)>,
    pub(crate) skip_verify: bool,
}

/// One server that stands for a registry.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Ends with a slash: `https://host/v2/`.
    pub(crate) base: Url,
    pub(crate) capabilities: Vec<Capability>,
    pub(crate) headers: HeaderMap,
    pub(crate) tls: Tls,
    /// The registry's name, if this host is a mirror of it (`?ns=`).
    pub(crate) mirror_of: Option<String>,
}

impl Host {
    /// `host:port` as credentials are kept under.
    pub(crate) fn authority(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        match self.base.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    pub(crate) fn can(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }
}

#[derive(Debug, Default, Deserialize)]
struct HostsFile {
    server: Option<String>,
    #[serde(default)]
    host: BTreeMap<String, Spanned<HostTable>>,
    #[serde(flatten)]
    own: HostTable,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct HostTable {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Clients>,
    skip_verify: Option<bool>,
    header: Option<BTreeMap<String, OneOrMany>>,
    override_path: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// `"cert"`, `["cert", …]` or `[["cert", "key"], …]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Clients {
    One(String),
    Many(Vec<OneOrMany>),
}

/// The hosts of a registry in the order in which they are asked; the registry itself is last.
pub(crate) fn resolve(config: &Config, registry: &str) -> Result<Vec<Host>, Error> {
    let Some(directory) = find(&config.hosts_directories, registry) else {
        return Ok(vec![default_host(config, registry, Tls::default())?]);
    };
    let path = directory.join("hosts.toml");
    if !path.is_file() {
        let tls = docker_certificates(&directory);
        return Ok(vec![default_host(config, registry, tls)?]);
    }
    let text = read(&path)?;
    parse(&text, &path, registry, config)
}

fn read(path: &Path) -> Result<String, Error> {
    let length = path
        .metadata()
        .map_err(|error| Error::config(path, error))?
        .len();
    if length > MAX_HOSTS_BYTES {
        return Err(Error::config(path, "is too long"));
    }
    fs::read_to_string(path).map_err(|error| Error::config(path, error))
}

/// `host_port_`, `host:port`, then `_default`, in each directory.
fn find(directories: &[PathBuf], registry: &str) -> Option<PathBuf> {
    let underscored = registry
        .rsplit_once(':')
        .map(|(host, port)| format!("{host}_{port}_"));
    directories.iter().find_map(|root| {
        let names = underscored
            .as_deref()
            .into_iter()
            .chain([registry, "_default"]);
        names.map(|name| root.join(name)).find(|path| path.is_dir())
    })
}

/// The older form: `*.crt` are authorities, `*.cert` with `*.key` is our own certificate.
fn docker_certificates(directory: &Path) -> Tls {
    let mut tls = Tls::default();
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.authorities.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                tls.identities.push((path, key.is_file().then_some(key)));
            }
            _ => {}
        }
    }
    tls
}

fn default_host(config: &Config, registry: &str, tls: Tls) -> Result<Host, Error> {
    let name = if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    };
    let plain = is_local(registry) && !registry.ends_with(":443");
    let plain = plain || config.plain_http.iter().any(|other| other == registry);
    let scheme = if plain { "http" } else { "https" };
    let base = format!("{scheme}://{name}/v2/");
    let base = Url::parse(&base).map_err(|error| Error::config(Path::new(registry), error))?;
    Ok(Host {
        base,
        capabilities: vec![Capability::Pull, Capability::Resolve, Capability::Push],
        headers: HeaderMap::new(),
        tls,
        mirror_of: None,
    })
}

/// As containerd: `localhost` and loopback addresses.
fn is_local(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => registry,
    };
    host == "localhost"
        || host == "[::1]"
        || host
            .parse::<std::net::Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback())
}

fn parse(text: &str, path: &Path, registry: &str, config: &Config) -> Result<Vec<Host>, Error> {
    // The parser's message would quote lines, and headers may be secrets.
    let file: HostsFile = toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .map_or(0, |span| text[..span.start.min(text.len())].lines().count());
        Error::config(path, format!("line {line}: {}", error.message()))
    })?;
    let mut mirrors: Vec<_> = file.host.into_iter().collect();
    mirrors.sort_by_key(|(_, table)| table.span().start);
    let mut hosts = Vec::new();
    for (url, table) in mirrors {
        hosts.push(host(&url, table.get_ref(), path, registry, config)?);
    }
    match &file.server {
        Some(server) => hosts.push(host(server, &file.own, path, registry, config)?),
        None => {
            let default = default_host(config, registry, Tls::default())?;
            let url = default.base.as_str().trim_end_matches("/v2/").to_owned();
            hosts.push(host(&url, &file.own, path, registry, config)?);
        }
    }
    Ok(hosts)
}

fn host(
    url: &str,
    table: &HostTable,
    path: &Path,
    registry: &str,
    config: &Config,
) -> Result<Host, Error> {
    let bare = url.trim_start_matches('/');
    let full = match url.contains("://") {
        true => url.to_owned(),
        false if config.plain_http.iter().any(|plain| plain == bare) || is_local(bare) => {
            format!("http://{bare}")
        }
        false => format!("https://{bare}"),
    };
    let mut base =
        Url::parse(&full).map_err(|error| Error::config(path, format!("{url:?}: {error}")))?;
    if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
        return Err(Error::config(
            path,
            format!("{url:?} is no http or https URL"),
        ));
    }
    let mut place = base.path().trim_end_matches('/').to_owned();
    if !table.override_path.unwrap_or(false) && !place.ends_with("/v2") {
        place.push_str("/v2");
    }
    base.set_path(&format!("{place}/"));
    base.set_query(None);
    let mut result = Host {
        base,
        capabilities: capabilities(table, path)?,
        headers: headers(table, path)?,
        tls: tls(table, path),
        mirror_of: None,
    };
    let authority = result.authority();
    let own =
        authority == registry || (registry == "docker.io" && authority == "registry-1.docker.io");
    result.mirror_of = (!own).then(|| registry.to_owned());
    Ok(result)
}

fn capabilities(table: &HostTable, path: &Path) -> Result<Vec<Capability>, Error> {
    let all = || ["pull", "resolve", "push"].map(str::to_owned).to_vec();
    let names = table.capabilities.clone().filter(|names| !names.is_empty());
    names
        .unwrap_or_else(all)
        .iter()
        .filter(|name| *name != "referrers")
        .map(|name| match name.as_str() {
            "pull" => Ok(Capability::Pull),
            "resolve" => Ok(Capability::Resolve),
            "push" => Ok(Capability::Push),
            other => Err(Error::config(path, format!("unknown capability {other:?}"))),
        })
        .collect()
}

fn headers(table: &HostTable, path: &Path) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    for (name, values) in table.header.iter().flatten() {
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Error::config(path, format!("{name:?} is no header")))?;
        for value in values.all() {
            let mut value = HeaderValue::from_str(value).map_err(|_| {
                Error::config(path, format!("value of header {name} is not allowed"))
            })?;
            value.set_sensitive(true);
            headers.append(parsed.clone(), value);
        }
    }
    Ok(headers)
}

fn tls(table: &HostTable, path: &Path) -> Tls {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let place = |name: &String| directory.join(name);
    let authorities = table.ca.iter().flat_map(OneOrMany::all).map(place);
    let identities = match &table.client {
        None => Vec::new(),
        Some(Clients::One(one)) => vec![(place(one), None)],
        Some(Clients::Many(many)) => many
            .iter()
            .filter_map(|pair| identity(pair, place))
            .collect(),
    };
    Tls {
        authorities: authorities.collect(),
        identities,
        skip_verify: table.skip_verify.unwrap_or(false),
    }
}

fn identity(
    pair: &OneOrMany,
    place: impl Fn(&String) -> PathBuf,
) -> Option<(PathBuf, Option<PathBuf>)> {
    let mut files = pair.all().iter();
    let certificate = place(files.next()?);
    let key = files.next().filter(|key| !key.is_empty()).map(place);
    Some((certificate, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(registry: &str, text: &str) -> Result<Vec<Host>, Error> {
        parse(
            text,
            Path::new("/c/certs.d/x/hosts.toml"),
            registry,
            &Config::default(),
        )
    }

    fn bases(hosts: &[Host]) -> Vec<&str> {
        hosts.iter().map(|host| host.base.as_str()).collect()
    }

    #[test]
    fn order_paths_and_defaults() {
        for (registry, text, expected) in [
            ("docker.io", "", &["https://registry-1.docker.io/v2/"][..]),
            ("a.b", "server = 'https://c.d'", &["https://c.d/v2/"]),
            ("a.b", "server = 'c.d:5000'", &["https://c.d:5000/v2/"]),
            ("a.b", "server = 'http://c.d/v2/'", &["http://c.d/v2/"]),
            (
                "a.b",
                "[host.'https://z']\n[host.'http://a/x']\n[host.'https://m/y']\noverride_path = true",
                &[
                    "https://z/v2/",
                    "http://a/x/v2/",
                    "https://m/y/",
                    "https://a.b/v2/",
                ],
            ),
            (
                "localhost:5000",
                "[host.'https://z']",
                &["https://z/v2/", "http://localhost:5000/v2/"],
            ),
        ] {
            assert_eq!(bases(&parsed(registry, text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn capabilities_certificates_and_headers() {
        let hosts = parsed(
            "a.b",
            "server = 'https://a.b'\nca = 'own.pem'\n[host.'https://m']\ncapabilities = ['pull', 'resolve']\n\
             ca = ['/x.pem', 'y.pem']\nclient = [['c.pem', 'c.key'], ['d.pem', '']]\nskip_verify = true\n\
             [host.'https://m'.header]\nx-one = 'secret-value'\nx-two = ['a', 'b']\n[host.'https://n']\nclient = 'e.pem'",
        )
        .unwrap();
        let [m, n, own] = &hosts[..] else {
            panic!("{hosts:?}")
        };
        assert_eq!(m.capabilities, [Capability::Pull, Capability::Resolve]);
        assert!(n.can(Capability::Push) && own.can(Capability::Push));
        let place = |name: &str| PathBuf::from(format!("/c/certs.d/x/{name}"));
        assert_eq!(m.tls.authorities, [PathBuf::from("/x.pem"), place("y.pem")]);
        assert_eq!(
            m.tls.identities,
            [
                (place("c.pem"), Some(place("c.key"))),
                (place("d.pem"), None)
            ]
        );
        assert!(m.tls.skip_verify && !n.tls.skip_verify);
        assert_eq!(n.tls.identities, [(place("e.pem"), None)]);
        assert_eq!(own.tls.authorities, [place("own.pem")]);
        assert_eq!(m.headers.get_all("x-two").iter().count(), 2);
        assert!(!format!("{m:?}").contains("secret-value"));
        assert_eq!(m.mirror_of.as_deref(), Some("a.b"));
        assert_eq!(own.mirror_of, None);
    }

    #[test]
    fn bad_files_are_named_and_secrets_not_quoted() {
        for text in [
            "server = 3",
            "[host.'ftp://x']",
            "[host.'https://x']\ncapabilities = ['fly']",
            "[host.'https://x'.header]\na = \"hunter2\\n\"",
            "[host.'https://x'.header]\n'a b' = 'hunter2'",
            "[host.'https://x'.header]\na = 'hunter2",
            "[host.'https://x'.header]\na = {b = 'hunter2'}",
        ] {
            let error = parsed("a.b", text).unwrap_err().to_string();
            assert!(error.starts_with("/c/certs.d/x/hosts.toml: "), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn directories_are_searched_as_containerd_does() {
        let root = tempfile::tempdir().unwrap();
        let config = Config {
            hosts_directories: vec![root.path().join("absent"), root.path().to_owned()],
            ..Config::default()
        };
        let first = |registry: &str| resolve(&config, registry).unwrap()[0].base.to_string();
        assert_eq!(first("a.b:5000"), "https://a.b:5000/v2/");
        for (directory, expected) in [
            ("_default", "https://default/v2/"),
            ("a.b:5000", "https://colon/v2/"),
            ("a.b_5000_", "https://under/v2/"),
        ] {
            fs::create_dir(root.path().join(directory)).unwrap();
            let url = expected.trim_end_matches("/v2/");
            let path = root.path().join(directory).join("hosts.toml");
            fs::write(path, format!("[host.'{url}']")).unwrap();
            assert_eq!(first("a.b:5000"), expected);
        }
        assert_eq!(first("other"), "https://default/v2/");
        fs::create_dir(root.path().join("docker.style")).unwrap();
        for name in ["b.crt", "a.crt", "me.cert", "me.key"] {
            fs::write(root.path().join("docker.style").join(name), "").unwrap();
        }
        let host = &resolve(&config, "docker.style").unwrap()[0];
        assert_eq!(host.tls.authorities.len(), 2);
        assert!(host.tls.identities[0].1.is_some());
    }

    #[test]
    fn which_registries_are_on_this_machine() {
        for (registry, plain) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("localhost:443", false),
            ("localhost.example.org", false),
            ("10.0.0.1:5000", false),
            ("a.b", false),
        ] {
            let host = default_host(&Config::default(), registry, Tls::default()).unwrap();
            assert_eq!(host.base.scheme() == "http", plain, "{registry}");
        }
    }
}
