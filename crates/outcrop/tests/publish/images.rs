use crate::support::{Site, image};
use std::fs;
use testkit::{Entry, ImageBuilder, Layer};

#[test]
fn what_is_published_is_not_published_again() {
    let site = Site::new();
    site.push("group/app", "1", &image("one"));
    let registry = site.registry();
    let name = registry.reference("group/app", "1");
    let first = site.publish(&registry, &[&name]).success();
    first.says(&name);
    first.says("REVISION");
    assert_eq!(first.err, "", "quiet in a pipe");
    assert_eq!(site.revision(), 2);
    let files = site.files();
    let second = site.publish(&registry, &[&name]).success();
    second.says("nothing to do");
    assert_eq!(site.revision(), 2);
    assert!(!site.path("repository/data/txn/journal").exists());
    assert_eq!(site.files().len(), files.len());
    site.check();
}

#[test]
fn one_object_has_all_summaries() {
    let site = Site::new();
    site.push("a", "1", &image("one"));
    site.push("b", "1", &image("two"));
    let registry = site.registry();
    let names = ["a", "b"].map(|name| registry.reference(name, "1"));
    let run = site.publish(
        &registry,
        &["--json", "--tag", "both", &names[0], &names[1]],
    );
    let json = run.success().json();
    assert_eq!(json["revision"], 3);
    assert_eq!(json["images"][0]["image"], names[0]);
    assert_eq!(json["images"][0]["revision"], 2);
    assert_eq!(json["images"][1]["revision"], 3);
    assert_eq!(json["images"][1]["layers"][0]["state"], "present");
    assert_eq!(json["images"][1]["layers"][1]["state"], "published");
    assert!(json["stored_bytes"].as_u64().unwrap() > 0);
    assert_eq!(json["failed"].as_array().unwrap().len(), 0);
}

#[test]
fn the_first_failure_ends_a_call_that_names_images() {
    let site = Site::new();
    for name in ["a", "c"] {
        site.push(name, "1", &image(name));
    }
    let registry = site.registry();
    let names = ["a", "b", "c"].map(|name| registry.reference(name, "1"));
    let run = site
        .publish(&registry, &[&names[0], &names[1], &names[2]])
        .code(2);
    run.says("does not exist");
    assert_eq!(site.published(), [names[0].clone()]);
    assert_eq!(site.revision(), 2);
}

#[test]
fn a_dry_run_writes_nothing() {
    let site = Site::new();
    site.push("a", "1", &image("one"));
    let registry = site.registry();
    let name = registry.reference("a", "1");
    let files = site.files();
    let run = site.publish(&registry, &["--dry-run", &name]).success();
    run.says("TO STORE");
    run.says("LAYER TO STORE");
    assert_eq!(site.files(), files);
    let json = site
        .publish(&registry, &["--dry-run", "--json", &name])
        .success()
        .json();
    assert_eq!(json["dry_run"], true);
    assert_eq!(json["images"][0]["layers"][0]["state"], "missing");
    assert_eq!(json["images"][0]["revision"], serde_json::Value::Null);
    assert_eq!(site.files(), files);
}

#[test]
fn losses_are_said() {
    let site = Site::new();
    let long = Entry::file("file", "x").xattr("user.long", vec![b'x'; 300]);
    let image = ImageBuilder::new()
        .layer(Layer::new([Entry::file("below", "x")]))
        .layer(Layer::new([long, Entry::hardlink("link", "below")]))
        .build()
        .unwrap();
    site.push("a", "1", &image);
    let registry = site.registry();
    let run = site
        .publish(&registry, &[&registry.reference("a", "1")])
        .success();
    run.says("1 extended attributes do not fit into a catalog");
    run.says("1 hardlinks to files of lower layers");
}

/// Each sample with its value; all families are gauges.
fn parsed(text: &str) -> Vec<(String, f64)> {
    let (mut families, mut samples, mut help) = (Vec::new(), Vec::new(), None);
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, text) = rest.split_once(' ').unwrap();
            assert!(!text.is_empty());
            help = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(help.as_deref(), Some(name));
            assert_eq!(kind, "gauge");
            assert!(!families.contains(&name), "{name} twice");
            families.push(name);
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap();
            assert_eq!(families.last(), Some(&name));
            for label in labels.strip_suffix('}').unwrap().split(',') {
                let (name, value) = label.split_once('=').unwrap();
                assert!(name.bytes().all(|byte| byte.is_ascii_lowercase()));
                assert!(value.starts_with('"') && value.ends_with('"') && value.len() > 2);
            }
            samples.push((series.to_owned(), value.parse().unwrap()));
        }
    }
    samples
}

#[test]
fn figures_for_a_node_exporter() {
    let site = Site::new();
    site.push("a", "1", &image("one"));
    let registry = site.registry();
    let name = registry.reference("a", "1");
    let file = site.path("outcrop.prom");
    let words = ["--metrics-file", file.to_str().unwrap()];
    let value = |wanted: &str| {
        let samples = parsed(&fs::read_to_string(&file).unwrap());
        let found = samples.iter().find(|(series, _)| series == wanted);
        found
            .unwrap_or_else(|| panic!("no {wanted} in {samples:?}"))
            .1
    };
    let of = |name: &str| format!("outcrop_publish_{name}{{repository=\"images.test.local\"}}");
    let by = |name: &str, label: &str| of(name).replace('}', &format!(",{label}}}"));
    site.publish(&registry, &[&words[..], &[&name]].concat())
        .success();
    assert_eq!(value(&of("revision")), 2.0);
    assert_eq!(value(&by("images", "result=\"published\"")), 1.0);
    assert_eq!(value(&by("layers", "state=\"published\"")), 2.0);
    assert!(value(&of("read_bytes")) > 0.0 && value(&of("stored_bytes")) > 0.0);
    let success = value(&of("last_success_timestamp_seconds"));
    assert!(success > 1e9);
    let bad = registry.reference("none", "1");
    site.publish(&registry, &[&words[..], &[&bad]].concat())
        .code(2);
    assert_eq!(value(&by("images", "result=\"failed\"")), 1.0);
    assert_eq!(value(&of("last_success_timestamp_seconds")), success);
    let rest = fs::read_dir(site.path("")).unwrap();
    let rest = rest.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().contains("prom")
    });
    assert_eq!(rest.count(), 1, "nothing temporary stays");
}
