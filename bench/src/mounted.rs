//! `outcrop mount` as a process under measurement.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a mount may take; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(30);
/// Clock ticks a second in /proc/PID/stat; fixed by the kernel's interface.
const TICKS: f64 = 100.0;

/// A mounted repository.
pub(crate) struct Mounted {
    process: Child,
    directory: PathBuf,
}

/// What the process has used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub cpu_seconds: f64,
    pub peak_memory_bytes: u64,
}

/// How to mount.
pub(crate) struct Recipe<'a> {
    pub outcrop: &'a Path,
    pub fqrn: &'a str,
    pub url: &'a str,
    pub public_key: &'a Path,
    pub cache: &'a Path,
}

impl Mounted {
    /// Mounts and waits until the kernel shows it; returns the seconds that took.
    pub(crate) fn start(recipe: &Recipe<'_>, directory: &Path) -> Result<(Self, f64)> {
        fs::create_dir_all(directory)?;
        let started = Instant::now();
        let process = Command::new(recipe.outcrop)
            .args(["mount", recipe.fqrn])
            .arg(directory)
            .args(["--server-url", recipe.url])
            .arg("--public-key")
            .arg(recipe.public_key)
            .arg("--cache")
            .arg(recipe.cache)
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", recipe.outcrop.display()))?;
        let mut mounted = Self {
            process,
            directory: directory.to_owned(),
        };
        while !mounted.is_mounted()? {
            if started.elapsed() > PATIENCE || mounted.process.try_wait()?.is_some() {
                bail!("outcrop mount did not mount {}", directory.display());
            }
            sleep(Duration::from_millis(2));
        }
        Ok((mounted, started.elapsed().as_secs_f64()))
    }

    fn is_mounted(&self) -> Result<bool> {
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        let path = self.directory.to_string_lossy();
        Ok(table
            .lines()
            .any(|line| line.split(' ').nth(4) == Some(&path)))
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        let process = PathBuf::from(format!("/proc/{}", self.process.id()));
        let stat = fs::read_to_string(process.join("stat"))?;
        let fields: Vec<&str> = stat
            .rsplit_once(") ")
            .context("odd stat")?
            .1
            .split(' ')
            .collect();
        let ticks = |index: usize| -> Result<f64> { Ok(fields[index].parse::<f64>()?) };
        let status = fs::read_to_string(process.join("status"))?;
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .context("no VmHWM")?;
        Ok(Usage {
            cpu_seconds: (ticks(11)? + ticks(12)?) / TICKS,
            peak_memory_bytes: peak * 1024,
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.process.wait();
    }
}
