//! A child process that ends with its owner, and waits with deadlines.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to end after SIGTERM before SIGKILL follows.
const GRACE: Duration = Duration::from_secs(10);

/// A running server whose output goes to a log file. Dropped: SIGTERM, then SIGKILL.
#[derive(Debug)]
pub struct Child {
    name: String,
    log: PathBuf,
    process: std::process::Child,
}

impl Child {
    /// Starts `command` with standard output and error appended to `log`.
    ///
    /// No parent-death signal: it follows the thread that started the process, and test runtimes end threads.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let process = command
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            log: log.to_owned(),
            process,
        })
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Waits until `ready` says so; an error with the log's end if the process ends first or `limit` has passed.
    pub fn wait_until(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !ready() {
            if let Some(status) = self.process.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name, self.log_end());
            }
            if Instant::now() > deadline {
                bail!(
                    "{} is not ready after {limit:?}:\n{}",
                    self.name,
                    self.log_end()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Sends `signal` and waits for the end; SIGKILL after a grace period. Idempotent.
    pub fn stop(&mut self, signal: Signal) {
        if let (Ok(None), Some(id)) = (
            self.process.try_wait(),
            Pid::from_raw(self.process.id().cast_signed()),
        ) {
            let _ = kill_process(id, signal);
            if !self.ended_within(GRACE) {
                let _ = self.process.kill();
            }
        }
        let _ = self.process.wait();
    }

    fn ended_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// The log's last lines, enough to see why it failed.
    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop(Signal::TERM);
    }
}

/// Runs `command` to its end and returns its standard output; an error with both outputs if it fails or takes longer than `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Result<String> {
    let output = output(command, limit)?;
    if !output.status.success() {
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        bail!("{command:?} failed with {}:\n{out}{err}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Like [`run`], but any exit code will do.
pub fn output(command: &mut Command, limit: Duration) -> Result<Output> {
    let process = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let process = process.with_context(|| format!("cannot run {command:?}"))?;
    let id = Pid::from_child(&process);
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(process.wait_with_output()));
    match ended.recv_timeout(limit) {
        Ok(output) => Ok(output?),
        Err(_) => {
            let _ = kill_process(id, Signal::KILL);
            bail!("{command:?} took longer than {limit:?}")
        }
    }
}
