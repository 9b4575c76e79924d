//! Symlinks from diffIDs and chainIDs to layers: a reader that knows an image only by its configuration finds its layers by them.

use image::Digest;
use image::repository_layout::{
    chain_pointer, diff_pointer, layer_directory, pointed_layer, pointer_target,
};

use crate::entry::Entry;
use crate::error::Error;
use crate::layouts::Changes;
use crate::layouts::metadata::ensure_catalog;

/// Points a diffID, or a chainID, to a layer. A pointer to another layer that is still there stays: either will do.
pub(crate) fn write<C: Changes>(
    changes: &mut C,
    layer: &Digest,
    diff_id: &Digest,
    chain_id: &Digest,
    now: jiff::Timestamp,
) -> Result<(), Error> {
    for path in ["/.outcrop", "/.outcrop/diffs", "/.outcrop/chains"] {
        ensure_catalog(changes, path)?;
    }
    for path in [diff_pointer(diff_id), chain_pointer(chain_id)] {
        if let Some(found) = changes.lookup(&path)?
            && let Some(known) = pointed_layer(&found.symlink)
            && (known == *layer || changes.lookup(&layer_directory(&known))?.is_some())
        {
            continue;
        }
        changes.symlink(
            &path,
            Entry::symlink(pointer_target(layer), now.as_second()),
        )?;
    }
    Ok(())
}

/// Removes all pointers to layers that are not there any more.
pub(crate) fn remove_dangling<C: Changes>(changes: &mut C) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    for root in ["/.outcrop/diffs", "/.outcrop/chains"] {
        for shard in changes.list(root)? {
            let shard = format!("{root}/{}", String::from_utf8_lossy(&shard));
            for name in changes.list(&shard)? {
                let path = format!("{shard}/{}", String::from_utf8_lossy(&name));
                if dangles(changes, &path)? {
                    changes.remove(&path)?;
                    removed.push(path);
                }
            }
        }
    }
    Ok(removed)
}

fn dangles<C: Changes>(changes: &mut C, path: &str) -> Result<bool, Error> {
    let Some(layer) = changes
        .lookup(path)?
        .and_then(|found| pointed_layer(&found.symlink))
    else {
        return Ok(false);
    };
    Ok(changes.lookup(&layer_directory(&layer))?.is_none())
}
