//! The other process of the integration tests: it looks at mounts (which the process that serves
//! them never may), holds files open, and serves a repository as somebody else's client does.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use fuse::{MountOptions, Session};
use layerfs::{Ownership, RepositoryFs, RepositoryFsOptions};

/// The answer to whoever started this process goes to its standard output; a failed operation's
/// errno is the exit code.
fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["walk", directory, user] => walk(directory, user.parse().unwrap()),
        ["read", path] => read(path),
        ["xattr", path, name] => xattr(path, name),
        ["readlink", path] => readlink(path),
        ["exists", path] => File::open(path).map(drop),
        ["hold", path] => hold(path),
        ["serve", url, fqrn, key, state, directory, owner] => {
            serve([url, fqrn, key, state, directory], owner.parse().unwrap());
            Ok(())
        }
        _ => panic!("what is {words:?}?"),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(u8::try_from(error.raw_os_error().unwrap_or(255)).unwrap())
        }
    }
}

/// Everything below a directory, as a user sees it. What lies above may be closed to that user.
fn walk(directory: &str, user: u32) -> std::io::Result<()> {
    std::env::set_current_dir(directory)?;
    if user != 0 {
        let (group, user) = (
            rustix::fs::Gid::from_raw(user),
            rustix::fs::Uid::from_raw(user),
        );
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_thread_res_uid(user, user, user)?;
    }
    let seen = testkit::walk(Path::new(".")).map_err(std::io::Error::other)?;
    std::io::stdout().write_all(seen.to_tsv().as_bytes())
}

fn read(path: &str) -> std::io::Result<()> {
    let mut content = Vec::new();
    File::open(path)?.read_to_end(&mut content)?;
    std::io::stdout().write_all(&content)
}

fn xattr(path: &str, name: &str) -> std::io::Result<()> {
    let mut value = vec![0; 64 << 10];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
    std::io::stdout().write_all(&value[..length])
}

fn readlink(path: &str) -> std::io::Result<()> {
    std::io::stdout().write_all(std::fs::read_link(path)?.as_os_str().as_bytes())
}

/// Opens a file, says so, and reads all but its first page when told.
fn hold(path: &str) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let mut first = [0];
    file.read_exact_at(&mut first, 0)?;
    say("open");
    wait();
    file.rewind()?;
    // Not what the kernel has from before.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    std::io::stdout().write_all(&content)
}

fn say(word: &str) {
    println!("{word}");
    std::io::stdout().flush().unwrap();
}

fn wait() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

/// Mounts a repository until standard input ends. `owner` 0: the stored ones. The first line of
/// input makes it look for a new revision.
fn serve([url, fqrn, key, state, directory]: [&str; 5], owner: u32) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cache = cache::Config {
        directory: PathBuf::from(state).join("cache"),
        quota: 1 << 30,
        boot_id: "boot".to_owned(),
    };
    let cache = Arc::new(cache::Cache::open(cache).unwrap());
    let mut config = cvmfs::RepositoryConfig::new(fqrn, vec![url.to_owned()], state);
    config.public_keys = vec![PathBuf::from(key)];
    let now: jiff::Timestamp = "2026-11-25T00:00:00Z".parse().unwrap();
    let repository =
        cvmfs::Repository::open(config, cache, runtime.handle().clone(), move || now).unwrap();
    let ownership = match owner {
        0 => Ownership::Stored,
        owner => Ownership::Claimed(owner, owner),
    };
    let options = RepositoryFsOptions {
        variables: [("ARCH".to_owned(), "x86_64".to_owned())].into(),
        ownership,
        valid: Duration::ZERO,
    };
    let files = Arc::new(RepositoryFs::new(repository.clone(), options));
    let session = Session::mount(files, Path::new(directory), MountOptions::default()).unwrap();
    say("mounted");
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line).unwrap() > 0 {
        repository.refresh().unwrap();
        say("refreshed");
    }
    session.detach().unwrap();
}
