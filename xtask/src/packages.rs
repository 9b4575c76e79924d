//! What demo and tests need, from Debian's packages: the machine's own release by `apt-get install`, and newer containerds from later
//! releases unpacked into `target/containerd/VERSION`, which changes nothing on the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use e2e::{Runtime, Version, workspace};

use crate::commands::{quiet, succeeds};

/// Program that must be there, and the package that brings it.
const NEEDED: [(&str, &str); 9] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("ctr-remote", "stargz-snapshotter"),
    ("busybox", "busybox-static"),
    ("patchelf", "patchelf"),
    ("mount", "mount"),
    ("setpriv", "util-linux"),
    ("zstd", "zstd"),
    ("docker-registry", "docker-registry"),
];

/// Debian releases with a containerd that the machine's own release lacks.
const RELEASES: [(Version, &str); 2] = [(Version::V1_7, "trixie"), (Version::V2_1, "forky")];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Installs what is missing, and says which containerds will run.
pub(crate) fn run() -> Result<()> {
    install(&missing())?;
    for (version, release) in RELEASES {
        if Runtime::find(version).is_none()
            && let Err(error) = unpack(version, release)
        {
            println!("containerd {version} is not available: {error:#}");
        }
    }
    let versions: Vec<&str> = Version::ALL
        .into_iter()
        .filter(|&one| Runtime::find(one).is_some())
        .map(Version::name)
        .collect();
    if versions.is_empty() {
        bail!(
            "there is no containerd of a known version ({:?})",
            Version::ALL.map(Version::name)
        );
    }
    println!("containerd: {}", versions.join(", "));
    Ok(())
}

/// Installs packages of the machine's own release, unless there are none to install.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    println!("installing {}", packages.join(", "));
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages);
        quiet(&mut apt)
    };
    // The lists may be absent or old: only then are they fetched.
    if install().is_err() {
        quiet(Command::new("apt-get").arg("update"))
            .context("apt-get update (as root, on Debian or Ubuntu)")?;
        install().with_context(|| {
            format!(
                "these packages are needed, and root to install them: {}",
                packages.join(" ")
            )
        })?;
    }
    Ok(())
}

fn missing() -> Vec<&'static str> {
    let folders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    let present = |program: &str| {
        folders
            .iter()
            .any(|folder| Path::new(folder).join(program).exists())
    };
    NEEDED
        .into_iter()
        .filter(|&(program, _)| !present(program))
        .map(|(_, package)| package)
        .collect()
}

/// Downloads containerd and runc of `release` and unpacks them.
fn unpack(version: Version, release: &str) -> Result<()> {
    println!("unpacking containerd {version} of Debian {release}");
    let target = workspace().join("target/containerd").join(version.name());
    let apt = Apt::prepare(release)?;
    quiet(apt.get().arg("update"))?;
    let unpacking = target.with_extension("unpacking");
    let _ = fs::remove_dir_all(&unpacking);
    apt.unpack(&["containerd", "runc"], &unpacking)?;
    let runc = unpacking.join("usr/sbin/runc");
    if !succeeds(Command::new(&runc).arg("--version")) {
        bring_own_libraries(&apt, &runc, &unpacking, &target)?;
    }
    let _ = fs::remove_dir_all(&target);
    fs::rename(&unpacking, &target)?;
    Runtime::find(version).with_context(|| format!("{release} has another containerd now"))?;
    quiet(
        Runtime::find(version)
            .context("gone")?
            .command("runc")
            .arg("--version"),
    )
    .map(drop)
}

/// The program is built for a newer libc than the machine's: give it the release's own, dynamic linker and all, at the place `target` where
/// everything will lie.
fn bring_own_libraries(apt: &Apt, program: &Path, unpacking: &Path, target: &Path) -> Result<()> {
    apt.unpack(&["libc6", "libseccomp2"], &unpacking.join("libraries"))?;
    let folders = fs::read_dir(unpacking.join("libraries/usr/lib"))?
        .flatten()
        .map(|entry| entry.path());
    let is_linker = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("ld-linux"))
    };
    let linker = folders
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten();
    let linker = linker
        .map(|entry| entry.path())
        .find(is_linker)
        .context("libc6 without a dynamic linker")?;
    let linker = target.join(linker.strip_prefix(unpacking)?);
    let folder = linker.parent().context("a linker in no folder")?;
    quiet(
        Command::new("patchelf")
            .arg("--set-interpreter")
            .arg(&linker)
            // DT_RPATH: DT_RUNPATH would not reach the libraries' own libraries.
            .args(["--force-rpath", "--set-rpath"])
            .arg(folder)
            .arg(program),
    )
    .map(drop)
}

/// apt with lists and downloads of another release in a folder of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn prepare(release: &str) -> Result<Self> {
        let folder = workspace().join("target/apt").join(release);
        for below in ["lists/partial", "archives/partial", "parts", "debs"] {
            fs::create_dir_all(folder.join(below))?;
        }
        let mirror = mirror().context("the machine's apt sources name no Debian mirror")?;
        fs::write(folder.join("status"), "")?;
        fs::write(
            folder.join("sources.list"),
            format!("deb [signed-by={KEYRING}] {mirror} {release} main\n"),
        )?;
        let at = folder.display();
        // The rest (proxies, checks) is as the machine has it.
        fs::write(
            folder.join("apt.conf"),
            format!(
                "Dir::State::lists \"{at}/lists\";\nDir::State::status \"{at}/status\";\nDir::Cache \"{at}\";\n\
                 Dir::Cache::archives \"{at}/archives\";\nDir::Etc::sourcelist \"{at}/sources.list\";\n\
                 Dir::Etc::sourceparts \"{at}/parts\";\nDir::Etc::preferences \"{at}/preferences\";\n\
                 Dir::Etc::preferencesparts \"{at}/parts\";\nAPT::Sandbox::User \"root\";\n\
                 Acquire::Languages \"none\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n"
            ),
        )?;
        Ok(Self { folder })
    }

    fn get(&self) -> Command {
        let mut command = Command::new("apt-get");
        command
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .current_dir(self.folder.join("debs"));
        command
    }

    fn unpack(&self, packages: &[&str], target: &Path) -> Result<()> {
        let debs = self.folder.join("debs");
        fs::create_dir_all(target)?;
        fs::remove_dir_all(&debs)?;
        fs::create_dir(&debs)?;
        quiet(self.get().arg("download").args(packages))?;
        for deb in fs::read_dir(&debs)? {
            quiet(Command::new("dpkg").arg("-x").arg(deb?.path()).arg(target))?;
        }
        Ok(())
    }
}

/// The URL of the machine's Debian (or Ubuntu) mirror: from deb822 (`URIs: …`) or one-line sources.
pub(crate) fn mirror() -> Option<String> {
    let listed = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let known = |path: &PathBuf| {
        path.extension()
            .is_some_and(|kind| kind == "sources" || kind == "list")
    };
    let files = listed.filter(known).chain(["/etc/apt/sources.list".into()]);
    let text: Vec<String> = files
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect();
    let lines = text
        .iter()
        .flat_map(|text| text.lines())
        .filter(|line| line.starts_with("URIs:") || line.starts_with("deb "));
    let words = lines.flat_map(str::split_whitespace);
    words
        .map(|word| word.trim_end_matches('/'))
        .find(|word| {
            word.contains("://") && (word.ends_with("/debian") || word.ends_with("/ubuntu"))
        })
        .map(str::to_owned)
}
