//! One pull and run with nothing cached anywhere.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Containerd, Outcrop, Plugin, Runtime, Settings, containerd};

use super::disk::allocated;
use super::image::Image;
use super::interrupt::Interrupt;
use super::job;
use super::mode::{Client, Mode};
use super::publication::Publication;
use super::row::Row;
use super::servers::Servers;
use super::usage::{Group, Meter, Usage};
use super::{client, mode};
use crate::workload::Workload;

/// What all rows have in common.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) publication: &'a Publication,
    pub(super) interrupt: &'a Interrupt,
}

/// What one row shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown<'a> {
    pub(super) mode: Mode,
    pub(super) client: Client,
    /// The registry's directory.
    pub(super) images: &'a Path,
    pub(super) publish_seconds: f64,
}

impl Stage<'_> {
    /// Starts everything, pulls, runs, and takes everything away again.
    pub(super) fn measure(&self, shown: Shown<'_>) -> Result<Row> {
        let folder = containerd::new_folder()?;
        let path = folder.path().to_owned();
        let row = self.measure_in(&path, shown);
        drop(folder);
        // Whatever happened: an error that is there already says more.
        let row = row?;
        let left = left(&path);
        ensure!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
        Ok(row)
    }

    fn measure_in(&self, folder: &Path, shown: Shown<'_>) -> Result<Row> {
        self.interrupt.check()?;
        let servers = Servers::start(folder, self.publication.directory(), shown.images)?;
        let outcrop = shown.mode.by_outcrop().then(|| {
            let socket = containerd::socket_in(folder);
            let repository = self.publication.served_by(&servers);
            Outcrop::start(folder, &socket, &[repository])
        });
        let outcrop = outcrop.transpose()?;
        let plugin = outcrop
            .as_ref()
            .map_or(Plugin::Overlayfs, |_| Outcrop::plugin(folder));
        let settings = Settings {
            plugin,
            registry: Some(servers.registry().to_owned()),
        };
        let mut containerd = Containerd::start_in(folder, self.runtime, settings)?;
        let row = self.observe(&containerd, &servers, shown);
        if row.is_err() && self.interrupt.happened() {
            // It was told to end, too; only with it can its containers be taken away in order.
            let _ = containerd.restart();
        }
        row.with_context(|| outcrop.as_ref().map(Outcrop::log).unwrap_or_default())
    }

    fn observe(&self, containerd: &Containerd, servers: &Servers, shown: Shown<'_>) -> Result<Row> {
        self.interrupt.check()?;
        let image = Image::read(shown.images, Workload::NAME, Workload::TAG)?;
        let meter = Meter::start(Group {
            own: std::process::id().cast_signed(),
            without: servers.process().cast_signed(),
            socket: containerd.socket().display().to_string(),
        });
        let name = mode::image_name();
        let mut steps = client::steps(shown.client, containerd, &name)?;
        let (times, result) = run(&mut *steps, self.interrupt)?;
        let usage: Usage = meter.finish();
        let sent = servers.sent(&image)?;
        let folder = containerd.folder();
        let (store, outcrop) = (folder.join("root"), folder.join("outcrop"));
        let row = Row {
            mode: shown.mode,
            client: shown.client,
            image: name.clone(),
            image_bytes: image.bytes,
            publish_seconds: shown.publish_seconds,
            pull_seconds: times.pulled.as_secs_f64(),
            create_seconds: (times.created - times.pulled).as_secs_f64(),
            pull_to_first_output_seconds: times.first_output.as_secs_f64(),
            job_seconds: (times.result - times.first_output).as_secs_f64(),
            result_digest: job::digest(&result)?,
            layer_bytes_from_registry: sent.layers_by_registry,
            bytes_from_cvmfs: sent.by_stratum1,
            received_bytes: sent.all,
            cpu_seconds: usage.cpu_seconds,
            memory_peak_bytes: usage.memory_peak_bytes,
            cache_bytes: allocated(&outcrop.join("cache")),
            storage_bytes: allocated(&store) + allocated(&outcrop),
        };
        steps.remove()?;
        Ok(row)
    }
}

/// Since the pull began.
#[derive(Debug)]
struct Times {
    pulled: Duration,
    created: Duration,
    first_output: Duration,
    result: Duration,
}

/// The time line, and the job's last line.
fn run(steps: &mut dyn client::Steps, interrupt: &Interrupt) -> Result<(Times, String)> {
    let started = Instant::now();
    steps.pull()?;
    let pulled = said("pulled", started);
    steps.create()?;
    let created = said("created", started);
    let output = steps.start()?;
    let line = output.wait_for("started", interrupt, || steps.ended())?;
    let first_output = said(&format!("first output: {line}"), started);
    let line = output.wait_for("result ", interrupt, || steps.ended())?;
    let result = said(&line, started);
    let times = Times {
        pulled,
        created,
        first_output,
        result,
    };
    Ok((times, line))
}

fn said(event: &str, started: Instant) -> Duration {
    let now = started.elapsed();
    println!("  {:>8.3} s  {event}", now.as_secs_f64());
    now
}

/// Mounts, processes and files of a folder that should be gone.
fn left(folder: &Path) -> Vec<String> {
    let mounts = containerd::mounts_below(folder);
    let mounts = mounts
        .iter()
        .map(|point| format!("mount {}", point.display()));
    let files = folder
        .exists()
        .then(|| format!("folder {}", folder.display()));
    let name = folder.display().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter_map(|entry| {
        let id = entry.file_name().to_str()?.parse::<u32>().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(&name).then(|| format!("process {id} {line}"))
    });
    mounts.chain(files).chain(processes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let mut process = std::process::Command::new("tail")
            .args(["-f", "/dev/null"])
            .arg(path.join("file"))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        fs::write(path.join("file"), "").unwrap();
        let found = left(&path);
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        drop(folder);
        assert_eq!(left(&path), [""; 0]);
    }
}
