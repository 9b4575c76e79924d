//! What the snapshotter keeps on disk.
//!
//! ```text
//! <root>/
//! ├── records.db            snapshots, their parents, labels and claims (records.rs)
//! ├── snapshots/<id>/fs     content of an ordinary snapshot; upperdir while it is active
//! ├── snapshots/<id>/work   overlayfs' workdir while it is active
//! ├── trash/<id>            removed, not yet deleted (cleanup.rs)
//! └── chains/               mounts of lazy layers; whoever implements `LazyLayers` owns it
//! ```
//! A claimed snapshot has a record and no directory.

mod directories;
mod records;
mod schema;
mod snapshot;

pub(crate) use directories::Directories;
pub use records::DatabaseError;
pub(crate) use records::{Cursor, NewClaim, NewSnapshot, Records};
pub use snapshot::{Claim, Kind, Parent, Snapshot, Usage};

use crate::Error;

/// Reads all snapshots of the state directory `root`, also while a daemon serves it.
///
/// # Errors
/// No records there, records of another version, or unreadable ones.
pub fn read_snapshots(root: &std::path::Path) -> Result<Vec<Snapshot>, Error> {
    let records = Records::open_read_only(root)?;
    let mut all = Vec::new();
    let mut after = Cursor::default();
    loop {
        let page = records.page(after, None)?;
        let Some(last) = page.last() else {
            return Ok(all);
        };
        after = Cursor::after(last);
        all.extend(page);
    }
}
