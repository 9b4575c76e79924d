use crate::support::{Site, image, wait_until};
use std::fs;
use testkit::{Fault, Registry, Running, When};

fn entry(registry: &Running<Registry>, name: &str, tag: &str) -> String {
    format!("http://{}", registry.reference(name, tag))
}

fn references(registry: &Running<Registry>, images: &[(&str, &str)]) -> Vec<String> {
    let mut names: Vec<_> = images
        .iter()
        .map(|(name, tag)| registry.reference(name, tag))
        .collect();
    names.sort();
    names
}

fn command(site: &Site, list: &str, words: &[&str]) -> std::process::Command {
    // Without --plain-http: the list says it.
    site.command(&[&["publish", "--wishlist", list], words].concat())
}

fn run(site: &Site, list: &str, words: &[&str]) -> crate::support::Ended {
    crate::support::Ended::of(&mut command(site, list, words))
}

#[test]
fn a_pattern_means_all_tags_that_match() {
    let site = Site::new();
    for tag in ["v1", "v2", "w1"] {
        site.push("group/app", tag, &image(tag));
    }
    site.push("other", "1", &image("other"));
    let registry = Registry::serving(&site.images()).page(1).start().unwrap();
    let list = site.wishlist(&[
        entry(&registry, "group/app", "v*"),
        entry(&registry, "other", "1"),
        entry(&registry, "other", "1"),
        entry(&registry, "other", "none*"),
    ]);
    let done = run(&site, &list, &[]).success();
    done.says("no tag matches");
    let expected = [("group/app", "v1"), ("group/app", "v2"), ("other", "1")];
    assert_eq!(site.published(), references(&registry, &expected));
    let revision = site.revision();
    let again = run(&site, &list, &["--json"]).success().json();
    assert_eq!(site.revision(), revision);
    assert_eq!(again["images"].as_array().unwrap().len(), 3);
    site.check();
}

#[test]
fn a_bad_entry_hinders_no_other() {
    let site = Site::new();
    site.push("a", "1", &image("one"));
    let registry = site.registry();
    let list = site.wishlist(&[
        "ftp://registry.test.local/a:1".to_owned(),
        entry(&registry, "missing", "1"),
        entry(&registry, "a", "1"),
    ]);
    let done = run(&site, &list, &["--prune"]).code(3);
    done.says("line 5: ftp://registry.test.local/a:1: scheme \"ftp\": https or http");
    done.says("missing:1 does not exist");
    done.says("2 of 3 images or entries could not be published");
    done.says("nothing is pruned");
    assert_eq!(site.published(), references(&registry, &[("a", "1")]));
}

#[test]
fn a_list_of_another_repository_is_refused() {
    let site = Site::new();
    let list = site.wishlist(&[]);
    let text = fs::read_to_string(&list).unwrap();
    fs::write(&list, text.replace("images.test.local", "other.test.local")).unwrap();
    let done = run(&site, &list, &[]).code(3);
    done.says("is for the repository other.test.local, not for images.test.local");
    done.says("hint:");
}

#[test]
fn only_what_the_list_published_is_pruned() {
    let site = Site::new();
    for name in ["by-hand", "kept", "dropped"] {
        site.push(name, "1", &image(name));
    }
    let registry = site.registry();
    site.publish(&registry, &[&registry.reference("by-hand", "1")])
        .success();
    let all = ["by-hand", "kept", "dropped"].map(|name| entry(&registry, name, "1"));
    let list = site.wishlist(&all);
    run(&site, &list, &["--prune"]).success();
    assert_eq!(site.published().len(), 3);
    // What was there before is not the list's, although it named it.
    let list = site.wishlist(&all[1..2]);
    let files = site.files();
    let dry = run(&site, &list, &["--prune", "--dry-run"]).success();
    dry.says(&format!(
        "would remove {}",
        registry.reference("dropped", "1")
    ));
    assert_eq!(site.files(), files);
    let done = run(&site, &list, &["--prune"]).success();
    done.says(&format!("removed {}", registry.reference("dropped", "1")));
    let expected = references(&registry, &[("by-hand", "1"), ("kept", "1")]);
    assert_eq!(site.published(), expected);
    let revision = site.revision();
    run(&site, &list, &["--prune"]).success();
    assert_eq!(site.revision(), revision, "nothing more to do");
    site.check();
}

#[test]
fn what_was_replaced_by_hand_or_is_named_by_another_list_stays() {
    let site = Site::new();
    for name in ["replaced", "shared"] {
        site.push(name, "1", &image(name));
    }
    let registry = site.registry();
    let both = ["replaced", "shared"].map(|name| entry(&registry, name, "1"));
    let list = site.wishlist(&both);
    run(&site, &list, &[]).success();
    site.push("replaced", "1", &image("by hand"));
    site.publish(&registry, &[&registry.reference("replaced", "1")])
        .success();
    let other = site.path("other.yaml");
    fs::copy(site.wishlist(&both[1..]), &other).unwrap();
    run(&site, other.to_str().unwrap(), &[]).success();
    let empty = site.wishlist(&[]);
    run(&site, &empty, &["--prune"]).success();
    assert_eq!(site.published().len(), 2);
    // The last list that names it may remove it.
    fs::copy(site.wishlist(&[]), &other).unwrap();
    run(&site, other.to_str().unwrap(), &["--prune"]).success();
    assert_eq!(
        site.published(),
        references(&registry, &[("replaced", "1")])
    );
}

#[test]
fn nothing_is_pruned_when_tags_cannot_be_listed() {
    let site = Site::new();
    site.push("a", "1", &image("one"));
    let registry = Registry::serving(&site.images())
        .fault(When::path("/tags/list").after(1), Fault::StatusCode(403))
        .start()
        .unwrap();
    let list = site.wishlist(&[entry(&registry, "a", "*")]);
    run(&site, &list, &["--prune"]).success();
    let done = run(&site, &list, &["--prune", "--json"]).code(3);
    assert!(done.json()["not_pruned"].is_string());
    assert_eq!(site.published(), references(&registry, &[("a", "1")]));
}

#[test]
fn who_watches_finds_new_tags_and_ends_on_sigterm() {
    let site = Site::new();
    site.push("a", "1", &image("one"));
    let registry = site.registry();
    let list = site.wishlist(&[entry(&registry, "a", "*")]);
    let words = ["--watch", "1s", "--prune"];
    let mut running = site.start(&mut command(&site, &list, &words));
    wait_until("the first image is published", || site.revision() == 2);
    site.push("a", "2", &image("two"));
    wait_until("the second image is published", || site.revision() == 3);
    let asked = |text: &str| registry.requests_for(text).len();
    let (one, blobs) = (asked("/manifests/1"), registry.blob_requests().len());
    wait_until("it is looked again", || asked("/manifests/1") >= one + 2);
    assert_eq!(registry.blob_requests().len(), blobs, "a digest is enough");
    // The list is read again.
    site.wishlist(&[entry(&registry, "a", "2")]);
    wait_until("the first image is pruned", || site.revision() == 4);
    assert_eq!(site.published(), references(&registry, &[("a", "2")]));
    site.wishlist(&[entry(&registry, "a", "*")]);
    wait_until("the first image is there again", || site.revision() == 5);
    let status = running.terminate();
    assert_eq!(status.code(), Some(0), "{}", site.written("err"));
    let both = [("a", "1"), ("a", "2")];
    assert_eq!(site.published(), references(&registry, &both));
    site.check();
}
