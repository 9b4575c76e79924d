//! One pull and run with nothing cached anywhere.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Containerd, Outcrop, Plugin, Runtime, Settings, containerd};

use super::client::{Steps, steps_of};
use super::disk::allocated;
use super::image::Image;
use super::interrupt::Interrupt;
use super::job;
use super::mode::{Client, Mode, image_name};
use super::offer::Offer;
use super::row::Row;
use super::servers::Servers;
use super::usage::{Group, Meter, Usage};
use crate::workload::Workload;

/// What all rows have in common.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) interrupt: &'a Interrupt,
}

impl Stage<'_> {
    /// Starts everything, pulls, runs, and takes everything away again.
    pub(super) fn measure(&self, mode: Mode, client: Client, offer: &Offer) -> Result<Row> {
        let folder = containerd::new_folder()?;
        let path = folder.path().to_owned();
        let row = self.measure_in(&path, mode, client, offer);
        drop(folder);
        // Whatever happened: an error that is there already says more.
        let row = row?;
        let left = left(&path);
        ensure!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
        Ok(row)
    }

    fn measure_in(&self, folder: &Path, mode: Mode, client: Client, offer: &Offer) -> Result<Row> {
        self.interrupt.check()?;
        let servers = Servers::start(folder, offer.publication.directory(), &offer.images)?;
        let outcrop = mode.by_outcrop().then(|| {
            let socket = containerd::socket_in(folder);
            let repository = offer.publication.served_by(&servers);
            Outcrop::start_with(folder, &socket, &[repository], &registries(folder))
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
        let row = self.observe(&containerd, &servers, (mode, client), offer);
        if row.is_err() && self.interrupt.happened() {
            // It was told to end, too; only with it can its containers be taken away in order.
            let _ = containerd.restart();
        }
        row.with_context(|| outcrop.as_ref().map(Outcrop::log).unwrap_or_default())
    }

    fn observe(
        &self,
        containerd: &Containerd,
        servers: &Servers,
        (mode, client): (Mode, Client),
        offer: &Offer,
    ) -> Result<Row> {
        self.interrupt.check()?;
        let image = Image::read(&offer.images, Workload::NAME, Workload::TAG)?;
        let meter = Meter::start(Group {
            own: std::process::id().cast_signed(),
            without: servers.process().cast_signed(),
            socket: containerd.socket().display().to_string(),
        });
        let name = image_name();
        let mut steps = steps_of(client, containerd, &name)?;
        let (times, result) = run(&mut *steps, self.interrupt)?;
        let usage: Usage = meter.finish();
        let sent = servers.sent(&image)?;
        let folder = containerd.folder();
        let (store, outcrop) = (folder.join("root"), folder.join("outcrop"));
        let row = Row {
            mode,
            client,
            image: name.clone(),
            image_bytes: image.bytes,
            publish_seconds: offer.seconds,
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

/// The daemon goes where containerd goes.
fn registries(folder: &Path) -> String {
    format!(
        "[registry]\nhosts_directories = [{:?}]\n",
        folder.join("certs.d")
    )
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
fn run(steps: &mut dyn Steps, interrupt: &Interrupt) -> Result<(Times, String)> {
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
pub(super) fn left(folder: &Path) -> Vec<String> {
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
        // Reads its input to the end, which does not come.
        let mut process = std::process::Command::new("sh")
            .args(["-c", "read line", path.to_str().unwrap()])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // A new program has its command line a moment after its start.
        let mut found = left(&path);
        for _ in 0..500 {
            if found.len() > 1 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            found = left(&path);
        }
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        drop(folder);
        assert_eq!(left(&path), [""; 0]);
    }
}
