//! Parsers of the CVMFS client that its public interface reaches only through a signed repository
//! on a server: the same source files, with doors for the fuzzer.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "of each file only the parsers are used"
)]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

#[rustfmt::skip]
#[path = "../../crates/cvmfs/src/catalog/mod.rs"]
mod catalog;
#[rustfmt::skip]
#[path = "../../crates/cvmfs/src/content.rs"]
mod content;
#[rustfmt::skip]
#[path = "../../crates/cvmfs/src/dirent.rs"]
mod dirent;
#[rustfmt::skip]
#[path = "../../crates/cvmfs/src/error.rs"]
mod error;
#[rustfmt::skip]
#[path = "../../crates/cvmfs/src/download/failure.rs"]
mod failure;
#[rustfmt::skip]
#[path = "../../crates/cvmfs/src/hash.rs"]
mod hash;
#[rustfmt::skip]
#[path = "../../crates/cvmfs/src/manifest.rs"]
mod manifest;
#[rustfmt::skip]
#[path = "../../crates/cvmfs/src/object.rs"]
mod object;
#[rustfmt::skip]
#[path = "../../crates/cvmfs/src/signature.rs"]
mod signature;
#[rustfmt::skip]
#[path = "../../crates/cvmfs/src/whitelist.rs"]
mod whitelist;
#[rustfmt::skip]
#[path = "../../crates/cvmfs/src/xattr.rs"]
mod xattr;

/// What the parsers need of the module that transfers.
mod download {
    pub use crate::failure::{Attempt, Failure};

    /// The fuzzer's own paths need no escapes.
    pub(crate) fn encode_path(path: &[u8]) -> String {
        String::from_utf8_lossy(path).into_owned()
    }
}

pub use manifest::Manifest;
pub use signature::Signed;
pub use whitelist::Whitelist;

/// Name and value of each attribute.
pub fn parse_xattrs(blob: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    xattr::parse(blob).ok()
}

/// Rows looked at of one catalog: a hostile one may join a row with itself without end.
const ROWS: usize = 1000;

/// Opens a file as a catalog and asks it all that the client would; errors are fine.
pub fn read_catalog(path: &Path) {
    let hash = hash::Algorithm::Sha1.digest(b"");
    let pinned = catalog::Pinned {
        cache: Arc::new(cache::Cache),
        key: cache::Key,
        object: Some(cache::Object(path.to_owned())),
    };
    let Ok(catalog) = catalog::Catalog::open(hash, pinned) else {
        return;
    };
    let _ = catalog.counters();
    let _ = (
        catalog.property("revision"),
        catalog.mounted_on_way(b"/a/b/c", true),
    );
    let chunks = catalog.all_chunks().unwrap_or_default();
    for directories in [true, false] {
        let mut rows = Vec::new();
        let _ = catalog.scan(directories, &mut |row| {
            rows.push(row);
            if rows.len() < ROWS {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        for row in rows.into_iter().take(50) {
            look(&catalog, &row, &chunks);
        }
    }
}

fn look(
    catalog: &catalog::Catalog,
    row: &catalog::CatalogRow,
    chunks: &std::collections::HashMap<catalog::PathKey, Vec<catalog::ChunkRow>>,
) {
    assert!(row.dirent.name.len() <= 255 && !row.dirent.name.contains(&b'/'));
    let _ = row.dirent.xattrs();
    let _ = (catalog.by_key(row.key), catalog.by_rowid(row.rowid));
    let _ = catalog.children(row.key, 0, 100);
    let _ = catalog.content(row, b"/path");
    let of_row = chunks.get(&row.key).map_or(&[][..], |chunks| chunks);
    if let Ok(content::Content::Chunked(chunks)) = catalog.content_with(row, b"/path", of_row) {
        let end = chunks.iter().fold(0, |end, chunk| {
            assert_eq!(chunk.offset, end);
            end + chunk.size
        });
        assert_eq!(end, row.dirent.size);
    }
}
