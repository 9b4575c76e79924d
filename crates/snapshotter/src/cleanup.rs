//! Deleting what Remove left behind, detaching what nobody uses.

use crate::Error;
use crate::chains::Chain;
use crate::snapshotter::Snapshotter;

impl Snapshotter {
    /// Cleanup: empties the trash and detaches chains without users. Failures are logged: they must not stop
    /// containerd's garbage collection, and the next Cleanup tries again.
    pub fn cleanup(&self) {
        match self.directories.empty_trash() {
            Ok(deleted) => {
                self.metrics().deleted_directories.inc_by(deleted as u64);
            }
            Err(error) => tracing::warn!(%error, "trash is not empty"),
        }
        for chain in self.chains.all_attached() {
            self.release(&chain);
        }
    }

    /// Detaches the chain unless an active or view stands on it.
    pub(crate) fn release(&self, chain: &Chain) {
        let released = self.chains.alone(chain, || {
            if self.records.chain_in_use(&chain.name)? {
                return Ok(());
            }
            // One that an earlier process attached is not in the list; the call is idempotent.
            self.chains.detached(chain);
            self.layers.detach(&chain.layers);
            self.metrics().detaches.inc();
            Ok::<(), Error>(())
        });
        if let Err(error) = released {
            tracing::warn!(%error, chain = chain.name, "chain stays attached until the next Cleanup");
        }
    }
}
