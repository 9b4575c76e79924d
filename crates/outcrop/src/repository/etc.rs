//! What /etc/cvmfs says about a repository (the parameters of the reference client's configuration).

use super::{OpenAt, ProxyList, Timeouts};
use crate::error::{Error, Kind};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Retries of one URL if `CVMFS_MAX_RETRIES` does not say otherwise.
const DEFAULT_RETRIES: u32 = 1;

/// `CVMFS_QUOTA_LIMIT` counts these.
const MEBIBYTE: u64 = 1 << 20;

/// The `KEY=value` settings of one repository, later files over earlier ones.
#[derive(Clone, Debug)]
pub struct EtcCvmfs {
    directory: PathBuf,
    fqrn: String,
    settings: BTreeMap<String, String>,
}

/// The settings we use, typed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parameters {
    pub(super) servers: Vec<String>,
    pub(super) proxies: Option<ProxyList>,
    pub(super) external_servers: Vec<String>,
    pub(super) public_keys: Vec<PathBuf>,
    pub(super) blacklists: Vec<PathBuf>,
    pub(super) open_at: Option<OpenAt>,
    pub(super) timeouts: Timeouts,
    pub(super) retries: u32,
    pub(super) claim_ownership: bool,
    pub(super) quota: Option<u64>,
    pub(super) max_ttl: Option<Duration>,
}

impl EtcCvmfs {
    /// The settings of `fqrn` as read below `directory`.
    pub fn new(directory: &Path, fqrn: &str, settings: BTreeMap<String, String>) -> Self {
        Self {
            directory: directory.to_owned(),
            fqrn: fqrn.to_owned(),
            settings,
        }
    }

    /// The file where a repository's own settings belong, for hints.
    pub fn own_file(&self) -> String {
        format!("{}/config.d/{}.conf", self.directory.display(), self.fqrn)
    }

    /// The file for settings of this host, for hints.
    pub fn local_file(&self) -> String {
        format!("{}/default.local", self.directory.display())
    }

    pub(super) fn parameters(&self) -> Result<Parameters, Error> {
        let timeout = |key: &str, default: Duration| -> Result<Duration, Error> {
            Ok(self.number(key)?.map_or(default, Duration::from_secs))
        };
        let defaults = Timeouts::default();
        Ok(Parameters {
            servers: self.list("CVMFS_SERVER_URL", &[';', ',']),
            proxies: self.proxies()?,
            external_servers: self.list("CVMFS_EXTERNAL_URL", &[';', ',']),
            public_keys: self.public_keys(),
            blacklists: self.blacklists(),
            open_at: self.open_at()?,
            timeouts: Timeouts {
                proxy: timeout("CVMFS_TIMEOUT", defaults.proxy)?,
                direct: timeout("CVMFS_TIMEOUT_DIRECT", defaults.direct)?,
            },
            retries: self
                .number("CVMFS_MAX_RETRIES")?
                .map_or(DEFAULT_RETRIES, |count| {
                    u32::try_from(count).unwrap_or(u32::MAX)
                }),
            claim_ownership: self.get("CVMFS_CLAIM_OWNERSHIP").is_some_and(truthy),
            quota: self.quota()?,
            max_ttl: self
                .number("CVMFS_MAX_TTL")?
                .map(|minutes| Duration::from_secs(minutes.saturating_mul(60))),
        })
    }

    /// A setting that is not empty.
    fn get(&self, key: &str) -> Option<&str> {
        self.settings
            .get(key)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    fn list(&self, key: &str, separators: &[char]) -> Vec<String> {
        let parts = self.get(key).unwrap_or_default().split(separators);
        parts
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    }

    fn number(&self, key: &str) -> Result<Option<u64>, Error> {
        self.get(key)
            .map(|value| {
                value
                    .parse()
                    .map_err(|_| self.refuse(key, value, "a whole number"))
            })
            .transpose()
    }

    fn refuse(&self, key: &str, value: &str, wanted: &str) -> Error {
        Error::new(
            Kind::Config,
            format!(
                "{key}={value:?} below {} is not {wanted}",
                self.directory.display()
            ),
        )
        .hint(format!(
            "set it in {} or {}",
            self.own_file(),
            self.local_file()
        ))
    }

    fn proxies(&self) -> Result<Option<ProxyList>, Error> {
        if let Some(list) = self.get("CVMFS_HTTP_PROXY") {
            return ProxyList::parse(list).map(Some);
        }
        // The profile of a machine that stands alone: the reference client asks proxy auto-configuration, then goes direct.
        let alone = self.get("CVMFS_CLIENT_PROFILE") == Some("single");
        Ok(alone.then(ProxyList::direct))
    }

    /// `CVMFS_PUBLIC_KEY` goes before `CVMFS_KEYS_DIR`, as in the reference client's code (its documents say otherwise).
    fn public_keys(&self) -> Vec<PathBuf> {
        let files = self.list("CVMFS_PUBLIC_KEY", &[':']);
        if !files.is_empty() {
            return files.into_iter().map(PathBuf::from).collect();
        }
        if let Some(directory) = self.get("CVMFS_KEYS_DIR") {
            return vec![directory.into()];
        }
        let default = self.directory.join("keys");
        if default.is_dir() {
            vec![default]
        } else {
            Vec::new()
        }
    }

    /// Named although it may not exist yet: blacklists are read at each check.
    fn blacklists(&self) -> Vec<PathBuf> {
        vec![
            self.get("CVMFS_BLACKLIST")
                .map_or_else(|| self.directory.join("blacklist"), PathBuf::from),
        ]
    }

    /// The reference client's precedence: root hash, tag, date.
    fn open_at(&self) -> Result<Option<OpenAt>, Error> {
        let hash = self.get("CVMFS_ROOT_HASH");
        let tag = self.get("CVMFS_REPOSITORY_TAG").filter(|_| hash.is_none());
        let date = self
            .get("CVMFS_REPOSITORY_DATE")
            .filter(|_| hash.is_none() && tag.is_none());
        OpenAt::choose(tag, date, hash)
    }

    /// In MiB there, in bytes here; negative means without limit.
    fn quota(&self) -> Result<Option<u64>, Error> {
        let Some(value) = self.get("CVMFS_QUOTA_LIMIT") else {
            return Ok(None);
        };
        let limit: i64 = value
            .parse()
            .map_err(|_| self.refuse("CVMFS_QUOTA_LIMIT", value, "a number of megabytes"))?;
        Ok(Some(
            u64::try_from(limit).map_or(u64::MAX, |limit| limit.saturating_mul(MEBIBYTE)),
        ))
    }
}

/// Full names of `CVMFS_REPOSITORIES`: short ones get `CVMFS_DEFAULT_DOMAIN`.
pub fn names(settings: &BTreeMap<String, String>) -> Vec<String> {
    let domain = settings
        .get("CVMFS_DEFAULT_DOMAIN")
        .map(String::as_str)
        .filter(|domain| !domain.is_empty());
    let listed = settings
        .get("CVMFS_REPOSITORIES")
        .map_or("", String::as_str);
    let mut names: Vec<String> = Vec::new();
    for name in listed
        .split([',', ' ', ';'])
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        let full = match domain {
            Some(domain) if !name.contains('.') => format!("{name}.{domain}"),
            _ => name.to_owned(),
        };
        if !names.contains(&full) {
            names.push(full);
        }
    }
    names
}

/// yes, on, 1, true in any case.
fn truthy(value: &str) -> bool {
    ["yes", "on", "1", "true"]
        .iter()
        .any(|word| value.eq_ignore_ascii_case(word))
}
