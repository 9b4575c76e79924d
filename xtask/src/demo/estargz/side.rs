//! One side of a pair: a containerd with one of the snapshotters, a run with nothing cached, and one after a restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Containerd, Runtime, Settings, containerd};

use super::Options;
use super::convert::Converter;
use super::daemon::{Daemon, HOST, Mode};
use super::report::{Run, State};
use crate::demo::image::Image;
use crate::demo::interrupt::Interrupt;
use crate::demo::job::{self, Form, Output};
use crate::demo::measure::left;
use crate::demo::servers::Servers;
use crate::workload::Workload;

const NAMESPACE: &str = "bench";

/// How long containerd may take to reach a snapshotter that was started again.
const REACHED: Duration = Duration::from_secs(60);

/// What all runs of an image have in common.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) interrupt: &'a Interrupt,
    /// The registry's directory.
    pub(super) images: PathBuf,
    pub(super) converter: Converter,
    /// The peer's program.
    pub(super) peer: Option<&'a Path>,
    pub(super) options: &'a Options,
}

/// A cold run and a warm one.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) runs: [Run; 2],
    /// Of what the job has computed.
    pub(super) result_digest: String,
}

/// containerd waits a while before it tries again a snapshotter that was away.
fn reach(containerd: &Containerd) -> Result<()> {
    let snapshotter = containerd.snapshotter();
    let list = ["snapshots", "--snapshotter", snapshotter, "list"];
    let started = Instant::now();
    loop {
        match containerd.ctr(NAMESPACE, &list) {
            Ok(_) => return Ok(()),
            Err(error) if started.elapsed() > REACHED => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// What is there while a side is measured.
struct Side<'a> {
    containerd: &'a Containerd,
    servers: &'a Servers,
    image: Image,
    mode: Mode,
}

impl Bench<'_> {
    /// Name and tag.
    pub(super) fn name(&self) -> String {
        format!("{}:{}", Workload::NAME, self.converter.tag())
    }

    /// Starts everything, runs twice, and takes everything away again.
    pub(super) fn measure(&self, mode: Mode) -> Result<Measured> {
        let folder = containerd::new_folder()?;
        let path = folder.path().to_owned();
        let measured = self.measure_in(&path, mode);
        drop(folder);
        // Whatever happened: an error that is there already says more.
        let measured = measured?;
        let left = left(&path);
        ensure!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
        Ok(measured)
    }

    fn measure_in(&self, folder: &Path, mode: Mode) -> Result<Measured> {
        self.interrupt.check()?;
        let servers = self.serve(folder)?;
        let peer = match mode {
            Mode::RegistryLazy => None,
            Mode::StargzSnapshotter => Some(self.peer.context("there is no peer")?),
        };
        let registry = servers.registry();
        let mut daemon = Daemon::start(folder, peer, registry, self.options.background_fetch)?;
        let settings = Settings {
            plugin: daemon.plugin(folder),
            registry: Some(registry.to_owned()),
        };
        let mut containerd = Containerd::start_in(folder, self.runtime, settings)?;
        let side = Side {
            containerd: &containerd,
            servers: &servers,
            image: Image::read(&self.images, Workload::NAME, self.converter.tag())?,
            mode,
        };
        let measured = self.both_states(&side, &mut daemon);
        if measured.is_err() && self.interrupt.happened() {
            // It was told to end, too; only with it can its containers be taken away in order.
            let _ = containerd.restart();
        }
        measured.with_context(|| daemon.log())
    }

    fn serve(&self, folder: &Path) -> Result<Servers> {
        // There is no repository with layers: all comes from the registry.
        let repository = folder.join("no-repository");
        fs::create_dir(&repository)?;
        let mut more = Vec::new();
        let network = [
            ("--latency", &self.options.latency),
            ("--bandwidth", &self.options.bandwidth),
        ];
        for (option, value) in network {
            if let Some(value) = value {
                more.extend([option, value]);
            }
        }
        Servers::start_with(folder, &repository, &self.images, &more)
    }

    fn both_states(&self, side: &Side<'_>, daemon: &mut Daemon) -> Result<Measured> {
        let (cold, result) = self.run(side, daemon, State::Cold)?;
        // What a restart fetches counts.
        let before = side.servers.sent(&side.image)?.all;
        daemon.restart()?;
        reach(side.containerd)?;
        let (mut warm, again) = self.run(side, daemon, State::Warm)?;
        warm.received_bytes -= before;
        ensure!(result == again, "{result} when cold, {again} when warm");
        Ok(Measured {
            runs: [cold, warm],
            result_digest: result,
        })
    }

    /// Pull, container, job; and the container goes again. Bytes are those since the registry's start.
    fn run(&self, side: &Side<'_>, daemon: &Daemon, state: State) -> Result<(Run, String)> {
        self.interrupt.check()?;
        let containerd = side.containerd;
        let (reference, container) = (format!("{HOST}/{}", self.name()), state.name());
        let started = Instant::now();
        containerd.pull(NAMESPACE, &reference)?;
        let pulled = started.elapsed();
        self.create(containerd, &reference, container)?;
        let created = started.elapsed();
        let output = start(containerd, container)?;
        let ended = || {
            let tasks = containerd.ctr(NAMESPACE, &["tasks", "list"])?;
            Ok(tasks.contains("STOPPED"))
        };
        output.wait_for("started", self.interrupt, ended)?;
        let startup = started.elapsed();
        let line = output.wait_for("result ", self.interrupt, ended)?;
        let total = started.elapsed();
        let used = daemon.used()?;
        let sent = side.servers.sent(&side.image)?;
        println!(
            "  {}: pulled after {:.3} s, container after {:.3} s, first output after {:.3} s, result after {:.3} s",
            state.name(),
            pulled.as_secs_f64(),
            created.as_secs_f64(),
            startup.as_secs_f64(),
            total.as_secs_f64(),
        );
        let run = Run {
            image: self.name(),
            mode: side.mode,
            state,
            startup_seconds: startup.as_secs_f64(),
            job_seconds: (total - startup).as_secs_f64(),
            total_seconds: total.as_secs_f64(),
            received_bytes: sent.all,
            cpu_seconds: used.cpu_seconds,
            memory_peak_bytes: used.memory_peak_bytes,
        };
        containerd.ctr(NAMESPACE, &["tasks", "delete", "--force", container])?;
        containerd.ctr(NAMESPACE, &["containers", "delete", container])?;
        Ok((run, job::digest(&line)?))
    }

    fn create(&self, containerd: &Containerd, image: &str, container: &str) -> Result<()> {
        let snapshotter = containerd.snapshotter();
        let create = ["containers", "create", "--snapshotter", snapshotter];
        let events = self.options.events.to_string();
        let command = [&Workload::COMMAND[..], &[&events]].concat();
        let arguments = [&create[..], &[image, container], &command].concat();
        containerd.ctr(NAMESPACE, &arguments).map(drop)
    }
}

/// Does not wait for the end.
fn start(containerd: &Containerd, container: &str) -> Result<Output> {
    let file = containerd.folder().join(format!("{container}.out"));
    let log = format!("file://{}", file.display());
    let start = ["tasks", "start", "--detach", "--log-uri", &log, container];
    containerd.ctr(NAMESPACE, &start)?;
    Ok(Output {
        file,
        form: Form::Plain,
    })
}
