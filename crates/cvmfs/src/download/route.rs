//! Which host and proxy to ask, in which order. What worked last is asked first, by all requests.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::failure::Blame;
use crate::config::{Jitter, ResetAfter};

/// One way to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Index among the hosts.
    pub(crate) host: usize,
    /// Index among the proxies, all groups in one row.
    pub(crate) proxy: usize,
}

/// Hosts and proxies with the ones that are in use.
pub(crate) struct Route {
    hosts: Vec<String>,
    /// `None` = no proxy.
    proxies: Vec<Option<String>>,
    /// Sizes of the groups of `proxies`.
    groups: Vec<usize>,
    reset_after: ResetAfter,
    active: Mutex<Active>,
}

struct Active {
    step: Step,
    host_since: Instant,
    proxy_since: Instant,
}

impl Route {
    pub(crate) fn new(
        hosts: &[String],
        groups: &[Vec<String>],
        reset_after: ResetAfter,
        jitter: &Jitter,
    ) -> Self {
        let mut proxies: Vec<_> = groups.iter().flatten().map(|proxy| parse(proxy)).collect();
        let mut sizes: Vec<_> = groups
            .iter()
            .map(Vec::len)
            .filter(|size| *size > 0)
            .collect();
        if proxies.is_empty() {
            proxies.push(None);
            sizes.push(1);
        }
        // Clients spread over the members of the first group.
        let proxy = (jitter.next() * sizes[0] as f64) as usize;
        let now = Instant::now();
        Self {
            hosts: hosts
                .iter()
                .map(|host| host.trim_end_matches('/').to_owned())
                .collect(),
            proxies,
            groups: sizes,
            reset_after,
            active: Mutex::new(Active {
                step: Step { host: 0, proxy },
                host_since: now,
                proxy_since: now,
            }),
        }
    }

    pub(crate) fn host(&self, step: Step) -> &str {
        &self.hosts[step.host]
    }

    pub(crate) fn hosts(&self) -> &[String] {
        &self.hosts
    }

    pub(crate) fn proxies(&self) -> &[Option<String>] {
        &self.proxies
    }

    pub(crate) fn proxy(&self, step: Step) -> Option<&str> {
        self.proxies[step.proxy].as_deref()
    }

    /// An order in which to try all ways, each at most once.
    pub(crate) fn plan(&self) -> Plan {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if active.step.host != 0 && now - active.host_since >= self.reset_after.host {
            active.step.host = 0;
            active.host_since = now;
        }
        let group = self.group_of(active.step.proxy);
        if group != 0 && now - active.proxy_since >= self.reset_after.proxy {
            active.step.proxy = 0;
            active.proxy_since = now;
        }
        let step = active.step;
        let count = self.hosts.len();
        Plan {
            hosts: (0..count).map(|turn| (step.host + turn) % count).collect(),
            first: self.order(step.proxy),
            later: self.order(if group == 0 { step.proxy } else { 0 }),
            at_host: 0,
            at_proxy: 0,
        }
    }

    /// Remembers a way that worked.
    pub(crate) fn worked(&self, step: Step) {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if active.step.host != step.host {
            tracing::warn!(host = %self.hosts[step.host], "switched host");
            active.host_since = Instant::now();
        }
        if active.step.proxy != step.proxy {
            tracing::warn!(proxy = ?self.proxies[step.proxy], "switched proxy");
            active.proxy_since = Instant::now();
        }
        active.step = step;
    }

    /// Moves on from a host whose signed files do not verify.
    pub(crate) fn next_host(&self) {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.step.host = (active.step.host + 1) % self.hosts.len().max(1);
        active.host_since = Instant::now();
    }

    fn group_of(&self, proxy: usize) -> usize {
        let mut end = 0;
        self.groups
            .iter()
            .position(|size| {
                end += size;
                proxy < end
            })
            .unwrap_or(0)
    }

    /// Members of the group of `start`, beginning with it, then the groups behind.
    fn order(&self, start: usize) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.proxies.len());
        let mut begin = 0;
        for size in &self.groups {
            if (begin..begin + size).contains(&start) {
                order.extend((0..*size).map(|turn| begin + (start - begin + turn) % size));
            } else if begin > start {
                order.extend(begin..begin + size);
            }
            begin += size;
        }
        order
    }
}

fn parse(proxy: &str) -> Option<String> {
    (proxy != "DIRECT").then(|| proxy.to_owned())
}

/// The ways that one request has not tried yet.
#[derive(Debug)]
pub(crate) struct Plan {
    hosts: Vec<usize>,
    first: Vec<usize>,
    later: Vec<usize>,
    at_host: usize,
    at_proxy: usize,
}

impl Plan {
    /// The way to try now; `None` when all have failed.
    pub(crate) fn current(&self) -> Option<Step> {
        let host = *self.hosts.get(self.at_host)?;
        let proxy = *self.order().get(self.at_proxy)?;
        Some(Step { host, proxy })
    }

    /// Leaves out who is to blame for a failure.
    pub(crate) fn advance(&mut self, blame: Blame) {
        if blame == Blame::Proxy && self.at_proxy + 1 < self.order().len() {
            self.at_proxy += 1;
            return;
        }
        // The proxy was not at fault: the next host is asked through it too. Exhausted proxies begin anew.
        if blame == Blame::Proxy {
            self.at_proxy = 0;
        } else if self.at_host == 0 {
            let proxy = self.first[self.at_proxy];
            self.at_proxy = self
                .later
                .iter()
                .position(|other| *other == proxy)
                .unwrap_or(0);
        }
        self.at_host += 1;
    }

    fn order(&self) -> &[usize] {
        if self.at_host == 0 {
            &self.first
        } else {
            &self.later
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(hosts: &[&str], groups: &[&[&str]]) -> Route {
        let strings = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let groups: Vec<_> = groups.iter().map(|group| strings(group)).collect();
        Route::new(
            &strings(hosts),
            &groups,
            ResetAfter::default(),
            &Jitter::new(|| 0.0),
        )
    }

    fn tried(plan: &mut Plan, blame: Blame) -> Vec<(usize, usize)> {
        let mut steps = Vec::new();
        while let Some(step) = plan.current() {
            steps.push((step.host, step.proxy));
            plan.advance(blame);
        }
        steps
    }

    #[test]
    fn hosts_without_proxies() {
        let route = route(&["a", "b/", "c"], &[]);
        assert_eq!(
            tried(&mut route.plan(), Blame::Host),
            [(0, 0), (1, 0), (2, 0)]
        );
        route.worked(Step { host: 1, proxy: 0 });
        assert_eq!(
            tried(&mut route.plan(), Blame::Host),
            [(1, 0), (2, 0), (0, 0)]
        );
        assert_eq!(route.host(Step { host: 1, proxy: 0 }), "b");
    }

    #[test]
    fn dead_proxies_cost_hosts_times_proxies() {
        let route = route(&["a", "b"], &[&["p", "q"], &["r", "DIRECT"]]);
        assert_eq!(
            tried(&mut route.plan(), Blame::Proxy),
            [
                (0, 0),
                (0, 1),
                (0, 2),
                (0, 3),
                (1, 0),
                (1, 1),
                (1, 2),
                (1, 3)
            ]
        );
        route.worked(Step { host: 0, proxy: 3 });
        assert_eq!(
            tried(&mut route.plan(), Blame::Proxy),
            [(0, 3), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3)]
        );
        assert_eq!(tried(&mut route.plan(), Blame::Host), [(0, 3), (1, 3)]);
        assert_eq!(route.proxy(Step { host: 0, proxy: 3 }), None);
    }

    #[test]
    fn no_hosts_no_steps() {
        let route = route(&[], &[&["p"]]);
        assert_eq!(route.plan().current(), None);
        route.next_host();
    }

    #[test]
    fn preferred_ones_come_back() {
        let at_once = ResetAfter {
            proxy: std::time::Duration::ZERO,
            host: std::time::Duration::ZERO,
        };
        let hosts = ["a".to_owned(), "b".to_owned()];
        let groups = [vec!["p".to_owned()], vec!["q".to_owned()]];
        let route = Route::new(&hosts, &groups, at_once, &Jitter::new(|| 0.5));
        route.worked(Step { host: 1, proxy: 1 });
        assert_eq!(route.plan().current(), Some(Step { host: 0, proxy: 0 }));
    }
}
