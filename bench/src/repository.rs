//! A repository mounted by `outcrop mount`, against the same tree on the local disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use testkit::{Entry, RepositoryBuilder, Running, Storage, Stratum1};

use crate::mounted::{Mounted, Recipe};
use crate::sample::{Comparison, Process, median, median_process};
use crate::work::{Kind, SMALL_FILES, drop_kernel_caches, small_file, timed};

const FQRN: &str = "bench.test.local";
/// Files of the tree that is listed and archived; about 160 MB, as in the published figures.
const FLAT_FILES: usize = 5_000;
const LARGE_FILE: usize = 256 << 20;

/// Options of `bench repository`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The `outcrop` binary (release build).
    #[arg(long, default_value = "target/release/outcrop")]
    outcrop: PathBuf,
    /// Paired rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where the figures go.
    #[arg(long, default_value = "target/bench-repository.json")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Report {
    command: String,
    rounds: usize,
    mount_seconds: [f64; 2],
    comparisons: Vec<Comparison>,
}

struct Bench<'a> {
    outcrop: &'a Path,
    stratum1: Running<Stratum1>,
    public_key: PathBuf,
    scratch: PathBuf,
    local: PathBuf,
}

/// One piece of work in all states, one round.
struct Round {
    cold: f64,
    hot: f64,
    warm: f64,
    mount: [f64; 2],
    cold_process: Process,
    warm_process: Process,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "at least one round");
    let scratch = tempfile::tempdir()?;
    let bench = Bench::prepare(&options.outcrop, scratch.path())?;
    let mut comparisons = Vec::new();
    let mut mounts = [Vec::new(), Vec::new()];
    for kind in Kind::ALL {
        let (compared, mount) = bench.compare(kind, options.rounds)?;
        for one in &compared {
            print(one);
        }
        comparisons.extend(compared);
        for (all, these) in mounts.iter_mut().zip(mount) {
            all.extend(these);
        }
    }
    let report = Report {
        command: "make bench".to_owned(),
        rounds: options.rounds,
        mount_seconds: mounts.map(|mut seconds| median(&mut seconds)),
        comparisons,
    };
    println!(
        "mount: {:.3} s cold, {:.3} s warm",
        report.mount_seconds[0], report.mount_seconds[1]
    );
    fs::write(&options.out, serde_json::to_vec_pretty(&report)?)
        .with_context(|| options.out.display().to_string())
}

impl<'a> Bench<'a> {
    fn prepare(outcrop: &'a Path, scratch: &Path) -> Result<Self> {
        let published = publish(&scratch.join("srv"))?;
        let stratum1 = Stratum1::serving(&scratch.join("srv")).start()?;
        let bench = Self {
            outcrop,
            stratum1,
            public_key: published,
            scratch: scratch.to_owned(),
            local: scratch.join("local"),
        };
        let (mounted, _) = bench.mount("copy")?;
        let copied = Command::new("cp")
            .arg("-a")
            .arg(bench.mount_point())
            .arg(&bench.local)
            .status()?;
        ensure!(copied.success(), "cannot copy the tree to the local disk");
        drop(mounted);
        Ok(bench)
    }

    fn mount_point(&self) -> PathBuf {
        self.scratch.join("mnt")
    }

    fn mount(&self, cache: &str) -> Result<(Mounted, f64)> {
        let url = self.stratum1.repository_url(FQRN);
        let recipe = Recipe {
            outcrop: self.outcrop,
            fqrn: FQRN,
            url: &url,
            public_key: &self.public_key,
            cache: &self.scratch.join("cache").join(cache),
        };
        Mounted::start(&recipe, &self.mount_point())
    }

    /// All rounds of one piece of work; the order of the two sides alternates.
    fn compare(&self, kind: Kind, rounds: usize) -> Result<([Comparison; 3], [Vec<f64>; 2])> {
        let mut pairs = [Vec::new(), Vec::new(), Vec::new()];
        let mut processes = [Vec::new(), Vec::new()];
        let mut mounts = [Vec::new(), Vec::new()];
        for number in 0..rounds {
            let (ours, local) = if number % 2 == 0 {
                let ours = self.round(kind, number)?;
                (ours, self.local_round(kind)?)
            } else {
                let local = self.local_round(kind)?;
                (self.round(kind, number)?, local)
            };
            pairs[0].push([ours.cold, local[0]]);
            pairs[1].push([ours.warm, local[0]]);
            pairs[2].push([ours.hot, local[1]]);
            processes[0].push(ours.cold_process);
            processes[1].push(ours.warm_process);
            mounts[0].push(ours.mount[0]);
            mounts[1].push(ours.mount[1]);
        }
        let [cold, warm, hot] = pairs;
        let [cold_process, warm_process] = processes.map(median_process);
        let compared = [
            Comparison::of(kind.name(), "cold", cold, cold_process),
            Comparison::of(kind.name(), "warm", warm, warm_process),
            Comparison::of(kind.name(), "hot", hot, None),
        ];
        Ok((compared, mounts))
    }

    fn round(&self, kind: Kind, number: usize) -> Result<Round> {
        let cache = format!("{}-{number}", kind.name());
        let (cold, hot, mount_cold, cold_process) = self.state(kind, &cache, true)?;
        let (warm, _, mount_warm, warm_process) = self.state(kind, &cache, false)?;
        fs::remove_dir_all(self.scratch.join("cache").join(&cache))?;
        Ok(Round {
            cold,
            hot,
            warm,
            mount: [mount_cold, mount_warm],
            cold_process,
            warm_process,
        })
    }

    /// Mounts, does the work with an empty kernel cache, and (if asked) once more.
    fn state(&self, kind: Kind, cache: &str, again: bool) -> Result<(f64, f64, f64, Process)> {
        self.stratum1.clear_log();
        let sent = self.stratum1.bytes_sent();
        drop_kernel_caches()?;
        let (mounted, mount) = self.mount(cache)?;
        let first = timed(kind, &self.mount_point())?;
        let usage = mounted.usage()?;
        let process = Process {
            cpu_seconds: usage.cpu_seconds,
            peak_memory_bytes: usage.peak_memory_bytes,
            requests: self.stratum1.requests().len() as u64,
            received_bytes: self.stratum1.bytes_sent().saturating_sub(sent),
        };
        let second = if again {
            timed(kind, &self.mount_point())?
        } else {
            first
        };
        Ok((first, second, mount, process))
    }

    fn local_round(&self, kind: Kind) -> Result<[f64; 2]> {
        drop_kernel_caches()?;
        Ok([timed(kind, &self.local)?, timed(kind, &self.local)?])
    }
}

/// Writes the repository; returns its public key.
fn publish(directory: &Path) -> Result<PathBuf> {
    let mut builder = RepositoryBuilder::new(&directory.join(FQRN), FQRN);
    for number in 0..FLAT_FILES {
        let path = format!("flat/{:03}/{number:05}", number % 380);
        builder.add(Entry::file(
            path,
            text(number, 1_000 + number * 7_919 % 62_000),
        ));
    }
    for number in 0..SMALL_FILES {
        let path = small_file(Path::new("small"), number);
        let path = path.to_string_lossy().into_owned();
        builder.add(Entry::file(
            path,
            text(1_000_000 + number, 500 + number * 31 % 15_000),
        ));
    }
    let large = Entry::file("big/random", noise(LARGE_FILE));
    builder.add(large.storage(Storage::Chunked(8 << 20)));
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    builder.publish(i64::try_from(now)?)?;
    let key = directory.join("bench.pub");
    fs::write(&key, testkit::Keys::fixture().public_key()?)?;
    Ok(key)
}

/// Text that compresses about as well as programs do, different for each seed.
fn text(seed: usize, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 64);
    let mut line = 0;
    while bytes.len() < length {
        let word = (seed + line).wrapping_mul(0x9e37_79b9) & 0xff_ffff;
        bytes.extend_from_slice(format!("line {line} of file {seed}: {word:06x}\n").as_bytes());
        line += 1;
    }
    bytes.truncate(length);
    bytes
}

/// Bytes that do not compress (xorshift64).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn print(compared: &Comparison) {
    let process = compared.process.map_or_else(String::new, |process| {
        format!(
            "  cpu {:.2} s, peak {:.0} MB, {} requests, {:.1} MB",
            process.cpu_seconds,
            process.peak_memory_bytes as f64 / 1e6,
            process.requests,
            process.received_bytes as f64 / 1e6
        )
    });
    println!(
        "{:12} {:4}  {:7.3} s  local {:7.3} s  ratio {:5.2} ({:.2}..{:.2}){process}",
        compared.work,
        compared.state,
        compared.seconds,
        compared.local_seconds,
        compared.ratio,
        compared.ratio_range[0],
        compared.ratio_range[1],
    );
}
