//! Disks that are full or read only: a clear word, and the old revision.

use std::fs;
use std::path::Path;
use std::process::Output;

use e2e::outcrop::{Mount, Servers};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use testkit::{Entry, Layer, Stratum1};

use crate::world::{FQRN, World, complaint, incompressible};

/// A file system in memory. Dropped: unmounted.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn new(at: &'a Path, options: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        mount(
            "tmpfs",
            at,
            "tmpfs",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .unwrap();
        Self(at)
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.0, UnmountFlags::DETACH);
    }
}

fn small(world: &World, location: &str) {
    world.add(
        "small",
        [Layer::new([Entry::file("file", "the old revision\n")])],
    );
    world.init(location);
    let output = world.publish("small", "layers,registry", location);
    assert!(output.status.success(), "{}", complaint(&output));
}

/// A client still finds the old revision whole.
fn assert_old_revision(world: &World, repository: &Path) {
    let stratum1 = Stratum1::serving(repository).start().unwrap();
    let servers = Servers {
        urls: vec![stratum1.repository_url(FQRN)],
        public_key: world.public_key(),
    };
    let folder = tempfile::tempdir_in(world.path("")).unwrap();
    let mount = Mount::start(folder.path(), FQRN, &servers).unwrap();
    let layers = mount.directory().join(".layers");
    let found = walk(&layers);
    let files: Vec<_> = found
        .iter()
        .filter(|path| path.ends_with("layerfs/file"))
        .collect();
    assert_eq!(files.len(), 1, "{found:?}");
    assert_eq!(fs::read_to_string(files[0]).unwrap(), "the old revision\n");
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(walk(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

fn assert_refused(output: &Output, words: &[&str]) {
    let complaint = complaint(output);
    assert!(!output.status.success(), "{complaint}");
    assert!(!complaint.contains("panicked"), "{complaint}");
    for word in words {
        assert!(complaint.contains(word), "{word}: {complaint}");
    }
}

#[test]
fn a_full_disk_is_said_to_be_full_and_the_old_revision_stays() {
    let world = World::new();
    world.add("large", [incompressible(1, 12), incompressible(2, 12)]);
    let at = world.path("disk");
    let _disk = Disk::new(&at, "size=20m");
    let location = at.display().to_string();
    small(&world, &location);
    let manifest = fs::read(at.join(".cvmfspublished")).unwrap();
    for layouts in ["layers", "registry", "erofs,stargz"] {
        let output = world.publish("large", layouts, &location);
        assert_refused(
            &output,
            &["no space left", "the last revision is intact", &location],
        );
        assert_eq!(fs::read(at.join(".cvmfspublished")).unwrap(), manifest);
        assert_old_revision(&world, &at);
    }
    // With room it goes on, and what the failed ones left is gone.
    mount_remount(&at, MountFlags::empty(), c"size=80m").unwrap();
    let output = world.publish("large", "layers", &location);
    assert!(output.status.success(), "{}", complaint(&output));
    assert!(
        walk(&at.join("data/txn"))
            .iter()
            .all(|file| file.ends_with("publisher.lock"))
    );
}

#[test]
fn a_full_scratch_folder_is_said_to_be_full() {
    let world = World::new();
    world.add("large", [incompressible(1, 12)]);
    let scratch = world.path("scratch");
    let _disk = Disk::new(&scratch, "size=2m");
    let at = world.path("repository");
    let location = at.display().to_string();
    small(&world, &location);
    let manifest = fs::read(at.join(".cvmfspublished")).unwrap();
    let mut arguments = world.arguments("large", "registry").to_vec();
    arguments.extend(["--scratch".to_owned(), scratch.display().to_string()]);
    let mut command = world.command(&arguments, &location);
    let output = command.output().unwrap();
    assert_refused(&output, &["space"]);
    assert_eq!(fs::read(at.join(".cvmfspublished")).unwrap(), manifest);
    assert_old_revision(&world, &at);
}

#[test]
fn a_read_only_backend_is_said_to_be_read_only() {
    let world = World::new();
    world.add("large", [incompressible(1, 1)]);
    let at = world.path("disk");
    let _disk = Disk::new(&at, "size=20m");
    let location = at.display().to_string();
    small(&world, &location);
    mount_remount(&at, MountFlags::RDONLY, c"").unwrap();
    let output = world.publish("large", "layers", &location);
    assert_refused(&output, &["Read-only file system", &location]);
    assert_old_revision(&world, &at);
}
