//! `outcrop repository` and `outcrop convert`, as somebody at a terminal or a script uses them, on a directory.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod converting;
mod site;

use serde_json::Value;
use site::{Ended, FQRN, NAME, SHARED, Site, image, names, outcrop};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn a_repository_is_made_filled_tagged_rolled_back_emptied_and_collected() {
    let site = Site::without_repository();
    let made = site.repository(&["init", FQRN, "--json"]).json();
    assert_eq!(
        (&made["fqrn"], &made["revision"]),
        (&FQRN.into(), &1.into())
    );
    for end in ["pub", "masterkey", "crt", "key"] {
        assert!(site.path(&format!("keys/{FQRN}.{end}")).exists(), "{end}");
    }
    site.publish("one").success();
    site.repository(&["tag", "v1", "--description", "first"])
        .success();
    site.publish("two").success();

    let images = site.repository(&["list", "--json"]).json();
    assert_eq!(
        names(&images),
        [format!("{NAME}:one"), format!("{NAME}:two")]
    );
    let first = &images["images"][0];
    assert_eq!(first["layers"], 2);
    assert_eq!(first["digest"], image("one").digest);
    assert_eq!(first["platforms"], serde_json::json!(["linux/amd64"]));
    assert_eq!(first["layouts"], serde_json::json!(["layers"]));
    let sizes = image("one")
        .layers
        .iter()
        .map(|layer| layer.blob.len())
        .sum::<usize>();
    assert_eq!(first["bytes"], sizes);
    let table = site.repository(&["list"]).success();
    assert!(table.starts_with("IMAGE"), "{table}");
    assert_eq!(table.lines().count(), 3);

    tagged_and_rolled_back(&site);
    removed_and_collected(&site);
}

fn tagged_and_rolled_back(site: &Site) {
    let tags = site.repository(&["list", "tags", "--json"]).json();
    let find = |tags: &Value, name: &str| {
        let tags = tags["tags"].as_array().unwrap();
        tags.iter().find(|tag| tag["name"] == name).cloned()
    };
    let v1 = find(&tags, "v1").unwrap();
    assert_eq!(
        (&v1["revision"], &v1["description"]),
        (&2.into(), &"first".into())
    );
    let line = site.repository(&["tag", "old", "--of", "v1"]).success();
    assert_eq!(line, "old is revision 2\n");
    site.repository(&["tag", "old", "--remove"]).success();
    site.repository(&["tag", "old", "--remove"]).failure(
        2,
        &[
            "tag old does not exist",
            "hint: `outcrop repository list tags`",
        ],
    );
    site.repository(&["tag", "trunk"])
        .failure(2, &["follows the newest revision by itself"]);

    let line = site.repository(&["rollback", "v1"]).success();
    assert_eq!(
        line,
        "revision 4 has the content of v1, which is revision 2\n"
    );
    let images = site.repository(&["list", "--json"]).json();
    assert_eq!(names(&images), [format!("{NAME}:one")]);
    site.repository(&["rollback", "v9"])
        .failure(2, &["tag v9 does not exist", "list tags"]);
    // Undone again, by the default.
    let undone = site.repository(&["rollback", "--json"]).json();
    assert_eq!(
        (&undone["revision"], &undone["content_of"]),
        (&5.into(), &3.into())
    );
    let revisions = site.repository(&["list", "revisions", "--json"]).json();
    let numbers: Vec<_> = revisions["revisions"].as_array().unwrap().iter().collect();
    assert_eq!(numbers.len(), 5);
    assert_eq!(numbers[0]["revision"], 5);
}

fn removed_and_collected(site: &Site) {
    let one = format!("{NAME}:one");
    let dry = site
        .repository(&["remove", &one, "--dry-run", "--json"])
        .json();
    assert_eq!(dry["revision"], Value::Null);
    assert_eq!(names(&site.repository(&["list", "--json"]).json()).len(), 2);
    let done = site.repository(&["remove", &one, "--json"]).json();
    assert_eq!(done["revision"], 6);
    assert_eq!(
        done["layers"],
        serde_json::json!([image("one").layers[1].digest])
    );
    let images = site.repository(&["list", "--json"]).json();
    assert_eq!(names(&images), [format!("{NAME}:two")]);
    site.repository(&["remove", &one])
        .failure(2, &["does not exist", "repository list images"]);
    site.repository(&["remove", "No Image"])
        .failure(2, &["No Image is no image", "hint"]);

    // The tag keeps what the removed image needs.
    site.repository(&["tag", "v1", "--remove"]).success();
    let before = site.objects();
    // Nothing has been the newest for longer than the grace.
    let gc = site.repository(&["gc", "--json"]).json();
    assert_eq!(gc["removed_objects"], 0);
    assert_eq!(site.objects(), before);
    std::thread::sleep(Duration::from_millis(2100));
    let dry = site
        .repository(&["gc", "--grace", "0s", "--dry-run", "--json"])
        .json();
    assert!(dry["removed_objects"].as_u64().unwrap() > 0, "{dry}");
    assert_eq!(site.objects(), before);
    let metrics = site.path("gc.prom");
    let file = metrics.to_str().unwrap();
    let text = site
        .repository(&["gc", "--grace", "0s", "--metrics-file", file])
        .success();
    let removed = dry["removed_objects"].to_string();
    assert!(text.contains(&format!("and {removed} object")), "{text}");
    let figures = fs::read_to_string(&metrics).unwrap();
    let line = format!("outcrop_gc_removed_objects{{repository=\"{FQRN}\"}} {removed}\n");
    assert!(figures.contains(&line), "{figures}");
    assert!(figures.contains("# TYPE outcrop_gc_last_success_timestamp_seconds gauge\n"));
    assert!(site.objects().len() < before.len());

    let clean = site.repository(&["check", "--content"]);
    assert_eq!(clean.err, "");
    assert!(clean.success().contains("read and hashed"));
    assert_eq!(site.repository(&["check", "--json"]).json()["clean"], true);
}

#[test]
fn info_says_what_a_repository_is_and_warns_of_its_end() {
    let site = Site::new();
    site.publish("one").success();
    let info = site.repository(&["info"]);
    assert_eq!(info.err, "");
    let text = info.success();
    for line in [
        "name                images.test.local\n",
        "hash                sha1\n",
        "tags                2: trunk trunk-previous\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    let info = site.repository(&["info", "--json"]).json();
    assert_eq!(info["revision"], 2);
    assert_eq!(info["whitelist_days_left"], 30);
    assert!(info["files"].as_u64().unwrap() >= 2);
    assert_eq!(info["fingerprints"].as_array().unwrap().len(), 1);
    site.repository(&["resign", "--days", "3"]).success();
    let info = site.repository(&["info"]);
    assert!(
        info.err
            .contains("warning: the whitelist expires in 3 days"),
        "{}",
        info.err
    );
    // Without keys it can be read, too.
    let mut command = outcrop();
    command
        .args(["repository", "info", "--repository"])
        .arg(site.path("repository"));
    Ended::of(&mut command).success();
}

#[test]
fn a_damaged_object_is_named_and_the_code_is_5() {
    let site = Site::new();
    site.publish("one").success();
    let object = site.object_of(SHARED.as_bytes());
    let name = object
        .strip_prefix(site.path("repository"))
        .unwrap()
        .to_str()
        .unwrap();
    let mut bytes = fs::read(&object).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&object, &bytes).unwrap();
    // It is there.
    site.repository(&["check"]).success();
    let found = site.repository(&["check", "--content"]);
    let line = found.out.lines().next().unwrap().to_owned();
    assert!(line.starts_with(&format!("{name}: ")), "{line}");
    found.failure(5, &["1 finding", "hint: "]);
    let json = site.repository(&["check", "--content", "--json"]);
    assert_eq!(json.code, Some(5));
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["findings"][0]["problem"], "corrupt");
    assert_eq!(json["findings"][0]["object"], name);

    fs::remove_file(&object).unwrap();
    let found = site.repository(&["check"]);
    assert!(found.out.contains(name), "{}", found.out);
    found.failure(5, &["finding"]);
    // As the hint says.
    let source = site.layout("one");
    let name = format!("{NAME}:one");
    let words = ["publish", &source, "--name", &name, "--again"];
    Ended::of(&mut site.command(&words)).success();
    site.repository(&["check", "--content"]).success();
}

#[test]
fn a_damaged_catalog_is_a_finding_too() {
    let site = Site::new();
    site.publish("one").success();
    let catalog = site.open().head().root_catalog.to_string();
    let path = site.path(&format!(
        "repository/data/{}/{}C",
        &catalog[..2],
        &catalog[2..]
    ));
    fs::write(&path, "not a catalog").unwrap();
    let found = site.repository(&["check"]);
    assert!(
        found.out.contains(&format!("{}C", &catalog[2..])),
        "{}",
        found.out
    );
    found.failure(5, &["finding"]);
    site.repository(&["list"])
        .failure(5, &[&catalog[2..], "outcrop repository check"]);
}

#[test]
fn keys_of_another_repository_are_refused_and_missing_ones_named() {
    let site = Site::new();
    let other = Site::new();
    let with_keys = |keys: &Path| {
        let mut command = outcrop();
        command.args(["repository", "tag", "x", "--repository"]);
        command.arg(site.path("repository")).arg("--keys").arg(keys);
        Ended::of(&mut command)
    };
    with_keys(&other.path("keys")).failure(
        5,
        &[
            "not trusted",
            "hint: check that these are the repository's own keys",
        ],
    );
    let none = site.path("none");
    with_keys(&none).failure(
        3,
        &[
            "none/images.test.local.pub",
            "there is no such file",
            "hint: ",
        ],
    );
    // Without the signing key nothing can be published.
    fs::create_dir(&none).unwrap();
    let public = format!("{FQRN}.pub");
    fs::copy(site.path("keys").join(&public), none.join(&public)).unwrap();
    with_keys(&none).failure(3, &["signing key", "--keys"]);
    // Without the master key the manifest can still be signed.
    for end in ["crt", "key"] {
        let file = format!("{FQRN}.{end}");
        fs::copy(site.path("keys").join(&file), none.join(&file)).unwrap();
    }
    with_keys(&none).success();
    let resign = |words: &[&str]| {
        let mut command = outcrop();
        command
            .args(["repository", "resign"])
            .args(words)
            .arg("--repository");
        command
            .arg(site.path("repository"))
            .arg("--keys")
            .arg(&none);
        Ended::of(&mut command)
    };
    resign(&["--manifest-only"]).success();
    resign(&[]).failure(3, &["master key"]);
}

#[test]
fn a_certificate_that_is_not_on_the_whitelist_signs_nothing() {
    let site = Site::new();
    let other = Site::new();
    let keys = site.path("keys");
    for end in ["crt", "key"] {
        let file = format!("{FQRN}.{end}");
        fs::copy(other.path("keys").join(&file), keys.join(&file)).unwrap();
    }
    let said = ["certificate of these keys", "not on the whitelist"];
    site.repository(&["tag", "x"]).failure(5, &said);
    site.repository(&["resign", "--manifest-only"])
        .failure(5, &said);
    // The master allows it.
    site.repository(&["resign"]).success();
    site.repository(&["tag", "x"]).success();
}

#[test]
fn an_expired_whitelist_is_said_and_signed_anew() {
    let site = Site::new();
    let repository = site.open();
    let now = jiff::Timestamp::now();
    let past = now - jiff::SignedDuration::from_hours(24 * 10);
    let lock = repository.lock(Duration::ZERO, now).unwrap();
    repository.resign_whitelist(&lock, 3, past).unwrap();
    drop(lock);
    let said = [
        "expired at",
        "hint: sign it anew with `outcrop repository resign`",
    ];
    site.publish("one").failure(3, &said);
    site.repository(&["tag", "x"]).failure(3, &said);
    let info = site.repository(&["info"]);
    assert!(
        info.err.contains("the whitelist has expired"),
        "{}",
        info.err
    );
    info.success();
    let signed = site
        .repository(&["resign", "--days", "60", "--json"])
        .json();
    assert!(signed["whitelist_expiry"].as_i64().unwrap() > now.as_second() + 59 * 86_400);
    site.publish("one").success();
}

#[test]
fn of_two_publishers_one_waits_or_is_told_who_works() {
    let site = Site::new();
    let repository = site.open();
    let lock = repository
        .lock(Duration::ZERO, jiff::Timestamp::now())
        .unwrap();
    let holder = format!("process {}", std::process::id());
    for words in [
        &["tag", "x", "--wait", "0s"][..],
        &["rollback", "trunk", "--wait", "0s"],
        &["gc", "--wait", "0s"],
        &["resign", "--wait", "0s"],
    ] {
        site.repository(words)
            .failure(4, &["another publisher works on", &holder, "hint: wait"]);
    }
    // Who only looks waits for nobody.
    site.repository(&["info"]).success();
    site.repository(&["gc", "--dry-run", "--wait", "0s"])
        .success();
    site.repository(&["check"]).success();
    let mut waiting = site.command(&["repository", "tag", "x", "--wait", "60s"]);
    let waiting = waiting
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(lock);
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_is_no_repository_is_said_so() {
    let site = Site::without_repository();
    for words in [
        &["info"][..],
        &["list"],
        &["check"],
        &["gc"],
        &["tag", "x"],
        &["resign"],
    ] {
        site.repository(words).failure(
            2,
            &[
                "holds no CVMFS repository",
                "hint: create one with `outcrop repository init`",
            ],
        );
    }
    assert!(!site.path("repository").exists());
    site.repository(&["init", "unqualified"])
        .failure(2, &["fully qualified"]);
    assert!(!site.path("keys").exists());
    site.repository(&["init", FQRN]).success();
    // No keys are made for nothing.
    site.repository(&["init", "other.test.local"])
        .failure(2, &["holds a repository already"]);
    assert!(!site.path("keys/other.test.local.pub").exists());
    let mut elsewhere = outcrop();
    elsewhere.args(["repository", "info", "--repository", "http://127.0.0.1:1/x"]);
    Ended::of(&mut elsewhere).failure(2, &["is no backend", "hint: give a directory"]);
}

#[test]
fn keys_in_a_repository_are_warned_of_and_history_for_ever_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| {
        let mut command = outcrop();
        command
            .arg("repository")
            .args(words)
            .arg("--repository")
            .arg(directory.path());
        command.arg("--keys").arg(directory.path().join("keys"));
        Ended::of(&mut command)
    };
    let made = run(&["init", FQRN, "--no-gc", "--hash", "shake128"]);
    assert!(
        made.err.contains("lie within the repository"),
        "{}",
        made.err
    );
    made.success();
    run(&["gc"]).failure(2, &["not garbage-collectable"]);
    assert_eq!(
        run(&["info", "--json"]).json()["hash_algorithm"],
        "shake128"
    );
    run(&["check", "--content"]).success();
}

/// Anybody but root.
const NOBODY: u32 = 65_534;

#[test]
fn a_backend_that_may_not_be_written_is_said_so_and_stays_as_it_was() {
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: needs root, to become somebody else");
        return;
    }
    let site = Site::new();
    fs::set_permissions(site.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    chown(site.path("keys"), Some(NOBODY), Some(NOBODY)).unwrap();
    for file in fs::read_dir(site.path("keys")).unwrap() {
        chown(file.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    // The program itself may lie where nobody else may look.
    let program = site.path("outcrop");
    fs::copy(env!("CARGO_BIN_EXE_outcrop"), &program).unwrap();
    let before = site.objects();
    for words in [&["tag", "x"][..], &["resign"], &["gc", "--grace", "0s"]] {
        let mut command = Command::new(&program);
        command
            .arg("repository")
            .args(words)
            .arg("--repository")
            .arg(site.path("repository"));
        command
            .arg("--keys")
            .arg(site.path("keys"))
            .uid(NOBODY)
            .gid(NOBODY);
        Ended::of(&mut command).failure(
            3,
            &[
                "cannot be written",
                "hint: is it mounted read-only? else publish as a user who may write there",
            ],
        );
    }
    assert_eq!(site.objects(), before);
    site.repository(&["check", "--content"]).success();
}

#[test]
fn metrics_that_cannot_be_written_fail_after_the_work() {
    let site = Site::new();
    site.repository(&["gc", "--metrics-file", "/no/such/directory/x.prom"])
        .failure(4, &["cannot write the figures", "hint"]);
}
