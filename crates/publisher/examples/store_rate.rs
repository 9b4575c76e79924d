//! How fast a tar's files become objects, against zlib alone at the same level, and half a million entries a catalog:
//! `store_rate FILE.tar DIRECTORY`.
//! The directory should be on a file system in memory or a fast disk; it is left full.

#![allow(clippy::print_stdout, reason = "that is its purpose")]

use std::error::Error;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cvmfs::Algorithm;
use publisher::storage::LocalStorage;
use publisher::{
    Entry, How, InitOptions, Keys, ObjectStore, Options, Repository, StoredContent, SubtreeBuilder,
    SubtreeOptions, Transaction,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, tar, directory] = &arguments[..] else {
        return Err("usage: store_rate FILE.tar DIRECTORY".into());
    };
    let files = files(Path::new(tar))?;
    let bytes: usize = files.iter().map(|(_, content)| content.len()).sum();
    println!("{} files, {} MB", files.len(), bytes / 1_000_000);
    for threads in [1, 2] {
        let alone = rate(bytes, || deflate(&files, threads))?;
        let directory = Path::new(directory).join(format!("threads-{threads}"));
        let stored = rate(bytes, || store(&files, &directory, threads))?;
        println!(
            "{threads} threads: zlib {alone:.1} MB/s, stored {stored:.1} MB/s, {:.2} of it",
            stored / alone
        );
    }
    catalog(&Path::new(directory).join("catalog"))
}

/// A layer of many entries, published.
fn catalog(directory: &Path) -> Outcome<()> {
    let now = jiff::Timestamp::now();
    let scratch = directory.join("scratch");
    std::fs::create_dir_all(&scratch)?;
    let storage = Arc::new(LocalStorage::new(directory));
    let keys = Keys::generate("rate.example.org", now)?;
    let repository = Repository::init(storage.clone(), keys, &InitOptions::default(), now)?;
    let objects = ObjectStore::new(storage, Algorithm::Sha1, Options::new(2, scratch))?;
    let started = Instant::now();
    let mut builder = SubtreeBuilder::new(&objects, SubtreeOptions::default())?;
    for number in 0..500_000 {
        let path = format!("usr/d{}/e{}/file-{number}", number / 5000, number / 50);
        builder.file_with(
            path.as_bytes(),
            Entry::file(0o644, 0),
            &StoredContent::Empty,
        )?;
    }
    let subtree = builder.finish()?;
    let added = started.elapsed().as_secs_f64();
    let lock = repository.lock(Duration::ZERO, now)?;
    let mut transaction = Transaction::begin(&repository, lock, &objects, now)?;
    transaction.graft(b"/layer", &subtree)?;
    transaction.commit(None)?;
    println!(
        "500 000 entries: added in {added:.1} s, published in {:.1} s",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

fn files(tar: &Path) -> Outcome<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut archive = tar::Archive::new(File::open(tar)?);
    let mut files = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            let path = entry.path_bytes().into_owned();
            let path = path.strip_prefix(b"./").unwrap_or(&path).to_vec();
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            files.push((path, content));
        }
    }
    Ok(files)
}

fn rate(bytes: usize, work: impl FnOnce() -> Outcome<()>) -> Outcome<f64> {
    let started = Instant::now();
    work()?;
    Ok(bytes as f64 / 1e6 / started.elapsed().as_secs_f64())
}

fn deflate(files: &[(Vec<u8>, Vec<u8>)], threads: usize) -> Outcome<()> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((_, content)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let level = flate2::Compression::default();
                    let mut encoder = flate2::read::ZlibEncoder::new(&content[..], level);
                    let _ = std::io::copy(&mut encoder, &mut std::io::sink());
                }
            });
        }
    });
    Ok(())
}

fn store(files: &[(Vec<u8>, Vec<u8>)], directory: &Path, threads: usize) -> Outcome<()> {
    let scratch = directory.join("scratch");
    std::fs::create_dir_all(&scratch)?;
    let storage = Arc::new(LocalStorage::new(directory));
    let objects = ObjectStore::new(storage, Algorithm::Sha1, Options::new(threads, scratch))?;
    let mut builder = SubtreeBuilder::new(&objects, SubtreeOptions::default())?;
    for (path, content) in files {
        let length = content.len() as u64;
        let entry = Entry::file(0o644, 0);
        builder.file(path, entry, &mut &content[..], length, How::DEFLATED)?;
    }
    builder.finish()?;
    let statistics = objects.statistics();
    println!(
        "  {} objects written, {} contents repeated ({} MB)",
        statistics.written,
        statistics.repeated,
        statistics.repeated_bytes / 1_000_000
    );
    Ok(())
}
