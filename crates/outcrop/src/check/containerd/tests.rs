use super::*;

const SOCKET: &str = "/run/outcrop/snapshotter.sock";

fn parse(texts: &[&str]) -> Configuration {
    Configuration::parse(texts.iter().copied(), Path::new(SOCKET)).unwrap()
}

#[test]
fn versions_are_found_in_what_containerd_prints() {
    for (printed, version) in [
        (
            "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1",
            Some(Version(1, 6)),
        ),
        (
            "containerd github.com/containerd/containerd/v2 v2.1.9 deadbeef",
            Some(Version(2, 1)),
        ),
        (
            "containerd github.com/containerd/containerd v1.7.24",
            Some(Version(1, 7)),
        ),
        (
            "containerd github.com/containerd/containerd/v2 2.4.0-beta.0",
            Some(Version(2, 4)),
        ),
        ("containerd", None),
    ] {
        assert_eq!(Version::find(printed), version, "{printed}");
    }
    assert!(Version(1, 7) < Version(2, 0));
}

#[test]
fn format_2_is_read() {
    let configuration = parse(&[r#"
        version = 2
        [proxy_plugins.outcrop]
          type = "snapshot"
          address = "/run/outcrop/snapshotter.sock"
          [proxy_plugins.outcrop.exports]
            root = "/var/lib/outcrop"
        [plugins."io.containerd.grpc.v1.cri".containerd]
          snapshotter = "outcrop"
          disable_snapshot_annotations = false
    "#]);
    let plugin = configuration.plugin.unwrap();
    assert_eq!(
        (plugin.name.as_str(), plugin.root.as_deref()),
        ("outcrop", Some("/var/lib/outcrop"))
    );
    assert!(plugin.is_snapshotter && !plugin.annotations);
    assert_eq!(configuration.cri_snapshotter.as_deref(), Some("outcrop"));
    assert_eq!(configuration.cri_annotations_disabled, Some(false));
}

#[test]
fn format_3_is_read() {
    let configuration = parse(&[r#"
        version = 3
        disabled_plugins = ["io.containerd.snapshotter.v1.zfs"]
        [proxy_plugins.lazy]
          type = "snapshot"
          address = "unix:///run/outcrop/snapshotter.sock"
          [proxy_plugins.lazy.exports]
            enable_remote_snapshot_annotations = "true"
        [plugins.'io.containerd.cri.v1.images']
          snapshotter = "lazy"
          use_local_image_pull = true
        [[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
          platform = "linux"
          snapshotter = "lazy"
          differ = "walking"
    "#]);
    let plugin = configuration.plugin.unwrap();
    assert_eq!((plugin.name.as_str(), plugin.annotations), ("lazy", true));
    assert_eq!(configuration.cri_snapshotter.as_deref(), Some("lazy"));
    assert_eq!(configuration.unpack, ["lazy"]);
    assert!(configuration.cri_local_pull && !configuration.cri_disabled);
}

#[test]
fn another_plugin_s_socket_is_not_ours() {
    let stargz =
        "[proxy_plugins.stargz]\ntype = \"snapshot\"\naddress = \"/run/stargz/stargz.sock\"";
    assert_eq!(parse(&[stargz]).plugin, None);
}

#[test]
fn a_drop_in_adds_to_the_main_file() {
    let main = "disabled_plugins = [\"cri\"]\n[plugins.'io.containerd.cri.v1.images']\nsnapshotter = \"overlayfs\"\ndisable_snapshot_annotations = true";
    let drop_in = "[proxy_plugins.outcrop]\ntype = \"snapshot\"\naddress = \"/run/outcrop/snapshotter.sock\"\n[plugins.'io.containerd.cri.v1.images']\nsnapshotter = \"outcrop\"";
    let configuration = parse(&[main, drop_in]);
    assert!(configuration.plugin.is_some() && configuration.cri_disabled);
    assert_eq!(configuration.cri_snapshotter.as_deref(), Some("outcrop"));
    assert_eq!(configuration.cri_annotations_disabled, Some(true));
}

#[test]
fn values_of_another_kind_are_passed_over() {
    let odd = "proxy_plugins = 1\nplugins = []\ndisabled_plugins = \"cri\"";
    assert_eq!(parse(&[odd]), Configuration::default());
    assert!(Configuration::parse(["[broken"], Path::new(SOCKET)).is_err());
}

#[test]
fn imports_are_followed_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    std::fs::create_dir(directory.path().join("conf.d")).unwrap();
    write("config.toml", "imports = [\"conf.d/*.toml\"]\n");
    write(
        "conf.d/20.toml",
        "[plugins.cri.containerd]\nsnapshotter = \"outcrop\"",
    );
    write(
        "conf.d/10.toml",
        "[plugins.cri.containerd]\nsnapshotter = \"overlayfs\"",
    );
    write("conf.d/30.txt", "[broken");
    let texts = read_with_imports(&directory.path().join("config.toml")).unwrap();
    assert_eq!(
        parse(&texts.iter().map(String::as_str).collect::<Vec<_>>())
            .cri_snapshotter
            .as_deref(),
        Some("outcrop")
    );
}

#[test]
fn the_configuration_s_path_is_taken_from_the_command_line() {
    let file = |arguments: &str| config_argument(arguments.replace(' ', "\0").as_bytes());
    assert_eq!(
        file("containerd --log-level debug -c /a.toml"),
        Some("/a.toml".into())
    );
    assert_eq!(file("containerd --config=/b.toml"), Some("/b.toml".into()));
    assert_eq!(file("containerd --config /c.toml"), Some("/c.toml".into()));
    assert_eq!(file("/usr/bin/containerd"), None);
}
