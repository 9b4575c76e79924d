//! Mounts that the kernel accepts, as root.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use snapshotter::api::types::Mount;
use support::{Answer, Harness, Image, labels};

/// A mount that is gone with its value.
struct Mounted(PathBuf);

impl Mounted {
    fn new(mount: &Mount, at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let mut command = Command::new("mount");
        if mount.r#type == "bind" {
            command.arg("--rbind");
        } else {
            command.args(["-t", &mount.r#type]);
        }
        let options: Vec<_> = mount
            .options
            .iter()
            .filter(|option| *option != "rbind")
            .cloned()
            .collect();
        let output = command
            .args(["-o", &options.join(",")])
            .arg(&mount.source)
            .arg(at)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{mount:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        assert!(
            unmounted.is_ok_and(|status| status.success()),
            "{} is still mounted",
            self.0.display()
        );
    }
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root may mount");
    }
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn local_layers_stand_on_lazy_ones() {
    if !root() {
        return;
    }
    let h = Harness::start().await;
    let image = Image::new("a", 2);
    h.layers.know(&image);
    let top = h.pull("ns", &image).await;
    let at = |name: &str| h.directory.path().join("mnt").join(name);
    let lazy_file = |index: usize| format!("tree-{}", &image.layers[index].blob.hex()[..12]);

    let mounts = h.prepare("ns/7/build", &top, labels(&[])).await.unwrap();
    {
        let build = Mounted::new(&mounts[0], &at("build"));
        assert!(build.0.join(lazy_file(0)).exists() && build.0.join(lazy_file(1)).exists());
        std::fs::remove_file(build.0.join(lazy_file(0))).unwrap();
        std::fs::write(build.0.join("new"), b"local").unwrap();
    }
    h.commit("ns/8/local", "ns/7/build").await.unwrap();
    let mounts = h.view("ns/9/view", "ns/8/local").await.unwrap();
    assert_eq!(mounts[0].r#type, "overlay");
    let view = Mounted::new(&mounts[0], &at("view"));
    assert_eq!(std::fs::read(view.0.join("new")).unwrap(), b"local");
    assert!(
        !view.0.join(lazy_file(0)).exists(),
        "the local whiteout hides the lazy file"
    );
    assert!(view.0.join(lazy_file(1)).exists());
    assert!(
        std::fs::write(view.0.join("more"), b"").is_err(),
        "a view is read-only"
    );

    let bind = h.view("ns/10/bind", &top).await.unwrap();
    let bind = Mounted::new(&bind[0], &at("bind"));
    assert!(bind.0.join(lazy_file(0)).exists());
    assert!(std::fs::write(bind.0.join("more"), b"").is_err());
    assert!(h.layers.path(&[]).parent().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_and_twenty_eight_layers_of_which_the_lowest_are_lazy() {
    if !root() {
        return;
    }
    let h = Harness::start().await;
    let image = Image::new("a", 40);
    h.layers.know(&image);
    h.layers.answer(
        image.layers[0].blob,
        Answer::Layer {
            diff_id: Some(image.layers[0].diff_id),
            source: "s",
        },
    );
    let mut parent = h.pull("ns", &image).await;
    for number in 0..88 {
        let mounts = h.prepare("ns/1/tmp", &parent, labels(&[])).await.unwrap();
        let upper = mounts[0]
            .options
            .iter()
            .find_map(|option| option.strip_prefix("upperdir="))
            .unwrap();
        std::fs::write(format!("{upper}/{number}"), b"").unwrap();
        let name = format!("ns/2/{number}");
        h.commit(&name, "ns/1/tmp").await.unwrap();
        parent = name;
    }
    let mounts = h
        .prepare("ns/3/container", &parent, labels(&[]))
        .await
        .unwrap();
    let lowers = mounts[0].options.last().unwrap().matches(':').count() + 1;
    assert_eq!(lowers, 88 + 1, "forty lazy layers are one lower");
    // As containerd does: relative to the common directory, else a page is too short.
    let prefix = format!("{}/", h.root().display());
    let relative: Vec<_> = mounts[0]
        .options
        .iter()
        .map(|option| option.replace(&prefix, ""))
        .collect();
    assert!(
        relative.join(",").len() < 4096 - 512,
        "{} bytes",
        relative.join(",").len()
    );
    let at = h.directory.path().join("mnt");
    std::fs::create_dir_all(&at).unwrap();
    let status = Command::new("mount")
        .current_dir(h.root())
        .args(["-t", "overlay", "-o", &relative.join(","), "overlay"])
        .arg(&at)
        .status();
    assert!(status.unwrap().success());
    let mounted = Mounted(at);
    let names = std::fs::read_dir(&mounted.0).unwrap().count();
    assert_eq!(names, 40 + 88);
}
