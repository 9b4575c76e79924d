//! Ctrl-C ends the demo, not its cleaning up.

use std::fs;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// Whether somebody wants us to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on SIGINT, SIGTERM and SIGHUP end our children, which makes whatever waits for one fail; the rest is done by whoever owns
    /// something, on the way out. A second signal changes nothing.
    pub(super) fn watch() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let context = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        drop(context);
        let interrupted = Self::default();
        let ours = interrupted.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hang_up.recv() => {}
                }
            });
            ours.0.store(true, Ordering::SeqCst);
            end_children();
            // Whoever read our output may have been ended by the same key.
            let _ = writeln!(std::io::stdout(), "interrupted: cleaning up");
        });
        Ok(interrupted)
    }

    pub(super) fn happened(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// To be asked before anything that takes long.
    pub(super) fn check(&self) -> Result<()> {
        ensure!(!self.happened(), "interrupted");
        Ok(())
    }
}

fn end_children() {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    for task in tasks.flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|id| id.parse().ok());
        for child in children.filter_map(Pid::from_raw) {
            let _ = kill_process(child, Signal::TERM);
        }
    }
}
