//! `outcrop check`

use crate::check::facts::{Facts, Looked};
use crate::check::mounted::{self, Found};
use crate::check::report::{self, Line};
use crate::check::{containerd, judge, kernel};
use crate::cli::CheckArgs;
use crate::config::{Access, Config, Embedded, RepositoryEntry};
use crate::error::{Error, Kind};
use crate::scratch::Scratch;
use crate::{state, wiring};
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// A root catalog may have some ten megabytes; nothing else is fetched.
const QUOTA: u64 = 1 << 30;

/// The JSON form.
#[derive(Serialize)]
struct Report<'a> {
    failed: usize,
    lines: &'a [Line],
}

/// Gathers, judges, prints.
pub(super) fn run(args: &CheckArgs, out: &mut dyn Write) -> Result<(), Error> {
    let config = Config::load(args.config.as_deref())?;
    let lines = judge::judge(&gather(&config)?);
    let failed = report::failures(&lines);
    let text = if args.json {
        serde_json::to_string(&Report {
            failed,
            lines: &lines,
        })
        .map_err(|error| Error::new(Kind::Internal, "cannot write JSON").because(error))?
    } else {
        report::text(&lines).trim_end().to_owned()
    };
    super::print(out, &text)?;
    match failed {
        0 => Ok(()),
        1 => {
            Err(Error::new(Kind::Unavailable, "1 check failed")
                .hint("the lines above say what to do"))
        }
        _ => Err(
            Error::new(Kind::Unavailable, format!("{failed} checks failed"))
                .hint("the lines above say what to do"),
        ),
    }
}

fn gather(config: &Config) -> Result<Facts, Error> {
    let state_directory = state::check(&config.root).map_err(|error| described(&error));
    // Trial mounts belong on the state directory's disk; without one, anywhere will do.
    let temporary = std::env::temp_dir();
    let parent = if config.root.is_dir() {
        config.root.as_path()
    } else {
        temporary.as_path()
    };
    let program = kernel::this_program().map_err(|error| {
        Error::new(Kind::Unavailable, "cannot find this program")
            .because(error)
            .hint("is /proc mounted?")
    })?;
    let containerd_socket = config
        .containerd_socket
        .as_deref()
        .unwrap_or(Path::new("/run/containerd/containerd.sock"));
    Ok(Facts {
        kernel: kernel::probe(parent, &program),
        root: config.root.clone(),
        socket: config.socket.clone(),
        state_directory,
        repositories: repositories(config, &temporary, &program)?,
        containerd: containerd::ask(containerd_socket, &config.socket)
            .map_err(|error| format!("{}: {error}", containerd_socket.display())),
    })
}

fn repositories(
    config: &Config,
    temporary: &Path,
    program: &Path,
) -> Result<Vec<(String, Looked)>, Error> {
    let entries = match wiring::repositories(config) {
        Ok(entries) => entries,
        Err(error) => return Ok(vec![(wiring::ETC_CVMFS.to_owned(), Err(described(&error)))]),
    };
    let runtime = wiring::runtime()?;
    let scratch = Scratch::new(temporary, "check-cache").map_err(|error| {
        Error::new(
            Kind::Unavailable,
            format!("cannot write below {}", temporary.display()),
        )
        .because(error)
    })?;
    // Not the daemon's cache: it may be in use, and what lies there would hide a server that is down.
    let cache = wiring::open_cache(&scratch.path().join("cache"), QUOTA)?;
    let opened = entries.iter().map(|entry| {
        let opened = match &entry.access {
            Access::Mounted(directory) => mounted(&entry.name, directory, program),
            Access::Embedded(embedded) => {
                embedded_opens(entry, embedded, &cache, scratch.path(), &runtime)
            }
        };
        (
            entry.name.clone(),
            opened.map_err(|error| described(&error)),
        )
    });
    Ok(opened.collect())
}

fn embedded_opens(
    entry: &RepositoryEntry,
    embedded: &Embedded,
    cache: &Arc<cache::Cache>,
    state_directory: &Path,
    runtime: &tokio::runtime::Runtime,
) -> Result<String, Error> {
    let repository = wiring::resolve(&entry.name, embedded)?;
    let client = wiring::client_config(&repository, state_directory)?;
    let revision = wiring::open(client, Arc::clone(cache), runtime)?.current();
    let number = revision.number();
    Ok(match revision.timestamp() {
        Some(published) => format!("revision {number} of {published}"),
        None => format!("revision {number}"),
    })
}

fn mounted(name: &str, directory: &Path, program: &Path) -> Result<String, Error> {
    let unmounted = "is it mounted? cvmfs_config probe";
    let failed =
        |what: &str| Error::new(Kind::Unavailable, format!("{} {what}", directory.display()));
    match mounted::look(program, directory) {
        Ok(Found::Readable) => Ok(format!("mounted at {}", directory.display())),
        Ok(Found::Empty) => Err(failed("is empty").hint(unmounted)),
        Ok(Found::ClaimedOwnership(user)) => Err(failed(&format!(
            "shows user {user} as the owner of all files"
        ))
        .hint(format!(
            "add CVMFS_CLAIM_OWNERSHIP=no to /etc/cvmfs/config.d/{name}.local and mount it anew"
        ))),
        Err(error) => Err(failed("cannot be read").because(error).hint(unmounted)),
    }
}

fn described(error: &Error) -> (String, String) {
    (
        error.summary(),
        error
            .next_step()
            .unwrap_or("see docs/troubleshooting.md")
            .to_owned(),
    )
}
