//! How much anonymous memory a process takes that serves many large chains: trees are to lie in
//! the page cache. The trees are synthetic; each chain has a layer that all share and one of its own.
//!
//! ```text
//! cargo run -p layerfs --example anonymous_memory -- 100 100000
//! ```
//! Needs root and FUSE; fails if more than 64 MiB are taken.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use image::Digest;
use layerfs::{ChainLayer, Config, Layers};
use sha2::Digest as _;
use tree::{Builder, Entry, Kind};

/// What the daemon may take.
const LIMIT_KIB: u64 = 64 << 10;
/// Entries of one directory.
const DIRECTORY: usize = 100;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        // In processes of their own: their memory is none of the daemon's.
        ["prepare", directory, chains, entries] => {
            prepare(Path::new(directory), number(chains), number(entries));
            ExitCode::SUCCESS
        }
        ["walk", directory] => {
            println!("{}", walk(Path::new(directory)));
            ExitCode::SUCCESS
        }
        [chains, entries] => measure(number(chains), number(entries)),
        _ => measure(100, 100_000),
    }
}

fn number(text: &str) -> usize {
    text.parse().unwrap()
}

fn measure(chains: usize, entries: usize) -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not measured: mounting needs root");
        return ExitCode::SUCCESS;
    }
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap().join("state");
    run(&[
        "prepare",
        text(&root),
        &chains.to_string(),
        &entries.to_string(),
    ]);
    println!("before anything is opened: {} KiB", anonymous());
    let layers = Layers::open(config(&root), Vec::new()).unwrap();
    let started = Instant::now();
    let paths: Vec<_> = (0..chains)
        .map(|number| layers.attach(&chain(number)).unwrap())
        .collect();
    let attached = anonymous();
    let seconds = started.elapsed().as_secs_f64();
    println!("{chains} chains of {entries} entries attached: {attached} KiB, {seconds:.1} s");
    for path in &paths {
        assert!(run(&["walk", text(path)]).trim().parse::<usize>().unwrap() >= entries);
    }
    let walked = anonymous();
    println!("all of them walked by another process: {walked} KiB");
    println!("threads: {}", status("Threads:"));
    layers.release().unwrap();
    if walked.max(attached) > LIMIT_KIB {
        eprintln!("more than {LIMIT_KIB} KiB");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn config(root: &Path) -> Config {
    Config {
        root: root.to_owned(),
        build_deadline: Duration::from_secs(60),
        build_threads: 4,
        workers: 16,
        read_ahead_kib: 1024,
        tree_grace: Duration::ZERO,
        mounted_deadline: Duration::from_secs(30),
        cache: None,
        fetching: layerfs::Fetching {
            prefetch: false,
            background: false,
        },
        unpack: layerfs::Unpack::Never,
    }
}

/// Trees that are there need no source, so that of the empty layer will do.
fn chain(number: usize) -> [ChainLayer; 2] {
    ["shared".to_owned(), number.to_string()].map(|name| ChainLayer {
        layer: Digest::of(name.as_bytes()),
        tree: key(&name),
        source: "empty".to_owned(),
        reference: None,
        annotations: [].into(),
    })
}

fn key(name: &str) -> String {
    Digest::of(name.as_bytes()).hex()
}

fn prepare(root: &Path, chains: usize, entries: usize) {
    let directory = root
        .join("trees")
        .join(format!("v{}", tree::FORMAT_VERSION));
    std::fs::create_dir_all(&directory).unwrap();
    let [shared, own] = ["usr", "opt"].map(|top| tree(top, entries / 2));
    std::fs::write(directory.join(key("shared")), shared).unwrap();
    for number in 0..chains {
        std::fs::write(directory.join(key(&number.to_string())), &own).unwrap();
    }
}

/// A tree file: the tree, then its SHA-256.
fn tree(top: &str, entries: usize) -> Vec<u8> {
    let mut builder = Builder::new();
    for number in 0..entries {
        let directory = number / DIRECTORY;
        let path = format!("{top}/share/package-{directory:04}/some-file-{number:06}.txt");
        let mut entry = Entry::new(Kind::File, 0o644);
        entry.size = 1000;
        entry.extents = vec![(0, 1000, vec![7; 24])];
        builder.add(path.as_bytes(), entry).unwrap();
    }
    let mut bytes = builder.finish().unwrap();
    let checksum = sha2::Sha256::digest(&bytes);
    bytes.extend_from_slice(&checksum);
    bytes
}

/// Looks at everything; how many entries there are.
fn walk(directory: &Path) -> usize {
    let mut pending = vec![directory.to_owned()];
    let mut seen = 0;
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            seen += 1;
            if entry.metadata().unwrap().is_dir() {
                pending.push(entry.path());
            }
        }
    }
    seen
}

/// This program again, with other words.
fn run(words: &[&str]) -> String {
    let program: PathBuf = std::env::current_exe().unwrap();
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Anonymous memory of this process in KiB.
fn anonymous() -> u64 {
    let value = status("RssAnon:");
    value.trim_end_matches("kB").trim().parse().unwrap()
}

fn status(field: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap().trim().to_owned()
}
