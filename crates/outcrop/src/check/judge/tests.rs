use super::super::report;
use super::*;

fn healthy() -> Facts {
    Facts {
        kernel: Kernel {
            fuse_device: Ok("/dev/fuse opens".into()),
            fuse_protocol: Ok("a trial mount was read".into()),
            overlayfs: Ok("an overlay over the trial mount was read".into()),
            erofs: Ok("the kernel has it".into()),
        },
        root: "/var/lib/outcrop".into(),
        socket: "/run/outcrop/snapshotter.sock".into(),
        state_directory: Ok("/var/lib/outcrop".into()),
        repositories: vec![(
            "unpacked.cern.ch".into(),
            Ok("revision 7 of 2026-01-31T12:00:00Z".into()),
        )],
        containerd: Ok(Running {
            version: Some(Version(2, 1)),
            configuration: Ok(lazy_2_1()),
        }),
    }
}

fn plugin() -> Plugin {
    Plugin {
        name: "outcrop".into(),
        is_snapshotter: true,
        root: Some("/var/lib/outcrop".into()),
        annotations: true,
    }
}

fn lazy_2_1() -> Configuration {
    Configuration {
        plugin: Some(plugin()),
        cri_snapshotter: Some("outcrop".into()),
        unpack: vec!["overlayfs".into(), "outcrop".into()],
        ..Configuration::default()
    }
}

fn clients(version: Version, configuration: Configuration) -> String {
    let running = Running {
        version: Some(version),
        configuration: Ok(configuration),
    };
    let lines = containerd(
        &running,
        Path::new("/run/outcrop/snapshotter.sock"),
        Path::new("/var/lib/outcrop"),
    );
    report::text(&lines)
}

#[test]
fn all_is_well() {
    let lines = judge(&healthy());
    assert_eq!(report::failures(&lines), 0);
    insta::assert_snapshot!(report::text(&lines), @r#"
    ok       FUSE device                                    /dev/fuse opens
    ok       FUSE protocol                                  a trial mount was read
    ok       overlayfs                                      an overlay over the trial mount was read
    ok       EROFS                                          the kernel has it
    ok       state directory                                /var/lib/outcrop
    ok       repository unpacked.cern.ch                    revision 7 of 2026-01-31T12:00:00Z
    ok       containerd                                     2.1 answers
    ok       containerd's configuration                     proxy plugin "outcrop"
    ok       client: CRI                                    lazy
    ok       client: ctr images pull --snapshotter outcrop  lazy (not with --local)
    "#);
}

#[test]
fn nothing_is_there() {
    let facts = Facts {
        kernel: Kernel {
            fuse_device: Err("/dev/fuse: No such file or directory".into()),
            fuse_protocol: Err("not tried: no device".into()),
            overlayfs: Err("not tried: no FUSE".into()),
            erofs: Err("unknown to the kernel".into()),
        },
        state_directory: Err((
            "/tmp/x lies on tmpfs".into(),
            "choose a directory on a disk".into(),
        )),
        repositories: Vec::new(),
        containerd: Err("/run/containerd/containerd.sock: No such file or directory".into()),
        ..healthy()
    };
    let lines = judge(&facts);
    assert_eq!(report::failures(&lines), 6);
    insta::assert_snapshot!(report::text(&lines), @r"
    FAILED   FUSE device      /dev/fuse: No such file or directory
                              → modprobe fuse; in a container, pass the device /dev/fuse
    FAILED   FUSE protocol    not tried: no device
                              → run as root with CAP_SYS_ADMIN; see the kernel's log (dmesg)
    FAILED   overlayfs        not tried: no FUSE
                              → modprobe overlay; the root must lie on a file system that can be an upper (ext4, xfs)
    note     EROFS            unknown to the kernel; not used yet
    FAILED   state directory  /tmp/x lies on tmpfs
                              → choose a directory on a disk
    FAILED   repositories     none is configured: no layer can be lazy
                              → add a [[repository]] to the configuration (`outcrop config show` has examples)
    FAILED   containerd       /run/containerd/containerd.sock: No such file or directory
                              → start containerd, or set [containerd] socket
    ");
}

#[test]
fn every_failing_line_has_a_next_step() {
    let broken = [
        Configuration::default(),
        Configuration {
            plugin: Some(Plugin {
                is_snapshotter: false,
                ..plugin()
            }),
            ..lazy_2_1()
        },
        Configuration {
            plugin: Some(Plugin {
                root: None,
                annotations: false,
                ..plugin()
            }),
            unpack: Vec::new(),
            ..lazy_2_1()
        },
    ];
    let versions = [
        Version(1, 5),
        Version(1, 6),
        Version(1, 7),
        Version(2, 0),
        Version(2, 1),
        Version(2, 4),
    ];
    for configuration in broken {
        for version in versions {
            let running = Running {
                version: Some(version),
                configuration: Ok(configuration.clone()),
            };
            for line in containerd(&running, Path::new("/s"), Path::new("/r")) {
                let needs_step = matches!(line.status, Status::Failed | Status::Warning);
                assert_eq!(needs_step, line.next.is_some(), "{line:?}");
            }
        }
    }
}

#[test]
fn the_old_ctr_cannot_be_lazy() {
    let configuration = Configuration {
        cri_annotations_disabled: Some(false),
        unpack: Vec::new(),
        ..lazy_2_1()
    };
    insta::assert_snapshot!(clients(Version(1, 7), configuration), @r#"
    ok       containerd                                             1.7 answers
    ok       containerd's configuration                             proxy plugin "outcrop"
    ok       client: CRI                                            lazy
    note     client: ctr images pull --snapshotter outcrop          not lazy on 1.7: it fetches every blob before it asks a snapshotter
    note     client: ctr-remote images rpull --snapshotter outcrop  lazy (package stargz-snapshotter)
    "#);
}

#[test]
fn without_unpack_config_the_transfer_service_does_nothing_for_us() {
    let configuration = Configuration {
        unpack: Vec::new(),
        ..lazy_2_1()
    };
    insta::assert_snapshot!(clients(Version(2, 1), configuration), @r#"
    ok       containerd                                     2.1 answers
    ok       containerd's configuration                     proxy plugin "outcrop"
    warning  client: CRI                                    not lazy: the transfer service does not unpack for this snapshotter
                                                            → add an unpack_config entry with snapshotter = "outcrop" (docs/containerd.md)
    warning  client: ctr images pull --snapshotter outcrop  fails: "unable to initialize unpacker"
                                                            → add an unpack_config entry with snapshotter = "outcrop" (docs/containerd.md)
    "#);
}

/// Version, what differs from a configuration in which all is lazy, and how CRI is judged.
type CriCase = (Version, fn(&mut Configuration), Status, &'static str);

const CRI_CASES: [CriCase; 9] = [
    (Version(2, 1), |_| {}, Status::Ok, "lazy"),
    (
        Version(2, 1),
        without_annotations,
        Status::Warning,
        "lazy; each layer",
    ),
    (
        Version(2, 1),
        |c| c.unpack.clear(),
        Status::Warning,
        "not lazy",
    ),
    (Version(2, 1), annotated_local_pull, Status::Ok, "lazy"),
    (
        Version(2, 1),
        local_pull,
        Status::Warning,
        "lazy; each layer",
    ),
    (
        Version(2, 0),
        |c| c.unpack.clear(),
        Status::Warning,
        "lazy; each layer",
    ),
    (Version(1, 6), annotated_local_pull, Status::Ok, "lazy"),
    (
        Version(1, 6),
        uses_overlayfs,
        Status::Warning,
        "not lazy: CRI uses overlayfs",
    ),
    (
        Version(1, 6),
        |c| c.cri_disabled = true,
        Status::Note,
        "disabled",
    ),
];

fn without_annotations(configuration: &mut Configuration) {
    configuration.plugin = Some(Plugin {
        annotations: false,
        ..plugin()
    });
}

fn local_pull(configuration: &mut Configuration) {
    configuration.unpack.clear();
    configuration.cri_local_pull = true;
}

fn annotated_local_pull(configuration: &mut Configuration) {
    configuration.unpack.clear();
    configuration.cri_annotations_disabled = Some(false);
}

fn uses_overlayfs(configuration: &mut Configuration) {
    configuration.cri_snapshotter = Some("overlayfs".into());
}

#[test]
fn cri_is_judged_by_version_and_settings() {
    for (version, change, status, found) in CRI_CASES {
        let mut configuration = lazy_2_1();
        change(&mut configuration);
        let line = cri(
            version,
            &configuration,
            configuration.plugin.as_ref().unwrap(),
        );
        assert_eq!(line.status, status, "{version} {configuration:?} {line:?}");
        assert!(line.found.starts_with(found), "{line:?}");
    }
}
