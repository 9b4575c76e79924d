//! Which mounts this process serves: reading one of them as a source would make the daemon wait
//! for itself.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fuse::MountInfo;

use crate::builds::lock;

/// Major and minor number of a file system, as in the mount table.
type Device = (u32, u32);

/// The mounts of this process's chains.
pub(crate) struct OwnMounts {
    /// The directory of chains: also what another life of the daemon left there.
    chains: PathBuf,
    /// How many file systems have the number: it may be given anew before the last one is dropped.
    devices: Mutex<HashMap<Device, usize>>,
}

/// Lives as long as the file system is served, which may be longer than it is mounted.
pub(crate) struct OwnMount {
    own: Arc<OwnMounts>,
    device: Device,
}

impl OwnMounts {
    pub(crate) fn new(chains: PathBuf) -> Self {
        Self {
            chains,
            devices: Mutex::default(),
        }
    }

    pub(crate) fn serve(self: &Arc<Self>, device: Device) -> OwnMount {
        *lock(&self.devices).entry(device).or_default() += 1;
        OwnMount {
            own: Arc::clone(self),
            device,
        }
    }

    /// Whether an absolute path lies in a mount of ours, or in a bind mount of one. Reads the mount
    /// table only, so links in the path are not followed.
    pub(crate) fn hold(&self, path: &Path) -> std::io::Result<bool> {
        if path.starts_with(&self.chains) {
            return Ok(true);
        }
        let mounts = fuse::mounts_below(Path::new("/"))?;
        let devices = lock(&self.devices);
        Ok(covering(&mounts, path).is_some_and(|mount| devices.contains_key(&mount.device)))
    }
}

/// The mount in which a path lies: the deepest above it, the last one at that place.
fn covering<'a>(mounts: &'a [MountInfo], path: &Path) -> Option<&'a MountInfo> {
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.components().count())
}

impl Drop for OwnMount {
    fn drop(&mut self) {
        let mut devices = lock(&self.own.devices);
        if let Some(count) = devices.get_mut(&self.device) {
            *count -= 1;
            if *count == 0 {
                devices.remove(&self.device);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_the_deepest_mounts_covers_a_path() {
        let mounts = fuse::parse_mountinfo(
            b"1 0 8:1 / / rw - ext4 /dev/a rw\n\
            2 1 0:50 / /cvmfs/a.b rw - fuse fuse rw\n\
            3 1 0:51 / /cvmfs/a.b rw - fuse.outcrop outcrop rw\n\
            4 1 0:52 / /cvmfs/a.bc rw - fuse fuse rw\n",
        );
        let device = |path: &str| covering(&mounts, Path::new(path)).map(|mount| mount.device);
        assert_eq!(device("/cvmfs/a.b"), Some((0, 51)));
        assert_eq!(device("/cvmfs/a.b/x"), Some((0, 51)));
        assert_eq!(device("/cvmfs/a"), Some((8, 1)));
        assert_eq!(covering(&[], Path::new("/x")), None);
    }

    #[test]
    fn a_number_is_ours_while_anything_with_it_is_served() {
        let root = fuse::mounts_below(Path::new("/")).unwrap();
        let device = covering(&root, Path::new("/proc/self")).unwrap().device;
        let own = Arc::new(OwnMounts::new(PathBuf::from("/nowhere")));
        let holds = || own.hold(Path::new("/proc/self")).unwrap();
        assert!(!holds());
        let (first, second) = (own.serve(device), own.serve(device));
        drop(first);
        assert!(holds() && !own.hold(Path::new("/nowhere-else")).unwrap());
        drop(second);
        assert!(!holds());
        assert!(own.hold(Path::new("/nowhere/x/fs")).unwrap());
    }
}
