//! The configuration file as it is written: every key optional, no other key accepted.

use bytesize::ByteSize;
use jiff::SignedDuration;
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    pub(super) root: Option<PathBuf>,
    pub(super) socket: Option<PathBuf>,
    pub(super) log: RawLog,
    pub(super) containerd: RawContainerd,
    pub(super) cache: RawCache,
    pub(super) layers: RawLayers,
    pub(super) fuse: RawFuse,
    pub(super) registry: RawRegistry,
    pub(super) lazy: RawLazy,
    pub(super) repository: Option<Vec<RawRepository>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub(super) format: Option<LogFormat>,
    pub(super) filter: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawContainerd {
    pub(super) socket: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCache {
    pub(super) directory: Option<PathBuf>,
    pub(super) quota: Option<ByteSize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLayers {
    pub(super) build_deadline: Option<SignedDuration>,
    pub(super) mounted_deadline: Option<SignedDuration>,
    pub(super) workers: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawFuse {
    pub(super) workers: Option<usize>,
    pub(super) read_ahead: Option<ByteSize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRegistry {
    pub(super) enabled: Option<bool>,
    pub(super) hosts_directories: Option<Vec<PathBuf>>,
    pub(super) docker_config: Option<PathBuf>,
    pub(super) credential_provider_config: Option<PathBuf>,
    pub(super) credential_provider_directory: Option<PathBuf>,
    pub(super) helper_directories: Option<Vec<PathBuf>>,
    pub(super) plain_http: Option<Vec<String>>,
    pub(super) deadline: Option<SignedDuration>,
    pub(super) trust_without_diff_id: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLazy {
    pub(super) prefetch: Option<bool>,
    pub(super) background_fetch: Option<bool>,
    pub(super) unpack: Option<Unpack>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Unpack {
    BelowLazy,
    Always,
    Never,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRepository {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) directory: Option<PathBuf>,
    pub(super) server_urls: Option<Vec<String>>,
    pub(super) public_keys: Option<Vec<PathBuf>>,
    pub(super) proxy: Option<String>,
    pub(super) external_urls: Option<Vec<String>>,
    pub(super) tag: Option<String>,
    pub(super) date: Option<String>,
    pub(super) root_hash: Option<String>,
    pub(super) trust_without_diff_id: Option<bool>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Embedded,
    Mounted,
}

impl RawConfig {
    pub(super) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Takes from `defaults` what this file does not say. A list is replaced, never appended to.
    pub(super) fn or(self, defaults: Self) -> Self {
        Self {
            root: self.root.or(defaults.root),
            socket: self.socket.or(defaults.socket),
            log: RawLog {
                format: self.log.format.or(defaults.log.format),
                filter: self.log.filter.or(defaults.log.filter),
            },
            containerd: RawContainerd {
                socket: self.containerd.socket.or(defaults.containerd.socket),
            },
            cache: RawCache {
                directory: self.cache.directory.or(defaults.cache.directory),
                quota: self.cache.quota.or(defaults.cache.quota),
            },
            layers: RawLayers {
                build_deadline: self
                    .layers
                    .build_deadline
                    .or(defaults.layers.build_deadline),
                mounted_deadline: self
                    .layers
                    .mounted_deadline
                    .or(defaults.layers.mounted_deadline),
                workers: self.layers.workers.or(defaults.layers.workers),
            },
            fuse: RawFuse {
                workers: self.fuse.workers.or(defaults.fuse.workers),
                read_ahead: self.fuse.read_ahead.or(defaults.fuse.read_ahead),
            },
            registry: self.registry.or(defaults.registry),
            lazy: RawLazy {
                prefetch: self.lazy.prefetch.or(defaults.lazy.prefetch),
                background_fetch: self
                    .lazy
                    .background_fetch
                    .or(defaults.lazy.background_fetch),
                unpack: self.lazy.unpack.or(defaults.lazy.unpack),
            },
            repository: self.repository.or(defaults.repository),
        }
    }
}

impl RawRegistry {
    fn or(self, defaults: Self) -> Self {
        Self {
            enabled: self.enabled.or(defaults.enabled),
            hosts_directories: self.hosts_directories.or(defaults.hosts_directories),
            docker_config: self.docker_config.or(defaults.docker_config),
            credential_provider_config: self
                .credential_provider_config
                .or(defaults.credential_provider_config),
            credential_provider_directory: self
                .credential_provider_directory
                .or(defaults.credential_provider_directory),
            helper_directories: self.helper_directories.or(defaults.helper_directories),
            plain_http: self.plain_http.or(defaults.plain_http),
            deadline: self.deadline.or(defaults.deadline),
            trust_without_diff_id: self
                .trust_without_diff_id
                .or(defaults.trust_without_diff_id),
        }
    }
}
