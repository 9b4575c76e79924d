//! The loop over hosts and repetitions.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use image::Reference;
use reqwest::header::{self, HeaderMap};
use reqwest::{Method, StatusCode, Url};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use crate::auth::{Asking, Auth};
use crate::config::Config;
use crate::error::{Attempt, Consequence, Error, Failure};
use crate::hosts::{self, Capability, Host};
use crate::metrics::Metrics;
use crate::ranges::Places;
use crate::transport::{Answer, Exchange, Transport};

/// `hosts.toml` is read again after this time.
const HOSTS_LIFETIME: Duration = Duration::from_secs(10);

/// A client of all registries. Clones share connections, tokens and redirects.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) runtime: Handle,
    pub(crate) transport: Transport,
    pub(crate) auth: Auth,
    pub(crate) places: Places,
    hosts: Mutex<HashMap<String, Resolved>>,
    /// Base URL of a host that could not be reached → until when it is asked last.
    avoided: Mutex<HashMap<String, Instant>>,
}

/// The hosts of a registry, and until when that holds.
type Resolved = (Arc<Vec<Host>>, Instant);

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Client").finish_non_exhaustive()
    }
}

/// One request to a registry, whichever of its hosts answers.
pub(crate) struct Job<'a> {
    pub(crate) registry: &'a str,
    pub(crate) repository: &'a str,
    /// For messages.
    pub(crate) what: String,
    pub(crate) capability: Capability,
    pub(crate) method: Method,
    /// Below the repository: `blobs/sha256:…`.
    pub(crate) path: String,
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Vec<u8>>,
    /// Scopes besides the repository's own.
    pub(crate) more_scopes: Vec<String>,
    /// Another URL than path and query give: the next step of something that a host began.
    pub(crate) url: Option<Url>,
}

impl<'a> Job<'a> {
    pub(crate) fn get(reference: &'a Reference, what: String, path: String) -> Self {
        Self {
            registry: reference.registry(),
            repository: reference.repository(),
            what,
            capability: Capability::Pull,
            method: Method::GET,
            path,
            query: Vec::new(),
            headers: HeaderMap::new(),
            body: None,
            more_scopes: Vec::new(),
            url: None,
        }
    }

    fn scopes(&self) -> Vec<String> {
        let actions = match self.capability {
            Capability::Push => "pull,push",
            Capability::Pull | Capability::Resolve => "pull",
        };
        let mut scopes = vec![format!("repository:{}:{actions}", self.repository)];
        scopes.extend(self.more_scopes.iter().cloned());
        scopes
    }

    fn url(&self, host: &Host) -> Result<Url, Failure> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        let wrong = |_| Failure::Protocol("gives no URL".to_owned());
        let path = format!("{}/{}", self.repository, self.path);
        // A colon in the first component would be taken for a scheme.
        let mut url = host.base.join(&format!("./{path}")).map_err(wrong)?;
        if let Some(registry) = &host.mirror_of
            && self.capability != Capability::Push
        {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        Ok(url)
    }
}

impl Client {
    /// Makes a client; nothing is read or connected yet.
    #[must_use]
    pub fn new(config: Config, metrics: Metrics, runtime: Handle) -> Self {
        let inner = Inner {
            transport: Transport::new(&config, metrics),
            auth: Auth::new(&config),
            places: Places::default(),
            hosts: Mutex::default(),
            avoided: Mutex::default(),
            config,
            runtime,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.transport.metrics
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// Hosts that may be asked, in order; those that could not be reached lately come last.
    pub(crate) fn hosts(&self, registry: &str, capability: Capability) -> Result<Vec<Host>, Error> {
        let now = Instant::now();
        let remembered = lock(&self.hosts)
            .get(registry)
            .filter(|(_, until)| *until > now)
            .map(|(hosts, _)| Arc::clone(hosts));
        let all = match remembered {
            Some(hosts) => hosts,
            None => {
                let hosts = Arc::new(hosts::resolve(&self.config, registry)?);
                let entry = (Arc::clone(&hosts), now + HOSTS_LIFETIME);
                lock(&self.hosts).insert(registry.to_owned(), entry);
                hosts
            }
        };
        let mut hosts: Vec<_> = all
            .iter()
            .filter(|host| host.can(capability))
            .cloned()
            .collect();
        if hosts.is_empty() {
            return Err(Error::NoHost {
                registry: registry.to_owned(),
                purpose: capability.purpose(),
            });
        }
        let mut avoided = lock(&self.avoided);
        avoided.retain(|_, until| *until > now);
        hosts.sort_by_key(|host| avoided.contains_key(host.base.as_str()));
        if capability == Capability::Push {
            hosts.truncate(1);
        }
        Ok(hosts)
    }

    fn note(&self, host: &Host, dead: bool) {
        let mut avoided = lock(&self.avoided);
        if dead {
            let until = Instant::now() + self.config.retries.avoid;
            avoided.insert(host.base.to_string(), until);
        } else {
            avoided.remove(host.base.as_str());
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.config.timeouts.operation
    }

    /// Asks one host after the other, and all again after a pause, until `take` has accepted an answer.
    pub(crate) async fn perform<T>(
        &self,
        job: &Job<'_>,
        take: impl AsyncFn(Answer, &Host) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let deadline = self.deadline();
        let mut hosts = self.hosts(job.registry, job.capability)?;
        let mut attempts = Vec::new();
        for round in 0..=self.config.retries.count {
            let mut wait = Duration::ZERO;
            let mut left = Vec::new();
            for host in hosts {
                let attempt = match timeout_at(deadline, self.ask(job, &host, &take)).await {
                    Ok(Ok(value)) => {
                        self.note(&host, false);
                        return Ok(value);
                    }
                    Ok(Err(attempt)) => attempt,
                    Err(_) => {
                        let failure = Failure::Timeout("the operation took too long");
                        attempts.push(self.transport.failed(&host.base, failure));
                        return Err(Error::from_attempts(job.what.clone(), attempts));
                    }
                };
                if attempt.failure.consequence() == Consequence::Again {
                    self.note(&host, attempt.failure.is_dead());
                    wait = wait.max(attempt.failure.retry_after().unwrap_or_default());
                    left.push(host);
                }
                attempts.push(attempt);
            }
            hosts = left;
            let last = round == self.config.retries.count;
            if last || hosts.is_empty() || !self.pause(round, wait, deadline).await {
                break;
            }
        }
        Err(Error::from_attempts(job.what.clone(), attempts))
    }

    /// False if the next repetition would come too late.
    pub(crate) async fn pause(&self, round: u32, asked: Duration, deadline: Instant) -> bool {
        let retries = &self.config.retries;
        if asked > retries.backoff_max {
            return false;
        }
        // Between half and the whole, so that clients do not come in step.
        let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
        let own = retries
            .backoff_initial
            .saturating_mul(1 << round.min(16))
            .min(retries.backoff_max)
            .mul_f64(0.5 + random / 2.0);
        let end = Instant::now() + own.max(asked);
        if end >= deadline {
            return false;
        }
        self.transport.metrics.pauses.inc();
        tokio::time::sleep_until(end).await;
        true
    }

    /// One host, with a token renewed once.
    async fn ask<T>(
        &self,
        job: &Job<'_>,
        host: &Host,
        take: &impl AsyncFn(Answer, &Host) -> Result<T, Failure>,
    ) -> Result<T, Attempt> {
        let url = job
            .url(host)
            .map_err(|failure| self.transport.failed(&host.base, failure))?;
        let scopes = job.scopes();
        let asking = Asking {
            host,
            repository: job.repository,
            scopes: &scopes,
        };
        let own = crate::transport::same_origin(&url, &host.base);
        let mut authorization = match own {
            true => self.auth.header(&self.transport, &asking).await?,
            false => None,
        };
        // A token that another renewed meanwhile may be refused too, for instance after a revocation.
        for renewed in 0..3 {
            let mut secrets = HeaderMap::new();
            if own {
                secrets = host.headers.clone();
            }
            if let Some(value) = &authorization {
                secrets.insert(header::AUTHORIZATION, value.clone());
            }
            let exchange = Exchange {
                method: job.method.clone(),
                url: url.clone(),
                headers: job.headers.clone(),
                secrets,
                tls: &host.tls,
                body: job.body.clone(),
            };
            let answer = self.transport.exchange(&exchange).await?;
            let refused = answer.response.status() == StatusCode::UNAUTHORIZED && !answer.foreign;
            if refused && own && renewed < 2 {
                let headers = answer.response.headers();
                let sent = authorization.as_ref();
                let next = self
                    .auth
                    .challenged(&self.transport, &asking, headers, sent)
                    .await?;
                authorization = Some(next);
                continue;
            }
            let url = answer.url.clone();
            return take(answer, host)
                .await
                .map_err(|failure| self.transport.failed(&url, failure));
        }
        Err(self
            .transport
            .failed(&url, Failure::Credentials("refuses every token".to_owned())))
    }
}
