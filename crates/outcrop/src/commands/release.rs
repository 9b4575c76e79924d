//! `outcrop release`

use crate::cli::ReleaseArgs;
use crate::config::Config;
use crate::error::{Error, Kind};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Unmounts every mount below the state directory, whether a daemon serves it or not. The mount table is read, the mounts
/// themselves are never touched: one whose daemon is dead would not answer.
pub(super) fn run(args: &ReleaseArgs, out: &mut dyn Write) -> Result<(), Error> {
    let config = Config::load(args.config.as_deref())?;
    let released = release(&config.root)?;
    for path in &released {
        super::print(out, &format!("unmounted {}", path.display()))?;
    }
    super::print(
        out,
        &format!(
            "{} unmounted below {}",
            released.len(),
            config.root.display()
        ),
    )
}

/// Returns what was unmounted, the uppermost first.
fn release(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let root = &root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let mounts = fuse::mounts_below(root).map_err(|error| {
        Error::new(Kind::Unavailable, "cannot read the mount table")
            .because(error)
            .hint("is /proc mounted?")
    })?;
    let mut released = Vec::new();
    // Later entries may lie on top of earlier ones. The root itself may be a disk's mount point: not ours.
    for mount in mounts
        .into_iter()
        .rev()
        .filter(|mount| mount.mount_point != *root && is_ours(&mount.file_system))
    {
        fuse::detach_path(&mount.mount_point).map_err(|error| {
            Error::new(
                Kind::Unavailable,
                format!("cannot unmount {}", mount.mount_point.display()),
            )
            .because(error)
            .hint("run as root")
        })?;
        released.push(mount.mount_point);
    }
    Ok(released)
}

/// Our FUSE mounts and the overlays over them.
fn is_ours(file_system: &str) -> bool {
    file_system == "fuse.outcrop" || file_system == "overlay"
}
