use super::*;
use std::path::Path;

fn etc(settings: &[(&str, &str)]) -> EtcCvmfs {
    let settings = settings
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    EtcCvmfs::new(Path::new("/no/etc/cvmfs"), "unpacked.cern.ch", settings)
}

const SERVER: (&str, &str) = (
    "CVMFS_SERVER_URL",
    "http://s1.example.org/cvmfs/@fqrn@;http://s2.example.org/@org@/",
);
const PROXY: (&str, &str) = ("CVMFS_HTTP_PROXY", "http://p1:3128|p2:3128;DIRECT");
const KEYS: (&str, &str) = ("CVMFS_KEYS_DIR", "/etc/cvmfs/keys/cern.ch");

fn resolved(stated: Stated, settings: &[(&str, &str)]) -> Repository {
    resolve("unpacked.cern.ch", stated, &etc(settings)).unwrap()
}

fn refused(stated: Stated, settings: &[(&str, &str)]) -> String {
    resolve("unpacked.cern.ch", stated, &etc(settings))
        .unwrap_err()
        .to_string()
}

fn by_flags() -> Stated {
    Stated {
        server_urls: vec!["http://127.0.0.1:8000/cvmfs/@fqrn@".into()],
        public_keys: vec!["/keys/test.pub".into()],
        ..Stated::default()
    }
}

#[test]
fn everything_can_come_from_etc_cvmfs() {
    let repository = resolved(Stated::default(), &[SERVER, PROXY, KEYS]);
    assert_eq!(
        repository.servers,
        [
            "http://s1.example.org/cvmfs/unpacked.cern.ch",
            "http://s2.example.org/unpacked"
        ]
    );
    assert_eq!(
        repository.proxies.groups(),
        [
            vec!["http://p1:3128".to_owned(), "http://p2:3128".into()],
            vec!["DIRECT".into()]
        ]
    );
    assert_eq!(
        repository.public_keys,
        [Path::new("/etc/cvmfs/keys/cern.ch")]
    );
    assert_eq!(repository.open_at, OpenAt::Trunk);
    assert_eq!(repository.timeouts, Timeouts::default());
    assert!(
        !repository.claim_ownership,
        "stored owners unless told otherwise"
    );
    assert_eq!(repository.external_servers, Vec::<String>::new());
}

#[test]
fn single_settings_are_typed() {
    let repository = resolved(
        Stated::default(),
        &[
            SERVER,
            PROXY,
            KEYS,
            ("CVMFS_PUBLIC_KEY", "/a.pub:/b.pub"),
            ("CVMFS_QUOTA_LIMIT", "4000"),
            ("CVMFS_TIMEOUT", "3"),
            ("CVMFS_TIMEOUT_DIRECT", "7"),
            ("CVMFS_MAX_RETRIES", "0"),
            ("CVMFS_CLAIM_OWNERSHIP", "Yes"),
            ("CVMFS_EXTERNAL_URL", "http://data.example.org/"),
            ("CVMFS_MAX_TTL", "2"),
            ("CVMFS_REPOSITORY_TAG", "v1"),
        ],
    );
    assert_eq!(
        repository.public_keys,
        [Path::new("/a.pub"), Path::new("/b.pub")]
    );
    assert_eq!(repository.quota, Some(4000 << 20));
    assert_eq!(
        repository.timeouts,
        Timeouts {
            proxy: Duration::from_secs(3),
            direct: Duration::from_secs(7)
        }
    );
    assert_eq!(repository.retries, 0);
    assert!(repository.claim_ownership);
    assert_eq!(repository.external_servers, ["http://data.example.org/"]);
    assert_eq!(repository.max_ttl, Some(Duration::from_secs(120)));
    assert_eq!(repository.open_at, OpenAt::Tag("v1".into()));
}

#[test]
fn no_quota_means_no_limit() {
    assert_eq!(
        resolved(by_flags(), &[("CVMFS_QUOTA_LIMIT", "-1")]).quota,
        Some(u64::MAX)
    );
}

#[test]
fn flags_go_before_etc_cvmfs_and_mean_direct() {
    let repository = resolved(
        by_flags(),
        &[
            SERVER,
            PROXY,
            KEYS,
            ("CVMFS_EXTERNAL_URL", "http://data.example.org"),
        ],
    );
    assert_eq!(
        repository.servers,
        ["http://127.0.0.1:8000/cvmfs/unpacked.cern.ch"]
    );
    assert_eq!(repository.proxies, ProxyList::direct());
    assert_eq!(repository.public_keys, [Path::new("/keys/test.pub")]);
    // No flag was given for it, and its content is checked against the signed catalogs whoever has it.
    assert_eq!(repository.external_servers, ["http://data.example.org"]);
}

#[test]
fn what_is_missing_is_named_with_the_place_to_set_it() {
    insta::assert_snapshot!(refused(Stated::default(), &[PROXY, KEYS]), @r"
    error: no server is known for unpacked.cern.ch
      hint: give --server-url (server_urls in the configuration), or CVMFS_SERVER_URL in /no/etc/cvmfs/config.d/unpacked.cern.ch.conf
    ");
    insta::assert_snapshot!(refused(Stated::default(), &[SERVER, KEYS]), @r"
    error: no proxy is known for unpacked.cern.ch
      hint: set CVMFS_HTTP_PROXY in /no/etc/cvmfs/default.local (DIRECT for none)
    ");
    insta::assert_snapshot!(refused(Stated::default(), &[SERVER, PROXY]), @r"
    error: no master key is known for unpacked.cern.ch
      hint: give --public-key (public_keys in the configuration), or CVMFS_KEYS_DIR in /no/etc/cvmfs/config.d/unpacked.cern.ch.conf
    ");
    insta::assert_snapshot!(refused(by_flags(), &[("CVMFS_TIMEOUT", "soon")]), @r#"
    error: CVMFS_TIMEOUT="soon" below /no/etc/cvmfs is not a whole number
      hint: set it in /no/etc/cvmfs/config.d/unpacked.cern.ch.conf or /no/etc/cvmfs/default.local
    "#);
    let odd = Stated {
        server_urls: vec!["stratum1.example.org".into()],
        ..by_flags()
    };
    insta::assert_snapshot!(refused(odd, &[]), @r#"
    error: "stratum1.example.org" is not the URL of a server
      hint: it looks like http://stratum1.example.org/cvmfs/unpacked.cern.ch
    "#);
}

#[test]
fn a_machine_alone_goes_direct() {
    let repository = resolved(
        Stated::default(),
        &[SERVER, KEYS, ("CVMFS_CLIENT_PROFILE", "single")],
    );
    assert_eq!(repository.proxies, ProxyList::direct());
}

#[test]
fn proxy_lists_are_groups_of_members() {
    let groups = |text: &str| ProxyList::parse(text).unwrap().groups().to_vec();
    assert_eq!(groups("DIRECT"), [["DIRECT"]]);
    assert_eq!(groups("auto;DIRECT"), [["DIRECT"]]);
    assert_eq!(
        groups(" http://a:1 | b:2 ;; c:3"),
        [vec!["http://a:1", "http://b:2"], vec!["http://c:3"]]
    );
    for text in ["", ";|", "auto"] {
        assert_eq!(ProxyList::parse(text).unwrap_err().kind(), Kind::Config);
    }
    assert!(
        ProxyList::parse("auto")
            .unwrap_err()
            .to_string()
            .contains("not supported yet")
    );
}

#[test]
fn names_are_checked_before_they_become_paths() {
    for good in ["unpacked.cern.ch", "a-b_c.d"] {
        check_name(good).unwrap();
    }
    for bad in ["", "unpacked", "../etc", "a..b", ".a.b", "a.b/", "a b.c"] {
        assert_eq!(check_name(bad).unwrap_err().kind(), Kind::Usage, "{bad:?}");
    }
}

#[test]
fn dates_are_times_with_zone_or_days_in_utc() {
    let date = |text| OpenAt::choose(None, Some(text), None);
    let noon: jiff::Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
    assert_eq!(
        date("2026-01-31T12:00:00Z").unwrap(),
        Some(OpenAt::Date(noon))
    );
    assert_eq!(
        date("2026-01-31T14:00:00+02:00").unwrap(),
        Some(OpenAt::Date(noon))
    );
    let midnight: jiff::Timestamp = "2026-01-31T00:00:00Z".parse().unwrap();
    assert_eq!(date("2026-01-31").unwrap(), Some(OpenAt::Date(midnight)));
    assert_eq!(date("yesterday").unwrap_err().kind(), Kind::Usage);
    assert_eq!(
        OpenAt::choose(Some("v 1"), None, None).unwrap_err().kind(),
        Kind::Usage
    );
}

#[test]
fn repositories_of_etc_cvmfs_get_the_default_domain() {
    let settings = |list: &str| {
        BTreeMap::from([
            ("CVMFS_REPOSITORIES".to_owned(), list.to_owned()),
            ("CVMFS_DEFAULT_DOMAIN".to_owned(), "cern.ch".to_owned()),
        ])
    };
    assert_eq!(
        names(&settings("unpacked, sft.cern.ch unpacked")),
        ["unpacked.cern.ch", "sft.cern.ch"]
    );
    assert_eq!(names(&BTreeMap::new()), Vec::<String>::new());
}

#[test]
fn variables_are_pairs() {
    let parsed = variables(&["A=1".into(), "B=x=y".into(), "C=".into()]).unwrap();
    assert_eq!(
        parsed,
        BTreeMap::from([
            ("A".into(), "1".into()),
            ("B".into(), "x=y".into()),
            ("C".into(), String::new())
        ])
    );
    for bad in ["A", "=1"] {
        assert_eq!(variables(&[bad.into()]).unwrap_err().kind(), Kind::Usage);
    }
}
