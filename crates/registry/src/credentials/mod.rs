//! Names and passwords for registries: given, from docker's configuration, from its helper programs, or from the
//! kubelet's credential providers.

mod docker;
mod kubelet;
mod program;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Error, Secret};
pub use kubelet::KubeletProviders;
pub use program::Programs;

/// More remembered answers than this are forgotten.
const MAX_REMEMBERED: usize = 1000;
/// A helper program's answer is used for so long.
const HELPER_LIFETIME: Duration = Duration::from_secs(300);

/// What proves who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// User name and password (or deploy token, access token …).
    Password {
        /// Name.
        username: String,
        /// Password.
        password: Secret,
    },
    /// Refresh token for the token server (`identitytoken`).
    Identity(Secret),
    /// Token for the registry itself (`registrytoken`).
    Bearer(Secret),
}

/// Where credentials are looked for, in this order. Clones share what helpers have answered.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Given outright: registry (`host[:port]`) and credential.
    pub given: Vec<(String, Credential)>,
    /// `config.json` files of docker (or `auth.json` of podman); those that do not exist are passed over.
    pub docker: Vec<PathBuf>,
    /// Credential providers as the kubelet is given them.
    pub kubelet: Vec<KubeletProviders>,
    /// How helper programs are run.
    pub programs: Programs,
    /// What programs have answered.
    pub remembered: Memory,
}

/// What programs have answered, until it is too old. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Vec<Remembered>>>);

#[derive(Debug)]
struct Remembered {
    key: String,
    credential: Option<Credential>,
    until: Instant,
}

impl Credentials {
    /// The credential for a repository, if any. Blocks while a helper program runs.
    ///
    /// # Errors
    /// If a configuration is malformed or a helper program fails; a registry may still serve without credentials.
    pub fn find(&self, registry: &str, repository: &str) -> Result<Option<Credential>, Error> {
        if let Some((_, found)) = self.given.iter().find(|(name, _)| name == registry) {
            return Ok(Some(found.clone()));
        }
        for path in &self.docker {
            if let Some(found) = docker::find(self, path, registry, repository)? {
                return Ok(Some(found));
            }
        }
        for providers in &self.kubelet {
            if let Some(found) = kubelet::find(self, providers, registry, repository)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Forgets what programs have answered for a registry: it was refused.
    pub(crate) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Remembered>> {
        self.remembered
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What was answered under one of these keys and is not too old.
    fn recall(&self, keys: &[&str]) -> Option<Option<Credential>> {
        let now = Instant::now();
        let mut remembered = self.lock();
        remembered.retain(|one| one.until > now);
        let found = remembered
            .iter()
            .find(|one| keys.contains(&one.key.as_str()));
        found.map(|one| one.credential.clone())
    }

    fn remember(&self, key: String, credential: Option<Credential>, lifetime: Duration) {
        let Some(until) = Instant::now().checked_add(lifetime) else {
            return;
        };
        let mut remembered = self.lock();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.push(Remembered {
            key,
            credential,
            until,
        });
    }
}

/// Whether two names mean one registry: docker.io has several.
fn same_registry(one: &str, other: &str) -> bool {
    let canonical = |name: &str| match name {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_ascii_lowercase(),
    };
    canonical(one) == canonical(other)
}
