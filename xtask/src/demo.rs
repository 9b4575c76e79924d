//! From a clean machine to a running container in one command: the same image, its layers in a CVMFS repository, and by stock containerd
//! beside it; by CRI, as Kubernetes pulls, and by `ctr`.

mod row;
mod servers;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::merged::Image;
use e2e::{Containerd, Outcrop, Plugin, Runtime, Settings, Version, containerd, workspace};

use crate::cargo::cargo;
use crate::{commands, packages};
use row::{Client, Mode, Row};
use servers::Servers;

/// As containerd names it; every registry's host leads to the test kit's.
const IMAGE: &str = "registry.test/library/mini:1.0";

/// The container's command: says something and stays.
const COMMAND: [&str; 3] = [
    "/bin/sh",
    "-c",
    "echo a container runs; exec tail -f /dev/null",
];

/// Shows the four rows and writes `target/demo.json`.
pub(crate) fn run() -> Result<()> {
    packages::run()?;
    println!("building");
    commands::run(cargo().args([
        "build",
        "--release",
        "--quiet",
        "-p",
        "outcrop",
        "-p",
        "testkit",
    ]))?;
    let runtime = Version::ALL
        .into_iter()
        .find_map(Runtime::find)
        .context("no containerd")?;
    let mut rows = Vec::new();
    for client in [Client::Cri, Client::Ctr] {
        for mode in [Mode::Cvmfs, Mode::Stock] {
            println!("\n{mode} by {client} (containerd {})", runtime.version);
            rows.push(measure(&runtime, mode, client)?);
        }
    }
    row::print_table(&rows);
    let file = workspace().join("target/demo.json");
    fs::write(&file, serde_json::to_vec(&Report { modes: rows })?)?;
    println!("\nwritten: {}", file.display());
    Ok(())
}

/// `target/demo.json`.
#[derive(serde::Serialize)]
struct Report {
    modes: Vec<Row>,
}

/// One pull and run with nothing cached anywhere.
fn measure(runtime: &Runtime, mode: Mode, client: Client) -> Result<Row> {
    let folder = containerd::new_folder()?;
    let servers = Servers::start(folder.path())?;
    let image = Image::read(servers.images(), "library/mini", "1.0")?;
    let outcrop = match mode {
        Mode::Stock => None,
        Mode::Cvmfs => {
            let socket = containerd::socket_in(folder.path());
            Some(Outcrop::start(
                folder.path(),
                &socket,
                &[servers.repository()],
            )?)
        }
    };
    let plugin = outcrop
        .as_ref()
        .map_or(Plugin::Overlayfs, |_| Outcrop::plugin(folder.path()));
    let settings = Settings {
        plugin,
        registry: Some(servers.registry().to_owned()),
    };
    let containerd = Containerd::start_in(folder.path(), runtime, settings)?;
    let times = match client {
        Client::Cri => by_cri(&containerd),
        Client::Ctr => by_ctr(&containerd),
    };
    let times = times.with_context(|| outcrop.as_ref().map(Outcrop::log).unwrap_or_default())?;
    Ok(Row {
        mode,
        client,
        image: IMAGE.to_owned(),
        image_bytes: image.layer_bytes,
        pull_seconds: times.pulled.as_secs_f64(),
        create_seconds: (times.created - times.pulled).as_secs_f64(),
        pull_to_first_output_seconds: times.first_output.as_secs_f64(),
        layer_bytes_from_registry: servers.layer_bytes(&image.layers)?,
        bytes_from_cvmfs: servers.bytes_from_cvmfs()?,
    })
}

/// Since the pull began.
#[derive(Debug)]
struct Times {
    pulled: Duration,
    created: Duration,
    first_output: Duration,
}

fn said(event: &str, started: Instant) -> Duration {
    let now = started.elapsed();
    println!("  {:>8.3} s  {event}", now.as_secs_f64());
    now
}

/// As the kubelet does it: PullImage, sandbox, container.
fn by_cri(containerd: &Containerd) -> Result<Times> {
    let cri = containerd.cri()?;
    let started = Instant::now();
    cri.pull(IMAGE)?;
    let pulled = said("pulled", started);
    let sandbox = cri.run_sandbox("demo")?;
    let pod = cri.create(&sandbox, "demo", IMAGE, &COMMAND)?;
    let created = said("created (sandbox and container)", started);
    cri.start(&pod)?;
    let output = cri.first_output(&pod)?;
    let first_output = said(&format!("first output: {output}"), started);
    cri.remove(&pod)?;
    Ok(Times {
        pulled,
        created,
        first_output,
    })
}

fn by_ctr(containerd: &Containerd) -> Result<Times> {
    let started = Instant::now();
    containerd.pull("default", IMAGE)?;
    let pulled = said("pulled", started);
    // No shell: `ctr` takes every `-c` for its own.
    let command = ["/bin/echo", "a container runs"];
    let create = [
        "containers",
        "create",
        "--snapshotter",
        containerd.snapshotter(),
        IMAGE,
        "demo",
    ];
    let create = [&create[..], &command].concat();
    containerd.ctr("default", &create)?;
    let created = said("created", started);
    let output = containerd.start_task("default", "demo")?;
    let first_output = said(&format!("first output: {output}"), started);
    containerd.ctr("default", &["tasks", "delete", "--force", "demo"])?;
    containerd.ctr("default", &["containers", "delete", "demo"])?;
    Ok(Times {
        pulled,
        created,
        first_output,
    })
}
