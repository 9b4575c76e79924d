use super::*;

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(text, Path::new("/etc/outcrop/config.toml"))
}

fn failure(text: &str) -> String {
    let error = parse(text).expect_err("must be refused");
    assert_eq!(error.kind(), Kind::Config);
    error.to_string()
}

#[test]
fn the_defaults_are_complete() {
    let config = parse("").unwrap();
    assert_eq!(config.root, Path::new("/var/lib/outcrop"));
    assert_eq!(config.socket, Path::new("/run/outcrop/snapshotter.sock"));
    assert_eq!(config.cache_directory, Path::new("/var/lib/outcrop/cache"));
    assert_eq!(config.cache_quota, 20 << 30);
    assert_eq!(
        config.containerd_socket.as_deref(),
        Some(Path::new("/run/containerd/containerd.sock"))
    );
    assert_eq!(config.build_deadline, Duration::from_secs(60));
    assert_eq!(config.read_ahead_kib, 1024);
    assert_eq!(config.repositories, []);
    let registry = config.registry.unwrap();
    assert_eq!(
        registry.hosts_directories,
        [Path::new("/etc/containerd/certs.d")]
    );
    assert_eq!(registry.credential_providers, None);
    assert_eq!(registry.deadline, Duration::from_secs(60));
    assert!(!registry.trust_without_diff_id);
    assert_eq!(
        config.lazy,
        Lazy {
            prefetch: true,
            background_fetch: false,
            unpack: Unpack::BelowLazy
        }
    );
    assert_eq!(
        config.log,
        Log {
            json: false,
            filter: "info".into()
        }
    );
}

#[test]
fn what_config_show_prints_is_the_default_and_its_examples_are_right() {
    assert_eq!(parse(DEFAULT).unwrap(), parse("").unwrap());
    // The commented examples, made live: section heads and lines that set a key.
    let live: String = DEFAULT
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| {
            line.starts_with("[[")
                || line
                    .split_once(" = ")
                    .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let config = parse(&live).unwrap();
    assert_eq!(config.repositories.len(), 2);
    assert!(
        matches!(&config.repositories[0].access, Access::Embedded(embedded) if embedded.server_urls.len() == 1)
    );
    assert!(matches!(&config.repositories[1].access, Access::Mounted(_)));
}

#[test]
fn a_file_overrides_single_keys() {
    let config = parse("root = \"/data/outcrop\"\n[cache]\nquota = \"2GB\"\n[log]\nformat = \"json\"\n[containerd]\nsocket = \"\"").unwrap();
    assert_eq!(config.cache_directory, Path::new("/data/outcrop/cache"));
    assert_eq!(config.cache_quota, 2_000_000_000);
    assert_eq!(
        config.log,
        Log {
            json: true,
            filter: "info".into()
        }
    );
    assert_eq!(config.containerd_socket, None);
    assert_eq!(config.fuse_workers, 16);
}

#[test]
fn repositories_keep_their_order_and_kind() {
    let config = parse(
        r#"
        [[repository]]
        name = "unpacked.cern.ch"
        kind = "mounted"
        [[repository]]
        name = "unpacked.test.local"
        kind = "embedded"
        server_urls = ["http://127.0.0.1:8000/cvmfs/@fqrn@"]
        proxy = "http://a:3128|http://b:3128;DIRECT"
        tag = "v1"
        trust_without_diff_id = true
        "#,
    )
    .unwrap();
    assert_eq!(
        config.repositories[0].access,
        Access::Mounted("/cvmfs/unpacked.cern.ch".into())
    );
    assert!(!config.repositories[0].trust_without_diff_id);
    assert!(config.repositories[1].trust_without_diff_id);
    let Access::Embedded(embedded) = &config.repositories[1].access else {
        panic!("not embedded")
    };
    assert_eq!(embedded.open_at, Some(OpenAt::Tag("v1".into())));
    assert_eq!(embedded.proxy.as_ref().unwrap().groups().len(), 2);
}

#[test]
fn registries_and_lazy_layers_are_configured() {
    let config = parse(
        r#"
        [registry]
        hosts_directories = ["/etc/a", "/etc/b"]
        docker_config = ""
        credential_provider_config = "/etc/providers.yaml"
        credential_provider_directory = "/opt/bin"
        plain_http = ["registry.test:5000"]
        deadline = "5s"
        trust_without_diff_id = true
        [lazy]
        prefetch = false
        background_fetch = true
        unpack = "never"
        "#,
    )
    .unwrap();
    let registry = config.registry.unwrap();
    assert_eq!(registry.hosts_directories.len(), 2);
    assert_eq!(registry.docker_config, None);
    assert_eq!(
        registry.credential_providers,
        Some(("/etc/providers.yaml".into(), "/opt/bin".into()))
    );
    assert_eq!(registry.plain_http, ["registry.test:5000"]);
    assert!(registry.trust_without_diff_id);
    assert_eq!(
        config.lazy,
        Lazy {
            prefetch: false,
            background_fetch: true,
            unpack: Unpack::Never
        }
    );
    assert_eq!(parse("[registry]\nenabled = false").unwrap().registry, None);
    for text in [
        "[registry]\ncredential_provider_config = \"/etc/x\"",
        "[registry]\nhosts_directories = [\"relative\"]",
        "[registry]\ndeadline = \"0s\"",
        "[registry]\nmirrors = []",
        "[lazy]\nunpack = \"sometimes\"",
    ] {
        failure(text);
    }
}

#[test]
fn an_unknown_key_is_named_with_line_and_file() {
    insta::assert_snapshot!(failure("root = \"/x\"\n\n[cache]\nquotaa = \"1GB\"\n"), @r"
    error: configuration /etc/outcrop/config.toml, line 4: unknown key `quotaa`, expected `directory` or `quota`
      hint: `outcrop config show` prints every key with its meaning
    ");
    assert!(
        failure("[[repository]]\nname = \"a.b\"\nkind = \"embedded\"\nurls = []\n")
            .contains("line 4: unknown key `urls`")
    );
}

#[test]
fn values_that_make_no_sense_are_explained() {
    insta::assert_snapshot!(failure("root = \"state\""), @r#"
    error: configuration /etc/outcrop/config.toml: root "state" is not absolute
      hint: start it with /
    "#);
    insta::assert_snapshot!(failure("[fuse]\nworkers = 0"), @r"
    error: configuration /etc/outcrop/config.toml: fuse.workers must be between 1 and 256
      hint: 4 is a good value
    ");
    insta::assert_snapshot!(failure("[[repository]]\nname = \"a.b\"\nkind = \"mounted\"\ntag = \"v1\""), @r#"
    error: configuration /etc/outcrop/config.toml: repository a.b: kind "mounted" takes only directory and trust_without_diff_id
      hint: servers, keys, proxies and the revision are the business of the client that mounts it
    "#);
    insta::assert_snapshot!(failure("[[repository]]\nname = \"a.b\"\nkind = \"embedded\"\ntag = \"v1\"\ndate = \"2026-01-01\""), @r"
    error: configuration /etc/outcrop/config.toml: repository a.b: tag, date and root hash exclude each other
      hint: give one of them
    ");
    for text in [
        "[layers]\nbuild_deadline = \"0s\"",
        "[layers]\nbuild_deadline = \"-1s\"",
        "[layers]\nmounted_deadline = \"0s\"",
        "[log]\nfilter = \"cvmfs=loud\"",
        "[log]\nformat = \"xml\"",
        "[[repository]]\nname = \"../x\"\nkind = \"embedded\"",
        "[[repository]]\nname = \"a.b\"\nkind = \"embedded\"\ndirectory = \"/cvmfs/a.b\"",
        "[[repository]]\nname = \"a.b\"\nkind = \"embedded\"\nproxy = \"\"",
        "[[repository]]\nkind = \"embedded\"",
        "[[repository]]\nname = \"a.b\"",
        "quota = ",
    ] {
        failure(text);
    }
}

#[test]
fn a_missing_file_says_how_to_make_one() {
    let error = Config::load(Some(Path::new("/no/such.toml"))).unwrap_err();
    insta::assert_snapshot!(error, @r"
    error: cannot read configuration /no/such.toml
      cause: No such file or directory (os error 2)
      hint: create it: outcrop config show > /no/such.toml
    ");
}
