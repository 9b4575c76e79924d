//! The harness itself, with containerd's own snapshotter: a pod runs on each version, and nothing is left of it.

use e2e::containerd::mounts_below;
use e2e::{Containerd, Plugin, Runtime, Settings, Version, sandbox_image};

#[test]
fn a_pod_runs_and_leaves_nothing_behind() {
    for version in Version::ALL {
        let Some(runtime) = Runtime::find(version) else {
            eprintln!("skipped: no containerd {version}, run `cargo xtask packages`");
            continue;
        };
        let settings = Settings { plugin: Plugin::Overlayfs, registry: None };
        let containerd = Containerd::start(&runtime, settings).unwrap();
        let cri = containerd.cri().unwrap();
        assert!(cri.version().unwrap().contains(version.name()));

        let pod = cri.run("one", sandbox_image::NAME, &["/bin/sh", "-c", "echo hello; tail -f /dev/null"]).unwrap();
        assert_eq!(cri.first_output(&pod).unwrap(), "hello", "{version}");
        assert_eq!(cri.exec(&pod, &["/bin/cat", "/proc/1/comm"]).unwrap(), b"sh\n");
        assert!(containerd.root_file_system("k8s.io", &pod.container).join("bin/busybox").exists());

        let folder = containerd.folder().to_owned();
        drop(containerd);
        assert!(!folder.exists(), "{version}");
        assert_eq!(mounts_below(&folder), Vec::<std::path::PathBuf>::new(), "{version}");
    }
}
