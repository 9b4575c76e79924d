//! Which chains are attached, and the order between attaching and detaching one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use image::Digest;

use crate::layers::ChainLayer;

/// The lazy layers below a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Digest of the ordered tree keys: the same after a restart, and for every image with these layers.
    pub(crate) name: String,
    /// Bottom to top.
    pub(crate) layers: Vec<ChainLayer>,
}

impl Chain {
    /// `None` without layers.
    pub(crate) fn new(layers: Vec<ChainLayer>) -> Option<Self> {
        let keys: Vec<&str> = layers.iter().map(|layer| layer.tree.as_str()).collect();
        let name = Digest::of(keys.join("\n").as_bytes()).hex();
        (!layers.is_empty()).then_some(Self { name, layers })
    }
}

/// Gates of the chains that somebody uses right now, and what this process attached.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    gates: Mutex<HashMap<String, Arc<RwLock<()>>>>,
    attached: Mutex<HashMap<String, Chain>>,
}

impl Chains {
    /// Runs `work`, which attaches the chain and records its user, while nobody detaches it.
    pub(crate) fn using<T>(&self, chain: &Chain, work: impl FnOnce() -> T) -> T {
        let gate = self.gate(&chain.name);
        let shared = gate.read().unwrap_or_else(PoisonError::into_inner);
        let result = work();
        drop(shared);
        self.forget_gate(&chain.name, gate);
        result
    }

    /// Runs `work`, which may detach the chain, while nobody attaches it.
    pub(crate) fn alone<T>(&self, chain: &Chain, work: impl FnOnce() -> T) -> T {
        let gate = self.gate(&chain.name);
        let exclusive = gate.write().unwrap_or_else(PoisonError::into_inner);
        let result = work();
        drop(exclusive);
        self.forget_gate(&chain.name, gate);
        result
    }

    /// Remembers an attached chain.
    pub(crate) fn attached(&self, chain: &Chain) {
        lock(&self.attached)
            .entry(chain.name.clone())
            .or_insert_with(|| chain.clone());
    }

    /// Forgets it; false if this process did not attach it.
    pub(crate) fn detached(&self, chain: &Chain) -> bool {
        lock(&self.attached).remove(&chain.name).is_some()
    }

    /// All that this process attached.
    pub(crate) fn all_attached(&self) -> Vec<Chain> {
        lock(&self.attached).values().cloned().collect()
    }

    fn gate(&self, name: &str) -> Arc<RwLock<()>> {
        Arc::clone(lock(&self.gates).entry(name.to_owned()).or_default())
    }

    /// Drops a gate that nobody else holds. Whoever takes it does so under the map's lock, so the count is exact.
    fn forget_gate(&self, name: &str, gate: Arc<RwLock<()>>) {
        let mut gates = lock(&self.gates);
        drop(gate);
        if gates
            .get(name)
            .is_some_and(|gate| Arc::strong_count(gate) == 1)
        {
            gates.remove(name);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
