//! The harness itself, with containerd's own snapshotter: a pod runs on each version, and nothing is left of it.

use std::path::PathBuf;

use e2e::containerd::mounts_below;
use e2e::{Containerd, Plugin, Settings, sandbox_image};

#[test]
fn a_pod_runs_and_leaves_nothing_behind() {
    for runtime in crate::runtimes() {
        let settings = Settings {
            plugin: Plugin::Overlayfs,
            registry: None,
        };
        let containerd = Containerd::start(&runtime, settings).unwrap();
        let cri = containerd.cri().unwrap();
        assert!(cri.version().unwrap().contains(runtime.version.name()));

        let pod = cri
            .run(
                "one",
                sandbox_image::NAME,
                &["/bin/sh", "-c", "echo hello; tail -f /dev/null"],
            )
            .unwrap();
        assert_eq!(cri.first_output(&pod).unwrap(), "hello");
        assert_eq!(cri.exec(&pod, &["/bin/echo", "again"]).unwrap(), b"again\n");
        assert!(
            containerd
                .root_file_system("k8s.io", &pod.container)
                .join("bin/busybox")
                .exists()
        );

        let folder = containerd.folder().to_owned();
        drop(containerd);
        assert!(!folder.exists());
        assert_eq!(mounts_below(&folder), Vec::<PathBuf>::new());
    }
}
