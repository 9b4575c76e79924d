//! A stock registry whose storage is a repository's mount, and containerd that pulls from it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::outcrop::{Mount, Servers};
use e2e::{Child, Containerd, Plugin, Runtime, Settings, Version};
use testkit::{Entry, Layer, Stratum1};

use crate::world::{FQRN, World, base, complaint};

/// Debian's docker-registry, which may only read.
fn serve(storage: &Path, folder: &Path) -> (Child, String) {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("127.0.0.1:{port}");
    let config = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\n  maintenance:\n    readonly:\n      enabled: true\n\
         http:\n  addr: {address}\n",
        storage.display()
    );
    let file = folder.join("registry.yml");
    fs::write(&file, config).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(&file);
    let mut child = Child::start("docker-registry", command, &folder.join("registry.log")).unwrap();
    child
        .wait_until(Duration::from_secs(30), || {
            TcpStream::connect(&address).is_ok()
        })
        .unwrap();
    (child, format!("http://{address}"))
}

#[test]
fn containerd_pulls_from_a_stock_registry_over_the_mount() {
    let world = World::new();
    let hello = Layer::new([Entry::file("hello", "from the repository\n")]);
    let image = world.add("app", [base(), hello]);
    let repository = world.path("repository");
    let location = repository.display().to_string();
    world.init(&location);
    let output = world.publish("app", "layers,registry", &location);
    assert!(output.status.success(), "{}", complaint(&output));
    let stratum1 = Stratum1::serving(&repository).start().unwrap();
    let servers = Servers {
        urls: vec![stratum1.repository_url(FQRN)],
        public_key: world.public_key(),
    };
    let folder = world.path("mounts");
    fs::create_dir_all(&folder).unwrap();
    let mount = Mount::start(&folder, FQRN, &servers).unwrap();
    let (registry, url) = serve(mount.directory(), &folder);
    let found = Version::ALL.into_iter().filter_map(Runtime::find);
    let runtimes: Vec<Runtime> = found.collect();
    assert!(!runtimes.is_empty(), "no containerd at all");
    for runtime in runtimes {
        // `registry.test` is no host that anybody could reach.
        let settings = Settings {
            plugin: Plugin::Overlayfs,
            registry: Some(url.clone()),
        };
        let containerd = Containerd::start(&runtime, settings).unwrap();
        let cri = containerd.cri().unwrap();
        let name = "registry.test/group/app:1";
        cri.pull(name).unwrap_or_else(|error| {
            panic!("{error}\n{}", registry.log());
        });
        let command = ["/bin/sh", "-c", "cat /hello; exec tail -f /dev/null"];
        let pod = cri.run("app", name, &command).unwrap();
        assert_eq!(cri.first_output(&pod).unwrap(), "from the repository");
        cri.remove(&pod).unwrap();
        let by_digest = format!("registry.test/group/app@{}", image.digest);
        cri.pull(&by_digest).unwrap();
        // The same below the name of the registry that it comes from.
        let by_registry = format!("mirror.test/registry.test/group/app@{}", image.digest);
        cri.pull(&by_registry).unwrap();
    }
}
