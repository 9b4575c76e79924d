//! How a repository is reached: from flags, from the configuration, from /etc/cvmfs; resolved to one value.

mod etc;

use crate::error::{Error, Kind};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use etc::{EtcCvmfs, names};

/// Everything the client needs to open a repository; nothing left to look up.
#[derive(Clone, Debug, PartialEq)]
pub struct Repository {
    /// Fully qualified name.
    pub fqrn: String,
    /// Stratum 1 URLs in order, templates replaced.
    pub servers: Vec<String>,
    /// Proxy groups in order.
    pub proxies: ProxyList,
    /// Servers of external data.
    pub external_servers: Vec<String>,
    /// Master keys: files or directories.
    pub public_keys: Vec<PathBuf>,
    /// Blacklists.
    pub blacklists: Vec<PathBuf>,
    /// The revision.
    pub open_at: OpenAt,
    /// Connect and stall timeouts.
    pub timeouts: Timeouts,
    /// How often one URL is tried again.
    pub retries: u32,
    /// Show all files as owned by this process (`CVMFS_CLAIM_OWNERSHIP=yes`, only if explicit).
    pub claim_ownership: bool,
    /// Bytes, if /etc/cvmfs says so.
    pub quota: Option<u64>,
    /// Upper limit of the time to live of a revision.
    pub max_ttl: Option<Duration>,
}

/// Connect and stall timeouts, through a proxy and without.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timeouts {
    /// Through a proxy (`CVMFS_TIMEOUT`).
    pub proxy: Duration,
    /// Without one (`CVMFS_TIMEOUT_DIRECT`).
    pub direct: Duration,
}

impl Default for Timeouts {
    /// The defaults of the reference client.
    fn default() -> Self {
        Self {
            proxy: Duration::from_secs(5),
            direct: Duration::from_secs(10),
        }
    }
}

/// What the user stated; empty fields are asked of /etc/cvmfs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stated {
    /// Stratum 1 URLs.
    pub server_urls: Vec<String>,
    /// Master keys.
    pub public_keys: Vec<PathBuf>,
    /// Proxy groups.
    pub proxy: Option<ProxyList>,
    /// Servers of external data.
    pub external_urls: Vec<String>,
    /// The revision.
    pub open_at: Option<OpenAt>,
}

/// Resolves what was stated against /etc/cvmfs.
///
/// # Errors
/// [`Kind::Config`] if servers, keys or proxies are known from nowhere; the hint names what to give.
pub fn resolve(fqrn: &str, stated: Stated, etc: &EtcCvmfs) -> Result<Repository, Error> {
    check_name(fqrn)?;
    let etc_parameters = etc.parameters()?;
    let own_servers = !stated.server_urls.is_empty();
    let servers = if own_servers {
        stated.server_urls
    } else {
        etc_parameters.servers
    };
    if servers.is_empty() {
        return Err(
            Error::new(Kind::Config, format!("no server is known for {fqrn}")).hint(format!(
                "give --server-url (server_urls in the configuration), or CVMFS_SERVER_URL in {}",
                etc.own_file()
            )),
        );
    }
    let proxies = proxies(fqrn, stated.proxy, own_servers, etc, etc_parameters.proxies)?;
    let public_keys = if stated.public_keys.is_empty() {
        etc_parameters.public_keys
    } else {
        stated.public_keys
    };
    if public_keys.is_empty() {
        return Err(
            Error::new(Kind::Config, format!("no master key is known for {fqrn}")).hint(format!(
                "give --public-key (public_keys in the configuration), or CVMFS_KEYS_DIR in {}",
                etc.own_file()
            )),
        );
    }
    Ok(Repository {
        servers: servers
            .iter()
            .map(|url| server_url(url, fqrn))
            .collect::<Result<_, _>>()?,
        proxies,
        // Whatever server has them, external files are checked against the signed catalogs.
        external_servers: or(stated.external_urls, etc_parameters.external_servers),
        public_keys,
        blacklists: etc_parameters.blacklists,
        open_at: stated
            .open_at
            .or(etc_parameters.open_at)
            .unwrap_or(OpenAt::Trunk),
        timeouts: etc_parameters.timeouts,
        retries: etc_parameters.retries,
        claim_ownership: etc_parameters.claim_ownership,
        quota: etc_parameters.quota,
        max_ttl: etc_parameters.max_ttl,
        fqrn: fqrn.to_owned(),
    })
}

/// Whoever names servers by hand and no proxy reaches them directly; otherwise a proxy, or DIRECT, must be stated: sites
/// want it so, and a client that silently goes around their proxies hurts the servers.
fn proxies(
    fqrn: &str,
    stated: Option<ProxyList>,
    own_servers: bool,
    etc: &EtcCvmfs,
    in_etc: Option<ProxyList>,
) -> Result<ProxyList, Error> {
    match stated {
        Some(proxies) => Ok(proxies),
        None if own_servers => Ok(ProxyList::direct()),
        None => in_etc.ok_or_else(|| {
            Error::new(Kind::Config, format!("no proxy is known for {fqrn}")).hint(format!(
                "set CVMFS_HTTP_PROXY in {} (DIRECT for none)",
                etc.local_file()
            ))
        }),
    }
}

fn or<T>(first: Vec<T>, second: Vec<T>) -> Vec<T> {
    if first.is_empty() { second } else { first }
}

/// Replaces the templates and refuses what is no URL.
fn server_url(url: &str, fqrn: &str) -> Result<String, Error> {
    let organisation = fqrn.split('.').next().unwrap_or(fqrn);
    let url = url.replace("@fqrn@", fqrn).replace("@org@", organisation);
    let url = url.trim_end_matches('/');
    let host = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    match host {
        Some(host) if !host.is_empty() && !host.starts_with('/') => Ok(url.to_owned()),
        _ => Err(
            Error::new(Kind::Config, format!("{url:?} is not the URL of a server")).hint(format!(
                "it looks like http://stratum1.example.org/cvmfs/{fqrn}"
            )),
        ),
    }
}

/// A fully qualified repository name: letters, digits, `-`, `_` and dots that stand between labels.
///
/// # Errors
/// [`Kind::Usage`] otherwise.
pub fn check_name(fqrn: &str) -> Result<(), Error> {
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if fqrn.len() <= 255 && fqrn.contains('.') && fqrn.split('.').all(label) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Usage,
        format!("{fqrn:?} is not a repository's full name"),
    )
    .hint("a full name has a dot, as in unpacked.cern.ch"))
}

/// Which revision to open.
#[derive(Clone, Debug, PartialEq)]
pub enum OpenAt {
    /// The newest, followed as it changes.
    Trunk,
    /// By name.
    Tag(String),
    /// The last one at or before this time.
    Date(jiff::Timestamp),
    /// By the root catalog's content hash, as text.
    RootHash(String),
}

impl OpenAt {
    /// At most one of the three; none of them gives `None`.
    ///
    /// # Errors
    /// [`Kind::Usage`] for two of them, or for text that is no date, tag or hash.
    pub fn choose(
        tag: Option<&str>,
        date: Option<&str>,
        root_hash: Option<&str>,
    ) -> Result<Option<Self>, Error> {
        match (tag, date, root_hash) {
            (None, None, None) => Ok(None),
            (Some(tag), None, None) => Self::tag(tag).map(Some),
            (None, Some(date), None) => Self::date(date).map(Some),
            (None, None, Some(hash)) => Ok(Some(Self::RootHash(hash.to_owned()))),
            _ => Err(
                Error::new(Kind::Usage, "tag, date and root hash exclude each other")
                    .hint("give one of them"),
            ),
        }
    }

    fn tag(tag: &str) -> Result<Self, Error> {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_:.".contains(&byte);
        if (1..=255).contains(&tag.len()) && tag.bytes().all(letter) {
            return Ok(Self::Tag(tag.to_owned()));
        }
        Err(
            Error::new(Kind::Usage, format!("{tag:?} is not a tag's name"))
                .hint("letters, digits and - _ : . make a name"),
        )
    }

    /// A time stamp with zone; a date alone means its first second in UTC.
    fn date(text: &str) -> Result<Self, Error> {
        let stamp = text.parse::<jiff::Timestamp>();
        let stamp = stamp.or_else(|error| format!("{text}T00:00:00Z").parse().map_err(|_| error));
        stamp.map(Self::Date).map_err(|error| {
            Error::new(Kind::Usage, format!("{text:?} is not a date"))
                .because(error)
                .hint("write 2026-01-31T12:00:00Z or 2026-01-31")
        })
    }
}

/// Proxy groups: those in a group share the load, the next group is tried when all of one failed.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyList(Vec<Vec<String>>);

impl ProxyList {
    /// No proxy.
    pub fn direct() -> Self {
        Self(vec![vec!["DIRECT".to_owned()]])
    }

    /// `;` between groups, `|` within one, `DIRECT` for none. `auto` (proxy auto-configuration) is passed over if anything
    /// else is given.
    ///
    /// # Errors
    /// [`Kind::Config`] if nothing usable remains.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let groups: Vec<Vec<String>> = text
            .split(';')
            .map(|group| {
                group
                    .split('|')
                    .map(str::trim)
                    .filter(|member| !member.is_empty() && *member != "auto")
                    .map(proxy)
                    .collect()
            })
            .filter(|group: &Vec<String>| !group.is_empty())
            .collect();
        if !groups.is_empty() {
            return Ok(Self(groups));
        }
        let error = Error::new(Kind::Config, format!("{text:?} names no proxy"));
        Err(if text.contains("auto") {
            error.hint("proxy auto-configuration is not supported yet: name the proxies, or DIRECT")
        } else {
            error.hint("write http://squid.example.org:3128, or DIRECT")
        })
    }

    /// The groups in order.
    pub fn groups(&self) -> &[Vec<String>] {
        &self.0
    }
}

/// A proxy may be written without its scheme.
fn proxy(member: &str) -> String {
    if member == "DIRECT" || member.contains("://") {
        member.to_owned()
    } else {
        format!("http://{member}")
    }
}

/// `NAME=VALUE` pairs of `--variable`.
///
/// # Errors
/// [`Kind::Usage`] for a pair without `=` or without a name.
pub fn variables(pairs: &[String]) -> Result<BTreeMap<String, String>, Error> {
    pairs
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(
                Error::new(Kind::Usage, format!("{pair:?} is not NAME=VALUE"))
                    .hint("write --variable CMS_LOCAL_SITE=T2_CH_CERN"),
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests;
