//! A real workload as an image: Debian with Python, the scientific stack, a physics generator, and a job whose result is known to be
//! right. More than 1 GB unpacked, built from packages, kept in the target folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use e2e::workspace;
use serde_json::{Value, json};

use crate::commands::quiet;
use crate::packages;

/// Of the interpreter's version there must be wheels of each: Python 3.11 (Debian 12) to 3.13 (Debian 13).
const STACK: [&str; 8] = [
    "numpy==2.1.3",
    "awkward==2.14.0",
    "scipy==1.17.1",
    "pandas==3.1.1",
    "pyarrow==26.0.1",
    "matplotlib==3.11.2",
    "numba==0.68.1",
    "scikit-learn",
];
const GENERATOR: [&str; 1] = ["pythia8mc==8.317.2"];

/// Changed with whatever changes the image: an older one in the target folder is not used.
const RECIPE: &str = "1";

const JOB: &str = include_str!("../workload/job.py");

/// The image, twice: as an OCI layout, and as the test registry serves it (hard links to the same blobs).
#[derive(Debug)]
pub(crate) struct Workload {
    folder: PathBuf,
}

impl Workload {
    /// The repository's name within a registry.
    pub(crate) const NAME: &str = "physics/pythia";
    /// Its tag.
    pub(crate) const TAG: &str = "1";
    /// Runs the job; `started` is the first line it prints, `result …` the last.
    pub(crate) const COMMAND: [&str; 2] = ["/usr/bin/python3", "/opt/job.py"];

    /// Builds the image unless it is there.
    pub(crate) fn build() -> Result<Self> {
        let folder = workspace().join("target/workload").join(RECIPE);
        if !folder.join("registry").exists() {
            let building = folder.with_extension("building");
            let _ = fs::remove_dir_all(&building);
            build(&building).context("the demo's image cannot be built from packages")?;
            fs::rename(&building, &folder)?;
        }
        Ok(Self { folder })
    }

    /// An OCI image layout with one image.
    pub(crate) fn layout(&self) -> PathBuf {
        self.folder.join("layout")
    }

    /// `manifests/` and `blobs/` for the test registry.
    pub(crate) fn registry(&self) -> PathBuf {
        self.folder.join("registry")
    }
}

fn build(folder: &Path) -> Result<()> {
    println!("building the image of the demo (once): Debian, Python, a physics generator");
    let layers = folder.join("layers");
    fs::create_dir_all(&layers)?;
    packages::install(&["debootstrap", "python3-pip"])?;
    let base = layers.join("base");
    debian(&base)?;
    pip(&layers.join("stack/opt/stack"), &STACK)?;
    pip(&layers.join("generator/opt/generator"), &GENERATOR)?;
    let job = layers.join("job/opt");
    fs::create_dir_all(&job)?;
    fs::write(job.join("job.py"), JOB)?;
    let names = ["base", "stack", "generator", "job"];
    let blobs = folder.join("layout/blobs/sha256");
    fs::create_dir_all(&blobs)?;
    // Two at a time would need two cores each for the compressor alone: one after the other is as fast.
    let packed: Vec<Layer> = names
        .iter()
        .map(|name| pack(&layers.join(name), &blobs))
        .collect::<Result<_>>()?;
    describe(folder, &packed)?;
    fs::remove_dir_all(&layers)?;
    Ok(())
}

/// The machine's own release: its interpreter is the one that wheels were chosen for.
fn debian(root: &Path) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release")?;
    let suite = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release has no VERSION_CODENAME")?;
    let mirror = packages::mirror().context("the machine's apt sources name no mirror")?;
    println!("  Debian base ({suite})");
    quiet(
        Command::new("debootstrap")
            .args(["--variant=minbase", "--include=python3"])
            .arg(suite.trim_matches('"'))
            .arg(root)
            .arg(mirror),
    )?;
    for left in ["var/cache/apt", "var/lib/apt/lists", "var/log"] {
        fs::remove_dir_all(root.join(left))?;
        fs::create_dir(root.join(left))?;
    }
    Ok(())
}

fn pip(target: &Path, wanted: &[&str]) -> Result<()> {
    println!("  {}", wanted.join(" "));
    quiet(
        Command::new("/usr/bin/python3")
            .args(["-m", "pip", "install", "--quiet", "--only-binary=:all:"])
            .args(["--root-user-action=ignore", "--target"])
            .arg(target)
            .args(wanted),
    )
    .map(drop)
}

/// A packed layer.
struct Layer {
    diff_id: String,
    digest: String,
    size: u64,
}

/// tar and gzip, as everybody's layers are made.
fn pack(root: &Path, blobs: &Path) -> Result<Layer> {
    let blob = root.with_extension("tar.gz");
    println!("  packing {}", root.display());
    let script = "set -o pipefail; tar --sort=name --numeric-owner --xattrs --xattrs-include='*' -C \"$1\" -c . \
                  | gzip -n > \"$2\"; sha256sum < \"$2\"; gzip -dc \"$2\" | sha256sum";
    let digests = quiet(
        Command::new("bash")
            .args(["-ec", script, "pack"])
            .args([root, &blob]),
    )?;
    let (digest, diff_id) = digests.split_once('\n').context("sha256sum said nothing")?;
    let (digest, diff_id) = (first_word(digest)?, first_word(diff_id)?);
    let size = fs::metadata(&blob)?.len();
    fs::rename(&blob, blobs.join(&digest))?;
    Ok(Layer {
        diff_id,
        digest,
        size,
    })
}

fn first_word(text: &str) -> Result<String> {
    let word = text.split_whitespace().next();
    Ok(word.context("sha256sum said nothing")?.to_owned())
}

/// Configuration, manifest, index.
fn describe(folder: &Path, layers: &[Layer]) -> Result<()> {
    let layout = folder.join("layout");
    let config = json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "config": {
            "Env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "PYTHONPATH=/opt/stack:/opt/generator",
                "PYTHIA8DATA=/opt/generator/share/Pythia8/xmldoc",
            ],
            "Cmd": Workload::COMMAND,
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": layers.iter().map(|layer| format!("sha256:{}", layer.diff_id)).collect::<Vec<_>>(),
        },
    });
    let config = descriptor(&layout, "config", &config)?;
    let descriptors: Vec<Value> = layers
        .iter()
        .map(|layer| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": format!("sha256:{}", layer.digest),
                "size": layer.size,
            })
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": descriptors,
    });
    let mut manifest = descriptor(&layout, "manifest", &manifest)?;
    let digest = manifest["digest"].as_str().context("no digest")?.to_owned();
    manifest["annotations"] = json!({
        "org.opencontainers.image.ref.name": format!("registry.test/{}:{}", Workload::NAME, Workload::TAG),
    });
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]});
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    for_registry(&layout, &folder.join("registry"), &digest)
}

/// The files of a layout with one image under the names of the test registry, whose folder must be new; `manifest` is the image's digest.
pub(crate) fn for_registry(layout: &Path, registry: &Path, manifest: &str) -> Result<()> {
    fs::create_dir_all(registry.join("manifests"))?;
    fs::create_dir_all(registry.join("blobs"))?;
    for blob in fs::read_dir(layout.join("blobs/sha256"))? {
        let blob = blob?;
        let name = format!("sha256:{}", blob.file_name().to_string_lossy());
        let target = if name == manifest {
            let name = Workload::NAME.replace('/', "_");
            registry
                .join("manifests")
                .join(format!("{name}:{}", Workload::TAG))
        } else {
            registry.join("blobs").join(name)
        };
        fs::hard_link(blob.path(), target)?;
    }
    Ok(())
}

/// Writes a document as a blob; its descriptor.
fn descriptor(layout: &Path, kind: &str, document: &Value) -> Result<Value> {
    let bytes = serde_json::to_vec(document)?;
    let file = layout.join("blobs/new");
    fs::write(&file, &bytes)?;
    let digest = first_word(&quiet(Command::new("sha256sum").arg(&file))?)?;
    fs::rename(&file, layout.join("blobs/sha256").join(&digest))?;
    Ok(json!({
        "mediaType": format!("application/vnd.oci.image.{kind}.v1+json"),
        "digest": format!("sha256:{digest}"),
        "size": bytes.len(),
    }))
}
