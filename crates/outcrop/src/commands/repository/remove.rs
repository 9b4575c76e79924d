//! `outcrop repository remove`

use super::or_listed;
use crate::cli::RemoveArgs;
use crate::commands::print;
use crate::error::{Error, Kind};
use crate::publishing::backend;
use crate::wiring;
use publisher::removal::{RemovalSummary, remove};
use publisher::{ObjectStore, Options, RepositoryBackend, SubtreeOptions};
use std::io::Write;

/// All images in one revision.
pub(super) fn run(args: &RemoveArgs, out: &mut dyn Write) -> Result<(), Error> {
    let images = args.images.iter().map(|text| reference(text));
    let images = images.collect::<Result<Vec<_>, _>>()?;
    let runtime = wiring::runtime()?;
    let repository = backend::open_writable(&args.backend, &runtime, false)?;
    let objects = ObjectStore::new(
        repository.storage().clone(),
        repository.algorithm(),
        Options::new(backend::threads(None), backend::scratch(None)),
    )?;
    let backend = RepositoryBackend {
        repository,
        objects,
        wait: args.backend.wait,
        now: jiff::Timestamp::now(),
        max_rows: SubtreeOptions::default().max_rows,
    };
    let summary = remove(&backend, &images, args.dry_run, None)
        .map_err(|error| or_listed(error, "images"))?;
    if args.json {
        let json = serde_json::to_string(&summary)
            .map_err(|error| Error::new(Kind::Internal, "cannot write JSON").because(error))?;
        return print(out, &json);
    }
    report(&summary, args.dry_run, out)
}

fn reference(text: &str) -> Result<image::Reference, Error> {
    text.parse().map_err(|error: image::ReferenceError| {
        Error::new(Kind::Usage, format!("{text} is no image"))
            .because(error)
            .hint("name it as `outcrop repository list` does, such as registry.example.org/group/image:1.0")
    })
}

fn report(summary: &RemovalSummary, dry_run: bool, out: &mut dyn Write) -> Result<(), Error> {
    let verb = if dry_run { "would remove" } else { "removed" };
    for image in &summary.images {
        print(out, &format!("{verb} {image}"))?;
    }
    for layer in &summary.layers {
        print(out, &format!("{verb} layer {layer}"))?;
    }
    match summary.revision {
        Some(revision) => print(
            out,
            &format!(
                "revision {revision}; `outcrop repository gc` frees the space once clients no longer need it"
            ),
        ),
        None => Ok(()),
    }
}
