use crate::support::{Ended, FQRN, Site, image, wait_until};
use std::time::Duration;
use testkit::{Entry, Fault, Image, ImageBuilder, Layer, Registry, When};

/// So much that it takes a while over a slow line.
fn large() -> Image {
    let noise = |seed: u32| {
        let mut state = seed;
        let next = std::iter::repeat_with(move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        next.take(2 << 20).collect::<Vec<u8>>()
    };
    ImageBuilder::new()
        .layer(Layer::new([Entry::file("a", noise(1))]))
        .layer(Layer::new([Entry::file("b", noise(2))]))
        .build()
        .unwrap()
}

#[test]
fn a_hostile_layer_is_refused_by_name_and_nothing_is_published() {
    let site = Site::new();
    let escapes = ImageBuilder::new()
        .layer(Layer::new([Entry::file("good", "x")]))
        .layer(Layer::new([Entry::file("../../etc/passwd", "x")]))
        .build()
        .unwrap();
    let lies = ImageBuilder::new()
        .layer(Layer::new([Entry::file("file", "x")]))
        .stated_diff_ids([format!("sha256:{}", "0".repeat(64))])
        .build()
        .unwrap();
    site.push("escapes", "1", &escapes);
    site.push("lies", "1", &lies);
    let registry = site.registry();
    for (name, layer) in [("escapes", &escapes.layers[1]), ("lies", &lies.layers[0])] {
        let run = site
            .publish(&registry, &[&registry.reference(name, "1")])
            .code(5);
        run.says(&layer.digest);
        assert_eq!(site.revision(), 1);
    }
    assert!(site.published().is_empty());
    site.check();
}

#[test]
fn a_registry_that_dies_midway_leaves_the_old_revision() {
    let site = Site::new();
    site.push("first", "1", &image("first"));
    site.push("large", "1", &large());
    let registry = Registry::serving(&site.images())
        .bandwidth(500_000)
        .start()
        .unwrap();
    let first = registry.reference("first", "1");
    site.publish(&registry, &[&first]).success();
    let before = registry.blob_requests().len();
    let name = registry.reference("large", "1");
    let mut running = site.start(&mut site.publishing(&registry, &[&name]));
    wait_until("layers are read", || {
        registry.blob_requests().len() >= before + 2
    });
    drop(registry);
    let status = running.wait();
    let said = site.written("err");
    assert_eq!(status.code(), Some(4), "{said}");
    assert!(said.contains("error: layer sha256:"), "{said}");
    assert_eq!(site.revision(), 2);
    site.check();
    let registry = site.registry();
    site.publish(&registry, &[&registry.reference("large", "1")])
        .success();
    assert_eq!(site.revision(), 3);
    site.check();
}

#[test]
fn a_signal_leaves_the_old_revision_and_says_so() {
    let site = Site::new();
    site.push("first", "1", &image("first"));
    site.push("large", "1", &large());
    let registry = Registry::serving(&site.images())
        .bandwidth(500_000)
        .start()
        .unwrap();
    site.publish(&registry, &[&registry.reference("first", "1")])
        .success();
    let before = registry.blob_requests().len();
    let name = registry.reference("large", "1");
    let mut running = site.start(&mut site.publishing(&registry, &["--json", &name]));
    // The configuration and a layer.
    wait_until("layers are read", || {
        registry.blob_requests().len() >= before + 2
    });
    let status = running.terminate();
    let said = site.written("err");
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(
        said.contains("SIGTERM") && said.contains("is not published"),
        "{said}"
    );
    assert!(said.contains("at revision 2, as before"), "{said}");
    let json: serde_json::Value = serde_json::from_str(&site.written("out")).unwrap();
    assert_eq!(json["failed"][0]["image"], name);
    assert_eq!(site.revision(), 2);
    site.check();
}

#[test]
fn a_signal_while_nothing_comes_ends_it_all_the_same() {
    let site = Site::new();
    let image = image("one");
    site.push("a", "1", &image);
    let registry = Registry::serving(&site.images())
        .fault(
            When::path("/manifests/1"),
            Fault::Stall(Duration::from_secs(120)),
        )
        .start()
        .unwrap();
    let name = registry.reference("a", "1");
    let mut running = site.start(&mut site.publishing(&registry, &[&name]));
    std::thread::sleep(Duration::from_millis(500));
    let status = running.terminate();
    assert_eq!(status.code(), Some(130), "{}", site.written("err"));
    assert_eq!(site.revision(), 1);
}

#[test]
fn what_is_wrong_with_the_command_line_is_said_at_once() {
    let site = Site::new();
    let list = site.wishlist(&[]);
    let cases: [(&[&str], &str); 7] = [
        (&[], "required"),
        (&["a", "--wishlist", &list], "cannot be used with"),
        (&["a", "--prune"], "--wishlist"),
        (&["a", "--watch", "1m", "--dry-run"], "cannot be used with"),
        (&["a", "--watch", "0s"], "1s or more"),
        (&["a", "b", "--name", "r.example.org/a:1"], "several images"),
        (&["a", "--name", "///"], "--name is no reference"),
    ];
    for (words, said) in cases {
        let run = Ended::of(&mut site.command(&[&["publish"], words].concat())).code(2);
        run.says(said);
    }
    assert_eq!(site.revision(), 1, "{FQRN}");
}
