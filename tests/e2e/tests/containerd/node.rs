//! A node of a cluster: containerd, the daemon, and the servers they read from.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use e2e::containerd::{mounts_below, new_folder, socket_in};
use e2e::outcrop::{Access, Mount, Repository, Servers};
use e2e::{Containerd, Cri, Outcrop, Runtime, Settings};
use rustix::process::Signal;
use tempfile::TempDir;
use testkit::{Access as RegistryAccess, Registry, Running, Stratum1};

use crate::images::{FQRN, World};

/// How the daemon reads.
#[derive(Default)]
struct How {
    mounted: bool,
    registry: bool,
    /// More of its configuration.
    lazy: String,
    /// Who may use the registry.
    access: Option<RegistryAccess>,
}

/// The fields' order is the order of their end.
pub(crate) struct Node {
    pub(crate) containerd: Containerd,
    pub(crate) outcrop: Outcrop,
    /// The host's client, where the daemon does not read the repository by itself.
    pub(crate) mount: Option<Mount>,
    pub(crate) registry: Running<Registry>,
    pub(crate) stratum1: Running<Stratum1>,
    pods: AtomicU32,
    _folder: TempDir,
}

impl Node {
    pub(crate) fn start(
        runtime: &Runtime,
        images: &Path,
        repository: &Path,
        public_key: &Path,
    ) -> Self {
        Self::reading(runtime, images, repository, public_key, How::default())
    }

    /// The daemon reads the repository where another client keeps it mounted.
    pub(crate) fn with_mounted_repository(
        runtime: &Runtime,
        images: &Path,
        repository: &Path,
        public_key: &Path,
    ) -> Self {
        let how = How {
            mounted: true,
            ..How::default()
        };
        Self::reading(runtime, images, repository, public_key, how)
    }

    /// The daemon also asks registries, as containerd's own configuration says where they are.
    pub(crate) fn with_registry(runtime: &Runtime, world: &World, lazy: &str) -> Self {
        let how = How {
            registry: true,
            lazy: lazy.to_owned(),
            ..How::default()
        };
        let (images, repository) = (world.images(), world.repository());
        Self::reading(runtime, &images, &repository, &world.public_key(), how)
    }

    /// The same, where every request needs a token.
    pub(crate) fn with_guarded_registry(
        runtime: &Runtime,
        world: &World,
        access: &RegistryAccess,
    ) -> Self {
        let how = How {
            registry: true,
            access: Some(access.clone()),
            ..How::default()
        };
        let (images, repository) = (world.images(), world.repository());
        Self::reading(runtime, &images, &repository, &world.public_key(), how)
    }

    fn reading(
        runtime: &Runtime,
        images: &Path,
        repository: &Path,
        public_key: &Path,
        how: How,
    ) -> Self {
        let folder = new_folder().unwrap();
        let registry = Registry::serving(images);
        let registry = match &how.access {
            Some(access) => registry.access(access),
            None => registry,
        };
        let registry = registry.start().unwrap();
        let stratum1 = Stratum1::serving(repository).start().unwrap();
        let servers = Servers {
            urls: vec![stratum1.repository_url(FQRN)],
            public_key: public_key.to_owned(),
        };
        let mount = how
            .mounted
            .then(|| Mount::start(folder.path(), FQRN, &servers).unwrap());
        let access = match &mount {
            Some(mount) => Access::Mounted(mount.directory().to_owned()),
            None => Access::Embedded(servers),
        };
        let repository = Repository {
            name: FQRN.to_owned(),
            access,
        };
        let mut more = how.lazy;
        let hosts = folder.path().join("certs.d");
        more += &match how.registry {
            true => format!(
                "[registry]\nhosts_directories = [{hosts:?}]\ndocker_config = \"\"\ndeadline = \"10s\"\n"
            ),
            // Where its images come from, only containerd knows.
            false => "[registry]\nenabled = false\n".to_owned(),
        };
        let socket = socket_in(folder.path());
        let outcrop = Outcrop::start_with(folder.path(), &socket, &[repository], &more).unwrap();
        let settings = Settings {
            plugin: Outcrop::plugin(folder.path()),
            registry: Some(registry.url()),
        };
        let containerd = Containerd::start_in(folder.path(), runtime, settings).unwrap();
        // The sandbox image is none of the test's business.
        registry.clear_log();
        Self {
            containerd,
            outcrop,
            mount,
            registry,
            stratum1,
            pods: AtomicU32::new(0),
            _folder: folder,
        }
    }

    pub(crate) fn of(runtime: &Runtime, world: &World) -> Self {
        Self::start(
            runtime,
            &world.images(),
            &world.repository(),
            &world.public_key(),
        )
    }

    pub(crate) fn cri(&self) -> Cri {
        self.containerd.cri().unwrap()
    }

    /// Which of `layers` (digests) the registry was asked for.
    pub(crate) fn fetched(&self, layers: &[String]) -> Vec<String> {
        fetched(&self.registry, layers)
    }

    /// No pod's name is used twice: its log would be.
    fn pod_name(&self) -> String {
        format!("pod{}", self.pods.fetch_add(1, Ordering::Relaxed))
    }

    /// Ends the daemon by `signal` and starts it again; returns when containerd has connected anew, which it tries with pauses in between.
    pub(crate) fn restart_outcrop(&mut self, signal: Signal) {
        self.outcrop.restart(signal).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) = self
            .containerd
            .ctr("k8s.io", &["snapshots", "--snapshotter", "outcrop", "list"])
        {
            assert!(Instant::now() < deadline, "{error:#}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Pulls an image by CRI and runs it; what the command prints first. The pod is removed.
    pub(crate) fn output_of(&self, image: &str, command: &[&str]) -> String {
        let cri = self.cri();
        cri.pull(image)
            .unwrap_or_else(|error| panic!("{image}: {error}\n{}", self.outcrop.log()));
        let pod = cri
            .run(&self.pod_name(), image, command)
            .unwrap_or_else(|error| panic!("{image}: {error}\n{}", self.outcrop.log()));
        let output = cri.first_output(&pod).unwrap();
        cri.remove(&pod).unwrap();
        output
    }

    /// Mount points of chains.
    pub(crate) fn chains(&self) -> usize {
        mounts_below(&self.outcrop.root()).len()
    }

    /// Waits until there are `count` chains mounted: the last user's end detaches in the background.
    pub(crate) fn wait_for_chains(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.chains() != count {
            let mounts = mounts_below(&self.outcrop.root());
            assert!(
                Instant::now() < deadline,
                "{count} chains expected, and there are {mounts:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A label of an image's snapshot.
    pub(crate) fn label(&self, snapshot: &str, name: &str) -> Option<String> {
        let labels = self.containerd.snapshot_labels("k8s.io", snapshot).unwrap();
        labels
            .get(&format!("containerd.io/snapshot/outcrop.{name}"))
            .cloned()
    }
}

/// Which of `layers` (digests) a registry was asked for.
pub(crate) fn fetched(registry: &Running<Registry>, layers: &[String]) -> Vec<String> {
    let asked = |layer: &&String| !registry.requests_for(&format!("/blobs/{layer}")).is_empty();
    layers.iter().filter(asked).cloned().collect()
}
