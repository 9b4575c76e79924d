//! The workload as eStargz, by whom it may be: made once, kept beside the workload.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use e2e::outcrop::binary;
use e2e::{Containerd, Plugin, Runtime, Settings, child, containerd};

use super::daemon::HOST;
use crate::demo::interrupt::Interrupt;
use crate::demo::servers::Servers;
use crate::workload::Workload;

/// Compressing a gigabyte on one busy processor takes a tenth of that.
const LIMIT: Duration = Duration::from_secs(1800);

/// Who has made the image lazy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Converter {
    /// `outcrop convert`
    Outcrop,
    /// `ctr-remote images convert --estargz`, of the peer's own tools
    CtrRemote,
}

impl Converter {
    /// The image's tag.
    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::Outcrop => "outcrop",
            Self::CtrRemote => "ctr-remote",
        }
    }
}

/// A registry's directory that has the converted image.
pub(super) fn images(
    workload: &Workload,
    converter: Converter,
    runtime: &Runtime,
    interrupt: &Interrupt,
) -> Result<PathBuf> {
    let images = workload.registry().with_file_name("estargz");
    let name = Workload::NAME.replace('/', "_");
    let manifest = |tag: &str| images.join("manifests").join(format!("{name}:{tag}"));
    if !manifest(Workload::TAG).exists() {
        link(&workload.registry(), &images)?;
    }
    if !manifest(converter.tag()).exists() {
        interrupt.check()?;
        println!("converting (once): {converter:?}");
        let folder = containerd::new_folder()?;
        let repository = folder.path().join("no-repository");
        fs::create_dir(&repository)?;
        let servers = Servers::start(folder.path(), &repository, &images)?;
        match converter {
            Converter::Outcrop => by_outcrop(servers.registry())?,
            Converter::CtrRemote => by_ctr_remote(folder.path(), runtime, servers.registry())?,
        }
    }
    Ok(images)
}

/// The workload's files under the same names.
fn link(registry: &Path, images: &Path) -> Result<()> {
    for below in ["blobs", "manifests"] {
        fs::create_dir_all(images.join(below))?;
        for file in fs::read_dir(registry.join(below))? {
            let file = file?;
            let target = images.join(below).join(file.file_name());
            if !target.exists() {
                fs::hard_link(file.path(), target)?;
            }
        }
    }
    Ok(())
}

fn by_outcrop(registry: &str) -> Result<()> {
    let host = registry.strip_prefix("http://").context("no http URL")?;
    let image = |tag: &str| format!("{host}/{}:{tag}", Workload::NAME);
    let mut command = Command::new(binary("outcrop")?);
    command.args(["convert", "--format", "estargz"]);
    command.arg(image(Workload::TAG));
    command.arg(image(Converter::Outcrop.tag()));
    child::run(&mut command, LIMIT).map(drop)
}

fn by_ctr_remote(folder: &Path, runtime: &Runtime, registry: &str) -> Result<()> {
    const NAMESPACE: &str = "convert";
    let settings = Settings {
        plugin: Plugin::Overlayfs,
        registry: Some(registry.to_owned()),
    };
    let containerd = Containerd::start_in(folder, runtime, settings)?;
    let image = |tag: &str| format!("{HOST}/{}:{tag}", Workload::NAME);
    let (from, to) = (image(Workload::TAG), image(Converter::CtrRemote.tag()));
    let hosts = containerd.hosts_dir().display().to_string();
    let run = |program: &str, arguments: &[&str]| {
        let mut command = containerd.ctr_command(program, NAMESPACE);
        child::run(command.args(arguments), LIMIT)
    };
    run("ctr", &["content", "fetch", "--hosts-dir", &hosts, &from])?;
    let convert = ["images", "convert", "--estargz", "--oci", &from, &to];
    run("ctr-remote", &convert)?;
    run("ctr", &["images", "push", "--hosts-dir", &hosts, &to])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_what_the_option_says() {
        for converter in Converter::value_variants() {
            let option = converter.to_possible_value().unwrap();
            assert_eq!(option.get_name(), converter.tag());
        }
    }

    #[test]
    fn images_are_linked_and_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        for below in ["blobs", "manifests"] {
            fs::create_dir_all(from.join(below)).unwrap();
            fs::write(from.join(below).join("one"), "1").unwrap();
        }
        link(&from, &to).unwrap();
        // Again, as after an interruption.
        link(&from, &to).unwrap();
        let inode =
            |path: PathBuf| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        assert_eq!(inode(from.join("blobs/one")), inode(to.join("blobs/one")));
        assert!(to.join("manifests/one").exists());
    }
}
