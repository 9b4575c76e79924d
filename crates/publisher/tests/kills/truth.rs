//! What a client sees of a repository, down to the last byte.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use cvmfs::{Kind, RepositoryConfig};
use sha2::{Digest as _, Sha256};
use testkit::Stratum1;

/// A line for each entry; contents by their digests, if they are wanted.
pub(crate) fn seen(repository: &Path, fqrn: &str, key: &Path, contents: bool) -> Vec<String> {
    let served = Stratum1::serving(repository).start().unwrap();
    let directory = tempfile::TempDir::new().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cache = cache::Cache::open(cache::Config {
        directory: directory.path().join("cache"),
        quota: 4 << 30,
        boot_id: "boot".to_owned(),
    });
    let state = directory.path().join("state");
    let mut config = RepositoryConfig::new(fqrn, vec![served.repository_url(fqrn)], state);
    config.public_keys = vec![key.to_owned()];
    let opened = cvmfs::Repository::open(
        config,
        Arc::new(cache.unwrap()),
        runtime.handle().clone(),
        jiff::Timestamp::now,
    );
    let revision = opened.unwrap().current();
    let mut entries = Vec::new();
    let mut visit = |below: &[u8], entry: &cvmfs::WalkEntry| {
        entries.push((below.to_vec(), entry.clone()));
        ControlFlow::Continue(())
    };
    revision.walk(b"", &mut visit).unwrap();
    let line = |(below, entry): &(Vec<u8>, cvmfs::WalkEntry)| {
        let dirent = &entry.dirent;
        let mut content = String::new();
        if contents && dirent.kind == Kind::File {
            let full = [b"/", &below[..]].concat();
            let bytes = revision.read_small(&full, 1 << 30).unwrap().unwrap();
            content = format!("{:x?}", Sha256::digest(&bytes));
        }
        format!(
            "{} {:o} {} {} {} {} {} {:?} {:?} {content}",
            below.escape_ascii(),
            dirent.mode,
            dirent.uid,
            dirent.gid,
            dirent.size,
            dirent.mtime,
            dirent.nlink,
            dirent.symlink,
            entry.xattrs,
        )
    };
    entries.iter().map(line).collect()
}
