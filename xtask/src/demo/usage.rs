//! What a pull and run cost: processor time and resident memory of all processes that take part, the servers left out.
//!
//! Processes and not control groups, which differ from machine to machine and count page cache as whoever touched it first.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

const INTERVAL: Duration = Duration::from_millis(100);

/// Whose cost it is.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// This process: its children are clients and daemons.
    pub(super) own: i32,
    /// Children that do not count, with theirs.
    pub(super) without: i32,
    /// Of the containerd whose shims, which are nobody's children, and containers count.
    pub(super) socket: String,
}

/// Measures until it is finished.
#[derive(Debug)]
pub(super) struct Meter {
    group: Group,
    ticks_before: u64,
    peak_pages: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sampler: Option<JoinHandle<()>>,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    pub(super) memory_peak_bytes: u64,
}

/// A line of `/proc/PID/stat`, as far as it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    id: i32,
    name: String,
    parent: i32,
    /// Of its own threads.
    ticks: u64,
    /// Of children that have ended.
    ticks_of_ended: u64,
    resident_pages: u64,
}

impl Meter {
    pub(super) fn start(group: Group) -> Self {
        let (peak_pages, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let ticks_before = ticks(&processes(), &group);
        let sampler = std::thread::spawn({
            let (group, peak_pages, stop) = (group.clone(), peak_pages.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    peak_pages.fetch_max(pages(&processes(), &group), Ordering::Relaxed);
                    std::thread::sleep(INTERVAL);
                }
            }
        });
        Self {
            group,
            ticks_before,
            peak_pages,
            stop,
            sampler: Some(sampler),
        }
    }

    /// While the containers are still there: what they have used is known to their shims only.
    pub(super) fn finish(self) -> Usage {
        let ticks = ticks(&processes(), &self.group).saturating_sub(self.ticks_before);
        let pages = self.peak_pages.load(Ordering::Relaxed);
        Usage {
            cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
            memory_peak_bytes: pages * rustix::param::page_size() as u64,
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sampler) = self.sampler.take() {
            let _ = sampler.join();
        }
    }
}

fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = entries.filter_map(|entry| {
        entry.file_name().to_str()?.parse::<i32>().ok()?;
        fs::read(entry.path().join("stat")).ok()
    });
    stats
        .filter_map(|stat| parse(&String::from_utf8_lossy(&stat)).ok())
        .collect()
}

/// proc_pid_stat(5): `1 (name) S 0 …`, where the name may hold anything.
fn parse(stat: &str) -> Result<Process> {
    let (head, rest) = stat.rsplit_once(')').context("no name")?;
    let (id, name) = head.split_once('(').context("no name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // The third field is the first of these.
    let field = |number: usize| -> Result<u64> {
        let text = fields.get(number - 3).context("too few fields")?;
        Ok(text.parse::<i64>()?.try_into().unwrap_or(0))
    };
    Ok(Process {
        id: id.trim().parse()?,
        name: name.to_owned(),
        parent: field(4)?.try_into()?,
        ticks: field(14)? + field(15)?,
        ticks_of_ended: field(16)? + field(17)?,
        resident_pages: field(24)?,
    })
}

/// Shims of this containerd.
fn shims(all: &[Process], socket: &str) -> Vec<i32> {
    let is_ours = |process: &&Process| {
        let line = fs::read(format!("/proc/{}/cmdline", process.id)).unwrap_or_default();
        line.split(|&byte| byte == 0)
            .any(|word| word == socket.as_bytes())
    };
    // The kernel cuts names.
    let shims = all
        .iter()
        .filter(|process| process.name.starts_with("containerd-shim"));
    shims.filter(is_ours).map(|process| process.id).collect()
}

/// `roots` and all that descends from them, but for `without` and its descendants.
fn descendants(all: &[Process], roots: &[i32], without: i32) -> HashSet<i32> {
    let mut found: HashSet<i32> = HashSet::new();
    let mut waiting = roots.to_vec();
    while let Some(id) = waiting.pop() {
        if id != without && found.insert(id) {
            let children = all.iter().filter(|process| process.parent == id);
            waiting.extend(children.map(|process| process.id));
        }
    }
    found
}

fn members<'a>(all: &'a [Process], group: &Group) -> impl Iterator<Item = &'a Process> {
    let mut roots = shims(all, &group.socket);
    roots.push(group.own);
    let ids = descendants(all, &roots, group.without);
    all.iter().filter(move |process| ids.contains(&process.id))
}

fn ticks(all: &[Process], group: &Group) -> u64 {
    let ticks = |process: &Process| match process.id == group.own {
        // Clients that have ended; measuring itself does not count.
        true => process.ticks_of_ended,
        false => process.ticks + process.ticks_of_ended,
    };
    members(all, group).map(ticks).sum()
}

fn pages(all: &[Process], group: &Group) -> u64 {
    let others = members(all, group).filter(|process| process.id != group.own);
    others.map(|process| process.resident_pages).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(id: i32, parent: i32) -> Process {
        Process {
            id,
            name: "one".to_owned(),
            parent,
            ticks: 10,
            ticks_of_ended: 1,
            resident_pages: 100,
        }
    }

    fn group() -> Group {
        Group {
            own: 2,
            without: 3,
            socket: "/none".to_owned(),
        }
    }

    #[test]
    fn a_line_of_stat_is_read_whatever_the_name() {
        let line = "4242 (a) S (x y) S 17 1 1 0 -1 4194560 100 200 0 0 11 22 33 44 20 0 9 0 5000 1000000 777 184467";
        let expected = Process {
            id: 4242,
            name: "a) S (x y".to_owned(),
            parent: 17,
            ticks: 33,
            ticks_of_ended: 77,
            resident_pages: 777,
        };
        assert_eq!(parse(line).unwrap(), expected);
        for line in ["", "1 (a", "1 (a) S 1 2 3", "x (a) S 0"] {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn servers_and_strangers_do_not_count() {
        // 2 is this process, 3 the servers with child 6; 4 a daemon with child 5; 7 a stranger.
        let all = [
            process(1, 0),
            process(2, 1),
            process(3, 2),
            process(4, 2),
            process(5, 4),
            process(6, 3),
            process(7, 1),
        ];
        assert_eq!(descendants(&all, &[2], 3), HashSet::from([2, 4, 5]));
        // Two in full, and of this process what its ended children used.
        assert_eq!(ticks(&all, &group()), 11 + 11 + 1);
        assert_eq!(pages(&all, &group()), 200);
    }

    #[test]
    fn a_child_is_measured() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let meter = Meter::start(Group { own, ..group() });
        std::thread::sleep(3 * INTERVAL);
        let usage = meter.finish();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(usage.memory_peak_bytes > 0);
        assert!(usage.cpu_seconds < 60.0);
    }
}
