//! The architecture, executed: arrows between crates, sole homes of dependencies, names, sizes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use e2e::workspace;

use crate::cargo::{self, Metadata, Package};

/// Which of ours each crate may import (ARCHITECTURE.md, "Crates"). A crate that is not here may import none and must be added.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("cache", &[]),
    ("image", &[]),
    ("tree", &[]),
    ("sys", &[]),
    ("fuse", &["sys"]),
    ("cvmfs", &["cache"]),
    ("snapshotter", &["image"]),
    (
        "layerfs",
        &["cvmfs", "registry", "image", "tree", "cache", "fuse", "sys"],
    ),
    ("registry", &["image"]),
    (
        "publisher",
        // `cache`: what was published is opened again as a client does.
        &["cvmfs", "registry", "image", "tree", "cache"],
    ),
    (
        "outcrop",
        &[
            "cache",
            "image",
            "tree",
            "sys",
            "fuse",
            "cvmfs",
            "snapshotter",
            "layerfs",
            "registry",
            "publisher",
        ],
    ),
    ("testkit", &[]),
    ("e2e", &[]),
    ("bench", &["testkit", "e2e", "image"]),
    ("xtask", &["e2e", "outcrop"]),
];

/// What tests may import beyond that.
const TESTS_MAY_IMPORT: &[&str] = &["testkit"];

/// Dependencies that few crates may have. The last column is for tests only.
const SOLE_HOME: &[(&str, &[&str], &[&str])] = &[
    ("tonic", &["snapshotter", "e2e"], &["layerfs", "outcrop"]),
    (
        "rusqlite",
        &["cvmfs", "snapshotter", "publisher", "testkit"],
        &[],
    ),
    (
        "reqwest",
        &["cvmfs", "registry", "publisher"],
        &["testkit", "outcrop"],
    ),
    ("clap", &["outcrop", "xtask", "testkit", "bench"], &[]),
    // hosts.toml is containerd's format, not a configuration of ours.
    (
        "toml",
        &["outcrop", "registry", "xtask", "testkit", "bench"],
        &[],
    ),
    (
        "anyhow",
        &["outcrop", "xtask", "e2e", "testkit", "bench"],
        &[],
    ),
];

/// Words that may stand in the Rust files of these crates only.
const SOLE_WORD: &[(&str, &[&str])] = &[
    // `outcrop check` tells whether it is there; this file names it.
    ("/dev/fuse", &["fuse", "outcrop", "xtask"]),
];

/// Names that say nothing.
const NO_MODULES: &[&str] = &["utils", "util", "common", "helpers", "types"];

const LONGEST_FILE: usize = 800;

/// All rules; an error lists every breach.
pub(crate) fn run() -> Result<()> {
    let metadata = cargo::metadata()?;
    let mut breaches = arrows(&metadata);
    breaches.extend(sole_homes(&metadata));
    for package in &metadata.packages {
        let folder = package.manifest_path.parent().unwrap_or(Path::new("."));
        for file in rust_files(folder) {
            breaches.extend(file_breaches(
                &package.name,
                &file,
                &fs::read_to_string(&file)?,
            ));
        }
    }
    breaches.extend(outside(workspace()));
    if !breaches.is_empty() {
        bail!("tidy:\n  {}", breaches.join("\n  "));
    }
    println!("tidy: {} crates", metadata.packages.len());
    Ok(())
}

fn arrows(metadata: &Metadata) -> Vec<String> {
    let ours: Vec<&str> = metadata
        .packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let mut breaches = Vec::new();
    for package in &metadata.packages {
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == package.name) else {
            breaches.push(format!(
                "{} is not in xtask's table of arrows (and ARCHITECTURE.md)",
                package.name
            ));
            continue;
        };
        for dependency in package
            .dependencies
            .iter()
            .filter(|one| ours.contains(&one.name.as_str()))
        {
            let in_tests = dependency.kind.as_deref() == Some("dev");
            let name = dependency.name.as_str();
            let is_allowed =
                allowed.contains(&name) || (in_tests && TESTS_MAY_IMPORT.contains(&name));
            if !is_allowed {
                breaches.push(format!(
                    "{} imports {name}: no such arrow in ARCHITECTURE.md",
                    package.name
                ));
            }
        }
    }
    breaches
}

fn sole_homes(metadata: &Metadata) -> Vec<String> {
    metadata
        .packages
        .iter()
        .flat_map(|package| {
            package
                .dependencies
                .iter()
                .filter_map(|one| stray(package, one))
        })
        .collect()
}

fn stray(package: &Package, dependency: &cargo::Dependency) -> Option<String> {
    let (name, homes, in_tests) = SOLE_HOME
        .iter()
        .find(|(name, ..)| *name == dependency.name)?;
    let package = package.name.as_str();
    let allowed = match dependency.kind.as_deref() {
        None => homes.contains(&package),
        Some("dev") => homes.contains(&package) || in_tests.contains(&package),
        // Build scripts are no part of the product.
        Some(_) => true,
    };
    (!allowed).then(|| format!("{package} depends on {name}, whose homes are {homes:?}"))
}

fn file_breaches(package: &str, file: &Path, text: &str) -> Vec<String> {
    let shown = file.strip_prefix(workspace()).unwrap_or(file).display();
    let mut breaches = Vec::new();
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let lines = text.lines().count();
    if lines > LONGEST_FILE {
        breaches.push(format!(
            "{shown} has {lines} lines, more than {LONGEST_FILE}"
        ));
    }
    if NO_MODULES.contains(&&*stem) {
        breaches.push(format!("{shown}: the name says nothing"));
    }
    // Tests look whether the machine has what they need.
    let is_test = file.components().any(|part| part.as_os_str() == "tests");
    for (word, homes) in SOLE_WORD.iter().filter(|_| !is_test) {
        if code(text).any(|line| line.contains(word)) && !homes.contains(&package) {
            breaches.push(format!(
                "{shown} mentions {word}, whose home is {}",
                homes[0]
            ));
        }
    }
    breaches
}

/// Files of any kind that mention the folder beside the project, which only its authors have.
fn outside(root: &Path) -> Vec<String> {
    // Put together, so that this file does not mention it.
    let word = concat!("../", "shared");
    let mentions = |file: &PathBuf| fs::read_to_string(file).is_ok_and(|text| text.contains(word));
    let files = files(root).into_iter().filter(mentions);
    files
        .map(|file| format!("{} mentions {word}", file.display()))
        .collect()
}

/// Lines that are not comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let is_rust = |file: &PathBuf| file.extension().is_some_and(|kind| kind == "rs");
    files(folder).into_iter().filter(is_rust).collect()
}

/// Regular files below a folder, but for what is built and what git keeps.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (name, kind) = (entry.file_name(), entry.file_type());
            match kind {
                Ok(kind) if kind.is_dir() && name != "target" && name != ".git" => {
                    folders.push(entry.path());
                }
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cargo::Dependency;

    fn package(name: &str, dependency: &str, kind: Option<&str>) -> Package {
        let dependencies = vec![Dependency {
            name: dependency.to_owned(),
            kind: kind.map(str::to_owned),
        }];
        Package {
            name: name.to_owned(),
            manifest_path: PathBuf::new(),
            dependencies,
        }
    }

    fn metadata(packages: Vec<Package>) -> Metadata {
        Metadata { packages }
    }

    #[test]
    fn forbidden_arrows_are_seen() {
        let serde = || package("cvmfs", "serde", None);
        let all = metadata(vec![
            package("snapshotter", "cvmfs", None),
            package("fuse", "sys", None),
            serde(),
        ]);
        assert_eq!(
            arrows(&all),
            ["snapshotter imports cvmfs: no such arrow in ARCHITECTURE.md"]
        );
        let tests = metadata(vec![
            package("cvmfs", "testkit", Some("dev")),
            package("testkit", "serde", None),
        ]);
        assert_eq!(arrows(&tests), [""; 0]);
        let unknown = metadata(vec![package("new", "serde", None)]);
        assert_eq!(arrows(&unknown).len(), 1);
    }

    #[test]
    fn strays_are_seen() {
        let seen = |name, dependency, kind| {
            sole_homes(&metadata(vec![package(name, dependency, kind)])).len()
        };
        assert_eq!(seen("layerfs", "tonic", None), 1);
        assert_eq!(seen("snapshotter", "tonic", None), 0);
        assert_eq!(seen("tree", "reqwest", Some("dev")), 1);
    }

    #[test]
    fn files_are_judged_by_name_size_and_words() {
        let judge = |file: &str, text: &str| file_breaches("cvmfs", Path::new(file), text).len();
        assert_eq!(judge("src/helpers.rs", ""), 1);
        assert_eq!(judge("src/hash.rs", &"\n".repeat(LONGEST_FILE + 1)), 1);
        assert_eq!(judge("src/hash.rs", "open(\"/dev/fuse\")"), 1);
        assert_eq!(judge("src/hash.rs", "// as /dev/fuse does"), 0);
    }
}
