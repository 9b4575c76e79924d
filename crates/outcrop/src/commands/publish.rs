//! `outcrop publish`: images into a repository.

use crate::cli::PublishArgs;
use crate::commands::print;
use crate::error::{Error, Kind};
use crate::publishing::{backend, registries};
use crate::wiring;
use publisher::publish::{ImageSummary, NoProgress, PublishOptions};
use publisher::{
    NewTag, ObjectStore, Options, RepositoryBackend, SourceOptions, SubtreeOptions, open_source,
};
use std::io::Write;
use std::path::PathBuf;

/// Large, and not in memory as `/tmp` often is.
const SCRATCH: &str = "/var/tmp";

/// Publishes each image in turn; the first failure ends it.
pub(super) fn run(args: &PublishArgs, out: &mut dyn Write) -> Result<(), Error> {
    let runtime = wiring::runtime()?;
    let backend = repository_backend(args, &runtime)?;
    let sources = SourceOptions {
        scratch: scratch(args.scratch.as_ref()),
        registry: Some(registries::client(&args.registry, &runtime)),
    };
    let mut summaries = Vec::new();
    for image in &args.images {
        let source = open_source(image, &sources)?;
        let options = options(args)?;
        let summary = publisher::publish::publish(&backend, &*source, &options, &NoProgress)?;
        summaries.push(summary);
    }
    report(args, &summaries, out)
}

fn repository_backend(
    args: &PublishArgs,
    runtime: &tokio::runtime::Runtime,
) -> Result<RepositoryBackend, Error> {
    let repository = backend::open_writable(&args.backend, runtime, false)?;
    let threads = args.threads.map_or_else(processors, usize::from);
    let objects = ObjectStore::new(
        repository.storage().clone(),
        repository.algorithm(),
        Options::new(threads, scratch(args.scratch.as_ref())),
    )?;
    Ok(RepositoryBackend {
        repository,
        objects,
        wait: args.backend.wait,
        now: jiff::Timestamp::now(),
        max_rows: SubtreeOptions::default().max_rows,
    })
}

fn options(args: &PublishArgs) -> Result<PublishOptions, Error> {
    let name = args.name.as_deref().map(str::parse).transpose();
    let name = name.map_err(|error: image::ReferenceError| {
        Error::new(Kind::Usage, "--name is no reference").because(error)
    })?;
    let mut options = PublishOptions::new(jiff::Timestamp::now());
    options.layouts.clone_from(&args.layout);
    options.name = name;
    options.parallel = usize::from(args.parallel);
    options.again = args.again;
    options.dry_run = args.dry_run;
    options.tag = args.tag.as_ref().map(|name| NewTag {
        name: name.clone(),
        description: String::new(),
    });
    Ok(options)
}

fn report(
    args: &PublishArgs,
    summaries: &[ImageSummary],
    out: &mut dyn Write,
) -> Result<(), Error> {
    if args.json {
        let json = serde_json::json!({ "images": summaries });
        return print(out, &json.to_string());
    }
    for summary in summaries {
        let revision = match summary.revision {
            Some(revision) => format!("revision {revision}"),
            None => "nothing to do".to_owned(),
        };
        print(
            out,
            &format!("{}: {revision}, {:.1} s", summary.image, summary.seconds),
        )?;
    }
    Ok(())
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn scratch(given: Option<&PathBuf>) -> PathBuf {
    let environment = || std::env::var_os("TMPDIR").map(PathBuf::from);
    given
        .cloned()
        .or_else(environment)
        .unwrap_or_else(|| SCRATCH.into())
}
